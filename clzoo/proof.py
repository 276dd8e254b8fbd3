"""Proof of weights: a canonical hash of the tensors, and the features of one image that everybody can make."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch

PROBE_LENGTH = 16
PROBE_RTOL, PROBE_ATOL = 1e-3, 1e-4
_PROBE_SIDE = 256  # pixels


def weights_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """Hash of the sorted (name, dtype, shape, bytes) of all tensors: independent of file format and order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        dtype = str(tensor.dtype).removeprefix("torch.")
        digest.update(f"{name}\0{dtype}\0{list(tensor.shape)}\0".encode())
        # The bytes are little-endian on every platform that torch supports.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def halves_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """The hash of the same tensors as a file in fp16 holds them."""
    return weights_sha256({name: t.half() if t.is_floating_point() else t for name, t in tensors.items()})


def probe_image() -> np.ndarray:
    """The probe image, uint8 (256, 256, 3): smooth waves plus a fine grid, in integers alone (docs/proof.md)."""
    y, x, c = np.meshgrid(np.arange(_PROBE_SIDE), np.arange(_PROBE_SIDE), np.arange(3), indexing="ij")
    wave = np.abs((x * (c + 1) + y * (3 - c)) % 256 - 128)  # triangle waves of another direction in each channel
    grid = ((x // 16 + y // 16 + c) % 2) * 64
    return (wave + grid).astype(np.uint8)  # 0 .. 192
