"""Opening an exported graph in ONNX Runtime, on the provider that was asked for or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clzoo.errors import ClzooError
from clzoo.graphs.provenance import EMBEDDING, FEATURE, IMAGES, PIXELS, Provenance

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_GPU_PACKAGE = (
    "Type: pip uninstall onnxruntime onnxruntime-gpu; pip install onnxruntime-gpu (they overwrite each other's files); "
    "or ask for device='cpu'."
)
_ERRORS_ONLY = 3  # ONNX Runtime's log level


def open_session(path: Path, device: str = "cpu", *, threads: int = 0) -> tuple[Any, Provenance]:
    """An `onnxruntime.InferenceSession` on `device`, "cpu" or "cuda", and what the graph says of itself.

    `threads` are those of one call on the CPU; 0 for one per core.

    ONNX Runtime falls back to the CPU without an error where a provider cannot start; here that is one. (On "cuda",
    single operations that the CUDA provider does not have, such as those on shapes, run on the CPU by its design.)

    Raises:
        ClzooError: no ONNX Runtime, an unknown device, another provider than the asked one, or a file that is missing,
            damaged or not exported by clzoo.
    """
    runtime = _onnxruntime()
    if device not in _PROVIDERS:
        raise ClzooError(f"device must be cpu or cuda, found {device!r}.")
    wanted = _PROVIDERS[device]
    if wanted not in (available := runtime.get_available_providers()):
        raise ClzooError(
            f"device {device!r} was asked for, but ONNX Runtime {runtime.__version__} here has only "
            f"{', '.join(available)}. {_GPU_PACKAGE}"
        )
    if not path.is_file():
        raise ClzooError(f"{path} does not exist. Type: clzoo export NAME --to onnx --out {path}")
    options = runtime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads
    try:
        # Without enable_fallback a provider that fails at its first run is an error too.
        session = runtime.InferenceSession(str(path), options, providers=[wanted], enable_fallback=0)
    except Exception as error:  # ONNX Runtime has a class of its own for each kind, none of them public
        raise ClzooError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be opened by ONNX Runtime {runtime.__version__}: "
            f"{_first_line(error)}. Export it anew: clzoo export NAME --to onnx --out {path}"
        ) from error
    if (real := session.get_providers()[0]) != wanted:
        raise ClzooError(
            f"device {device!r} was asked for, but ONNX Runtime {runtime.__version__} runs {path} on {real}: "
            f"{wanted} could not start (its CUDA or cuDNN may be of another version). {_GPU_PACKAGE}"
        )
    provenance = Provenance.from_metadata(session.get_modelmeta().custom_metadata_map, str(path))
    _require_ends(session, provenance, path)
    return session, provenance


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
    if inputs != expected or outputs != [EMBEDDING, FEATURE]:
        raise ClzooError(
            f"{path} takes {inputs} and returns {outputs}; its metadata says {expected} and "
            f"{[EMBEDDING, FEATURE]}. It was changed after its export: export it anew."
        )
    widths = {end.name: end.shape[1] for end in session.get_outputs() if len(end.shape) == 2}
    if widths != {EMBEDDING: provenance.dim, FEATURE: provenance.dim}:
        raise ClzooError(
            f"{path} returns vectors of {widths.get(FEATURE)} values, its metadata says {provenance.dim}. Export it "
            f"anew: clzoo export NAME --to onnx --out {path}"
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
