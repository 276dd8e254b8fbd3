"""clzoo.distil: a small student that gives back the stored vectors of a large teacher, which is not run again.

The student sees an image nearly as the teacher saw it, whole: mirrored, and cropped by a fifth at most, so that the
stored vector is still that of what it sees. Minimised is 1 - cosine between the vector and a linear layer on the
student's feature; that layer is left behind. Half of the time trains the same network on the same images without the
teacher, by SimCLR: what the student is judged against.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from clzoo.adaptation.before import seconds_per_image
from clzoo.adaptation.clock import PLANNED, TIME, Clock, IsLate, train_in_time
from clzoo.adaptation.measures import KNN, NOT_SHOWN, knn_outcomes, part, right_by_knn
from clzoo.adaptation.planning import AFTER, FEWEST_STEPS, LOOKING, TRAINING, require_current
from clzoo.adaptation.recipes import MOST_EPOCHS, free_memory, recipe_values, with_length
from clzoo.adaptation.survey import FEW, FEWEST, Survey
from clzoo.adaptation.verdict import Gain, Verdict, gain_of, judge
from clzoo.backbones import feature_width, network_of
from clzoo.config import ModelConfig, Preprocessing
from clzoo.data.collection import Collection
from clzoo.data.content import Stamp
from clzoo.data.parts import RULE, parts_of
from clzoo.data.training import TrainingSet, training_set_of
from clzoo.device import resolve_device
from clzoo.embed import Store, open_store
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.evaluation.features import Features
from clzoo.files import read_json, write_json
from clzoo.hardware import describe_hardware, describe_versions
from clzoo.images import decode_image
from clzoo.losses.embeddings import unit
from clzoo.pretrain.backbone_names import PRESETS, with_preset
from clzoo.pretrain.checkpoint import load_checkpoint, save_checkpoint
from clzoo.pretrain.data_names import as_id
from clzoo.pretrain.feed import Steps, feed
from clzoo.pretrain.forecast import seconds_per_step
from clzoo.pretrain.loop import pretrain
from clzoo.pretrain.optim import create_optimizer, learning_rate_share, load_optimizer
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.run_folder import move_end, train_alone
from clzoo.pretrain.stopping import asked_to_stop
from clzoo.zoo import load
from clzoo.zoo.saving import save_entry

log = logging.getLogger("clzoo")

EPOCHS = 20
"""Without a time."""

_SMALL = 64  # px: input of a narrow student, if the teacher's is not smaller
_RATE = 0.12  # SGD, per 256 images, of both students (our choice)
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_EVERY = 50  # steps between two checkpoints
_EXPORTING = 20.0  # seconds, of the ONNX file and what comes with it
_PLAN, _VERDICT = "plan.json", "verdict.json"


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


@dataclass(frozen=True)
class StoreImages:
    """The images behind a store's rows."""

    store: Store

    def __len__(self) -> int:
        return len(self.store)

    def name(self, row: int) -> str:
        return self.store.paths[row]

    def read(self, row: int) -> Image.Image:
        return decode_image(self.content(row))

    def content(self, row: int) -> bytes:
        return self.store.image_bytes(row)

    def stamp(self, row: int) -> Stamp | None:
        return None


