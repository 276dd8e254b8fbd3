"""A backbone of one layer, batches of noise, and every method around them."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import TypeAdapter
from torch import nn

from clzoo.methods import Batch, MethodOptions, create_method

DIM, CLASSES = 6, 3

OPTIONS: dict[str, dict[str, Any]] = {
    "align_uniform": {"name": "align_uniform", "projector": [4]},
    "cacr": {"name": "cacr", "projector": [8, 4]},
    "cacr_queue": {"name": "cacr", "form": "queue", "projector": [8, 4], "queue": 16, "momentum": 0.9},
    "cacr_momentum": {"name": "cacr", "form": "momentum", "projector": [8, 4], "predictor": [8, 4], "momentum": 0.9},
    "hcl": {"name": "hcl", "projector": [8, 4]},
    "hydra": {"name": "hydra", "projector": [8, 4], "gamma": 0.1, "group": 4},
    "hydra_single_view": {"name": "hydra", "projector": [8, 4], "single_view": True, "group": 4},
    "hydra_moco": {
        "name": "hydra_moco", "projector": [8, 4], "predictor": [8, 4], "alpha": 0.5, "momentum": 0.9, "group": 4,
    },
    "mocov2": {"name": "mocov2", "projector": [8, 4], "queue": 16, "momentum": 0.9},
    "mocov3": {"name": "mocov3", "temperature": 0.5, "projector": [8, 4], "predictor": [8, 4], "momentum": 0.9},
    "potential_samples": {"name": "potential_samples", "projector": [8, 4], "queue": 16, "momentum": 0.9, "k": 2},
    "potential_samples_weak": {
        "name": "potential_samples", "projector": [8, 4], "queue": 16, "momentum": 0.9, "k": 2,
        "mining": "weak", "tau_w": 0.05,
    },
    "reco": {"name": "reco", "projector": [8, 4], "queue": 16, "momentum": 0.9, "group": 4},
    "reco_batch": {
        "name": "reco", "projector": [8, 4], "queue": 16, "momentum": 0.9, "group": 4,
        "local_negatives": "batch", "target": "mixed_keys",
    },
    "reco_simclr": {"name": "reco", "host": "simclr", "projector": [8, 4], "group": 4},
    "simclr": {"name": "simclr", "temperature": 0.5, "projector": [8, 4]},
    "supcon": {"name": "supcon", "temperature": 0.1, "projector": [8, 4]},
}  # fmt: skip

THREE_VIEWS = (
    "cacr", "cacr_queue", "cacr_momentum", "hydra_single_view", "potential_samples_weak", "reco", "reco_batch",
    "reco_simclr",
)  # fmt: skip
VIEWS = dict.fromkeys(THREE_VIEWS, 3)


def options_of(kind: str, **changes: Any) -> MethodOptions:
    return TypeAdapter(MethodOptions).validate_python({**OPTIONS[kind], **changes})


def tiny_method(kind: str, seed: int = 0, views: int | None = None, **changes: Any) -> Any:
    """A method around a backbone (B, 3, 4, 4) -> (B, 6), its weights a function of the seed."""
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(48, DIM), nn.BatchNorm1d(DIM))
    count = views or VIEWS.get(kind, 2)
    return create_method(backbone, DIM, options_of(kind, **changes), views=count, classes=CLASSES)


def tiny_batch(kind: str, size: int = 8, seed: int = 1, views: int | None = None, **changes: Any) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(views or VIEWS.get(kind, 2), size, 3, 4, 4, generator=generator)
    return Batch(list(images), torch.arange(size) % CLASSES, **{"progress": 0.5, **changes})
