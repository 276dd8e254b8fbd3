"""How long a run will take on this machine, said after its first steps; and what would fit in a day."""

from __future__ import annotations

import logging
import time

import torch

from clzoo.data.training import TrainingSet
from clzoo.distributed import rank, world_size
from clzoo.errors import ClzooError
from clzoo.heartbeat import duration
from clzoo.methods import Batch
from clzoo.pretrain.build import build_method
from clzoo.pretrain.feed import Steps, render_views
from clzoo.pretrain.optim import create_optimizer
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.recipe_files import find_recipe, load_recipe, recipe_names
from clzoo.wording import clzoo_command

log = logging.getLogger("clzoo")

DAY = 86_400.0  # seconds
SAMPLE = 10
"""Steps that are timed, after the first one; in a short run a quarter of them."""

_SMALL = "_narrow"  # how the names of recipes end that are sized for CPU cores
_TRIED = 3  # steps of such a recipe that are timed


class Forecast:
    """Times the first steps of this process and says once how long the rest will take."""

    def __init__(
        self, recipe: Recipe, images: TrainingSet, steps: Steps, first_step: int, device: torch.device
    ) -> None:
        self._recipe, self._images, self._steps, self._device = recipe, images, steps, device
        self._from = first_step + 1  # the first step fills caches and compiles
        self._until = self._from + max(1, min(SAMPLE, (steps.total - first_step) // 4))
        self._since = self._began = time.monotonic()

    def is_due(self, done: int) -> bool:
        """Whether `tell` of this step reads the clock: the device should have come so far."""
        return rank() == 0 and done in (self._from, self._until)

    def tell(self, done: int) -> None:
        """To be called where it is due, after so many steps."""
        if done == self._from:
            self._since = time.monotonic()
            if self._recipe.compile:
                log.info("compiled: the first step took %s", duration(self._since - self._began))
            return
        each = (time.monotonic() - self._since) / (self._until - self._from)
        left = self._steps.total - done
        log.info("%d steps to go, %.3g s each: about %s on this machine", left, each, duration(each * left))
        if each * left > DAY:
            log.warning("this run takes longer than a day here. %s", self._what_fits())

    def _what_fits(self) -> str:
        """A shipped recipe that is done within a day, by its own steps, timed here and now."""
        remedy = "--max-minutes N stops with a checkpoint, and the same command goes on another day."
        if world_size() > 1:
            return remedy
        names = [name for name in recipe_names() if name.endswith(_SMALL)]
        for name in sorted(names, key=lambda name: not name.startswith(f"{self._recipe.method.name}_")):
            small, words = load_recipe(find_recipe(name)), ["pretrain", name]
            if small.precision == "bf16" and self._device.type == "cpu":
                small, words = small.model_copy(update={"precision": "fp32"}), [*words, "--set", "precision=fp32"]
            try:
                seconds = Steps.of(small, self._images).total * seconds_per_step(small, self._images, self._device)
            except (ClzooError, RuntimeError):  # it needs labels or more images, or more memory than is left
                continue
            if small != self._recipe and seconds < DAY:
                return (
                    f"Sized for CPU cores: {clzoo_command(*words)}, about {duration(seconds)} here on these "
                    f"{len(self._images)} images (its steps were timed, decoding was not). {remedy}"
                )
        return f"No shipped recipe does these {len(self._images)} images within a day here. {remedy}"


def seconds_per_step(recipe: Recipe, images: TrainingSet, device: torch.device) -> float:
    """Of some steps on random pixels after one that is not counted: views, loss, gradients, optimiser.

    Raises:
        ClzooError: the recipe needs labels that the images do not have.
    """
    classes = None if images.class_count is None else max(2, images.class_count)
    with torch.random.fork_rng(devices=[]):
        method = build_method(recipe, classes)
    method = method.to(device, memory_format=torch.channels_last)
    optimizer = create_optimizer(method, recipe)
    batch, size = recipe.schedule.batch_size, recipe.data.size
    pixels = torch.randint(256, (batch, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels, samples = pixels.to(device), torch.arange(batch)
    labels = None if classes is None else torch.arange(batch, device=device) % classes
    began = 0.0
    for step in range(_TRIED + 1):
        if step == 1:
            began = time.monotonic()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = method(Batch(render_views(pixels, samples, recipe, step), labels, seed=recipe.seed, step=step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()  # waits for the device
    return (time.monotonic() - began) / _TRIED
