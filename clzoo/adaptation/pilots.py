"""Short runs that choose between settings: what is frozen, the rate, and how far the end goes back to the start.

They are judged on a part of the images that neither the training nor the verdict uses. A fifth of the time is theirs.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clzoo.adaptation.clock import IsLate
from clzoo.adaptation.measures import KNN, PREDICTIVE, knn_outcomes, outcomes_without_labels, part, spread
from clzoo.adaptation.recipes import with_length
from clzoo.data.collection import Collection
from clzoo.data.parts import Parts
from clzoo.data.training import TrainingSet
from clzoo.encoder import Encoder
from clzoo.pretrain.averaging import estimate_batchnorm, move_towards
from clzoo.pretrain.feed import Steps, feed
from clzoo.pretrain.loop import pretrain
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.trained import encoder_of, load_run

log = logging.getLogger("clzoo")

SHARE = 0.2
"""Of the time that the pilots may take."""

FEWEST_STEPS = 20
"""Below which a pilot tells nothing."""

_SLOWER = 4  # times: the lower of the two rates
_MIXES = (0.5, 0.0)
_BANK = 2000  # training images in the bank of a pilot's k-NN
_SEED = 1000  # of the pilots' runs: not one of the runs that are judged


@dataclass(frozen=True)
class Setting:
    """What a pilot tries."""

    frozen: tuple[str, ...]
    base_lr: float
    towards_start: float = 0.0

    def apply(self, values: dict[str, Any]) -> None:
        """Put it into a recipe's table."""
        values["backbone"]["frozen"] = list(self.frozen)
        values["optimizer"]["base_lr"] = self.base_lr
        values["schedule"]["towards_start"] = self.towards_start

    def __str__(self) -> str:
        frozen = "the lower half frozen" if self.frozen else "all trained"
        return f"{frozen}, rate {self.base_lr:g}, {self.towards_start:.0%} back towards the start"


@dataclass(frozen=True)
class Scored:
    """A setting and what it reached, in percent for k-NN."""

    setting: Setting
    score: float

    def to_json(self) -> dict[str, Any]:
        """For plan.json."""
        return {**asdict(self.setting), "score": round(self.score, 4)}


def settings_of(values: dict[str, Any], lower_half: list[str]) -> list[Setting]:
    """What the pilots train: the gentlest first, which wins a tie."""
    rate = values["optimizer"]["base_lr"]
    return [Setting(frozen, lr) for lr in (rate / _SLOWER, rate) for frozen in (tuple(lower_half), ())]


def measure_of(labels: bool) -> str | None:
    """What pilots are judged by; None where nothing was shown to predict accuracy."""
    return KNN if labels else next(iter(PREDICTIVE), None)


def pilot_steps(minutes: float, seconds_per_step: float, views: int, batch: int, pilots: int) -> int:
    """Steps of one pilot, so that all of them with their judging take a fifth of the time; 0 for too few to tell.

    Judging is two passes over the bank and the pilots' part, without gradients: a third of a training view's cost.
    """
    judging = 2 * 2 * _BANK / batch * seconds_per_step / (3 * views)
    steps = int((SHARE * 60 * minutes / pilots - judging) / seconds_per_step)
    return steps if steps >= FEWEST_STEPS else 0


def run_pilot(
    setting: Setting,
    steps: int,
    values: dict[str, Any],
    images: TrainingSet,
    whole: Collection,
    parts: Parts,
    data: str | Path,
    folder: Path,
    start: Encoder,
    measure: str,
    is_late: IsLate,
) -> list[Scored] | None:
    """Train one setting shortly and judge it, with and without going back; None where it had to stop before."""
    table = copy.deepcopy(values)
    setting.apply(table)
    with_length(table, steps, len(images))
    recipe = Recipe.model_validate({**table, "seed": _SEED})
    device = str(start.device)
    if not pretrain(recipe, data, folder, device=device, images=images, is_late=is_late):
        return None
    begun = {name: parameter.detach() for name, parameter in start.module.named_parameters()}
    found = []
    for share in _MIXES:
        _, _, method = load_run(folder, device)
        if share:
            method.to(device)
            move_towards(method.backbone, begun, share)
            estimate_batchnorm(method, feed(images, recipe, Steps.of(recipe, images), max(0, steps - 10), start.device))
        encoder = encoder_of(method, recipe, "pilot", device)
        bank, asked = part(whole, spread(parts.train, _BANK)), part(whole, parts.pilots)
        score = score_of(encoder, bank, asked, measure)
        scored = Scored(Setting(setting.frozen, setting.base_lr, share), score)
        log.info("pilot: %s: %s %.1f", scored.setting, measure, score)
        found.append(scored)
    return found


def score_of(encoder: Encoder, bank: Collection, asked: Collection, measure: str) -> float:
    """Mean outcome, in percent."""
    if measure == KNN:
        return 100 * float(np.mean(knn_outcomes(encoder, bank, asked)))
    outcomes, _ = outcomes_without_labels(encoder, bank, asked)
    return 100 * float(np.mean(outcomes[measure]))


def best_of(scored: list[Scored]) -> Setting:
    """The highest; of equal ones the first."""
    return max(scored, key=lambda each: each.score).setting
