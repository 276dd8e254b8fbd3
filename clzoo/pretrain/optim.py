"""Optimiser and learning rate of a recipe."""

from __future__ import annotations

import math
from typing import Any

import timm.optim
import torch
from torch import nn

from clzoo.pretrain.recipe import Recipe, Schedule
from clzoo.pretrain.sharding import share_out

# timm's "sgd" is Nesterov's; the published recipes use plain momentum.
_TIMM_NAMES = {"sgd": "momentum", "lars": "lars", "adam": "adam", "adamw": "adamw"}

FUSED_ON = ("cuda",)
"""Devices on which torch's own optimisers move all weights in one kernel; LARS is timm's and has none."""

_OF_THE_DEVICE = ("fused", "foreach")  # keys of a group that say how it is computed, and not what


def create_optimizer(method: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """timm's optimiser of that name; with `decay_norms_and_biases: false` vectors and scalars are not decayed.

    On CUDA it is the fused one, where there is one.
    """
    o = recipe.optimizer
    arguments: dict[str, Any] = {"momentum": o.momentum} if o.name in ("sgd", "lars") else {}
    if o.name != "lars" and all(p.device.type in FUSED_ON for p in method.parameters()):
        arguments["fused"] = True
    optimizer: torch.optim.Optimizer = timm.optim.create_optimizer_v2(
        method,
        opt=_TIMM_NAMES[o.name],
        lr=recipe.learning_rate,
        weight_decay=o.weight_decay,
        filter_bias_and_bn=not o.decay_norms_and_biases,
        **arguments,
    )
    return optimizer


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the state of an optimiser that may have computed otherwise: a checkpoint goes on on another device."""
    own = [{key: group[key] for key in _OF_THE_DEVICE if key in group} for group in optimizer.param_groups]
    groups = [group | kept for group, kept in zip(state["param_groups"], own, strict=True)]
    optimizer.load_state_dict({**state, "param_groups": groups})
    share_out(optimizer)


def learning_rate_share(schedule: Schedule, step: int, steps_per_epoch: int) -> float:
    """Factor of the learning rate at a step: linear warm-up, then cosine to 0 or division by 10 at milestones."""
    place = schedule.position(step, steps_per_epoch)
    warmup = schedule.warmup_epochs * steps_per_epoch
    if place < warmup:
        return min(1.0, (place + 1) / warmup)  # its last step may be a part of one
    if schedule.decay == "steps":
        return 0.1 ** sum(place >= milestone * steps_per_epoch for milestone in schedule.milestones)
    progress = (place - warmup) / max(1, schedule.planned_steps(steps_per_epoch) - warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))


def warning_of_curve(schedule: Schedule) -> str | None:
    """What a curve lacks: it never comes to its full rate, never down, or not down where it was told to; else None."""
    s = schedule
    if s.warmup_epochs >= s.epochs:
        return (
            f"schedule.warmup_epochs={s.warmup_epochs:g} is not over within schedule.epochs={s.epochs:g}: the rate "
            "never comes to its full height and never falls. A tenth of the run, for example: "
            f"--set schedule.warmup_epochs={s.epochs / 10:g}"
        )
    late = [milestone for milestone in s.milestones if milestone >= s.epochs]
    if s.decay == "steps" and not s.milestones:
        return (
            "schedule.decay=steps without schedule.milestones: the rate never falls. Name some epochs, or type: "
            "--set schedule.decay=cosine"
        )
    if s.decay == "steps" and late:
        return (
            f"schedule.milestones={s.milestones} are for a longer run than schedule.epochs={s.epochs:g}: the rate does "
            f"not fall at {', '.join(map(str, late))}. Name earlier ones, or type: "
            "--set schedule.decay=cosine --set 'schedule.milestones=[]'"
        )
    if s.decay == "cosine" and s.milestones:
        return (
            f"schedule.milestones={s.milestones} do nothing with schedule.decay=cosine. To let the rate fall there: "
            "--set schedule.decay=steps, and to leave them out: --set 'schedule.milestones=[]'"
        )
    return None
