"""What an adaptation will do, decided once and kept, so that a run that goes on does what it began to do."""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from clzoo.adaptation.before import differing, forget, is_measured_for, seconds_per_image
from clzoo.adaptation.clock import PLANNED, Clock
from clzoo.adaptation.pilots import SHARE, Scored, Setting, best_of, measure_of, pilot_steps, run_pilot, settings_of
from clzoo.adaptation.recipes import (
    EPOCHS,
    MOST_EPOCHS,
    Reasons,
    commented,
    free_memory,
    in_brief,
    lower_half,
    method_of,
    recipe_values,
    with_length,
)
from clzoo.adaptation.survey import Survey
from clzoo.data.collection import Collection
from clzoo.data.content import add_labels, digests, identity
from clzoo.data.parts import RULE, Parts
from clzoo.data.training import TrainingSet
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.files import read_json, write_json, write_text
from clzoo.heartbeat import duration
from clzoo.pretrain.forecast import seconds_per_step
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.stopping import asked_to_stop
from clzoo.wording import clzoo_command

log = logging.getLogger("clzoo")

PLAN, RECIPE = "plan.json", "recipe.yaml"

LOOKING, BEFORE, PILOTS, TRAINING, AFTER = "looking", "measuring before", "pilots", "training", "measuring after"
"""Parts of the time."""

FEWEST_STEPS = 10
"""Of a run: below, there is nothing to judge."""

NOT_USED_UP = "the time is not used up"

TOWARDS_START = 0.5
"""Where no pilot chooses it: the careful half (our choice, not measured)."""


@dataclass
class Job:
    """What is given: the start encoder and its name, the images and their parts, and what was asked for."""

    encoder: Encoder
    start: str
    data: str | Path
    whole: Collection
    parts: Parts
    seen: Survey
    title: str
    method: str | None
    minutes: float | None
    labels: bool
    seeds: int
    flatten: bool
    folder: Path  # of the plan, in the run folder

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """What another call must have to be the same adaptation."""
        every = np.arange(len(self.whole))
        images = identity(self.whole.images, every, digests(self.whole.images, every)).hexdigest()
        return {
            "from": self.start,
            "weights_sha256": self.encoder.weights_sha256,
            "method": self.method,
            "minutes": self.minutes,
            "labels": self.labels,
            "seeds": self.seeds,
            "flatten": self.flatten,
            "images_sha256": images,
            "labels_sha256": self._labels_sha256() if self.labels else None,
        }

    def _labels_sha256(self) -> str:
        """Of the labels in the order of the images: a list may be corrected and its images stay."""
        digest = hashlib.sha256()
        if self.whole.labels is not None:
            add_labels(digest, self.whole.labels, self.whole.classes)
        return digest.hexdigest()


def planned(
    job: Job, images: TrainingSet, clock: Clock, reserved: Callable[[], float]
) -> tuple[Recipe, dict[str, Any]] | None:
    """The recipe of the runs, from the plan that lies there or newly made; None where a pilot was asked to stop.

    Args:
        reserved: measures what is measured before, and tells how many seconds the verdict will take.

    Raises:
        ClzooError: a plan for other arguments lies there; too little time; no memory for a batch.
    """
    path = job.folder / PLAN
    plan = read_json(path) if path.is_file() else None
    arguments = job.arguments
    before = arguments if plan is None else plan["arguments"]
    if other := differing(before, arguments):
        key = other[0]
        raise ClzooError(
            f"{job.folder.parent} is an adaptation with {key} {before.get(key)}, now {arguments.get(key)}. "
            "Choose another --out."
        )
    if plan is None:
        if not is_measured_for(arguments, job.folder):  # but for those of an attempt that never had a plan
            forget(job.folder)
            clock.begin_anew()
        plan = _begun(job, images, arguments, clock, reserved)
        write_json(path, plan)
    require_current(plan, "shortened", path)
    if not _piloted(job, plan, images, clock):
        return None
    if not (job.folder / RECIPE).is_file():
        _decide(job, plan, plan["recipe"], plan["reasons"], measure_of(job.labels), len(images))
        write_json(path, plan)
        write_recipe(job, plan)
        shutil.rmtree(job.folder / "pilots", ignore_errors=True)  # what they told stands in the plan
        for line in in_brief(plan["recipe"], plan["reasons"], plan["head"][0]):
            log.info("%s", line)
        log.info("all of it, with every reason: %s", job.folder / RECIPE)
    return Recipe.model_validate(plan["recipe"]), plan


