"""Embedding with an exported model, without torch: needs onnxruntime, numpy and Pillow, and nothing else.

>>> import clzoo.lite
>>> encoder = clzoo.lite.load("model.onnx")  # made by: clzoo export NAME --to onnx --out model.onnx
>>> vectors = encoder.embed(["a.jpg", "b.jpg"])  # (2, dim), L2-normalised
"""

from clzoo.lite.encoder import LiteEncoder
from clzoo.lite.loading import load

__all__ = ["LiteEncoder", "load"]
