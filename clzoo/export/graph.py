"""The graphs: the network as torch exports it, and the preprocessing that can be put before it."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator

import onnx
import torch
import torch.nn.functional as F
from onnx import parser
from torch import nn

from clzoo.config import Preprocessing
from clzoo.errors import ClzooError
from clzoo.graphs.provenance import EMBEDDING, FEATURE, IMAGES, PIXELS
from clzoo.transform import scale_and_shift
from clzoo.wording import first_line

OPSET = 18
"""The first in which Resize can antialias."""

_IR_VERSION = 10  # of the file format; ONNX Runtime 1.18 and later read it

# Resized as 8-bit values, which ONNX Runtime does with Pillow's own algorithm: fixed-point weights, one side after the
# other, rounded in between. Pillow's cubic has a = -0.5 (ONNX's default is -0.75), and weights beyond the border are
# left out and the others scaled up. The integer division is int(resize * side / shorter) of clzoo.transform, and ONNX's
# Round takes halves to the even neighbor as Python's does. Resize is told all four sides, not two and their `axes`:
# ONNX Runtime 1.32 moves transpositions through a Resize and forgets the axes.
_PREPROCESSING = """
preprocessing (uint8[batch, height, width, 3] {images}) => (float[batch, 3, {size}, {size}] {pixels})
<int64 resize = {{{resize}}}, int64[2] size = {{{size}, {size}}}, int64[2] sides = {{2, 3}}, float half = {{0.5}},
 float[1, 3, 1, 1] scale = {{{scale}}}, float[1, 3, 1, 1] shift = {{{shift}}}>
{{
  channels_first = Transpose <perm = [0, 3, 1, 2]> ({images})
  found = Shape <start = 1, end = 3> ({images})
  shorter = ReduceMin (found)
  enlarged = Mul (found, resize)
  target = Div (enlarged, shorter)
  outer = Shape <end = 2> (channels_first)
  sizes = Concat <axis = 0> (outer, target)
  resized = Resize <{interpolation}, antialias = 1, exclude_outside = 1> (channels_first, , , sizes)
  surplus = Sub (target, size)
  surplus_float = Cast <to = 1> (surplus)
  margin_float = Mul (surplus_float, half)
  margin_rounded = Round (margin_float)
  margin = Cast <to = 7> (margin_rounded)
  end = Add (margin, size)
  cropped = Slice (resized, margin, end, sides)
  values = Cast <to = 1> (cropped)
  scaled = Mul (values, scale)
  {pixels} = Add (scaled, shift)
}}
"""

_ONE_AT_A_TIME = threading.Lock()
"""torch's exporter is no matter for threads: it follows what modules call by replacing it for the whole process."""

_INTERPOLATION = {"bicubic": 'mode = "cubic", cubic_coeff_a = -0.5', "bilinear": 'mode = "linear"'}


class _Network(nn.Module):
    """Normalised pixels (B, 3, size, size) -> embedding and feature (B, dim), all float32."""

    def __init__(self, backbone: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.backbone, self.dtype = backbone, dtype

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # The norm is taken in float32: a sum of squares overflows float16 at a norm of 256.
        feature = self.backbone(pixels.to(self.dtype)).float()
        return F.normalize(feature, dim=1), feature


def network_graph(backbone: nn.Module, size: int, dtype: torch.dtype = torch.float32) -> onnx.ModelProto:
    """The graph of a backbone: `pixels` float32 (B, 3, size, size) -> `embedding` and `feature`, float32 (B, dim).

    Args:
        backbone: on the CPU, in eval mode, with parameters of `dtype`.
        dtype: of the arithmetic, float32 or float16.

    Raises:
        ClzooError: torch cannot export the network with a batch of any size.
    """
    example = torch.zeros(2, 3, size, size)  # two: a batch of one would be taken for a constant
    with _ONE_AT_A_TIME, _quiet():
        try:
            program = torch.onnx.export(
                _Network(backbone, dtype).eval(),
                (example,),
                input_names=[PIXELS],
                output_names=[EMBEDDING, FEATURE],
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        except Exception as error:  # the exporter's, of many kinds
            raise ClzooError(
                f"torch {torch.__version__} cannot export {type(backbone).__name__} to ONNX: "
                f"{first_line(error)}. Type: pip install --upgrade torch onnx onnxscript"
            ) from error
    assert program is not None
    model = program.model_proto
    ends = (*model.graph.input, *model.graph.output)
    if any(end.type.tensor_type.shape.dim[0].HasField("dim_value") for end in ends):  # the exporter says nothing of it
        raise ClzooError(
            f"{type(backbone).__name__} can only be exported for a batch of {len(example)}: something in it depends on "
            "the number of images."
        )
    _forget_origins(model)
    model.ir_version = _IR_VERSION
    return model


def preprocessing_graph(p: Preprocessing) -> onnx.GraphProto:
    """The graph of `clzoo.transform`: `images` uint8 (B, H, W, 3), one size per call -> `pixels` of `network_graph`.

    Raises:
        ClzooError: preprocessing that crops more than the resized image has.
    """
    if p.resize < p.size:
        raise ClzooError(f"crop_pct is {p.crop_pct}: a crop of {p.size} px does not fit into {p.resize} px.")
    scale, shift = (", ".join(map(repr, values)) for values in scale_and_shift(p))
    return parser.parse_graph(
        _PREPROCESSING.format(
            images=IMAGES,
            pixels=PIXELS,
            size=p.size,
            resize=p.resize,
            scale=scale,
            shift=shift,
            interpolation=_INTERPOLATION[p.interpolation],
        )
    )


def put_before(preprocessing: onnx.GraphProto, model: onnx.ModelProto) -> None:
    """Let `model` begin with the preprocessing: images in, the same outputs."""
    own = onnx.compose.add_prefix_graph(preprocessing, "preprocessing/", rename_inputs=False, rename_outputs=False)
    graph = model.graph
    nodes = [*own.node, *graph.node]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.initializer.extend(own.initializer)
    graph.input.extend(own.input)


def _forget_origins(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes of where each operation came from: it names files of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress and its warnings of its own future."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
