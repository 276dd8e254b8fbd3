"""clzoo.adapt: an encoder continued on one's own images, measured before and after, and a verdict."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clzoo.adaptation.before import (
    ADAPTED,
    BATCHNORM,
    RANDOM,
    START,
    Before,
    Elsewhere,
    measure,
    measure_before,
    measure_elsewhere,
)
from clzoo.adaptation.clock import TIME, Clock, IsLate, train_in_time
from clzoo.adaptation.given import require_minutes, require_place, require_seeds, work_alone
from clzoo.adaptation.measures import KNN, LABEL_FREE, LINEAR, NOT_SHOWN, PREDICTIVE, Outcomes, part
from clzoo.adaptation.page import write_page
from clzoo.adaptation.planning import (
    AFTER,
    LOOKING,
    NOT_USED_UP,
    PLAN,
    TRAINING,
    Job,
    nearer_end,
    planned,
    with_nearer_end,
)
from clzoo.adaptation.survey import require_classes, survey
from clzoo.adaptation.verdict import Verdict, gain_of, judge, kept_elsewhere, undecided
from clzoo.data.collection import Collection
from clzoo.data.opening import open_source
from clzoo.data.parts import Parts, parts_of
from clzoo.data.training import TrainingSet, training_set_of
from clzoo.embed import DEFAULT_MODEL
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.evaluation.features import extract
from clzoo.evaluation.opening import title_of
from clzoo.files import read_json, write_json
from clzoo.hardware import describe_hardware, describe_versions
from clzoo.methods import METHODS
from clzoo.pretrain.data_names import as_id
from clzoo.pretrain.flattening import unevenness
from clzoo.pretrain.loop import pretrain
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.run_folder import ADAPTATION, VERDICT, move_end
from clzoo.zoo import load
from clzoo.zoo.entries import whole_name

log = logging.getLogger("clzoo")

_SLOWER = 1.2  # times what measuring took before, that it is given after
_PAGE_SECONDS = 3.0  # for what comes on top: loading the runs, the page


@dataclass(frozen=True)
class Adaptation:
    """What `clzoo.adapt` made.

    Attributes:
        folder: the run folder, which is a model; further seeds lie in its folder `adaptation`.
        verdict: None where the run was asked to stop; the same call goes on.
        report: the content of verdict.json.
        has_encoder: whether the folder can be loaded: not before the first step of the run itself.
        took: where the time went, in words.
    """

    folder: Path
    verdict: Verdict | None
    report: dict[str, Any]
    has_encoder: bool
    took: str = ""


def adapt(
    images: str | Path,
    *,
    start: str | Path = DEFAULT_MODEL,
    method: str | None = None,
    minutes: float | None = None,
    labels: bool = False,
    out: str | Path | None = None,
    seeds: int = 1,
    also_keep: str | Path | None = None,
    flatten: bool = False,
    device: str = "auto",
) -> Adaptation:
    """Continue an encoder on images, and judge it on a part of them that it did not see. The rule: docs/adapt.md.

    The same call on a folder that was stopped or killed goes on where it was.

    Args:
        images: any source of docs/data.md; of one with splits `train`, whose `test` is not opened.
        start: what `clzoo.load` takes.
        method: one of clzoo.methods; None: the start encoder's own if it needs no labels, else SimCLR.
        minutes: for all of it, pilots, all seeds and the verdict together. None: 20 epochs, no pilots.
        labels: judge with the images' classes; without, only what was shown to predict accuracy gives a verdict.
        out: run folder; None: runs/adapt-<name of the images>.
        seeds: runs, with seeds 0 to N - 1, all judged; the first is the model.
        flatten: draw images from crowded places less often, for a long tail without labels.
        also_keep: a labelled set, on which it is measured what was lost elsewhere.

    Raises:
        ClzooError: images from which nothing can be learnt, too little time, a method that needs labels without any, a
            folder of another adaptation, or one in which another process is at work.
    """
    require_minutes(minutes)
    require_seeds(seeds)
    title, folder = title_of(images), place_of(images, out)
    require_place(folder, folder / ADAPTATION / PLAN, "adaptation", (ADAPTATION,))
    clock = Clock(folder / ADAPTATION / TIME, minutes, keeps=not (folder / VERDICT).is_file())
    encoder = load(start, device)
    whole = open_source(images, "pretrain")
    parts = parts_of(whole.images)
    seen = survey(whole, parts, encoder)
    seen = dataclasses.replace(seen, limits=(*seen.limits, *_check_labels(whole, parts, method, labels)))
    for limit in seen.limits:
        log.warning("%s", limit)
    job = Job(
        encoder,
        whole_name(start),
        images,
        whole,
        parts,
        seen,
        title,
        method,
        minutes,
        labels,
        seeds,
        flatten,
        folder / ADAPTATION,
    )
    p = encoder.config.preprocessing
    trained_on = training_set_of(whole, parts.train, p.size if p.size < 224 else p.resize)
    elsewhere = None if also_keep is None else measure_elsewhere(encoder, also_keep)
    train, held = part(whole, parts.train), part(whole, parts.judged)

    def reserved() -> float:
        before = measure_before(encoder, train, held, job.folder, job.arguments, labels=labels)
        each = before.seconds + (0.0 if elsewhere is None else elsewhere.seconds)
        return _SLOWER * each * seeds + _PAGE_SECONDS

    with work_alone(job.folder):
        found = planned(job, trained_on, clock, reserved)
        if found is None:
            return Adaptation(folder, None, {}, has_encoder=False)
        recipe, plan = found
        write_json(folder / ADAPTATION / "held_out.json", parts.to_json(whole.images))
        clock.book(LOOKING)
        after = reserved()
        folders = [folder, *(folder / ADAPTATION / f"seed-{seed}" for seed in range(1, seeds))]
        for seed, place in enumerate(folders):
            seconds = (lambda runs=seeds - seed: (clock.left() - after) / runs) if clock.ends else None
            if not _trained(
                job, with_nearer_end(_of_seed(recipe, seed), plan), plan, place, trained_on, clock, seconds
            ):
                return Adaptation(folder, None, {}, has_encoder=True)
        adapted = [load(place, encoder.device) for place in folders]
        before = measure_before(encoder, train, held, job.folder, job.arguments, labels=labels)
        verdict, report = _judged(job, before, adapted, plan, elsewhere)
        if elsewhere is None:
            report["elsewhere"] = _elsewhere_before(folder, report)
        write_json(folder / VERDICT, report)
        write_page(folder / "verdict.html", report)
        clock.book(AFTER)
        return Adaptation(folder, verdict, report, has_encoder=True, took=str(clock))


def _elsewhere_before(folder: Path, report: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier verdict on the same weights says of a general set: not asked for again, it still holds."""
    before = read_json(folder / VERDICT) if (folder / VERDICT).is_file() else {}
    return before.get("elsewhere") if before.get("weights_sha256") == report["weights_sha256"] else None