def _piloted(job: Job, plan: dict[str, Any], images: TrainingSet, clock: Clock) -> bool:
    """Run the pilots that are still to be run, while their time lasts; False where one was asked to stop."""
    path, measure = job.folder / PLAN, measure_of(job.labels)
    settings = [Setting(tuple(each["frozen"]), each["base_lr"]) for each in plan["settings"]]
    for number, setting in enumerate(settings):
        if number < len(plan["pilots"]) or "pilots_ended" in plan:
            continue
        assert measure is not None  # else no setting is tried
        assert job.minutes is not None
        over = clock.left() - (SHARE * 60 * job.minutes - clock.taken.get(PILOTS, 0.0))  # when the fifth is
        place, scored = job.folder / "pilots" / str(number), None
        with asked_to_stop() as stop:
            if clock.left() > over:
                scored = run_pilot(
                    setting, plan["pilot_steps"], plan["recipe"], images, job.whole, job.parts, job.data, place,
                    job.encoder, measure, lambda *_, over=over: clock.left() < over,
                )  # fmt: skip
        clock.book(PILOTS)
        if scored is not None:
            plan["pilots"].append([each.to_json() for each in scored])
        elif not stop.is_set():
            plan["pilots_ended"] = f"a fifth of the time was over after {number} of {len(settings)} pilots"
        write_json(path, plan)
        if stop.is_set():
            return False
    return True


def require_current(plan: dict[str, Any], key: str, path: Path) -> None:
    """Refuse a plan that lacks what the newest plans hold.

    Raises:
        ClzooError: an earlier version of clzoo wrote it.
    """
    if key not in plan:
        raise ClzooError(
            f"{path} says nothing of {key!r}: an earlier version of clzoo began it, and this one cannot go on with it. "
            "Choose another --out."
        )


def nearer_end(job: Job, plan: dict[str, Any], recipe: Recipe) -> None:
    """Note in the plan, and in the recipe that lies there, that the clock moved the end of a run nearer."""
    plan["shortened"][str(recipe.seed)] = recipe.model_dump(mode="json")["schedule"]["shortened"]
    write_json(job.folder / PLAN, plan)
    write_recipe(job, plan)


def with_nearer_end(recipe: Recipe, plan: dict[str, Any]) -> Recipe:
    """The recipe of one seed, with what the clock decided of it."""
    table = recipe.model_dump(mode="json")
    table["schedule"]["shortened"] = plan["shortened"].get(str(recipe.seed), [])
    return Recipe.model_validate(table)


