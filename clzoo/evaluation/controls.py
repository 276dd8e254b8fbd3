"""What a trained encoder is compared with: the same network untrained, and the pixels themselves."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn

from clzoo.config import ModelConfig
from clzoo.data.collection import Collection
from clzoo.data.parallel import in_order
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.evaluation.features import Features, extract
from clzoo.evaluation.knn import evaluate_knn
from clzoo.evaluation.linear import evaluate_linear
from clzoo.evaluation.results import Result
from clzoo.knn import KNN_INSTDISC, KNN_V1
from clzoo.transform import normalize

log = logging.getLogger("clzoo")

UNTRAINED, PIXELS = "random initialisation", "raw pixels"
"""Values of a result's "of" for the two controls."""

CONTROLLED = ("knn", "knn:instdisc", "linear")
"""Protocols that controls are measured by."""

BATCH = 500  # images per forward pass, at most
_MOST_BYTES = 8 << 30  # of pixels as float32


def measure_controls(
    encoder: Encoder,
    train: Collection,
    test: Collection,
    protocols: Sequence[str],
    *,
    seeds: tuple[int, ...],
    cache_dir: str | Path | None = None,
) -> list[tuple[str, Result]]:
    """What a number of the encoder is held against: the same network untrained, and the pixels, by the same protocols.

    Untrained networks are drawn by each seed and judged as the encoder is: through the same feature extraction, on its
    device. Their BatchNorm statistics come from one pass over `train`: with the initial ones features would hardly
    differ. The pixels are judged by k-NN alone, at the encoder's input size, minus the mean of `train` per channel
    (else all cosines are near 1), and not at all where they take more than 8 GiB.

    Args:
        protocols: those of them that are in `CONTROLLED` are measured.

    Returns:
        (UNTRAINED or PIXELS, top-1 accuracy) pairs.

    Raises:
        ClzooError: what `extract` and the protocols raise.
    """
    knn = [found for name, found in (("knn", KNN_V1), ("knn:instdisc", KNN_INSTDISC)) if name in protocols]
    values: dict[str, list[float]] = {}
    for seed in seeds if knn or "linear" in protocols else ():
        untrained = untrained_encoder(encoder.config, seed, train, encoder.device)
        bank, queries = (extract(untrained, images, cache_dir=cache_dir) for images in (train, test))
        outcomes = [evaluate_knn(bank, queries, protocols=knn, device=encoder.device)] if knn else []
        if "linear" in protocols:
            outcomes.append(evaluate_linear(bank, queries, seeds=(seed,), device=encoder.device))
        for result in (result for outcome in outcomes for result in outcome.results if result.metric == "top-1"):
            values.setdefault(result.protocol, []).append(result.value)
    found = [(UNTRAINED, Result.over_seeds(name, "top-1", each, seeds)) for name, each in values.items()]
    size = 12 * encoder.config.preprocessing.size**2 * (len(train.images) + len(test.images))  # bytes
    if knn and size <= _MOST_BYTES:
        splits = _pixels(encoder, train), _pixels(encoder, test)
        mean = splits[0].x.view(len(splits[0]), -1, 3).mean(dim=(0, 1), dtype=torch.float64).float()
        for split in splits:
            split.x.view(len(split), -1, 3).sub_(mean)
        outcome = evaluate_knn(*splits, protocols=knn, device=encoder.device)
        found += [(PIXELS, result) for result in outcome.results if result.metric == "top-1"]
    elif knn:
        log.info("raw pixels are not measured: they would take %.1f GiB", size / 2**30)
    return found


def untrained_encoder(config: ModelConfig, seed: int, train: Collection, device: torch.device) -> Encoder:
    """The config's network with random weights of a seed, the same on every device but for BatchNorm's statistics.

    Raises:
        ClzooError: as `calibrate_batchnorm`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder.untrained(config, device)
    calibrate_batchnorm(encoder, (torch.from_numpy(pixels) for _, pixels in _read(encoder, train)))
    return encoder


def recalibrated(encoder: Encoder, images: Collection) -> Encoder | None:
    """A copy of an encoder with BatchNorm statistics estimated anew on a collection; None if it has no BatchNorm.

    Raises:
        ClzooError: as `calibrate_batchnorm`.
    """
    module = copy.deepcopy(encoder.module)
    if not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules()):
        return None
    config = dataclasses.replace(encoder.config, weights_sha256=None, probe=None)
    other = Encoder(module, config, encoder.device)
    calibrate_batchnorm(other, (torch.from_numpy(pixels) for _, pixels in _read(other, images)))
    return other


def _pixels(encoder: Encoder, images: Collection) -> Features:
    """The images as the encoder takes them, flattened, as features (N, 3 S^2)."""
    read = list(_read(encoder, images))
    rows = np.concatenate([rows for rows, _ in read])
    x = torch.from_numpy(np.concatenate([pixels for _, pixels in read])).float().flatten(1)
    assert images.labels is not None  # `extract` has refused a split without labels
    return Features(x, torch.from_numpy(images.labels[rows]), images.classes, images.origin, {}, rows)


def _read(encoder: Encoder, images: Collection) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows (B,) and pixels uint8 (B, S, S, 3) of those images that can be read, in as many from each batch of rows.

    Sizes of the batches differ by one at most: a small one at the end would have statistics of its own.
    """

    def pixels(row: int) -> np.ndarray | None:
        try:
            return encoder.pixels(images.images.read(row))
        except UnreadableImageError:  # named when features were extracted
            return None

    count = len(images.images)
    read = in_order(pixels, count)
    parts = -(-count // BATCH)
    for number in range(parts):
        first, stop = number * count // parts, (number + 1) * count // parts
        part = {row: found for row, found in enumerate(islice(read, stop - first), first) if found is not None}
        if part:
            yield np.array(list(part)), np.stack(list(part.values()))


@torch.no_grad()
def calibrate_batchnorm(encoder: Encoder, batches: Iterable[torch.Tensor]) -> None:
    """Set the running statistics of every BatchNorm to the averages over uint8 batches (B, S, S, 3), each by its size.

    A batch of one image is passed over: there is no variance between images in it.

    Raises:
        ClzooError: no batch of two images or more, and a network that has BatchNorm.
    """
    norms = [module for module in encoder.module.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
    encoder.module.train()
    seen = alone = 0
    for part in batches:
        if len(part) == 1:
            alone += 1
            continue
        seen += len(part)
        for norm in norms:
            norm.momentum = len(part) / seen  # of this batch; the rest is of those before it
        encoder.module(normalize(part.to(encoder.device), encoder.config.preprocessing))
    encoder.module.eval()
    for norm in norms:
        norm.momentum = 0.1
    if not seen:
        raise ClzooError(
            f"BatchNorm statistics take at least 2 images at a time that can be read, found {alone}. Name a "
            "folder with more images."
        )
