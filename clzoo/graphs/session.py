"""Opening an exported graph in ONNX Runtime, on the provider that was asked for or not at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clzoo.errors import ClzooError
from clzoo.graphs.provenance import EMBEDDING, FEATURE, IMAGES, PIXELS, PROBABILITIES, Provenance
from clzoo.wording import clzoo_command, first_line


@dataclass(frozen=True)
class _Provider:
    """What ONNX Runtime calls a device, the packages that have it, and how it is told to compute in fp32."""

    name: str
    packages: str
    options: dict[str, str] = field(default_factory=dict)
    threads: str | None = None  # the option that bounds its threads, where it has one of its own


_PROVIDERS = {
    "cpu": _Provider("CPUExecutionProvider", "onnxruntime"),
    "cuda": _Provider("CUDAExecutionProvider", "onnxruntime-gpu"),
    "tensorrt": _Provider("TensorrtExecutionProvider", "onnxruntime-gpu tensorrt", {"trt_fp16_enable": "0"}),
    # On CPUs with bf16 OpenVINO would take that by itself.
    "openvino": _Provider(
        "OpenVINOExecutionProvider",
        "onnxruntime-openvino",
        {"device_type": "CPU", "precision": "FP32"},
        threads="num_of_threads",
    ),
    "coreml": _Provider("CoreMLExecutionProvider", "onnxruntime"),  # in the package for macOS
}

DEVICES = tuple(_PROVIDERS)
"""Names of the places where a session can run; each is one execution provider of ONNX Runtime."""

_ERRORS_ONLY = 3  # ONNX Runtime's log level


def open_session(path: Path, device: str = "cpu", *, threads: int = 0) -> tuple[Any, Provenance]:
    """An `onnxruntime.InferenceSession` on `device`, one of `DEVICES`, and what the graph says of itself.

    `threads` are those of one call on the CPU; 0 for one per core.

    ONNX Runtime falls back to the CPU without an error where a provider cannot start; here that is one. (Single
    operations that the provider does not have, such as those on shapes, run on the CPU by its design.)

    Raises:
        ClzooError: no ONNX Runtime, an unknown device, another provider than the asked one, or a file that is missing,
            damaged or not exported by clzoo.
    """
    runtime = _onnxruntime()
    if device not in _PROVIDERS:
        raise ClzooError(f"device must be {', '.join(DEVICES[:-1])} or {DEVICES[-1]}, found {device!r}.")
    wanted = _PROVIDERS[device]
    if wanted.name not in (available := runtime.get_available_providers()):
        raise ClzooError(
            f"device {device!r} was asked for, but ONNX Runtime {runtime.__version__} here has only "
            f"{', '.join(available)}. {_remedy(wanted)}"
        )
    if not path.is_file():
        raise ClzooError(f"{path} does not exist. Type: {_export(path)}")
    options = runtime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads
    own = dict(wanted.options)
    if wanted.threads is not None and threads:
        own[wanted.threads] = str(threads)
    try:
        # Without enable_fallback a provider that fails at its first run is an error too.
        session = runtime.InferenceSession(str(path), options, providers=[(wanted.name, own)], enable_fallback=0)
    except Exception as error:  # ONNX Runtime has a class of its own for each kind, none of them public
        raise ClzooError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be opened by ONNX Runtime {runtime.__version__}: "
            f"{first_line(error)}. Export it anew: {_export(path)}"
        ) from error
    if (real := session.get_providers()[0]) != wanted.name:
        raise ClzooError(
            f"device {device!r} was asked for, but ONNX Runtime {runtime.__version__} runs {path} on {real}: "
            f"{wanted.name} could not start (the libraries that it needs may be missing or of another version). "
            f"{_remedy(wanted)}"
        )
    provenance = Provenance.from_metadata(session.get_modelmeta().custom_metadata_map, str(path))
    _require_ends(session, provenance, path)
    return session, provenance


def _remedy(wanted: _Provider) -> str:
    """How to get a provider: the packages of ONNX Runtime overwrite each other's files."""
    here = " (on macOS)" if wanted.name.startswith("CoreML") else ""
    return (
        f"Type: pip uninstall onnxruntime onnxruntime-gpu onnxruntime-openvino; pip install {wanted.packages}{here} "
        "(they overwrite each other's files); or ask for device='cpu'."
    )


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ClzooError(
            "ONNX Runtime is not installed. Type: pip install onnxruntime (or, for a GPU, onnxruntime-gpu)"
        ) from error
    return onnxruntime


def _require_ends(session: Any, provenance: Provenance, path: Path) -> None:
    inputs = [end.name for end in session.get_inputs()]
    outputs = [end.name for end in session.get_outputs()]
    expected = [IMAGES if provenance.preprocess else PIXELS]
    own = [name for name in outputs if name != PROBABILITIES]  # what a classifier adds behind the embedding
    if inputs != expected or own != [EMBEDDING, FEATURE]:
        raise ClzooError(
            f"{path} takes {inputs} and returns {outputs}; its metadata says {expected} and "
            f"{[EMBEDDING, FEATURE]}. It was changed after its export: export it anew."
        )
    widths = {end.name: end.shape[1] for end in session.get_outputs() if len(end.shape) == 2 and end.name in own}
    if widths != {EMBEDDING: provenance.dim, FEATURE: provenance.dim}:
        raise ClzooError(
            f"{path} returns vectors of {widths.get(FEATURE)} values, its metadata says {provenance.dim}. Export it "
            f"anew: {_export(path)}"
        )


def _export(path: Path) -> str:
    return clzoo_command("export", "NAME", "--to", "onnx", "--out", path)
