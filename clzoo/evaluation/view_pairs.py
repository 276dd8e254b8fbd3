"""Two views of the same test images: what alignment is measured on, the same policy for every model."""

from __future__ import annotations

import numpy as np
import torch

from clzoo.augment import ViewPolicy, crop_on_host, finish_view
from clzoo.data.collection import Collection
from clzoo.data.parallel import in_order
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError, UnreadableImageError

IMAGES = 1000
"""Test images of which two views are made, evenly spaced over the split (our choice)."""

_BATCH = 100


def view_policy(size: int) -> ViewPolicy:
    """SimCLR's and MoCo v2's chain without blur, at the encoder's input size (our choice: the same for all models)."""
    return ViewPolicy(size=size, crop_scale=(0.2, 1.0), jitter=0.8, hue=0.1)


def view_pairs(encoder: Encoder, collection: Collection) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (N, D) of the first and of the second view of the same images; seed 0, so always the same views.

    Raises:
        ClzooError: none of the images can be read.
    """
    count = len(collection.images)
    rows = np.unique(np.linspace(0, count - 1, min(count, IMAGES)).round().astype(np.int64))
    policy = view_policy(encoder.config.preprocessing.size)

    def crops(position: int) -> list[np.ndarray] | None:
        row = int(rows[position])
        try:
            image = collection.images.read(row)
        except UnreadableImageError:  # named when the features were extracted
            return None
        return [crop_on_host(image, policy, seed=0, epoch=0, sample=row, view=view) for view in (0, 1)]

    made = list(in_order(crops, len(rows)))
    read = [position for position, pair in enumerate(made) if pair is not None]
    if not read:
        raise ClzooError(f"none of {len(rows)} images of {collection.origin} can be read.")
    samples = torch.from_numpy(rows[read])
    features = []
    for view in (0, 1):
        pixels = torch.from_numpy(np.stack([made[position][view] for position in read]))  # type: ignore[index]
        parts = []
        for part, numbers in zip(pixels.split(_BATCH), samples.split(_BATCH), strict=True):
            finished = finish_view(part, policy, seed=0, epoch=0, samples=numbers, view=view)  # (B, 3, S, S)
            parts.append(encoder.encode((255 * finished).round().byte().permute(0, 2, 3, 1), dtype="fp32").cpu())
        features.append(torch.cat(parts))
    return features[0], features[1]