def place_of(images: str | Path, out: str | Path | None) -> Path:
    """The run folder of an adaptation."""
    return Path(out) if out is not None else Path("runs") / f"adapt-{as_id(title_of(images))}"


def _of_seed(recipe: Recipe, seed: int) -> Recipe:
    return recipe.model_copy(update={"seed": seed})


def _trained(
    job: Job,
    recipe: Recipe,
    plan: dict[str, Any],
    folder: Path,
    images: TrainingSet,
    clock: Clock,
    seconds: Callable[[], float] | None,
) -> bool:
    """One run, to its end or to the one that the time leaves; False where it was asked to stop."""

    def train(by: Recipe, late: IsLate | None) -> bool:
        move_end(folder, by)
        finished = pretrain(
            by,
            job.data,
            folder,
            device=str(job.encoder.device),
            images=images,
            on_checkpoint=lambda *_: clock.book(TRAINING),
            is_late=late,
        )
        clock.book(TRAINING)
        return finished

    def keep(by: Recipe) -> None:
        (_, end), planned_steps = by.schedule.shortened[-1], plan["steps"]
        limit = f"slower than it was timed: seed {by.seed} ended after {end} of {planned_steps} steps, for --minutes"
        gone = (f": seed {by.seed} ended", NOT_USED_UP)
        others = [each for each in plan["limits"] if not any(words in each for words in gone)]
        plan["limits"] = [*others, limit]
        nearer_end(job, plan, by)

    return train_in_time(train, recipe, seconds, keep)[0]


def _check_labels(whole: Collection, parts: Parts, method: str | None, labels: bool) -> list[str]:
    known = METHODS.get(method) if method is not None else None
    if labels and whole.labels is None:
        raise ClzooError(f"--labels: {whole.origin} has no labels. {whole.unlabelled} Or leave out --labels.")
    if known is not None and known.labels and not labels:
        raise ClzooError(f"--method {method} learns from labels. Add --labels, or choose another method.")
    return require_classes(whole, parts) if labels else []


