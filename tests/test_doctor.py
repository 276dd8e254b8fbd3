"""clzoo doctor: each check on machines that are not at hand, and the whole of it on this one."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clzoo.cli import main
from clzoo.doctor import libraries, machine, packages, torch_build
from clzoo.doctor.finding import Finding
from clzoo.doctor.probing import ONNXRUNTIME, TINY_GRAPH, Probe, probe

H100 = {"name": "NVIDIA H100", "sm": 90, "free": 70 << 30, "total": 80 << 30}
TORCH = {
    "version": "2.9.0",
    "cuda": "12.8",
    "hip": None,
    "gpus": [],
    "architectures": ["sm_80", "sm_90"],
    "mps": False,
}


Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def of_this_environment() -> Done:
    """The command as it is, with a token and one setting that is wrong; it imports torch three times."""
    env = {**os.environ, "HF_TOKEN": "hf_verysecret", "OMP_NUM_THREADS": "none"}
    command = [sys.executable, "-m", "clzoo", "doctor", "--json"]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def worst(findings: list[Finding]) -> Finding:
    """The finding that matters most."""
    return max(findings, key=lambda finding: ("ok", "note", "problem").index(finding.level))


def levels(findings: list[Finding]) -> set[str]:
    return {finding.level for finding in findings}


# Packages -------------------------------------------------------------------------------------------------------------


def test_what_is_missing_or_too_old_is_a_problem_with_the_command() -> None:
    installed = {"torch": "2.5.1+cu124", "numpy": "2.1", "huggingface-hub": "1.10"}
    requirements = ["torch>=2.6", "numpy", "huggingface_hub>=1.0", "timm>=1.0.20", "pytest; extra == 'test'"]
    findings = packages.version_findings(installed, requirements, (3, 11, 7))
    assert [(finding.level, finding.advice) for finding in findings] == [
        ("ok", ""),
        ("problem", 'pip install --upgrade "torch>=2.6"'),
        ("problem", 'pip install "timm>=1.0.20"'),
    ]
    assert "python 3.11.7, torch 2.5.1+cu124" in findings[0].found
    assert findings[1].found == "torch 2.5.1+cu124 is not >=2.6"


@pytest.mark.parametrize(
    ("installed", "wanted", "fits"),
    [
        ("2.10.0", ">=2.6", True),  # ten is more than six
        ("2.6.0+cu124", ">=2.6", True),
        ("2.6", ">=2.6.0", True),
        ("2.15.0.dev20261120+cu130", ">=2.6", True),  # a nightly build
        ("2.6.0rc1", ">=2.6", False),  # before 2.6
        ("1.0.post1", ">=1.0", True),
        ("24.1", ">=23.2,<24", False),
        ("made-by-hand", ">=1.0", True),
    ],
)
def test_versions_are_compared_as_pip_compares_them(installed: str, wanted: str, fits: bool) -> None:
    _, *problems = packages.version_findings({"some-thing": installed}, [f"some.thing{wanted}"], (3, 11, 7))
    assert [problem.advice for problem in problems] == ([] if fits else [f'pip install --upgrade "some.thing{wanted}"'])


def test_a_requirement_of_another_platform_or_python_is_not_missing() -> None:
    requirements = ["colorama; sys_platform == 'of-no-machine'", "tomli>=2; python_version < '3'"]
    assert levels(packages.version_findings({}, requirements, (3, 11, 7))) == {"ok"}
    here = ["needed>=2; python_version >= '3'"]
    assert worst(packages.version_findings({}, here, (3, 11, 7))).advice == 'pip install "needed>=2"'


@pytest.mark.parametrize(
    ("several", "module"),
    [
        ({"faiss-cpu", "faiss-gpu"}, "faiss"),
        ({"faiss-cpu", "faiss-gpu-cu12"}, "faiss"),
        ({"onnxruntime", "onnxruntime-gpu"}, "onnxruntime"),
    ],
)
def test_cpu_and_gpu_packages_installed_over_each_other_are_a_problem(several: set[str], module: str) -> None:
    (finding,) = packages.clashes({**dict.fromkeys(several, "1.0"), "onnx": "1.0", "onnxruntime-extensions": "0.1"})
    assert (finding.topic, finding.level) == (module, "problem")
    for name in several:
        assert name in finding.found
        assert name in finding.advice.partition(";")[0].split()
    assert re.search(rf"then pip install {module}-gpu with an NVIDIA GPU, else {module}(-cpu)?$", finding.advice)


def test_one_package_of_each_kind_is_no_clash() -> None:
    assert packages.clashes({"faiss-cpu": "1.9", "onnxruntime-gpu": "1.20", "torch": "2.6"}) == []


# torch and CUDA -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("torch", "driver", "level", "found"),
    [
        ({}, None, "ok", "no NVIDIA driver is here"),
        ({"cuda": None}, (12, 4), "problem", "built for the CPU alone, yet an NVIDIA driver (CUDA 12.4) is here"),
        ({"cuda": "13.0"}, (12, 4), "problem", "the driver runs only up to CUDA 12.4"),
        ({}, (12, 4), "note", "no GPU is visible"),  # a newer minor of the same major version runs
        ({"mps": True, "cuda": None}, None, "ok", "--device mps"),
        ({"gpus": [H100]}, (12, 8), "ok", "cuda:0 NVIDIA H100, 70.0 of 80.0 GiB free"),
        ({"gpus": [{**H100, "sm": 120}]}, (13, 0), "problem", "without code for NVIDIA H100 (sm_120)"),
        ({"gpus": [{**H100, "sm": 86}]}, (13, 0), "ok", "cuda:0"),
        ({"gpus": [{**H100, "sm": 120}], "architectures": ["sm_80", "compute_90"]}, (13, 0), "ok", "cuda:0"),
    ],
)
def test_torchs_cuda_is_compared_with_the_driver_and_the_gpus(
    torch: dict[str, Any], driver: tuple[int, int] | None, level: str, found: str
) -> None:
    findings = torch_build.cuda_findings({**TORCH, **torch}, driver)
    assert worst(findings).level == level
    assert any(found in f"{finding.found}; {finding.advice}" for finding in findings if finding.level == level)
    assert bool(worst(findings).advice) == (level != "ok")


def test_a_torch_or_torchvision_that_cannot_be_imported_is_a_problem() -> None:
    broken = Probe(error="operator torchvision::nms does not exist")
    assert "nms" in worst(torch_build.torch_findings(Probe(), broken)).found
    assert worst(torch_build.torch_findings(broken, broken)).level == "problem"
    assert torch_build.torch_findings(Probe(), Probe()) == []


# FAISS, ONNX Runtime, OpenMP ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "gpus", "level", "found"),
    [
        ({}, [], "ok", "avx2"),
        ({"options": ["OPTIMIZE", "GENERIC"]}, [], "note", "generic build"),
        ({}, [H100], "note", "on the CPU though a GPU is here"),
        ({"gpu": True, "gpus": 1}, [H100], "ok", "GPU code is in it"),
        ({"rabitq": True}, [], "ok", "RaBitQ is, CAGRA (cuVS) is not"),
        ({"gpu": True, "gpus": 1, "cagra": True}, [H100], "ok", "RaBitQ is not, CAGRA (cuVS) is"),
        ({"gpu": True}, [H100], "problem", "sees none, while torch sees 1"),
    ],
)
def test_faiss_says_how_it_was_built_and_whether_it_sees_the_gpus(
    values: dict[str, Any], gpus: list[dict[str, Any]], level: str, found: str
) -> None:
    built = {"version": "1.9", "options": ["OPTIMIZE", "AVX2"], "gpu": False, "gpus": 0}
    built |= {"rabitq": False, "cagra": False, **values}
    findings = libraries.index_findings(Probe(built), gpus)
    assert worst(findings).level == level
    assert any(found in finding.found for finding in findings)


def test_a_faiss_that_crashes_beside_torch_is_a_problem_and_none_at_all_a_note() -> None:
    (finding,) = libraries.index_findings(Probe(error="the process crashed (signal 11)"), [])
    assert finding.level == "problem"
    assert "signal 11" in finding.found
    assert levels(libraries.index_findings(None, [])) == {"note"}


CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"


@pytest.mark.parametrize(
    ("real", "available", "gpus", "gpu_package", "level", "found"),
    [
        ({CPU: CPU}, [CPU], [], False, "ok", f"really run on {CPU}"),
        ({CUDA: CUDA, CPU: CPU}, [CUDA, CPU], [H100], True, "ok", CUDA),
        ({CUDA: CPU, CPU: CPU}, [CUDA, CPU], [H100], True, "problem", f"asked for {CUDA}, a session got {CPU}"),
        ({CUDA: CPU, CPU: CPU}, [CUDA, CPU], [], True, "note", "no GPU is visible"),
        ({CPU: CPU}, [CPU], [H100], False, "note", "on the CPU though a GPU is here"),
        ({TENSORRT: CPU, CUDA: CUDA}, [TENSORRT, CUDA], [H100], True, "note", "pip install tensorrt"),
        ({OPENVINO: CPU, CPU: CPU}, [OPENVINO, CPU], [], False, "problem", f"{OPENVINO}, a session got {CPU}"),
        ({CPU: CPU}, [CPU], [], True, "problem", "its CUDA provider is not in the module"),
        ({CPU: "Fail: libonnx"}, [CPU], [], False, "problem", "a session got Fail: libonnx"),
    ],
)
def test_a_provider_that_a_session_does_not_really_get_is_named(
    real: dict[str, str], available: list[str], gpus: list[Any], gpu_package: bool, level: str, found: str
) -> None:
    runtime = Probe({"version": "1.20", "available": available, "real": real})
    findings = libraries.onnxruntime_findings(runtime, gpus, gpu_package=gpu_package)
    assert worst(findings).level == level
    assert any(found in f"{finding.found}; {finding.advice}" for finding in findings if finding.level == level)


def test_a_missing_onnxruntime_is_a_note_and_a_broken_one_a_problem() -> None:
    assert levels(libraries.onnxruntime_findings(None, [], gpu_package=False)) == {"note"}
    assert levels(libraries.onnxruntime_findings(Probe(error="x"), [], gpu_package=False)) == {"problem"}


def test_the_tiny_graph_is_a_valid_model() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_model_from_string(bytes.fromhex(TINY_GRAPH))
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["Neg"]


def test_the_probe_of_onnxruntime_makes_a_real_session() -> None:
    pytest.importorskip("onnxruntime")
    assert probe(ONNXRUNTIME).values["real"][CPU] == CPU


TORCHS, FAISSS = "/env/torch/lib/libgomp.so.1", "/env/faiss_cpu.libs/libgomp-e985bcbb.so.1.0.0"


@pytest.mark.parametrize(
    ("loaded", "platform", "env", "level", "found"),
    [
        ([TORCHS, "/env/torch/lib/libtorch.so"], "linux", {}, "ok", "one runtime: libgomp.so.1"),
        ([TORCHS, FAISSS], "linux", {}, "note", "2 runtimes in one process: libgomp-e985bcbb.so.1.0.0"),
        (["/env/mkl/libiomp5.so", TORCHS], "linux", {}, "note", "libiomp5.so"),
        ([], "linux", {}, "ok", "none loaded"),
        (["/lib/libompd.txt", "/lib/libcomp.so"], "linux", {}, "ok", "none loaded"),
        (None, "darwin", {}, "note", "may crash"),
        (None, "win32", {}, "note", "cannot be seen on win32"),
        ([TORCHS], "linux", {"KMP_DUPLICATE_LIB_OK": "TRUE"}, "problem", "KMP_DUPLICATE_LIB_OK"),
    ],
)
def test_openmp_runtimes_are_counted(
    loaded: list[str] | None, platform: str, env: dict[str, str], level: str, found: str
) -> None:
    findings = libraries.openmp_findings(loaded, platform, env)
    assert worst(findings).level == level
    assert any(found in finding.found for finding in findings)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_the_runtimes_that_torch_and_faiss_load_are_seen(of_this_environment: Done) -> None:
    pytest.importorskip("faiss")
    report = json.loads(of_this_environment.stdout)
    assert any("omp" in finding["found"] for finding in report["findings"] if finding["topic"] == "openmp")


# Probing --------------------------------------------------------------------------------------------------------------


def test_a_probe_that_crashes_fails_or_prints_is_reported() -> None:
    assert probe("print('noise'); report(a=1)").values == {"a": 1}
    assert probe("import no_such_module").error == "ModuleNotFoundError: No module named 'no_such_module'"
    assert probe("pass").error == "it said nothing"
    if sys.platform != "win32":
        assert probe("import os; os.kill(os.getpid(), 11)").error == "the process crashed (signal 11)"


# Decoding, threads, disks, the Hub ------------------------------------------------------------------------------------

CODECS: dict[str, str | bool] = {
    "JPEG": True,
    "PNG": True,
    "WebP": True,
    "AVIF": True,
    "JPEG 2000": True,
    "TIFF": True,
    "pillow": "11.0",
    "turbo": True,
}


@pytest.mark.parametrize(
    ("changes", "level", "found"),
    [
        ({}, "ok", "Pillow 11.0 with libjpeg-turbo: 500 img/s per core"),
        ({"turbo": False}, "note", "without libjpeg-turbo"),
        ({"AVIF": False, "WebP": False}, "note", "cannot decode WebP, AVIF"),
        ({"JPEG": False, "turbo": False}, "problem", "cannot decode JPEG"),
    ],
)
def test_what_pillow_cannot_decode_is_named(changes: dict[str, bool], level: str, found: str) -> None:
    findings = machine.decode_findings({**CODECS, **changes}, 500.2)
    assert worst(findings).level == level
    assert any(found in finding.found for finding in findings)


def test_the_picture_that_is_measured_is_as_hard_to_decode_as_a_photograph() -> None:
    content = machine.photograph_like_jpeg()
    assert Image.open(io.BytesIO(content)).size == (500, 375)
    assert 1 < 8 * len(content) / (500 * 375) < 4  # bits a pixel; photographs of quality 90 take 1.5 to 3
    assert content == machine.photograph_like_jpeg()


def test_the_speed_is_a_number_of_images_a_second() -> None:
    assert 5 < machine.decode_speed() < 20_000


@pytest.mark.parametrize(
    ("options", "level", "found"),
    [
        ({}, "ok", "8 cores usable, torch uses 8 threads, OMP_NUM_THREADS not set"),
        ({"quota": 2.0}, "note", "8 cores are visible but the container may use 2"),
        ({"quota": 8.0, "memory": 4 << 30}, "ok", "memory limit is 4.0 GiB"),
        ({"env": {"OMP_NUM_THREADS": "64"}}, "note", "more than 8 cores"),
        ({"env": {"OMP_NUM_THREADS": "1"}}, "note", "leave some idle"),
        ({"env": {"OMP_NUM_THREADS": "many"}}, "problem", "'many'"),
        ({"torch": None}, "ok", "torch uses unknown threads"),
    ],
)
def test_threads_are_compared_with_the_cores_that_may_be_used(options: dict[str, Any], level: str, found: str) -> None:
    values: dict[str, Any] = {"usable": 8, "quota": None, "memory": None, "torch": 8, "env": {}, **options}
    findings = machine.thread_findings(**values)
    assert worst(findings).level == level
    assert any(found in finding.found for finding in findings)


@pytest.mark.parametrize(
    ("files", "cores", "memory"),
    [
        ({"cpu.max": "max 100000\n", "memory.max": "max\n"}, None, None),
        ({"cpu.max": "150000 100000\n", "memory.max": "4294967296\n"}, 1.5, 4 << 30),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0, None),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None, None),
        ({}, None, None),
    ],
)
def test_limits_of_both_kinds_of_control_groups_are_read(
    tmp_path: Path, files: dict[str, str], cores: float | None, memory: int | None
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert machine.cpu_quota(tmp_path) == cores
    assert machine.memory_limit(tmp_path) == memory


def test_a_full_disk_and_a_cache_that_cannot_be_written_are_named() -> None:
    place = Path("/somewhere")
    assert machine.disk_finding("clzoo's cache", place, 50 << 30, True).level == "ok"
    assert machine.disk_finding("clzoo's cache", place, 1 << 30, True).level == "note"
    finding = machine.disk_finding("clzoo's cache", place, 50 << 30, False)
    assert finding.level == "problem"
    assert "export CLZOO_CACHE=" in finding.advice
    assert machine.disk_finding("the current folder", place, 50 << 30, False).level == "note"


def test_folders_that_may_not_be_looked_into_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    look = os.stat

    def of_another_user(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if closed in Path(os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else "").parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return look(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", of_another_user)
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != closed)
    monkeypatch.setenv("CLZOO_CACHE", str(closed / "clzoo"))
    finding = worst(machine.cache_findings())
    assert finding.level == "problem"
    assert f"{closed / 'clzoo'}" in finding.found

    def unreadable() -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/of/another/token")

    monkeypatch.setattr(machine, "_has_token", unreadable)
    finding = worst(machine.hub_findings({}))
    assert finding.level == "problem"
    assert "/of/another/token" in finding.found


def test_of_the_hub_only_the_tokens_presence_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    env = {"HF_TOKEN": "hf_verysecret", "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "https://me:secret@mirror.example"}
    findings = machine.hub_findings(env)
    assert levels(findings) == {"ok", "note"}
    said = json.dumps([finding.to_json() for finding in findings])
    assert "a token is there" in said
    assert "https://mirror.example" in said
    assert "HF_HUB_OFFLINE" in said
    assert "secret" not in said
    assert "no token" in machine.hub_findings({}, token=False)[0].found


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_reports_on_this_environment_and_never_the_token(of_this_environment: Done) -> None:
    done = of_this_environment
    report = json.loads(done.stdout)
    topics = {finding["topic"] for finding in report["findings"]}
    assert topics >= {"versions", "gpu", "faiss", "onnxruntime", "openmp", "decode", "threads", "disk", "hub"}
    assert done.returncode == 1  # OMP_NUM_THREADS is a problem
    assert report["problems"] == sum(finding["level"] == "problem" for finding in report["findings"]) >= 1
    assert "verysecret" not in done.stdout + done.stderr


def run(*arguments: str) -> int:
    """Exit code of `clzoo ARGUMENTS`."""
    try:
        main(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize(("level", "code"), [("ok", 0), ("note", 0), ("problem", 1)])
def test_only_a_problem_is_exit_code_1(
    level: Any, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("clzoo.doctor.examine", lambda: [Finding("disk", level, "it is full", "rm something")])
    assert run("doctor") == code
    assert "it is full" in capsys.readouterr().out
    assert run("doctor", "--quiet") == code
    assert ("it is full" in capsys.readouterr().out) == (level != "ok")
