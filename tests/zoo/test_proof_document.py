"""docs/proof.md says what clzoo/proof.py does."""

import hashlib
import struct

import numpy as np
import torch

from clzoo.proof import probe_image, weights_sha256


def test_the_documented_formula_makes_the_probe_image():
    image = probe_image()
    assert (image.shape, image.dtype) == ((256, 256, 3), np.uint8)
    for x, y, c in np.random.default_rng(0).integers(0, (256, 256, 3), (500, 3)).tolist():
        expected = abs((x * (c + 1) + y * (3 - c)) % 256 - 128) + 64 * ((x // 16 + y // 16 + c) % 2)
        assert image[y, x, c] == expected


def test_the_documented_bytes_make_the_hash():
    tensors = {"b.weight": torch.tensor([[1.0, -2.5]]), "a": torch.tensor(7)}
    content = b"a\0int64\0[]\0" + struct.pack("<q", 7) + b"b.weight\0float32\0[1, 2]\0" + struct.pack("<ff", 1.0, -2.5)
    assert weights_sha256(tensors) == hashlib.sha256(content).hexdigest()


def test_order_and_memory_layout_do_not_change_the_hash_and_one_bit_does():
    weight = torch.randn(4, 3, 2, 2)
    same = {"b": torch.ones(1), "a": weight.contiguous(memory_format=torch.channels_last)}
    assert weights_sha256({"a": weight, "b": torch.ones(1)}) == weights_sha256(same)
    other = weight.clone()
    other.view(torch.int32)[0, 0, 0, 0] ^= 1
    assert weights_sha256({"a": weight, "b": torch.ones(1)}) != weights_sha256({"a": other, "b": torch.ones(1)})
    assert weights_sha256({"a": weight.half()}) != weights_sha256({"a": weight})
