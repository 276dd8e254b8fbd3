"""Optimiser and learning rate of a recipe."""

from __future__ import annotations

import math
from typing import Any

import timm.optim
import torch
from torch import nn

from clzoo.pretrain.recipe import Recipe, Schedule

# timm's "sgd" is Nesterov's; the published recipes use plain momentum.
_TIMM_NAMES = {"sgd": "momentum", "lars": "lars", "adam": "adam", "adamw": "adamw"}


def create_optimizer(method: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """timm's optimiser of that name; with `decay_norms_and_biases: false` vectors and scalars are not decayed."""
    o = recipe.optimizer
    momentum: dict[str, Any] = {"momentum": o.momentum} if o.name in ("sgd", "lars") else {}
    optimizer: torch.optim.Optimizer = timm.optim.create_optimizer_v2(
        method,
        opt=_TIMM_NAMES[o.name],
        lr=recipe.learning_rate,
        weight_decay=o.weight_decay,
        filter_bias_and_bn=not o.decay_norms_and_biases,
        **momentum,
    )
    return optimizer


def learning_rate_share(schedule: Schedule, step: int, steps_per_epoch: int) -> float:
    """Factor of the learning rate at a step: linear warm-up, then cosine to 0 or division by 10 at milestones."""
    warmup = schedule.warmup_epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / warmup
    if schedule.decay == "steps":
        return 0.1 ** sum(step >= milestone * steps_per_epoch for milestone in schedule.milestones)
    progress = (step - warmup) / max(1, round(schedule.epochs * steps_per_epoch) - warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))