def _judged(
    job: Job, before: Before, adapted: list[Encoder], plan: dict[str, Any], elsewhere: Elsewhere | None
) -> tuple[Verdict, dict[str, Any]]:
    train, held = part(job.whole, job.parts.train), part(job.whole, job.parts.judged)
    log.info("measuring after, on %d held-out images", len(held))
    measured = [measure(each, train, held, labels=job.labels) for each in adapted]
    found = {of: [outcomes] for of, outcomes in before.outcomes.items()}
    found[ADAPTED] = [outcomes for outcomes, _ in measured]
    values = {of: [each] for of, each in before.values.items()} | {ADAPTED: [each for _, each in measured]}
    order = [of for of in (START, BATCHNORM, ADAPTED, RANDOM) if of in values]
    values = {of: values[of] for of in order}
    verdict = _with_labels(found) if job.labels else _without_labels(found)
    measures = list(found[START][0]) if job.labels else list(PREDICTIVE or LABEL_FREE)
    report = {
        **verdict.to_json(),
        "sentence": str(verdict),
        "labels": job.labels,
        "shown_to_predict": job.labels or bool(PREDICTIVE),
        "measures": {
            name: {of: [round(each[name], 4) for each in some] for of, some in values.items()} for name in measures
        },
        "gains": {
            name: gain_of(found[START][0][name], _runs(found, name)).to_json()
            for name in measures
            if name in found[START][0]
        },
        "elsewhere": None if elsewhere is None else _kept(elsewhere, adapted, train),
        "no_batchnorm": BATCHNORM not in before.values,
        "from": job.encoder.config.name,
        "from_weights_sha256": job.encoder.weights_sha256,
        "weights_sha256": [each.weights_sha256 for each in adapted],
        "images": {
            "title": job.title,
            "all": len(job.whole),
            "trained_on": len(train),
            "held_out": len(held),
            "rule": plan["rule"],
        },
        "limits": plan["limits"],
        "flatten": job.flatten,
        "unevenness": round(_unevenness(job, train), 1),
        "pilots": plan.get("no_pilots") or plan.get("pilots_ended") or f"{sum(map(len, plan['pilots']))} settings",
        "hardware": describe_hardware(str(job.encoder.device)),
        "versions": describe_versions(),
    }
    return verdict, report


def _unevenness(job: Job, train: Collection) -> float:
    return unevenness(extract(job.encoder, train, needs_labels=False).x, job.encoder.device)


def _with_labels(found: dict[str, list[Outcomes]]) -> Verdict:
    start, batchnorm = found[START][0], found[BATCHNORM][0][KNN] if BATCHNORM in found else None
    beside = {LINEAR: gain_of(start[LINEAR], _runs(found, LINEAR))}
    return judge(KNN, start[KNN], _runs(found, KNN), batchnorm=batchnorm, beside=beside)


def _without_labels(found: dict[str, list[Outcomes]]) -> Verdict:
    start, measure = found[START][0], next(iter(PREDICTIVE), None)
    if measure is None:
        first = next(iter(start))
        return undecided(f"{first}, not shown to predict accuracy", start[first], _runs(found, first), NOT_SHOWN)
    batchnorm = found[BATCHNORM][0][measure] if BATCHNORM in found else None
    return judge(f"{measure}, no labels", start[measure], _runs(found, measure), batchnorm=batchnorm)


def _runs(found: dict[str, list[Outcomes]], name: str) -> np.ndarray:
    """(S, N) outcomes of the adapted encoders."""
    return np.stack([each[name] for each in found[ADAPTED]])


def _kept(elsewhere: Elsewhere, adapted: list[Encoder], train: Collection) -> dict[str, Any]:
    """k-NN on a general set, before and after."""
    after = np.stack([elsewhere.after(each) for each in adapted])
    gain = gain_of(elsewhere.outcomes, after)
    return {
        "title": elsewhere.title,
        "verdict": kept_elsewhere(gain),
        "measure": KNN,
        "images": len(elsewhere.test),
        "trained_on": elsewhere.trained_on(train),
        "before": round(100 * float(elsewhere.outcomes.mean()), 4),
        "after": [round(100 * float(each.mean()), 4) for each in after],
        "gain": gain.to_json(),
    }
