"""What training changes from step to step, the method and its optimiser, and what a checkpoint holds of them."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clzoo.data.training import TrainingSet
from clzoo.distributed import rank, world_size
from clzoo.methods import Batch
from clzoo.pretrain.averaging import BATCHES, estimate_batchnorm, move_towards, parameters_of
from clzoo.pretrain.build import build_method, compile_step, for_processes
from clzoo.pretrain.checkpoint import load_checkpoint, save_checkpoint
from clzoo.pretrain.feed import Steps, drawn_by, feed
from clzoo.pretrain.finite import FiniteLosses
from clzoo.pretrain.flattening import flat_weights
from clzoo.pretrain.optim import create_optimizer, learning_rate_share, load_optimizer
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.run_folder import step_of_state, write_state
from clzoo.pretrain.sharding import shard, whole
from clzoo.pretrain.trained import encoder_of

log = logging.getLogger("clzoo")

_OF_THE_START = ("start", "weights")  # keys of a checkpoint: see `_begin`


class TrainState:
    """A run between two steps: as its newest checkpoint left it, or at its beginning.

    Attributes:
        method: on its device; over several processes its weights may be shared out (`complete`).
        images: the set, with the weights that it is drawn by where the recipe flattens it.
        first_step: steps that lay behind when this process took the run up.
    """

    def __init__(
        self, method: Any, images: TrainingSet, recipe: Recipe, out: Path, device: torch.device, precision: Any
    ) -> None:
        """`precision` is the context that losses are computed in; the method is on its device already."""
        saved = load_checkpoint(out)
        self.method, self.recipe, self.out, self.device = method, recipe, out, device
        self.first_step: int = 0 if saved is None else saved["step"]
        self._seconds_before: float = 0.0 if saved is None else saved["seconds"]
        self._precision = precision
        if saved is not None:
            method.load_state_dict(saved["method"])
            self._kept = {key: saved[key] for key in _OF_THE_START if key in saved}
        else:
            self._kept = self._begin(images)
        self.images = drawn_by(images, self._kept)
        self._sharded = recipe.shard_weights and world_size() > 1
        self._model: Any = for_processes(method, device, sharded=self._sharded)
        if self._sharded:
            shard(method, recipe.backbone.architecture, device)
        self._optimizer = create_optimizer(method, recipe)
        if saved is not None:
            load_optimizer(self._optimizer, saved["optimizer"])
        if recipe.compile:
            self._model = compile_step(method, self._model)
            log.info("the first step takes longer: it is compiled")
        self._began = time.monotonic()

    def _begin(self, images: TrainingSet) -> dict[str, Any]:
        """What a run keeps of its start: until its end the weights to go back towards; how often images are drawn."""
        kept: dict[str, Any] = {}
        if self.recipe.start is not None and self.recipe.schedule.towards_start:
            kept["start"] = parameters_of(self.method.backbone)
        if self.recipe.start is not None and self.recipe.data.flatten:
            was_training = self.method.training
            encoder = encoder_of(self.method, self.recipe, "start", self.device)
            kept["weights"] = torch.from_numpy(flat_weights(encoder, images))
            self.method.train(was_training)
        return kept

    def tell_state(self, steps: Steps) -> None:
        """Write state.json anew where a kill left it behind the newest checkpoint; one process of all writes it."""
        if rank() == 0 and self.first_step and step_of_state(self.out) != self.first_step:
            write_state(self.out, self.recipe, self.first_step, steps.total, self._seconds_before, str(self.device))

    def moves(self, step: int) -> bool:
        """Whether a step moves the weights; the others add to its gradients."""
        return (step + 1) % self.recipe.schedule.accumulate == 0

    def set_rate(self, step: int, steps: Steps) -> float:
        """The learning rate of a step, given to the optimiser."""
        rate = self.recipe.learning_rate * learning_rate_share(self.recipe.schedule, step, steps.per_epoch)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        return rate

    def learn(self, batch: Batch, step: int, losses: FiniteLosses) -> torch.Tensor:
        """The scalar loss of a batch, of which `losses` hears first; its gradients; where the step moves, new weights.

        Raises:
            ClzooError: `losses` has seen one that is not finite.
        """
        batch.seed_networks()
        with _no_sync(self._model, self.moves(step)):
            with self._precision:
                loss: torch.Tensor = self._model(batch)
            losses.add(step, loss)
            (loss / self.recipe.schedule.accumulate).backward()
        if self.moves(step):
            if self.recipe.optimizer.clip_grad:
                nn.utils.clip_grad_norm_(self.method.parameters(), self.recipe.optimizer.clip_grad)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        return loss

    def go_towards_start(self, steps: Steps) -> None:
        """After the last step: the weights between the start's and these, if the recipe says so."""
        if "start" in self._kept:
            move_towards(self.method.backbone, self._kept["start"], self.recipe.schedule.towards_start)
            last = feed(self.images, self.recipe, steps, max(0, steps.total - BATCHES), self.device)
            estimate_batchnorm(self.method, last)

    def complete(self, state: dict[str, torch.Tensor] | None = None) -> Any:
        """The method with all of its weights here; without their `state` every process has to ask for it."""
        if not self._sharded:
            return self.method
        with torch.random.fork_rng(devices=[]):
            twin = build_method(self.recipe, self.images.class_count)
        twin.load_state_dict(whole(self.method.state_dict()) if state is None else state)
        return twin.to(self.device, memory_format=torch.channels_last)

    def checkpoint(self, done: int, steps: Steps, then: Callable[[Any, int, Steps], object] | None) -> None:
        """Write what a run needs to go on after `done` steps, and call `then` with the method; of all, one process.

        Raises:
            ClzooError: it cannot be written; the one before is whole.
        """
        seconds = self._seconds_before + time.monotonic() - self._began
        trained = {"method": self.method.state_dict(), "optimizer": self._optimizer.state_dict()}
        state = {**trained, "step": done, "seconds": seconds}
        state = whole(state) if self._sharded else state
        state |= {key: value for key, value in self._kept.items() if key != "start" or done < steps.total}
        if rank() == 0:
            save_checkpoint(self.out, done, state)
            write_state(self.out, self.recipe, done, steps.total, seconds, str(self.device))
            if then is not None:
                then(self.complete(state["method"]), done, steps)


def _no_sync(model: Any, moves: bool) -> Any:
    """Processes exchange gradients only in the step that moves the weights."""
    has_own = isinstance(model, nn.parallel.DistributedDataParallel)  # shares are summed up in each step
    return model.no_sync() if has_own and not moves else contextlib.nullcontext()
