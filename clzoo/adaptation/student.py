"""The student of a store: which network it is, and how it learns to give back the teacher's vectors.

It sees an image nearly as the teacher saw it, whole: mirrored, and cropped by a fifth at most, so that the stored
vector is still that of what it sees. Minimised is 1 - cosine between the vector and a linear layer on the student's
feature; that layer is left behind.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import torch
from torch import nn

from clzoo.adaptation.clock import Clock, IsLate
from clzoo.adaptation.planning import TRAINING
from clzoo.adaptation.teacher import Teacher
from clzoo.backbones import measured_width
from clzoo.config import ModelConfig, Preprocessing
from clzoo.data.training import TrainingSet
from clzoo.embed import Store
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.losses.embeddings import unit
from clzoo.pretrain.backbone_names import PRESETS, with_preset
from clzoo.pretrain.checkpoint import load_checkpoint, save_checkpoint
from clzoo.pretrain.data_names import as_id
from clzoo.pretrain.feed import Steps, feed
from clzoo.pretrain.optim import create_optimizer, learning_rate_share, load_optimizer
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.stopping import asked_to_stop

log = logging.getLogger("clzoo")

_SMALL = 64  # px: input of a narrow student, if the teacher's is not smaller
_EVERY = 50  # steps between two checkpoints
_TRIED = "resnet10_w16, resnet10_w32, resnet18_w16"


def student_config(student: str, store: Store) -> ModelConfig:
    """The student's network, at the teacher's input size or 64 px, with the terms of the teacher.

    Raises:
        ClzooError: neither a preset nor an architecture, or one that does not take images of that size.
    """
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
    try:
        width = measured_width(config)
    except (ClzooError, AssertionError, RuntimeError, ValueError) as error:  # of whatever kind its own code raises
        raise ClzooError(
            f"--student {student} does not take images of {size} px, the size of its teacher's input: {error} Choose "
            f"one of {_TRIED}."
        ) from error
    return dataclasses.replace(config, num_features=width)


class Student(nn.Module):
    """A backbone and the layer that maps its feature to the teacher's."""

    def __init__(self, backbone: nn.Module, width: int, teacher: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(width, teacher)

    def forward(self, views: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        cosine = (unit(self.head(self.backbone(views))) * vectors).sum(dim=1)  # (B,)
        return (1 - cosine).mean()


def train_student(
    encoder: Encoder,
    images: TrainingSet,
    teacher: Teacher,
    recipe: Recipe,
    folder: Path,
    clock: Clock,
    is_late: IsLate | None,
) -> bool:
    """Regress; the encoder's module ends trained. False where it was asked to stop or is late, after a checkpoint."""
    steps = Steps.of(recipe, images)
    torch.manual_seed(recipe.seed)
    student = Student(encoder.module, encoder.dim, teacher.store.dim).to(encoder.device).train()
    optimizer = create_optimizer(student, recipe)
    first = 0
    if (state := load_checkpoint(folder)) is not None:
        student.load_state_dict(state["student"])
        load_optimizer(optimizer, state["optimizer"])
        first = state["step"]
    vectors = unit(teacher.vectors(images.rows))  # (N, D)
    log.info(
        "distilling %s into %s: steps %d to %d", teacher.store.manifest.model, recipe.backbone.name, first, steps.total
    )
    batches = feed(images, recipe, steps, first, encoder.device)
    with asked_to_stop() as stop:
        for step in range(first, steps.total):
            batch = next(batches)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * learning_rate_share(recipe.schedule, step, steps.per_epoch)
            batch.seed_networks()
            loss = student(batch.views[0], vectors[batch.samples].to(encoder.device))
            if not torch.isfinite(loss):
                raise ClzooError(
                    f"the loss of step {step} is not finite, though the vectors of {teacher.store.path} are: the "
                    f"student diverged. Choose another of {_TRIED}: --student NAME"
                )
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