def _begun(
    job: Job, images: TrainingSet, arguments: dict[str, Any], clock: Clock, reserved: Callable[[], float]
) -> dict[str, Any]:
    """Everything that is measured or chosen before the first pilot."""
    encoder, device = job.encoder, job.encoder.device
    method, why = method_of(encoder, job.method)
    values, reasons = recipe_values(encoder, job.start, job.seen, len(images), method, job.title, free_memory(device))
    values["data"]["flatten"] = job.flatten
    reasons["data.flatten"] = "as asked for: whether images from crowded places are drawn less often"
    reasons["method"] = f"{why}; {reasons['method']}"
    plan: dict[str, Any] = {
        "arguments": arguments,
        "rule": RULE,
        "limits": list(job.seen.limits),
        "settings": [],
        "pilot_steps": 0,
        "pilots": [],
        "shortened": {},
    }
    with_length(values, 100, len(images))
    recipe = Recipe.model_validate(values)
    if job.minutes is not None:
        each = seconds_per_step(recipe, images, device)
        _require_time(job, recipe, each, clock.left(), None)
        clock.book(LOOKING)
        verdict = reserved()
        clock.book(BEFORE)
        plan["seconds_per_step"] = round(each, 5)
        views = len(recipe.view_policies())
        settings = settings_of(values, lower_half(encoder))
        steps = pilot_steps(job.minutes, each, views, recipe.schedule.batch_size, len(settings))
        if measure_of(job.labels) is None:
            plan["no_pilots"] = "without labels there is nothing to choose by that was shown to predict accuracy"
        elif len(job.parts.pilots) == 0:
            plan["no_pilots"] = "copies of one image stay together, and left none to choose by"
        elif steps == 0:
            plan["no_pilots"] = f"a fifth of {job.minutes:g} minutes is too short for pilots"
        else:
            plan |= {"settings": [{"frozen": s.frozen, "base_lr": s.base_lr} for s in settings], "pilot_steps": steps}
        pilots = SHARE * 60 * job.minutes if plan["settings"] else 0.0
        _require_time(job, recipe, each, clock.left(), pilots + verdict)
        steps = int(PLANNED * (clock.left() - pilots - verdict) / job.seeds / each)
    else:
        clock.book(LOOKING)
        reserved()
        clock.book(BEFORE)
        plan["no_pilots"] = "pilots take a fifth of --minutes, which were not given"
        steps = EPOCHS * (len(images) // recipe.schedule.batch_size)
    per_epoch = len(images) // recipe.schedule.batch_size
    plan["limits"] += length_limits(steps, per_epoch)
    plan["steps"] = min(steps, MOST_EPOCHS * per_epoch)
    return {**plan, "recipe": values, "reasons": reasons}


def _require_time(job: Job, recipe: Recipe, each: float, left: float, other: float | None) -> None:
    """Refuse where what is left, beside `other` seconds for pilots and verdict, is not enough for the fewest steps.

    Before anything is measured, `other` is None: it is estimated for the message, and decides nothing.
    """
    assert job.minutes is not None
    steps = max(0, int(PLANNED * (left - (other or 0.0)) / job.seeds / each)) if each else FEWEST_STEPS
    if steps >= FEWEST_STEPS:
        return
    spent = 60 * job.minutes - left
    if other is None:
        encoders = 3 + 1.2 * job.seeds  # the start and two controls before, the adapted ones after
        other = encoders * (len(job.parts.train) + len(job.parts.judged)) * seconds_per_image(job.encoder, job.whole)
    needed = (spent + other + FEWEST_STEPS * each * job.seeds / PLANNED) / 60
    beside = f" beside {duration(spent + other)} for looking and measuring"
    raise ClzooError(
        f"--minutes {job.minutes:g} are {steps} steps of {recipe.schedule.batch_size} images here{beside}, and less "
        f"than {FEWEST_STEPS} change nothing that could be judged. Type: --minutes {math.ceil(1.5 * needed + 0.1)}, or "
        "choose a smaller encoder: --from NAME"
    )


def length_limits(steps: int, per_epoch: int) -> list[str]:
    """What has to be said of so many steps as the time allows."""
    if steps < per_epoch:
        return [f"the time is enough for {steps} steps, {steps / per_epoch:.0%} of an epoch: not every image is seen"]
    if steps > MOST_EPOCHS * per_epoch:
        return [f"{NOT_USED_UP}: training ends after {MOST_EPOCHS} epochs"]
    return []


def _decide(
    job: Job, plan: dict[str, Any], values: dict[str, Any], reasons: Reasons, measure: str | None, trained_on: int
) -> None:
    """Choose by the pilots, and write the recipe."""
    scored = [
        Scored(Setting(tuple(each["frozen"]), each["base_lr"], each["towards_start"]), each["score"])
        for pilot in plan["pilots"]
        for each in pilot
    ]
    if scored:
        chosen = best_of(scored)
        ended = f" ({plan['pilots_ended']})" if "pilots_ended" in plan else ""
        by = f"the best of {len(scored)} settings by {measure} on images that nothing else uses{ended}"
    else:
        chosen = Setting((), values["optimizer"]["base_lr"], TOWARDS_START)
        by = f"our choice, not measured here: {plan.get('no_pilots') or plan['pilots_ended']}"
    chosen.apply(values)
    epochs = with_length(values, plan["steps"], trained_on)
    plan["chosen"] = {"frozen": list(chosen.frozen), "base_lr": chosen.base_lr, "towards_start": chosen.towards_start}
    each = plan.get("seconds_per_step")
    if each is None:
        length = f"{EPOCHS} epochs where no time is given"
    else:
        length = (
            f"{plan['steps']} steps of {each:.3g} s: {duration(plan['steps'] * each)} of the {job.minutes:g} minutes"
        )
    reasons |= {
        "backbone.frozen": by,
        "optimizer.base_lr": "per 256 images, a small part of a rate from scratch; chosen with what is frozen",
        "schedule.epochs": length,
        "schedule.warmup_epochs": "a tenth: heads are new, and their first gradients are of no use to the backbone",
        "schedule.towards_start": "weight averaging: this share of the start is in the end; chosen with what is frozen",
    }
    plan["head"] = [
        f"{values['method']['name']} from {job.start} on {len(job.parts.train):,} of the {job.seen.images:,} images of "
        f"{job.title}: {epochs:.2f} epochs.",
        "",
        f"  {clzoo_command('pretrain', job.folder / RECIPE, '--data', job.data, '--out', 'ANOTHER')}",
        "",
        f"Left out for the verdict {len(job.parts.held):,} images, for pilots {len(job.parts.pilots):,}: {RULE}.",
    ]


def write_recipe(job: Job, plan: dict[str, Any]) -> None:
    """The recipe of the first seed, with its comments."""
    values, reasons = plan["recipe"], plan["reasons"]
    if cut := plan["shortened"].get("0"):
        values = {**values, "schedule": {**values["schedule"], "shortened": cut}}
        reasons = reasons | {
            "schedule.shortened": "slower than it was timed: after the first step of a pair it was decided to run "
            "through the rest of the curve until the second"
        }
    write_text(job.folder / RECIPE, commented(values, reasons, plan["head"]))
