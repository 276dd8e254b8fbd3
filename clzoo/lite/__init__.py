"""Embedding with an exported model, without torch: needs onnxruntime, numpy and Pillow, and nothing else.

>>> import clzoo.lite
>>> encoder = clzoo.lite.load("model.onnx")  # made by: clzoo export NAME --to onnx --out model.onnx
>>> vectors = encoder.embed(["a.jpg", "b.jpg"])  # (2, dim), L2-normalised
>>> hits = clzoo.lite.open_vectors("images.npz").search(vectors, k=5)  # exact; `python -m clzoo.lite embed` wrote it
"""

from clzoo.lite.encoder import LiteEncoder
from clzoo.lite.loading import load
from clzoo.lite.vectors import Vectors, open_vectors

__all__ = ["LiteEncoder", "Vectors", "load", "open_vectors"]
