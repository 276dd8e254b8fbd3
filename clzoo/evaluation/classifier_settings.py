"""Settings of the two protocols that run the network every epoch, their presets, and their learning-rate curves."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator

from clzoo.errors import ClzooError
from clzoo.schema import Table
from clzoo.wording import shown

LARGEST_SMALL = 96
"""Pixels up to which an encoder's input counts as small."""

Scale = Annotated[tuple[float, float], Field(strict=False)]  # YAML has lists
Epochs = Annotated[tuple[int, ...], Field(strict=False)]
Settings = TypeVar("Settings", bound="ClassifierSettings")


class ClassifierSettings(Table):
    """What both protocols set.

    Each epoch shows every image once, as a random crop that is mirrored half of the time. `crop_scale` is the range of
    the crop's share of the image. An epoch is cut into the fewest batches of at most `batch_size`, all equally large
    but for one image: no image is left out, and no batch is too small for BatchNorm.
    """

    key: ClassVar[str]  # the table's name in `--set KEY.lr=...`

    lr: float = Field(gt=0)
    epochs: int = Field(gt=0)
    batch_size: int = Field(ge=4)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    crop_scale: Scale = (0.2, 1.0)

    @property
    def id(self) -> str:
        """The protocol's id, with every setting."""
        raise NotImplementedError

    def learning_rate(self, step: int, steps: int) -> float:
        """The rate at a step, counted from 0 over all epochs of `steps` steps each."""
        raise NotImplementedError

    @classmethod
    def _preset(cls, size: int, changes: Mapping[str, Any]) -> dict[str, Any]:
        """What differs from the defaults, which are for small images."""
        raise NotImplementedError

    @classmethod
    def for_size(cls: type[Settings], size: int, changes: Mapping[str, Any] | None = None) -> Settings:
        """The preset for encoders of an input size, in pixels, with changes.

        Raises:
            ClzooError: one line per wrong setting, with the nearest valid name.
        """
        changes = changes or {}
        try:
            return cls.model_validate({**cls._preset(size, changes), **changes})
        except ValidationError as error:
            lines = [cls._explain(problem) for problem in error.errors()]
            raise ClzooError(f"the settings of {cls.key} are not valid:", lines) from error

    @classmethod
    def _explain(cls, problem: Any) -> str:
        key = ".".join((cls.key, *map(str, problem["loc"])))
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(problem["loc"][-1]), list(cls.model_fields), n=1, cutoff=0.5)
            return f"unknown setting {key}: valid are {', '.join(near or cls.model_fields)}."
        reason = problem["msg"].removeprefix("Value error, ")
        return f"{reason}." if problem["loc"] == () else f"{key} is {shown(problem['input'])}: {reason.lower()}."

    @field_validator("crop_scale")
    @classmethod
    def _shares(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError("expected two shares of the image, such as [0.2, 1]")
        return value

    def _common_id(self) -> str:
        low, high = self.crop_scale
        return f"epochs={self.epochs},batch={self.batch_size},crop={low:g}-{high:g},flip"


class LinearSGD(ClassifierSettings):
    """The papers' linear probe; the defaults are those for small images (public recipes: 100 epochs, rate 1, cosine).

    The other published choice there is a rate of 10 with steps. For larger images the preset is MoCo v2's
    (arXiv 2003.04297 and its release): rate 30, steps, crops from 8 % of the image, no Nesterov momentum. Those of
    other methods are in clzoo.evaluation.presets.
    With "steps" the rate is divided by 10 at each of the `milestones`, in epochs; "cosine" does not use them.
    """

    key = "linear_sgd"

    lr: float = Field(1.0, gt=0)
    epochs: int = Field(100, gt=0)
    batch_size: int = Field(256, ge=4)
    weight_decay: float = Field(0.0, ge=0)
    nesterov: bool = True
    decay: Literal["cosine", "steps"] = "cosine"
    milestones: Epochs = (60, 80)

    @classmethod
    def _preset(cls, size: int, changes: Mapping[str, Any]) -> dict[str, Any]:
        if size <= LARGEST_SMALL:
            return {}
        return {"lr": 30.0, "decay": "steps", "nesterov": False, "crop_scale": (0.08, 1.0)}

    @property
    def id(self) -> str:
        curve = "cosine" if self.decay == "cosine" else "steps=" + "/".join(map(str, self.milestones))
        nesterov = ",nesterov" if self.nesterov else ""
        return (
            f"linear:sgd(lr={self.lr:g},{curve},{self._common_id()},momentum={self.momentum:g}{nesterov},"
            f"wd={self.weight_decay:g},last epoch)"
        )

    def learning_rate(self, step: int, steps: int) -> float:
        if self.decay == "steps":
            return self.lr * 0.1 ** sum(step >= milestone * steps for milestone in self.milestones)
        return self.lr * _cosine(step / (self.epochs * steps))

    @model_validator(mode="after")
    def _fit_together(self) -> LinearSGD:
        ends = (0, *self.milestones, self.epochs)
        if self.decay == "steps" and any(a >= b for a, b in pairwise(ends)):
            raise ValueError(
                f"{self.key}.milestones={list(self.milestones)} must rise and lie between 0 and "
                f"{self.key}.epochs={self.epochs}"
            )
        if self.nesterov and self.momentum == 0:
            raise ValueError(f"{self.key}.momentum=0 needs {self.key}.nesterov=false")
        return self


class Finetune(ClassifierSettings):
    """The whole network on labels, a short schedule: linear warm-up, then cosine to 0 (all values our choice).

    The defaults are those for small images; above, 30 epochs at rate 0.01 in batches of 256, crops from 8 %. "adamw",
    which has no `momentum`, has a rate of 1e-3 (above, 2e-4) and decays by 0.05. Norms and biases are not decayed.
    `fraction` of the train images keep their labels, the same share of every class and at least one image: 0.01 and 0.1
    are the papers' columns, with more epochs there (SimCLR, arXiv 2002.05709: 60 and 30 on ImageNet).
    """

    key = "finetune"

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.05, gt=0)
    epochs: int = Field(20, gt=0)
    batch_size: int = Field(128, ge=4)
    weight_decay: float = Field(1e-4, ge=0)
    warmup_epochs: float = Field(1.0, ge=0)
    fraction: float = Field(1.0, gt=0, le=1)

    @classmethod
    def _preset(cls, size: int, changes: Mapping[str, Any]) -> dict[str, Any]:
        preset: dict[str, Any] = {}
        if size > LARGEST_SMALL:
            preset = {"lr": 0.01, "epochs": 30, "batch_size": 256, "crop_scale": (0.08, 1.0)}
        if changes.get("optimizer") == "adamw":
            preset |= {"lr": 1e-3 if size <= LARGEST_SMALL else 2e-4, "weight_decay": 0.05}
        return preset

    @property
    def id(self) -> str:
        momentum = f"momentum={self.momentum:g}," if self.optimizer == "sgd" else ""
        return (
            f"finetune({self.optimizer},lr={self.lr:g},warmup={self.warmup_epochs:g},cosine,{self._common_id()},"
            f"{momentum}wd={self.weight_decay:g},labels={100 * self.fraction:g}%,last epoch)"
        )

    def learning_rate(self, step: int, steps: int) -> float:
        warmup = self.warmup_epochs * steps
        if step < warmup:
            return self.lr * min(1.0, (step + 1) / warmup)
        return self.lr * _cosine((step - warmup) / (self.epochs * steps - warmup))

    @model_validator(mode="after")
    def _fit_together(self) -> Finetune:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"{self.key}.warmup_epochs={self.warmup_epochs:g} must be less than {self.key}.epochs={self.epochs}"
            )
        return self


def _cosine(progress: float) -> float:
    """From 1 at progress 0 to 0 at progress 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))