def distil(
    store: str | Path,
    *,
    student: str = "resnet10_w32",
    minutes: float | None = None,
    out: str | Path | None = None,
    device: str = "auto",
) -> Distillation:
    """Train a student on the vectors of a store; the same call goes on where it was stopped. See docs/adapt.md.

    Args:
        store: made by `clzoo embed`; with `--labels` there is a verdict.
        student: one of clzoo.pretrain.backbone_names.PRESETS, or an architecture of timm.
        minutes: for all of it; half of the training is that of the student without a teacher. None: 20 epochs of each.
        out: folder; None: runs/distil-<student>-<store>.

    Raises:
        ClzooError: no store, too few images in it, images that are no longer there, an unknown student, or the packages
            of the export are missing; or too little time.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise ClzooError(f"the student is exported at the end, and {missing[0]} is missing: pip install {missing[0]}")
    target = resolve_device(device)
    opened = open_store(store)
    config = _student_config(student, opened)
    folder = Path(out) if out is not None else Path("runs") / f"distil-{config.backbone}-{as_id(Path(store).name)}"
    clock = Clock(folder / TIME, minutes, keeps=not (folder / _VERDICT).is_file())
    whole = _collection(opened)
    parts = parts_of(whole.images)
    if parts.distinct < FEWEST:
        raise ClzooError(f"{store} holds {parts.distinct} different images; distilling takes at least {FEWEST}.")
    torch.manual_seed(0)
    encoder = Encoder.untrained(config, target)
    images = training_set_of(whole, parts.train, config.preprocessing.size)
    plan = _plan(encoder, images, whole, opened, minutes, folder, clock)
    clock.book(LOOKING)

    def keep(key: str, by: Recipe) -> None:
        (_, end) = by.schedule.shortened[-1]
        who = "the student" if key == "recipe" else "the student without teacher"
        others = [each for each in plan["limits"] if not each.endswith(f": {who} ended early")]
        plan["limits"] = [
            *others,
            f"slower than it was timed, and stopped at step {end} for --minutes: {who} ended early",
        ]
        plan[key] = by.model_dump(mode="json")
        write_json(folder / _PLAN, plan)

    def student_s(by: Recipe, late: IsLate | None) -> bool:
        with train_alone(folder):
            return _train(encoder, images, opened, by, folder, clock, late)

    def seconds_of(runs: int) -> Callable[[], float] | None:
        return (lambda: (clock.left() - plan["after"]) / runs) if clock.ends else None

    begun = Recipe.model_validate(plan["recipe"])
    finished, _ = train_in_time(student_s, begun, seconds_of(2), lambda by: keep("recipe", by))
    encoder = Encoder(encoder.module.eval(), config, target)  # its hash is computed once: now of the trained weights
    training = {"distilled from": opened.manifest.model, "images": len(images), "seed": 0}
    if not (folder / _VERDICT).is_file():
        save_entry(encoder, folder, metrics={"results": [], "training": {**training, "verdict": "not judged yet"}})
    if not finished:
        return Distillation(folder, None, None, {})
    alone = folder / "without_teacher"

    def control(by: Recipe, late: IsLate | None) -> bool:
        move_end(alone, by)
        booked = lambda *_: clock.book(TRAINING)  # noqa: E731
        done = pretrain(by, str(store), alone, device=str(target), images=images, on_checkpoint=booked, is_late=late)
        clock.book(TRAINING)
        return done

    begun = Recipe.model_validate(plan["control"])
    if not train_in_time(control, begun, seconds_of(1), lambda by: keep("control", by))[0]:
        return Distillation(folder, None, None, {})
    verdict, behind, report = _judged(encoder, load(alone, device), opened, whole, plan)
    save_entry(encoder, folder, metrics={"results": [], "training": {**training, "verdict": str(verdict)}})
    encoder.export(folder / "model.onnx", preprocess=True)
    write_json(folder / _VERDICT, {**report, "weights_sha256": [encoder.weights_sha256]})
    clock.book(AFTER)
    return Distillation(folder, verdict, behind, report, str(clock))


def _collection(store: Store) -> Collection:
    """The images of a store, with the labels that it was made with."""
    names = store.labels
    if not len(store) or any(name is None for name in names):
        return Collection(str(store.path), StoreImages(store))
    classes, labels = np.unique([str(name) for name in names], return_inverse=True)
    return Collection(str(store.path), StoreImages(store), labels.astype(np.int64), tuple(classes.tolist()))


def _student_config(student: str, store: Store) -> ModelConfig:
    teacher = store.manifest.preprocessing
    try:
        network = with_preset({"name": student})
    except ValueError as error:
        raise ClzooError(f"--student {student}: {error}.") from error
    is_narrow = student in PRESETS and "_w" in student
    size = min(int(teacher["size"]), _SMALL) if is_narrow else int(teacher["size"])
    config = ModelConfig(
        name=f"distil-{student}-{as_id(store.path.name)}",
        architecture=network["architecture"],
        num_features=0,
        method="distil",
        backbone=student,
        data=as_id(store.path.name),
        model_args=network.get("model_args") or {},
        stem_stride=2 if is_narrow else None,
        preprocessing=Preprocessing(size, 1.0, mean=tuple(teacher["mean"]), std=tuple(teacher["std"])),
        license=store.manifest.license,  # the student is made of what the teacher gave
        license_note=store.manifest.license_note,
        derived_from=store.manifest.model,
    )
    with torch.device("meta"):
        width = feature_width(network_of(config), size)
    return dataclasses.replace(config, num_features=width)


def _plan(
    encoder: Encoder,
    images: TrainingSet,
    whole: Collection,
    store: Store,
    minutes: float | None,
    folder: Path,
    clock: Clock,
) -> dict[str, Any]:
    """Recipes of both students: the one that lies there, or newly made."""
    arguments = {
        "teacher": store.manifest.weights_sha256,
        "generation": store.generation,
        "student": encoder.config.backbone,
        "minutes": minutes,
    }
    path = folder / _PLAN
    if path.is_file():
        plan: dict[str, Any] = read_json(path)
        if plan["arguments"] != arguments:
            raise ClzooError(f"{folder} was begun with {plan['arguments']}, now {arguments}. Choose another --out.")
        require_current(plan, "after", path)
        return plan
    seen, size = Survey(len(images), len(images), encoder.config.preprocessing.size, False, ()), len(images)
    values, _ = recipe_values(encoder, "", seen, size, "simclr", store.path.name, free_memory(encoder.device))
    del values["start"]
    values["data"]["held_out"] = False  # the images are given, and are those that are not held out
    values["optimizer"] = {"name": "sgd", "base_lr": _RATE, "weight_decay": 1e-4, "decay_norms_and_biases": False}
    view = {"count": 1, "size": encoder.config.preprocessing.size, "crop_scale": [0.8, 1.0], "flip": 0.5}
    measuring = 0.0 if minutes is None or whole.labels is None else 2 * seconds_per_image(encoder, whole) * len(whole)
    after = measuring + _EXPORTING
    training = PLANNED * (clock.left() - after) / 2  # seconds of each; infinite without a time
    each = []
    for views in ([view], values["views"]):
        table = {**values, "views": views, "schedule": dict(values["schedule"])}
        steps = EPOCHS * (size // table["schedule"]["batch_size"])
        if minutes is not None:
            with_length(table, 100, size)
            timed = Recipe.model_validate({**table, "views": values["views"]})  # two views; one takes half as long
            seconds = seconds_per_step(timed, images, encoder.device) / (2 if views == [view] else 1)
            steps = int(max(0.0, training) / seconds)
            if steps < FEWEST_STEPS:
                needed = 60 * minutes - clock.left() + after + 2 * FEWEST_STEPS * seconds / PLANNED
                raise ClzooError(
                    f"--minutes {minutes:g} are {steps} steps of each student beside {after:.0f} s for measuring and "
                    f"the export, and less than {FEWEST_STEPS} change nothing that could be judged. Type: --minutes "
                    f"{math.ceil(1.5 * needed / 60)}, or choose a smaller student: --student resnet10_w16"
                )
            steps = min(steps, MOST_EPOCHS * (size // table["schedule"]["batch_size"]))
        with_length(table, steps, size)
        each.append(table)
    plan = {"arguments": arguments, "recipe": each[0], "control": each[1], "limits": [], "after": round(after, 2)}
    if len(store) < FEW:
        plan["limits"].append(f'{len(store)} images are fewer than {FEW}: no verdict but "no evidence" can come')
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, plan)
    return plan


class _Student(nn.Module):
    """A backbone and the layer that maps its feature to the teacher's."""

    def __init__(self, backbone: nn.Module, width: int, teacher: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(width, teacher)

    def forward(self, views: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        cosine = (unit(self.head(self.backbone(views))) * vectors).sum(dim=1)  # (B,)
        return (1 - cosine).mean()


def _train(
    encoder: Encoder,
    images: TrainingSet,
    store: Store,
    recipe: Recipe,
    folder: Path,
    clock: Clock,
    is_late: IsLate | None,
) -> bool:
    """Regress; the encoder's module ends trained. False where it was asked to stop or is late, after a checkpoint."""
    steps = Steps.of(recipe, images)
    torch.manual_seed(recipe.seed)
    student = _Student(encoder.module, encoder.dim, store.dim).to(encoder.device).train()
    optimizer = create_optimizer(student, recipe)
    first = 0
    if (state := load_checkpoint(folder)) is not None:
        student.load_state_dict(state["student"])
        load_optimizer(optimizer, state["optimizer"])
        first = state["step"]
    vectors = unit(torch.from_numpy(store.raw_rows(images.rows).astype(np.float32)))  # (N, D)
    log.info("distilling %s into %s: steps %d to %d", store.manifest.model, recipe.backbone.name, first, steps.total)
    batches = feed(images, recipe, steps, first, encoder.device)
    with asked_to_stop() as stop:
        for step in range(first, steps.total):
            batch = next(batches)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * learning_rate_share(recipe.schedule, step, steps.per_epoch)
            loss = student(batch.views[0], vectors[batch.samples].to(encoder.device))
            if not torch.isfinite(loss):
                raise ClzooError(f"the loss of step {step} is not finite: the vectors of {store.path} are broken.")
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done = step + 1
            stopping = stop.is_set() or (is_late is not None and is_late(done, steps.total))
            if stopping or done % _EVERY == 0 or done == steps.total:
                kept = {"student": student.state_dict(), "optimizer": optimizer.state_dict(), "step": done}
                save_checkpoint(folder, done, kept)
                clock.book(TRAINING)
                log.info("step %d of %d: 1 - cosine is %.4f", done, steps.total, loss.item())
            if stopping and done < steps.total:
                return False
    student.eval()
    return True


def _judged(
    student: Encoder, alone: Encoder, store: Store, whole: Collection, plan: dict[str, Any]
) -> tuple[Verdict, Gain | None, dict[str, Any]]:
    """The student against the one without a teacher, and against the teacher's own vectors."""
    parts = parts_of(whole.images)
    train, held = part(whole, parts.train), part(whole, parts.held)
    report: dict[str, Any] = {
        "teacher": store.manifest.model,
        "student": student.config.backbone,
        "images": {"trained_on": len(train), "held_out": len(held), "rule": RULE},
        "limits": plan["limits"],
        "hardware": describe_hardware(str(student.device)),
        "versions": describe_versions(),
    }
    if whole.labels is None:
        nothing = np.zeros(len(held))
        verdict = Verdict("no evidence", "k-NN, not measured", gain_of(nothing, nothing[None]), None, (NOT_SHOWN,))
        return verdict, None, {**verdict.to_json(), "sentence": str(verdict), "measures": {}, **report}
    of_student, of_alone = (knn_outcomes(encoder, train, held) for encoder in (student, alone))
    of_teacher = right_by_knn(_stored(store, train), _stored(store, held), student.device)
    verdict, behind = judge(KNN, of_alone, of_student[None]), gain_of(of_teacher, of_student[None])
    sides = {"teacher": of_teacher, "student": of_student, "student without teacher": of_alone}
    shown = {of: [round(100 * float(each.mean()), 4)] for of, each in sides.items()}
    found = {**verdict.to_json(), "sentence": str(verdict), "measures": {KNN: shown}, "teacher_gap": behind.to_json()}
    return verdict, behind, {**found, **report}


def _stored(store: Store, images: Collection) -> Features:
    """The teacher's vectors of a part of the store, as features."""
    rows = images.images.rows  # type: ignore[attr-defined]
    x = torch.from_numpy(store.raw_rows(rows).astype(np.float32))
    assert images.labels is not None
    return Features(x, torch.from_numpy(images.labels), images.classes, str(store.path), {}, rows)
