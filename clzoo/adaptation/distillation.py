"""clzoo.distil: a small student that gives back the stored vectors of a large teacher, which is not run again.

Half of the time trains the same network on the same images without the teacher, by SimCLR: what the student is judged
against. The vectors and their images are `teacher.py`'s, the network and how it learns `student.py`'s.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from clzoo.adaptation.before import seconds_per_image
from clzoo.adaptation.clock import PLANNED, TIME, Clock, IsLate, train_in_time
from clzoo.adaptation.given import require_minutes, require_place, work_alone
from clzoo.adaptation.measures import KNN, knn_outcomes, part, right_by_knn
from clzoo.adaptation.planning import (
    AFTER,
    FEWEST_STEPS,
    LOOKING,
    NOT_USED_UP,
    TRAINING,
    length_limits,
    require_current,
)
from clzoo.adaptation.recipes import MOST_EPOCHS, free_memory, recipe_values, with_length
from clzoo.adaptation.student import student_config, train_student
from clzoo.adaptation.survey import FEW, FEWEST, Survey
from clzoo.adaptation.teacher import Teacher, parameters_of, teacher_of
from clzoo.adaptation.verdict import Gain, Verdict, gain_of, judge
from clzoo.data.content import digests, identity
from clzoo.data.parts import RULE, Parts, parts_of
from clzoo.data.training import TrainingSet, training_set_of
from clzoo.device import resolve_device
from clzoo.embed import open_store
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.evaluation.features import extract
from clzoo.files import read_json, write_json
from clzoo.hardware import describe_hardware, describe_versions
from clzoo.pretrain.data_names import as_id
from clzoo.pretrain.forecast import seconds_per_step
from clzoo.pretrain.loop import pretrain
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.run_folder import move_end
from clzoo.zoo import load
from clzoo.zoo.saving import save_entry

log = logging.getLogger("clzoo")

EPOCHS = 20
"""Without a time."""

_RATE = 0.12  # SGD, per 256 images, of both students (our choice)
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_EXPORTING = 20.0  # seconds, of the ONNX file and what comes with it
_PLAN, _VERDICT = "plan.json", "verdict.json"

Who = Literal["recipe", "control"]
"""Keys of the two recipes in the plan."""

_NAMES: dict[Who, str] = {"recipe": "the student", "control": "the student without teacher"}


@dataclass(frozen=True)
class Distillation:
    """What `clzoo.distil` made.

    Attributes:
        folder: the student as a model, with model.onnx and verdict.json; None as verdict where it was asked to stop.
            A model it is also then, as far as it came.
        behind_teacher: the student minus the teacher, k-NN; None without labels.
    """

    folder: Path
    verdict: Verdict | None
    behind_teacher: Gain | None
    report: dict[str, Any]
    took: str = ""


@dataclass
class _Job:
    """What is given, and what was made of it so far."""

    source: str | Path  # the store as it was named
    teacher: Teacher
    encoder: Encoder  # the student
    images: TrainingSet
    parts: Parts
    minutes: float | None
    folder: Path
    clock: Clock


def distil(
    store: str | Path,
    *,
    student: str = "resnet10_w32",
    minutes: float | None = None,
    out: str | Path | None = None,
    images: str | Path | None = None,
    device: str = "auto",
) -> Distillation:
    """Train a student on the vectors of a store; the same call goes on where it was stopped. See docs/adapt.md.

    Args:
        store: made by `clzoo embed`; with `--labels` there is a verdict.
        student: one of clzoo.pretrain.backbone_names.PRESETS, or an architecture of timm.
        minutes: for all of it; half of the training is that of the student without a teacher. None: 20 epochs of each.
        out: folder; None: runs/distil-<student>-<store>.
        images: where the images of the store lie now, if they were moved.

    Raises:
        ClzooError: no store, too few images in it, images that are gone or changed, vectors that are broken, an unknown
            student, packages of the export that are missing, too little time, or a folder of something else.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise ClzooError(f"the student is exported at the end, and {missing[0]} is missing: pip install {missing[0]}")
    require_minutes(minutes)
    folder = place_of(store, student, out)
    require_place(folder, folder / _PLAN, "distillation", (TIME,))
    job = _opened(store, student, minutes, folder, images, device)
    with work_alone(folder):
        plan = _plan(job)
        job.clock.book(LOOKING)
        if not _train_student(job, plan) or not _train_without_teacher(job, plan):
            return Distillation(folder, None, None, {})
        verdict, behind, report = _judged(job, plan)
        _save(job, str(verdict))
        job.encoder.export(folder / "model.onnx", preprocess=True)
        write_json(folder / _VERDICT, {**report, "weights_sha256": [job.encoder.weights_sha256]})
        job.clock.book(AFTER)
    return Distillation(folder, verdict, behind, report, str(job.clock))


def place_of(store: str | Path, student: str, out: str | Path | None) -> Path:
    """The folder of a distillation."""
    return Path(out) if out is not None else Path("runs") / f"distil-{student}-{as_id(Path(store).name)}"


