"""What a trained encoder is compared with: the same network untrained, and the pixels themselves."""

from __future__ import annotations

import statistics

import numpy as np
import torch
from torch import nn

from clzoo.config import ModelConfig
from clzoo.data.resident import ImageSet
from clzoo.encoder import Encoder
from clzoo.evaluation.knn import knn_accuracy
from clzoo.transform import normalize

BATCH = 500  # images per forward pass


def encode_all(encoder: Encoder, pixels: np.ndarray) -> torch.Tensor:
    """uint8 (N, S, S, 3) -> float32 (N, dim), not normalised."""
    return torch.cat([encoder.encode(part) for part in torch.from_numpy(pixels).split(BATCH)])


def model_knn(encoder: Encoder, train: ImageSet, test: ImageSet) -> float:
    """k-NN accuracy (percent) of an encoder's features: bank `train`, queries `test`."""
    bank, queries = encode_all(encoder, train.pixels), encode_all(encoder, test.pixels)
    labels, truth = torch.from_numpy(train.labels), torch.from_numpy(test.labels)
    return knn_accuracy(bank, labels.to(bank.device), queries, truth.to(bank.device))


def random_knn(config: ModelConfig, train: ImageSet, test: ImageSet, seeds: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard deviation over seeds of the k-NN accuracy of the untrained network.

    Its BatchNorm statistics come from one pass over `train`: with the initial ones features would hardly differ.
    """
    values = []
    for seed in seeds:
        torch.manual_seed(seed)
        encoder = Encoder.untrained(config)
        calibrate_batchnorm(encoder, train.pixels)
        values.append(model_knn(encoder, train, test))
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def pixel_knn(train: ImageSet, test: ImageSet) -> float:
    """k-NN accuracy of the raw pixels, centred per channel by the train set's mean (else all cosines are near 1)."""
    mean = train.pixels.mean(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)
    bank, queries = (torch.from_numpy((part.pixels - mean).reshape(len(part), -1)) for part in (train, test))
    return knn_accuracy(bank, torch.from_numpy(train.labels), queries, torch.from_numpy(test.labels))


@torch.no_grad()
def calibrate_batchnorm(encoder: Encoder, pixels: np.ndarray) -> None:
    """Set the running statistics of every BatchNorm to the averages over one pass of `pixels` uint8 (N, S, S, 3)."""
    norms = [module for module in encoder.module.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's way to ask for a plain average over batches
    encoder.module.train()
    for part in torch.from_numpy(pixels).split(BATCH):
        encoder.module(normalize(part.to(encoder.device), encoder.config.preprocessing))
    encoder.module.eval()
    for norm in norms:
        norm.momentum = 0.1
