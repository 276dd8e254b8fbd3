"""Settings of `linear:sgd` as each method's paper has them, by name, and which of them belongs to an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clzoo.errors import ClzooError
from clzoo.evaluation.classifier_settings import LARGEST_SMALL
from clzoo.evaluation.subject import Subject

_STEPS = {
    "lr": 30.0, "epochs": 100, "batch_size": 256, "nesterov": False, "decay": "steps", "crop_scale": (0.08, 1.0),
}  # fmt: skip
_COSINE = {"epochs": 90, "batch_size": 1024, "nesterov": False, "decay": "cosine", "crop_scale": (0.08, 1.0)}

PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "lr": 1.0, "epochs": 100, "batch_size": 256, "nesterov": True, "decay": "cosine", "crop_scale": (0.2, 1.0),
    },
    "mocov2": _STEPS,
    "reco": {**_STEPS, "lr": 10.0},
    "mocov3": {**_COSINE, "lr": 0.1},  # ResNet-50; CACR's form C takes it for ViTs too
    "mocov3_vit": {**_COSINE, "lr": 3.0},
}  # fmt: skip
"""Known, but for "small" (public small-image recipes). The rates of the last two are per 256 images of the batch."""

_PER_256 = ("mocov3", "mocov3_vit")


def linear_sgd_changes(subject: Subject, changes: Mapping[str, Any] | None) -> dict[str, Any]:
    """The preset that `changes` names as "preset", or else the encoder's own, with the other changes on top.

    Raises:
        ClzooError: no such preset.
    """
    changes = dict(changes or {})
    name = changes.pop("preset", None) or preset_of(subject)
    if name not in PRESETS:
        raise ClzooError(f"linear_sgd.preset is {name!r}: expected one of {', '.join(PRESETS)}.")
    preset = dict(PRESETS[name])
    if name in _PER_256:
        batch = changes.get("batch_size", preset["batch_size"])
        preset["lr"] *= batch / 256 if isinstance(batch, int) else 1.0  # what is no number is refused with the rest
    return {**preset, **changes}


def preset_of(subject: Subject) -> str:
    """By method and network, for inputs above 96 px; methods without a published choice take MoCo v2's (our choice)."""
    config, recipe = subject.encoder.config, subject.recipe
    if config.preprocessing.size <= LARGEST_SMALL:
        return "small"
    form = getattr(recipe.method, "form", None) if recipe is not None else "momentum"  # the released CACRs are form C
    if config.method == "cacr" and form == "momentum":
        return "mocov3"
    if config.method in ("mocov3", "hydra_moco"):
        return "mocov3_vit" if config.architecture.startswith("vit") else "mocov3"
    return "reco" if config.method == "reco" else "mocov2"
