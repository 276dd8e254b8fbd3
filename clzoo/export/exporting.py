"""From an Encoder to an .onnx file that is known to compute the same."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import clzoo
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.export.parity import Row, parity, table
from clzoo.files import atomic_path
from clzoo.graphs.provenance import Provenance
from clzoo.proof import halves_sha256
from clzoo.wording import clzoo_command, plain

MOST_BYTES = 2**31 - 2**20
"""Of the weights in one .onnx file; the rest is for the graph."""

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how near it is to torch: the rows of its comparison."""

    path: Path
    provenance: Provenance
    parity: list[Row]

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {**dataclasses.asdict(self), "path": str(self.path), "bytes": self.path.stat().st_size}

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """What was written, and the comparison as a table."""
        p = self.provenance
        preprocessing = "preprocessing inside" if p.preprocess else "takes normalised pixels"
        size = f"{self.path.stat().st_size / 1e6:.1f} MB"
        first = f"{self.path}: {size}, {p.dtype}, opset {p.opset}, {preprocessing}"
        return [plain(line) for line in (first, *_lines(*table(self.parity)))]


def export_onnx(
    encoder: Encoder,
    out: str | Path,
    *,
    preprocess: bool = False,
    dtype: str = "fp32",
    int8: str | Path | None = None,
) -> Exported:
    """Write an encoder as an ONNX file of any batch size, and compare that file with torch.

    Outputs are always `embedding`, L2-normalised, and `feature`, as the network gives it: float32 (B, dim). What the
    metadata holds: `clzoo.graphs.provenance`.

    Args:
        encoder: on any device; a copy of it is exported from the CPU.
        out: the file, *.onnx; replaced if it exists.
        preprocess: the graph takes `images`, uint8 (B, H, W, 3) of any one size per call, and resizes, crops and
            normalises them; else `pixels`, normalised float32 (B, 3, size, size).
        dtype: of the arithmetic, "fp32" or "fp16".
        int8: a source of images like those that will be embedded; convolutions and linear layers compute in 8 bits,
            with ranges measured on 100 of them.

    Raises:
        ClzooError: a package is missing; weights of 2 GiB or more; a feature of another length than the encoder's
            config says; too few images to calibrate with; a file that cannot be written; a graph that differs from
            torch by more than 1e-4 (fp16: cosine below 0.999, int8: below 0.98) or, where the graph resizes, has a
            cosine below 0.999 (int8: 0.98) with `Encoder.embed`. Then no file is left.
    """
    out = Path(out)
    _check_arguments(out, dtype, int8)
    _require_packages()
    encoder.require_weights()
    import onnx

    _require_one_file(encoder, out, dtype, preprocess, is_int8=int8 is not None)
    reference = Encoder(copy.deepcopy(encoder.module).float(), encoder.config, "cpu")
    reference.probe()  # before the long part: refuses a config that says another length than the network's feature has
    model, pictures, calibration = _model(reference, preprocess, dtype, int8)
    provenance = _provenance(reference, preprocess, dtype if int8 is None else "int8", calibration)
    model.producer_name, model.producer_version = "clzoo", clzoo.__version__
    model.graph.name = reference.config.name
    onnx.helper.set_model_props(model, provenance.to_metadata())
    onnx.checker.check_model(model, full_check=True)
    try:
        with atomic_path(out) as temporary:
            onnx.save(model, str(temporary))
            rows = parity(temporary, reference, pictures)
            if not all(row.passed for row in rows):
                raise _refusal(out, provenance.dtype, _lines(*table(rows)))
    except OSError as error:
        raise ClzooError(f"{out} cannot be written: {error}. Free the place or name another file.") from error
    return Exported(out, provenance, rows)


