"""Images from crowded places are drawn less often: what `data.flatten` does about a long tail without labels.

How crowded it is around an image is counted among the features of the encoder that a run starts from: the images
within a radius, which is the median distance to the tenth neighbor. An image is drawn with one over that count as its
weight (our choice; not shown to help, docs/adapt.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from clzoo.data.training import TrainingSet
from clzoo.encoder import Encoder
from clzoo.neighbors import nearest

MOST = 100
"""Images that are counted around another: no weight is more than so many times another."""

_RADIUS_AT = 10  # neighbor
_BATCH = 256


def crowding(features: torch.Tensor, device: torch.device) -> np.ndarray:
    """int64 (N,) how many images, itself among them and MOST at most, lie around each of the features (N, D)."""
    k = min(MOST, len(features))
    similarity, _ = nearest(features, features, k, device=device)  # (N, k) descending
    similarity = similarity.cpu()
    radius = similarity[:, min(_RADIUS_AT, k - 1)].median()
    found: np.ndarray = (similarity >= radius).sum(dim=1).clamp(min=1).numpy()
    return found


def unevenness(features: torch.Tensor, device: torch.device) -> float:
    """How many times as many images lie around one in a crowded place (90th percentile) as in an empty one (10th)."""
    low, high = np.percentile(crowding(features, device), [10, 90])
    return float(high / low)


def flat_weights(encoder: Encoder, images: TrainingSet) -> np.ndarray:
    """float64 (N,) weights of a set by an encoder."""
    parts = []
    for first in range(0, len(images), _BATCH):
        rows = range(first, min(first + _BATCH, len(images)))
        pixels: Any = np.stack([encoder.pixels(images.image(row)) for row in rows])
        parts.append(encoder.encode(torch.from_numpy(pixels), dtype="fp32").cpu())
    return 1 / crowding(torch.cat(parts), encoder.device).astype(np.float64)
