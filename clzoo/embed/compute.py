"""What computes the vectors of a run where nobody says: the fastest that passes parity here, or what the store has.

The rule (docs/export.md), for a model that is given by name, on a CPU:

1. A store goes on with what its newest rows were computed by.
2. bf16 in torch, where the CPU multiplies it by itself, if the cosine with fp32 is at least 0.999 on 8 probe pictures.
3. ONNX Runtime in fp32, for ResNets, where it is installed: if the graph is in the cache, or from 2,000 images on,
   as an export takes as long as hundreds of images; the export compares it with torch.
4. torch in fp32.

On a CUDA GPU: torch in bf16; on an Apple GPU: in fp32. An Encoder object computes as its own `embed` does.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from clzoo.device import has_native_bf16
from clzoo.embed.manifest import Manifest
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.export.backend import BACKENDS, OnnxNetwork, gains_by_onnx, graph_path, with_backend
from clzoo.export.parity import MIN_COSINE, probes

log = logging.getLogger("clzoo")

EXPORT_FROM = 2_000
"""Images from which a graph is exported for backend "auto". (Our choice: on the networks of docs/performance.md 600 to
3,300 paid for the export when it was measured once.)"""

_ONNX = "ONNX Runtime"
_PROBES = 8


class Compute(NamedTuple):
    """A backend, and the type that it computes in."""

    backend: str  # "torch" or "onnx"
    dtype: str  # "fp32", "bf16" or "fp16"

    def __str__(self) -> str:
        return f"{self.dtype}, {_ONNX}" if self.backend == "onnx" else self.dtype


def choose(encoder: Encoder, backend: str, dtype: str, images: int, manifest: Manifest | None) -> Compute:
    """What a run computes with, and why, in the log where it was not asked for.

    Args:
        encoder: on torch.
        backend: "torch", "onnx" or "auto".
        dtype: as of `Encoder.encode`.
        images: how many the source holds.
        manifest: of the store that is there already.

    Raises:
        ClzooError: an unknown backend or type, one that is not computed here, or two that do not go together.
    """
    if backend not in BACKENDS:
        raise ClzooError(f"backend must be torch, onnx or auto, found {backend!r}.")
    if isinstance(encoder.module, OnnxNetwork):
        return Compute("onnx", encoder.compute_dtype(dtype))
    if backend == "onnx":
        if dtype not in ("auto", "fp32"):
            raise ClzooError(f"dtype {dtype}: an exported graph computes in fp32. Ask for --backend torch.")
        return Compute("onnx", "fp32")
    if backend == "torch" or dtype not in ("auto", "fp32") or encoder.device.type != "cpu":
        return Compute("torch", encoder.compute_dtype(dtype))
    chosen, why = _automatic(encoder, dtype, images, manifest)
    log.info("computing in %s (%s)", _named(chosen), why)
    return chosen


def ready(encoder: Encoder, chosen: Compute) -> Encoder:
    """The encoder on the chosen backend; a graph that is not in the cache is exported first.

    Raises:
        ClzooError: missing packages, or a graph that does not give torch's vectors.
    """
    return with_backend(encoder, chosen.backend)


def _automatic(encoder: Encoder, dtype: str, images: int, manifest: Manifest | None) -> tuple[Compute, str]:
    if manifest is not None and manifest.compute:
        before = _parsed(manifest.compute[-1])
        if (dtype == "auto" or before.dtype == dtype) and _is_possible(before):
            return before, "as the store's rows are"
    if dtype == "auto" and has_native_bf16():
        cosine = bf16_cosine(encoder)
        if cosine >= MIN_COSINE["fp16"]:
            return Compute("torch", "bf16"), f"the fastest here; cosine with fp32 at least {cosine:.5f} on probes"
        log.info("bf16 is left out: its cosine with fp32 is %.5f on probes", cosine)
    if gains_by_onnx(encoder) and (images >= EXPORT_FROM or graph_path(encoder).is_file()):
        return Compute("onnx", "fp32"), "the fastest here in fp32"
    return Compute("torch", "fp32"), "chosen by backend 'auto'"


def bf16_cosine(encoder: Encoder) -> float:
    """The least cosine of features in bf16 with those in fp32, of 8 probe pictures."""
    pixels = torch.from_numpy(np.stack([encoder.pixels(picture) for picture in probes()[:_PROBES]]))
    exact, coarse = (encoder.encode(pixels, dtype=dtype).double() for dtype in ("fp32", "bf16"))
    return float(F.cosine_similarity(exact, coarse).min())  # NaN is less than nothing, and so not taken


def _parsed(compute: str) -> Compute:
    """What a manifest names; how its images were decoded stands there too."""
    dtype, *others = compute.split(", ")
    return Compute("onnx" if _ONNX in others else "torch", dtype)


def _is_possible(compute: Compute) -> bool:
    if compute.backend == "onnx":
        return compute.dtype == "fp32"  # missing packages are named where the graph is opened
    return compute.dtype == "fp32" or (compute.dtype == "bf16" and has_native_bf16())


def _named(compute: Compute) -> str:
    return f"{compute.dtype} by {_ONNX if compute.backend == 'onnx' else 'torch'}"
