"""From step numbers to batches: which samples, their views as the network sees them, their labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from clzoo.config import Preprocessing
from clzoo.data.stream import stream_views, views_of
from clzoo.data.training import TrainingSet, open_training_set
from clzoo.device import to_device
from clzoo.distributed import rank, world_size
from clzoo.errors import ClzooError
from clzoo.methods import Batch
from clzoo.pretrain.recipe import Recipe
from clzoo.transform import normalize


@dataclass(frozen=True)
class Steps:
    """How an epoch is cut into steps, over all processes and for this one."""

    per_epoch: int
    total: int
    batch_size: int
    local_batch: int

    @classmethod
    def of(cls, recipe: Recipe, images: TrainingSet) -> Steps:
        """Raises ClzooError where the batch does not fit the images or the processes, or no step moves the weights."""
        batch_size, count = recipe.schedule.batch_size, world_size()
        if len(images) < 2:
            raise ClzooError(f"{images.origin} has {len(images)} image; contrast needs at least two. Add images.")
        if len(images) < batch_size:
            raise ClzooError(
                f"{images.origin} has {len(images)} images, fewer than one batch: "
                f"--set schedule.batch_size={len(images)}"
            )
        if batch_size % count or batch_size // count < 2:
            raise ClzooError(
                f"schedule.batch_size={batch_size} does not go into {count} processes with at least two images each."
            )
        per_epoch = len(images) // batch_size
        total, accumulate = recipe.schedule.total_steps(per_epoch), recipe.schedule.accumulate
        if accumulate > total:
            raise ClzooError(
                f"schedule.accumulate={accumulate}: the weights move once in so many steps, and this run has {total}. "
                f"Type: --set schedule.accumulate={total}, or fewer"
            )
        return cls(per_epoch, total, batch_size, batch_size // count)


def images_of(recipe: Recipe, data: str | Path) -> TrainingSet:
    """The images of `data` that a recipe trains on."""
    d = recipe.data
    return open_training_set(d.name, data, d.size, subset=d.subset, held_out=d.held_out)


def drawn_by(images: TrainingSet, kept: Mapping[str, Any]) -> TrainingSet:
    """The set with the weights that a checkpoint keeps of it, or without any."""
    return dataclasses.replace(images, weights=kept["weights"].numpy()) if "weights" in kept else images


def progress(recipe: Recipe, steps: Steps, step: int) -> float:
    """Share of the planned curve that lies behind a step, from 0 to 1."""
    return recipe.schedule.position(step, steps.per_epoch) / recipe.schedule.planned_steps(steps.per_epoch)


def feed(images: TrainingSet, recipe: Recipe, steps: Steps, first_step: int, device: torch.device) -> Iterator[Batch]:
    """The batches of this process from a step on; each is a function of the recipe's seed and the step alone."""
    labels = None if images.labels is None else torch.from_numpy(images.labels)
    todo = range(first_step, steps.total)
    plan = _plan(recipe, steps, images, todo)
    each = stream_views(images, plan, recipe.view_policies(), _normalize(recipe), seed=recipe.seed, device=device)
    for step, (samples, views) in zip(todo, each, strict=True):
        own_labels = None if labels is None else to_device(labels[samples], device)
        part = step % recipe.schedule.accumulate
        yield Batch(views, own_labels, recipe.seed, step, progress(recipe, steps, step), samples, part)


def render_views(pixels: torch.Tensor, samples: torch.Tensor, recipe: Recipe, epoch: int) -> list[torch.Tensor]:
    """The views of a batch as the network sees them: V normalised tensors (B, 3, size, size).

    Args:
        pixels: uint8 (B, H, W, 3).
        samples: (B,) indices in the data set.
    """
    views = views_of(pixels, samples, recipe.view_policies(), seed=recipe.seed, epoch=epoch)
    return list(map(_normalize(recipe), views))


def _plan(recipe: Recipe, steps: Steps, images: TrainingSet, todo: range) -> Iterator[tuple[int, torch.Tensor]]:
    """(epoch, this process's samples (B,)) of each step: its part of the epoch's permutation."""
    epoch_of_order, order = -1, torch.empty(0)
    for step in todo:
        epoch, position = divmod(step, steps.per_epoch)
        if epoch != epoch_of_order:
            epoch_of_order, order = epoch, _order(recipe.seed, epoch, images)
        first = position * steps.batch_size + rank() * steps.local_batch
        yield epoch, order[first : first + steps.local_batch]


def _order(seed: int, epoch: int, images: TrainingSet) -> torch.Tensor:
    """(N,) the samples of one epoch, a function of seed and epoch: a permutation, or draws by the weights of a set."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**64)
    count = len(images)
    if images.weights is None:
        return torch.randperm(count, generator=generator)
    upto = torch.from_numpy(images.weights).cumsum(0)
    drawn = torch.rand(count, dtype=torch.float64, generator=generator) * upto[-1]
    return torch.searchsorted(upto, drawn, right=True).clamp(max=count - 1)


def _normalize(recipe: Recipe) -> Callable[[torch.Tensor], torch.Tensor]:
    """(B, S, S, 3) in [0, 255] -> (B, 3, S, S), minus the recipe's mean over its standard deviation."""
    return partial(normalize, p=Preprocessing(mean=recipe.data.mean, std=recipe.data.std))


def labels_of_queue(
    images: TrainingSet, recipe: Recipe, steps: Steps, done: int, pointer: int | torch.Tensor, size: int
) -> torch.Tensor | None:
    """(K,) classes of a queue's entries after `done` steps, -1 where not known; None of images without labels.

    Nothing of it is kept anywhere: which images a step saw follows from the recipe's seed.

    Args:
        pointer, size: of the queue, after the last step's keys were pushed. What a random start or `--init` left in
            it is not known. A tensor stays on its device, as the result does then: nobody waits for it.
    """
    if images.labels is None:
        return None
    samples = _pushed(images, recipe, steps, done, size)
    found = torch.where(samples < 0, -1, torch.from_numpy(images.labels)[samples])
    # So far as if the pointer were 0.
    device = pointer.device if isinstance(pointer, torch.Tensor) else found.device
    return to_device(found, device)[(torch.arange(size, device=device) - pointer) % size]


def samples_of_queue(
    images: TrainingSet, recipe: Recipe, steps: Steps, done: int, pointer: int, size: int
) -> torch.Tensor:
    """(K,) samples whose keys a queue holds after `done` steps, -1 where not known; see `labels_of_queue`."""
    return _pushed(images, recipe, steps, done, size).roll(pointer)


def samples_of_step(images: TrainingSet, recipe: Recipe, steps: Steps, step: int) -> torch.Tensor:
    """(B,) samples of this process in a step, counted from 0; beyond the last step what one more epoch would see."""
    return next(_plan(recipe, steps, images, range(step, step + 1)))[1]


def _pushed(images: TrainingSet, recipe: Recipe, steps: Steps, done: int, size: int) -> torch.Tensor:
    """(K,) samples of a queue's entries with the pointer at 0; the last step's stand at the end."""
    found = torch.full((size,), -1)
    epoch_of_order, order = -1, torch.empty(0)
    for back in range(1, min(size // steps.batch_size, done) + 1):
        epoch, position = divmod(done - back, steps.per_epoch)
        if epoch != epoch_of_order:
            epoch_of_order, order = epoch, _order(recipe.seed, epoch, images)
        samples = order[position * steps.batch_size : (position + 1) * steps.batch_size]
        found[(torch.arange(steps.batch_size) - back * steps.batch_size) % size] = samples
    return found
