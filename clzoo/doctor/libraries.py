"""FAISS, ONNX Runtime and the OpenMP runtimes that they bring."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from clzoo.doctor.finding import Finding, note, ok, problem
from clzoo.doctor.probing import Probe

_FAISS = "pip install faiss-cpu, or with an NVIDIA GPU: pip install faiss-gpu"
_ONNX = "pip install onnx onnxscript onnxruntime, or with an NVIDIA GPU: pip install onnx onnxscript onnxruntime-gpu"
_OPENMP = re.compile(r"(?:lib(?:gomp|i?omp5?)|vcomp\d*)[-.\w]*\.(?:so|dylib|dll)[.\d]*", re.IGNORECASE)
_GPU_ASKED = "CUDAExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"


def index_findings(faiss: Probe | None, gpus: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """How FAISS was built, and whether it can use the GPUs that torch sees.

    Args:
        faiss: None where no package of it is installed.
        gpus: of torch.
    """
    if faiss is None:
        found = (
            "not installed; optional: up to 100,000 images are searched exactly without it, `--index faiss` needs it"
        )
        return [note("faiss", found, _FAISS)]
    if faiss.error is not None:
        advice = f"pip uninstall -y faiss-cpu faiss-gpu; then {_FAISS}"
        return [problem("faiss", f"cannot be imported beside torch: {faiss.error}", advice)]
    values = faiss.values
    about = f"faiss {values['version']}, built with {' '.join(values['options']).lower() or 'no special instructions'}"
    has = {key: "is" if values[key] else "is not" for key in ("gpu", "rabitq", "cagra")}
    kinds = f"GPU code {has['gpu']} in it, RaBitQ {has['rabitq']}, CAGRA (cuVS) {has['cagra']}"
    findings = [ok("faiss", f"{about}; {kinds}")]
    if not any(re.match("AVX|SVE|NEON", option) for option in values["options"]):
        found = f"{about}: a generic build, several times slower than one for AVX2 on x86"
        findings.append(note("faiss", found, "pip install --force-reinstall faiss-cpu"))
    if gpus and values["gpu"] and values["gpus"] == 0:
        found = f"{about} for GPUs but sees none, while torch sees {len(gpus)}"
        findings.append(problem("faiss", found, "take a faiss-gpu package of the CUDA that torch is built for"))
    elif gpus and not values["gpu"]:
        advice = "to have it: pip uninstall -y faiss-cpu; pip install faiss-gpu"
        findings.append(note("faiss", "this build searches on the CPU though a GPU is here", advice))
    return findings


def onnxruntime_findings(
    runtime: Probe | None, gpus: Sequence[Mapping[str, Any]], *, gpu_package: bool
) -> list[Finding]:
    """The providers that ONNX Runtime lists, and the ones that a session really got when asked for each.

    Args:
        runtime: None where no package of it is installed.
        gpus: of torch.
        gpu_package: whether onnxruntime-gpu is installed.
    """
    topic = "onnxruntime"
    if runtime is None:
        return [note(topic, "not installed; optional: the ONNX backend and `clzoo export` need it", _ONNX)]
    again = f"pip uninstall -y onnxruntime onnxruntime-gpu; then {_ONNX}"
    if runtime.error is not None:
        return [problem(topic, f"cannot be imported: {runtime.error}", again)]
    version, real = runtime.values["version"], runtime.values["real"]
    works = [asked for asked, got in real.items() if asked == got]
    findings = [ok(topic, f"onnxruntime {version}; sessions really run on {', '.join(works) or 'nothing'}")]
    for asked, got in real.items():
        if got == asked:
            continue
        found = f"asked for {asked}, a session got {got}"
        if asked == _GPU_ASKED and not gpus:
            findings.append(note(topic, f"{found}: no GPU is visible", "ask for the CPU, or see the GPU's line above"))
        elif asked == _TENSORRT:  # every build for CUDA lists it, and few have what it needs
            findings.append(note(topic, found, "to have it: pip install tensorrt, of the version that it wants"))
        else:
            fix = "install the CUDA and cuDNN that this release wants" if asked == _GPU_ASKED else again
            findings.append(problem(topic, found, f"{fix}; https://onnxruntime.ai/docs/execution-providers"))
    if gpu_package and _GPU_ASKED not in runtime.values["available"]:
        found = f"onnxruntime-gpu is installed but its CUDA provider is not in the module (found {', '.join(real)})"
        findings.append(problem(topic, found, again))
    elif gpus and _GPU_ASKED not in runtime.values["available"]:
        advice = 'to have it: pip uninstall -y onnxruntime; pip install "clzoo[gpu]"'
        findings.append(note(topic, "this build runs on the CPU though a GPU is here", advice))
    return findings


def openmp_findings(loaded: Sequence[str] | None, platform: str, env: Mapping[str, str]) -> list[Finding]:
    """How many OpenMP runtimes torch and FAISS bring into one process.

    Args:
        loaded: paths of the mapped files; None where the system does not tell.
        platform: `sys.platform`.
        env: environment variables.
    """
    topic = "openmp"
    findings = []
    if loaded is None:
        findings.append(note(topic, f"the runtimes loaded cannot be seen on {platform}"))
    else:
        runtimes = sorted(path for path in loaded if _OPENMP.fullmatch(PurePath(path).name))
        names = ", ".join(f"{PurePath(path).name} ({PurePath(path).parent.parent.name})" for path in runtimes)
        if len(runtimes) > 1:
            found = f"{len(runtimes)} runtimes in one process: {names}. Each has its own threads; usually harmless"
            findings.append(note(topic, found, "should a search beside torch crash or crawl: export OMP_NUM_THREADS=1"))
        else:
            findings.append(ok(topic, f"one runtime: {names}" if names else "none loaded"))
    if platform == "darwin" and env.get("OMP_NUM_THREADS") != "1":
        found = "on macOS torch and FAISS with a runtime each may crash"
        findings.append(note(topic, found, "should it happen: export OMP_NUM_THREADS=1"))
    if env.get("KMP_DUPLICATE_LIB_OK", "").upper() in ("TRUE", "1"):
        found = "KMP_DUPLICATE_LIB_OK is set: it hides that two runtimes are loaded, and results may be wrong"
        findings.append(problem(topic, found, "unset KMP_DUPLICATE_LIB_OK"))
    return findings
