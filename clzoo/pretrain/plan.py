"""What a recipe would do, without doing it: parameter counts, memory, shapes of the views."""

from __future__ import annotations

from dataclasses import dataclass

from clzoo.pretrain.build import build_method
from clzoo.pretrain.recipe import Recipe

_STATES = {"sgd": 1, "lars": 1, "adam": 2, "adamw": 2}  # float32 copies of the weights that an optimiser keeps


@dataclass(frozen=True)
class Plan:
    """Numbers in units: parameters, bytes (of weights, gradients and optimiser; without activations), shapes."""

    backbone_parameters: int
    trained_parameters: int
    momentum_parameters: int
    queue_entries: int
    state_bytes: int
    view_shapes: list[tuple[int, int, int, int]]
    view_bytes: int


def plan(recipe: Recipe, classes: int = 1000) -> Plan:
    """Build the recipe's method and count. Raises what building raises: views that do not fit, an unknown backbone."""
    method = build_method(recipe, classes=classes)
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    constant = sum(p.numel() for p in method.parameters() if not p.requires_grad)
    buffers = sum(b.numel() for b in method.buffers())
    batch = recipe.schedule.batch_size
    shapes = [(batch, 3, policy.size, policy.size) for policy in recipe.view_policies()]
    return Plan(
        backbone_parameters=sum(p.numel() for p in method.backbone.parameters()),
        trained_parameters=trained,
        momentum_parameters=sum(p.numel() for n, p in method.named_parameters() if n.startswith("momentum_")),
        queue_entries=getattr(recipe.method, "queue", 0) if hasattr(method, "queue") else 0,
        state_bytes=4 * (trained * (2 + _STATES[recipe.optimizer.name]) + constant + buffers),
        view_shapes=shapes,
        view_bytes=sum(4 * b * c * h * w for b, c, h, w in shapes),
    )
