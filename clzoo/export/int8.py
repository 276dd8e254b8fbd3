"""Quantisation to 8 bits, with ranges measured on images of the user's."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from PIL import Image

from clzoo.config import Preprocessing
from clzoo.data.opening import open_source
from clzoo.data.parallel import in_order
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.export.parity import BATCHES
from clzoo.graphs.provenance import PIXELS
from clzoo.transform import normalize, resize_and_crop

log = logging.getLogger("clzoo")

CALIBRATION = 100
"""Images that the ranges are measured on, at most."""

_HELD_OUT = max(BATCHES)  # images kept for the comparison
_FEWEST = 2 * _HELD_OUT
_BATCH = 10


def read_pictures(source: str | Path, p: Preprocessing) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images drawn from a source with seed 0: those to calibrate with, and others to compare with afterwards.

    Returns:
        at most 100 and exactly 17, uint8 (H, W, 3) squares of twice `p.resize`, their margins cut off.

    Raises:
        ClzooError: no such source, or fewer than 34 readable images in it.
    """
    images = open_source(source).images
    drawn = np.random.default_rng(0).permutation(len(images))[: CALIBRATION + _HELD_OUT]
    square = Preprocessing(size=2 * p.resize, crop_pct=1.0)  # larger than the network's, so that it is resized again

    def read(position: int) -> np.ndarray | str:
        row = int(drawn[position])
        try:
            return resize_and_crop(images.read(row), square)
        except UnreadableImageError as reason:
            return f"{images.name(row)}: {reason}"

    pictures = []
    for result in in_order(read, len(drawn)):
        if isinstance(result, str):
            log.warning("skipped %s", result)
        else:
            pictures.append(result)
    if len(pictures) < _FEWEST:
        raise ClzooError(
            f"{source} holds {len(pictures)} readable images; to quantise, expected at least {_FEWEST}, better "
            f"{CALIBRATION + _HELD_OUT}, of the kind that will be embedded. Give another folder: --int8 DIR"
        )
    return pictures[_HELD_OUT:], pictures[:_HELD_OUT]


def quantized(model: onnx.ModelProto, pictures: list[np.ndarray], p: Preprocessing) -> onnx.ModelProto:
    """The graph of a network whose convolutions and linear layers compute in 8 bits (QDQ format), the rest in float32.

    The products inside attention, of activations with activations, stay in float32: that is faster and nearer. Weights
    are quantised per channel, activations per tensor with the smallest and largest value that the pictures
    give. Weights use 7 of the 8 bits: x86 processors without VNNI instructions add pairs of products in 16 bits, which
    8-bit weights overflow (our choice: the same file is right everywhere).

    Args:
        model: of `clzoo.export.graph.network_graph`, float32.
        pictures: uint8 (H, W, 3) of any size.
    """
    fitted = np.stack([resize_and_crop(Image.fromarray(picture), p) for picture in pictures])
    pixels = normalize(torch.from_numpy(fitted), p).contiguous().numpy()  # (N, 3, size, size)
    with tempfile.TemporaryDirectory(prefix="clzoo-int8-") as folder, _own_logging():
        whole, out = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, whole)  # of a model in memory the quantiser would move the weights out
        quantize_static(
            whole,
            out,
            _Batches(pixels),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            nodes_to_exclude=_products_of_activations(model.graph),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return onnx.load(out)


def _products_of_activations(graph: onnx.GraphProto) -> list[str]:
    weights = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and not weights & set(node.input)]


class _Batches(CalibrationDataReader):
    def __init__(self, pixels: np.ndarray) -> None:
        self._feeds = iter([{PIXELS: pixels[start : start + _BATCH]} for start in range(0, len(pixels), _BATCH)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


@contextmanager
def _own_logging() -> Iterator[None]:
    """Keep the quantiser, which logs with `logging.warning(...)`, from setting up logging for the whole process."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
