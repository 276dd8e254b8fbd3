"""Encoders small enough to save, push and load by the dozen: timm's own test networks, with random weights."""

from __future__ import annotations

from typing import Any

import torch

from clzoo.config import ModelConfig, Preprocessing
from clzoo.encoder import Encoder


def small_config(**changes: Any) -> ModelConfig:
    """A 0.4-million-parameter ResNet of timm, 96 features, 32 px."""
    values = {
        "name": "cacr-test_resnet-cifar10",
        "architecture": "test_resnet",
        "num_features": 96,
        "method": "cacr",
        "backbone": "test_resnet",
        "data": "cifar10",
        "preprocessing": Preprocessing(size=32, crop_pct=1.0),
        "license": "apache-2.0",
        "recipe": "recipes/cacr_cifar10.yaml",
    }
    return ModelConfig(**{**values, **changes})


def small_encoder(seed: int = 0, **changes: Any) -> Encoder:
    """An encoder of that config; other seeds have other weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Encoder.untrained(small_config(**changes))


def result(of: str = "this model", value: float = 65.1, **changes: Any) -> dict[str, Any]:
    """One row of metrics.json."""
    row = {"protocol": "knn:v1(k=20,T=0.07,cos)", "dataset": "CIFAR-10 (JPEG copy)", "split": "test", "metric": "top-1"}
    return {**row, "value": value, "of": of, "seeds": [0], **changes}


METRICS = {
    "results": [result(), result("random initialisation", 29.3, seeds=[0, 1, 2], std=0.31), result("raw pixels", 39.8)],
    "training": {"seed": 0, "minutes": 61.2, "versions": {"torch": "2.6", "timm": "1.0.20"}},
}