def _check_arguments(out: Path, dtype: str, int8: str | Path | None) -> None:
    if out.suffix != ".onnx" or out.is_dir():
        raise ClzooError(f"{out} must be the name of a file that ends in .onnx, e.g. --out model.onnx")
    if dtype not in _DTYPES:
        raise ClzooError(f"dtype must be fp32 or fp16, found {dtype!r}.")
    if int8 is not None and dtype != "fp32":
        raise ClzooError(f"int8 replaces the arithmetic of fp32, and {dtype} was asked for. Leave out one of the two.")


def _require_packages() -> None:
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise ClzooError(
            f"to export, {', '.join(missing)} must be installed. "
            "Type: pip install onnx onnxscript onnxruntime (or, with an NVIDIA GPU, onnxruntime-gpu)"
        )


def _require_one_file(encoder: Encoder, out: Path, dtype: str, preprocess: bool, *, is_int8: bool) -> None:
    """Before the long part: a graph is one message of protobuf, which ends at 2 GiB."""
    size = sum(tensor.numel() * (2 if dtype == "fp16" else 4) for tensor in encoder.module.state_dict().values())
    if size >= MOST_BYTES:
        words = ("--out", out, "--dtype", "fp16", *(["--preprocess"] if preprocess else []))
        command = clzoo_command("export", encoder.place or encoder.config.name, "--to", "onnx", *words)
        may_fit = dtype == "fp32" and not is_int8 and size / 2 < MOST_BYTES
        fits = f" With half of the bytes: {command}" if may_fit else ""
        raise ClzooError(
            f"{encoder.config.name} has {size / 2**30:.2f} GiB of weights in {dtype}; an .onnx file holds less than "
            f"2 GiB.{fits}"
        )


def _model(
    encoder: Encoder, preprocess: bool, dtype: str, int8: str | Path | None
) -> tuple[Any, list[Any] | None, str]:
    """The graph; pictures to compare it with and what it was calibrated on, where it was."""
    from clzoo.export.graph import network_graph, preprocessing_graph, put_before

    p = encoder.config.preprocessing
    prefix = preprocessing_graph(p) if preprocess else None  # before the long part: it may refuse
    pictures, calibration = None, ""
    if int8 is not None:
        from clzoo.export.int8 import quantized, read_pictures

        for_calibration, pictures = read_pictures(int8, p)
        model = quantized(network_graph(encoder.module, p.size), for_calibration, p)
        calibration = f"{len(for_calibration)} images, smallest and largest values"
    else:
        backbone = encoder.module if dtype == "fp32" else copy.deepcopy(encoder.module).to(_DTYPES[dtype])
        model = network_graph(backbone, p.size, _DTYPES[dtype])
    if prefix is not None:
        put_before(prefix, model)
    return model, pictures, calibration


def _provenance(encoder: Encoder, preprocess: bool, dtype: str, calibration: str) -> Provenance:
    from clzoo.export.graph import OPSET

    config = encoder.config
    return Provenance(
        model=config.name,
        architecture=config.architecture,
        dim=encoder.dim,
        weights_sha256=_hash_of_entry(encoder),
        license=config.license,
        license_note=config.license_note,
        derived_from=config.derived_from,
        preprocessing=config.preprocessing,
        preprocess=preprocess,
        dtype=dtype,
        opset=OPSET,
        version=clzoo.__version__,
        calibration=calibration,
        tensors_sha256=encoder.weights_sha256,
    )


def _hash_of_entry(encoder: Encoder) -> str:
    """The hash by which the model's entry knows these weights: its file may hold them in fp16."""
    recorded = encoder.config.weights_sha256
    return recorded if recorded == halves_sha256(encoder.module.state_dict()) else encoder.weights_sha256


def _refusal(out: Path, dtype: str, lines: list[str]) -> ClzooError:
    instead = {"fp32": "Type: pip install --upgrade torch onnx onnxscript onnxruntime"}.get(
        dtype, "Export it with --dtype fp32, without --int8."
    )
    return ClzooError(f"ONNX Runtime does not compute what torch does, so {out} was not written. {instead}", lines)


def _lines(titles: list[str], cells: list[list[str]]) -> list[str]:
    """An aligned table as text."""
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (titles, *cells)]
