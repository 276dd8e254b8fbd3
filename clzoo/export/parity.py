"""The comparison that ends every export: the file as written, run by ONNX Runtime, against torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from clzoo.encoder import Encoder
from clzoo.lite.encoder import LiteEncoder
from clzoo.proof import probe_image

BATCHES = (1, 2, 17)

MAX_DIFFERENCE = 1e-4
"""Of fp32, between values of L2-normalised vectors."""

MIN_COSINE = {"fp32": 0.999, "fp16": 0.999, "int8": 0.98}

# Height and width of the images that the graph resizes itself, per batch, in units of `resize`: enlarged, and reduced.
_SHAPES = {1: (0.8, 0.6), 2: (1.3, 1.9), 17: (2.3, 1.6)}


@dataclass(frozen=True)
class Row:
    """One line of the table: L2-normalised embeddings of one batch.

    `against` is "torch" where both got the same pixels at the network's scale, and "embed" where the graph resized
    what Pillow resized for `Encoder.embed`.
    """

    against: str
    batch: int
    max_difference: float
    min_cosine: float
    required: str
    passed: bool


def parity(graph: Path, encoder: Encoder, pictures: list[np.ndarray] | None = None) -> list[Row]:
    """Compare an exported graph with the encoder that it was made from.

    With the preprocessing inside, the rows against torch take images whose shorter side is `resize` already, so that
    cropping, normalisation and network are compared to the last digits. The rows against `embed` take images that have
    to be resized; there, one 8-bit value in some thousands may be rounded the other way.

    Args:
        encoder: on the CPU.
        pictures: uint8 (H, W, 3), at least as many as the largest batch; default: the probe image, turned and shifted,
            and noise.
    """
    lite = LiteEncoder(graph)
    provenance = lite.provenance
    pictures = (pictures or probes())[: max(BATCHES)]
    rows = []
    seen = np.stack([encoder.pixels(picture) for picture in pictures])  # (17, size, size, 3)
    given = np.stack([lite.pixels(picture) for picture in pictures])  # (17, side, side, 3)
    for batch in BATCHES:
        expected = F.normalize(encoder.encode(torch.from_numpy(seen[:batch]), dtype="fp32"), dim=1).numpy()
        exact = provenance.dtype == "fp32"
        rows.append(_row("torch", expected, lite.encode(given[:batch]), provenance.dtype, exact=exact))
    if provenance.preprocess:
        for batch, shape in _SHAPES.items():
            height, width = (round(side * provenance.preprocessing.resize) for side in shape)
            images = np.stack(
                [np.asarray(Image.fromarray(picture).resize((width, height))) for picture in pictures[:batch]]
            )
            rows.append(_row("embed", encoder.embed(images), lite.encode(images), provenance.dtype, exact=False))
    return rows


def table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Titles and cells."""
    titles = ["against", "batch", "max difference", "min cosine", "required", ""]
    return titles, [
        [
            row.against,
            str(row.batch),
            f"{row.max_difference:.1e}",
            f"{row.min_cosine:.6f}",
            row.required,
            "ok" if row.passed else "FAILED",
        ]
        for row in rows
    ]


def _row(against: str, expected: np.ndarray, found: np.ndarray, dtype: str, *, exact: bool) -> Row:
    difference = float(np.abs(expected - found).max())
    cosine = float(_cosines(expected, found).min())
    if exact:
        required, passed = f"difference <= {MAX_DIFFERENCE:g}", difference <= MAX_DIFFERENCE
    else:
        required, passed = f"cosine >= {MIN_COSINE[dtype]:g}", cosine >= MIN_COSINE[dtype]
    return Row(against, len(found), difference, cosine, required, passed)  # NaN passes neither


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def probes() -> list[np.ndarray]:
    """The probe image and noise in turn, each another."""
    probe, rng = probe_image(), np.random.default_rng(0)
    return [
        rng.integers(0, 256, probe.shape, np.uint8) if number % 2 else np.roll(np.rot90(probe, number // 2), number, 1)
        for number in range(max(BATCHES))
    ]