def _opened(
    source: str | Path, student: str, minutes: float | None, folder: Path, images: str | Path | None, device: str
) -> _Job:
    """Teacher, student and images, everything looked at that may be wrong with them."""
    target = resolve_device(device)
    store = open_store(source, images=images)
    config = student_config(student, store)
    clock = Clock(folder / TIME, minutes, keeps=not (folder / _VERDICT).is_file())
    teacher = teacher_of(store, moved=images is not None)
    parts = parts_of(teacher.images.images)
    if parts.distinct < FEWEST:
        raise ClzooError(
            f"{source} holds {parts.distinct} different images; distilling takes at least {FEWEST}. Add images, and "
            "embed them."
        )
    torch.manual_seed(0)
    encoder = Encoder.untrained(config, target)
    trained_on = training_set_of(teacher.images, parts.train, config.preprocessing.size)
    return _Job(source, teacher, encoder, trained_on, parts, minutes, folder, clock)


def _train_student(job: _Job, plan: dict[str, Any]) -> bool:
    """By the teacher's vectors; the folder is a model afterwards. False where it was asked to stop."""

    def train(by: Recipe, late: IsLate | None) -> bool:
        return train_student(job.encoder, job.images, job.teacher, by, job.folder, job.clock, late)

    finished = _in_time(job, plan, "recipe", train, runs=2)
    encoder = job.encoder
    job.encoder = Encoder(encoder.module.eval(), encoder.config, encoder.device)
    if not (job.folder / _VERDICT).is_file():
        _save(job, "not judged yet")
    return finished


def _train_without_teacher(job: _Job, plan: dict[str, Any]) -> bool:
    """The control, by the loop of `clzoo pretrain`. False where it was asked to stop."""
    place = _without_teacher(job.folder)

    def train(by: Recipe, late: IsLate | None) -> bool:
        move_end(place, by)
        finished = pretrain(
            by,
            str(job.source),
            place,
            device=str(job.encoder.device),
            images=job.images,
            on_checkpoint=lambda *_: job.clock.book(TRAINING),
            is_late=late,
        )
        job.clock.book(TRAINING)
        return finished

    return _in_time(job, plan, "control", train, runs=1)


def _without_teacher(folder: Path) -> Path:
    return folder / "without_teacher"


def _in_time(
    job: _Job, plan: dict[str, Any], who: Who, train: Callable[[Recipe, IsLate | None], bool], *, runs: int
) -> bool:
    """Train one of the two in its share of what is left, where `runs` are still to come; note an end moved nearer."""

    def keep(by: Recipe) -> None:
        (_, end) = by.schedule.shortened[-1]
        gone = (f": {_NAMES[who]} ended early", f"{_NAMES[who]}: {NOT_USED_UP}")
        others = [each for each in plan["limits"] if not (each.endswith(gone[0]) or each.startswith(gone[1]))]
        limit = f"slower than it was timed, and stopped at step {end} for --minutes: {_NAMES[who]} ended early"
        plan["limits"] = [*others, limit]
        plan[who] = by.model_dump(mode="json")
        write_json(job.folder / _PLAN, plan)

    seconds = (lambda: (job.clock.left() - plan["after"]) / runs) if job.clock.ends else None
    return train_in_time(train, Recipe.model_validate(plan[who]), seconds, keep)[0]


def _save(job: _Job, verdict: str) -> None:
    training = {"distilled from": job.teacher.store.manifest.model, "images": len(job.images), "seed": 0}
    save_entry(job.encoder, job.folder, metrics={"results": [], "training": {**training, "verdict": verdict}})


def _plan(job: _Job) -> dict[str, Any]:
    """Recipes of both students: the ones that lie there, or newly made."""
    arguments, path = _arguments(job), job.folder / _PLAN
    if path.is_file():
        plan: dict[str, Any] = read_json(path)
        require_current(plan, "after", path)
        begun = plan["arguments"]
        for key, value in arguments.items():
            require_current(begun, key, path)
            if begun[key] != value:
                raise ClzooError(
                    f"{job.folder} is a distillation with {key} {begun[key]}, now {value}. Choose another --out."
                )
        return plan
    limits, measured = _limits(job), job.teacher.images.labels is not None
    views, values = _recipes(job)
    each = seconds_per_image(job.encoder, job.teacher.images) if job.minutes is not None and measured else 0.0
    after = 2 * each * len(job.teacher.images) + _EXPORTING
    seconds, tables = PLANNED * (job.clock.left() - after) / 2, []  # of training, for each; infinite without a time
    for who, its_views in views.items():
        table = {**values, "views": its_views, "schedule": dict(values["schedule"])}
        wanted = _steps(job, {**values, "schedule": table["schedule"]}, who, seconds, after)
        per_epoch = len(job.images) // table["schedule"]["batch_size"]
        limits += [f"{_NAMES[who]}: {limit}" for limit in length_limits(wanted, per_epoch)]
        with_length(table, min(wanted, MOST_EPOCHS * per_epoch), len(job.images))
        tables.append(table)
    plan = {"arguments": arguments, "recipe": tables[0], "control": tables[1], "limits": limits}
    plan["after"] = round(after, 2)
    job.folder.mkdir(parents=True, exist_ok=True)
    write_json(path, plan)
    return plan


