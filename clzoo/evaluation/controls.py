"""What a trained encoder is compared with: the same network untrained, and the pixels themselves."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import nn

from clzoo.config import ModelConfig
from clzoo.data.classes import with_classes_of
from clzoo.data.parallel import usable_cores
from clzoo.data.training import TrainingSet
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.evaluation.knn import knn_accuracy
from clzoo.transform import normalize

BATCH = 500  # images per forward pass


def pixel_batches(encoder: Encoder, images: TrainingSet) -> Iterator[torch.Tensor]:
    """The set as the encoder wants it, uint8 (B, S, S, 3): as held in memory where the size is right, else resized."""
    p = encoder.config.preprocessing
    if images.pixels is not None and images.pixels.shape[1] == p.size and p.crop_pct == 1.0:
        yield from torch.from_numpy(images.pixels).split(BATCH)
        return
    with ThreadPoolExecutor(usable_cores()) as pool:
        for first in range(0, len(images), BATCH):
            rows = range(first, min(first + BATCH, len(images)))
            yield torch.from_numpy(np.stack(list(pool.map(lambda row: encoder.pixels(images.image(row)), rows))))


def encode_all(encoder: Encoder, images: TrainingSet) -> torch.Tensor:
    """Features of a set, float32 (N, dim), not normalised."""
    return torch.cat([encoder.encode(batch) for batch in pixel_batches(encoder, images)])


def knn_labels(train: TrainingSet, test: TrainingSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels of the bank (N,) and of the queries (Q,), both counted in the classes of `train`.

    Raises:
        ClzooError: no labels, or the two have different classes.
    """
    labels = train.require_labels("k-NN")
    test.require_labels("k-NN")
    truth = with_classes_of(train, test).labels
    assert truth is not None  # as required above
    return torch.from_numpy(labels), torch.from_numpy(truth)


def model_knn(encoder: Encoder, train: TrainingSet, test: TrainingSet) -> float:
    """k-NN accuracy (percent) of an encoder's features: bank `train`, queries `test`."""
    bank, queries = encode_all(encoder, train), encode_all(encoder, test)
    labels, truth = (labels.to(bank.device) for labels in knn_labels(train, test))
    return knn_accuracy(bank, labels, queries, truth)


def random_knn(
    config: ModelConfig, train: TrainingSet, test: TrainingSet, seeds: tuple[int, ...]
) -> tuple[float, float]:
    """Mean and standard deviation over seeds of the k-NN accuracy of the untrained network.

    Its BatchNorm statistics come from one pass over `train`: with the initial ones features would hardly differ.
    """
    values = []
    for seed in seeds:
        torch.manual_seed(seed)
        encoder = Encoder.untrained(config)
        calibrate_batchnorm(encoder, pixel_batches(encoder, train))
        values.append(model_knn(encoder, train, test))
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def pixel_knn(train: TrainingSet, test: TrainingSet) -> float:
    """k-NN accuracy of the raw pixels, centred per channel by the train set's mean (else all cosines are near 1).

    Raises:
        ClzooError: sets that are not held in memory.
    """
    if train.pixels is None or test.pixels is None:
        raise ClzooError(f"the k-NN of raw pixels is for sets that fit in memory; {train.origin} does not.")
    labels, truth = knn_labels(train, test)
    mean = train.pixels.mean(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)
    bank, queries = (
        torch.from_numpy((pixels - mean).reshape(len(pixels), -1)) for pixels in (train.pixels, test.pixels)
    )
    return knn_accuracy(bank, labels, queries, truth)


@torch.no_grad()
def calibrate_batchnorm(encoder: Encoder, batches: Iterable[torch.Tensor]) -> None:
    """Set the running statistics of every BatchNorm to the averages over uint8 batches (B, S, S, 3)."""
    norms = [module for module in encoder.module.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's way to ask for a plain average over batches
    encoder.module.train()
    for part in batches:
        encoder.module(normalize(part.to(encoder.device), encoder.config.preprocessing))
    encoder.module.eval()
    for norm in norms:
        norm.momentum = 0.1