def _arguments(job: _Job) -> dict[str, Any]:
    """What another call must have to be the same distillation."""
    images, every = job.teacher.images.images, np.arange(len(job.teacher.images))
    return {
        "teacher": job.teacher.store.manifest.weights_sha256,
        "generation": job.teacher.store.generation,
        "student": job.encoder.config.backbone,
        "minutes": job.minutes,
        "images_sha256": identity(images, every, digests(images, every)).hexdigest(),
    }


def _limits(job: _Job) -> list[str]:
    found = list(job.teacher.limits)
    if (count := job.parts.distinct) < FEW:
        found.append(f'{count} images are fewer than {FEW}: no verdict but "no evidence" can come')
    own = sum(parameter.numel() for parameter in job.encoder.module.parameters())
    teacher_s = parameters_of(job.teacher.store)
    if teacher_s is not None and own >= teacher_s:
        found.append(
            f"the student has {own / 1e6:.2g} million parameters, its teacher {teacher_s / 1e6:.2g}: it is not smaller"
        )
    return found


def _recipes(job: _Job) -> tuple[dict[Who, list[dict[str, Any]]], dict[str, Any]]:
    """Views of the student, nearly whole, and of SimCLR; and the rest of a recipe, which both share."""
    size, count = job.encoder.config.preprocessing.size, len(job.images)
    seen, free = Survey(count, count, size, False, ()), free_memory(job.encoder.device)
    values, _ = recipe_values(job.encoder, "", seen, count, "simclr", job.teacher.store.path.name, free)
    del values["start"]
    values["data"]["held_out"] = False  # the images are given, and are those that are not held out
    values["optimizer"] = {"name": "sgd", "base_lr": _RATE, "weight_decay": 1e-4, "decay_norms_and_biases": False}
    whole = {"count": 1, "size": size, "crop_scale": [0.8, 1.0], "flip": 0.5}
    return {"recipe": [whole], "control": values["views"]}, values


def _steps(job: _Job, values: dict[str, Any], who: Who, seconds: float, after: float) -> int:
    """How many fit into so many seconds, without a bound from above; 20 epochs without a time.

    Raises:
        ClzooError: fewer than can change anything.
    """
    if job.minutes is None:
        return EPOCHS * (len(job.images) // values["schedule"]["batch_size"])
    with_length(values, 100, len(job.images))
    timed = seconds_per_step(Recipe.model_validate(values), job.images, job.encoder.device)
    each = timed / (2 if who == "recipe" else 1)  # two views were timed
    steps = int(max(0.0, seconds) / each)
    if steps >= FEWEST_STEPS:
        return steps
    needed = 60 * job.minutes - job.clock.left() + after + 2 * FEWEST_STEPS * each / PLANNED
    raise ClzooError(
        f"--minutes {job.minutes:g} are {steps} steps of each student beside {after:.0f} s for measuring and the "
        f"export, and less than {FEWEST_STEPS} change nothing that could be judged. Type: --minutes "
        f"{math.ceil(1.5 * needed / 60)}, or choose a smaller student: --student resnet10_w16"
    )


def _judged(job: _Job, plan: dict[str, Any]) -> tuple[Verdict, Gain | None, dict[str, Any]]:
    """The student against the one without a teacher, and against the teacher's own vectors."""
    student, whole = job.encoder, job.teacher.images
    train, held = part(whole, job.parts.train), part(whole, job.parts.judged)
    report: dict[str, Any] = {
        "teacher": job.teacher.store.manifest.model,
        "student": student.config.backbone,
        "images": {"trained_on": len(train), "held_out": len(held), "rule": RULE},
        "limits": plan["limits"],
        "hardware": describe_hardware(str(student.device)),
        "versions": describe_versions(),
    }
    if (why := job.teacher.why_unjudged) is not None:
        nothing = np.zeros(len(held))
        verdict = Verdict("no evidence", "k-NN, not measured", gain_of(nothing, nothing[None]), None, (why,))
        return verdict, None, {**verdict.to_json(), "sentence": str(verdict), "measures": {}, **report}
    alone = load(_without_teacher(job.folder), str(student.device))
    of_student, of_alone = (knn_outcomes(encoder, train, held) for encoder in (student, alone))
    readable = (extract(student, images).rows for images in (train, held))  # as they were judged: from the cache
    bank, queries = (
        job.teacher.features(rows[read])
        for rows, read in zip((job.parts.train, job.parts.judged), readable, strict=True)
    )
    of_teacher = right_by_knn(bank, queries, student.device)
    verdict, behind = judge(KNN, of_alone, of_student[None]), gain_of(of_teacher, of_student[None])
    sides = {"teacher": of_teacher, "student": of_student, "student without teacher": of_alone}
    shown = {of: [round(100 * float(each.mean()), 4)] for of, each in sides.items()}
    found = {**verdict.to_json(), "sentence": str(verdict), "measures": {KNN: shown}, "teacher_gap": behind.to_json()}
    return verdict, behind, {**found, **report}
