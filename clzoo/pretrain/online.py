"""What a run measures of itself while it trains: monitors, diagnostics, and k-NN on the test split."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from clzoo.data.classes import with_classes_of
from clzoo.data.training import TrainingSet, open_training_set, pixel_batches
from clzoo.distributed import rank
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.knn import knn_accuracy
from clzoo.methods import Batch
from clzoo.pretrain.diagnostics import EARLY, diagnose, warning_of
from clzoo.pretrain.feed import Steps, labels_of_queue
from clzoo.pretrain.finite import FiniteLosses
from clzoo.pretrain.log import StepLog
from clzoo.pretrain.monitors import monitor
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.train_state import TrainState
from clzoo.pretrain.trained import encoder_of

log = logging.getLogger("clzoo")


class Watch:
    """Looks at a run while it trains: what it measures goes into the log, and what looks like a collapse is warned of.

    k-NN is measured of the first weights too, when a new run is given to it.
    """

    def __init__(
        self, run: TrainState, steps: Steps, queries: TrainingSet | None, step_log: StepLog, losses: FiniteLosses
    ) -> None:
        self._run, self._steps, self._queries, self._log, self._losses = run, steps, queries, step_log, losses
        self._warned = False
        if queries is not None and run.first_step == 0:
            self._measure(0)

    def after(self, step: int, batch: Batch) -> None:
        """To be called after each step, in every process; raises ClzooError of weights that are not finite."""
        run, recipe, done = self._run, self._run.recipe, step + 1
        if is_look_due(recipe, done):
            self._losses.check_weights(step, run.method)
            told = look(run.complete(), batch, run.images, recipe, self._steps, done)
            self._log.note(done, told)
            if not self._warned and (warning := warning_of(told, done)):
                self._warned = True
                log.warning(warning)
        if self._queries is not None and is_knn_due(recipe, self._steps, done):
            self._losses.check_weights(step, run.method)
            self._measure(done)

    def _measure(self, done: int) -> None:
        seen = self._run.complete()
        if rank() == 0 and self._queries is not None:
            self._log.note(done, {"knn": online_knn(seen, self._run.recipe, self._run.images, self._queries)})


def is_look_due(recipe: Recipe, done: int) -> bool:
    """Whether a run is looked at after so many steps: every `monitor.every_steps`, and a few times early."""
    every = recipe.monitor.every_steps
    return every > 0 and (done in EARLY or done % every == 0)


def look(method: Any, batch: Batch, images: TrainingSet, recipe: Recipe, steps: Steps, done: int) -> dict[str, float]:
    """The monitors and diagnostics of a step; they leave no trace in the method."""
    queue = getattr(method, "queue", None)
    labels = None
    if queue is not None:
        labels = labels_of_queue(images, recipe, steps, done, queue.pointer, len(queue.entries))
    regular = monitor(method, batch.views) if done % recipe.monitor.every_steps == 0 else {}
    return {**regular, **diagnose(method, batch, labels)}


def is_knn_due(recipe: Recipe, steps: Steps, done: int) -> bool:
    """Whether k-NN is measured after so many steps: before the first, every few epochs, after the last."""
    every = recipe.monitor.knn_every_epochs
    return every > 0 and (done % (every * steps.per_epoch) == 0 or done == steps.total)


def knn_queries(data: str | Path, recipe: Recipe, train: TrainingSet) -> TrainingSet | None:
    """The test split for the online k-NN, with the classes of the images that are trained on; None if it is off.

    Raises:
        ClzooError: no labels, or no test split.
    """
    if not recipe.monitor.knn_every_epochs:
        return None
    who = f"monitor.knn_every_epochs={recipe.monitor.knn_every_epochs}"
    train.require_labels(who)
    try:
        test = open_training_set(recipe.data.name, data, recipe.data.size, split="test")
        test.require_labels(who)
        return with_classes_of(train, test)
    except ClzooError as error:
        raise ClzooError(f"{who} needs a test split. {error} Without one: --set monitor.knn_every_epochs=0") from error


def online_knn(method: Any, recipe: Recipe, train: TrainingSet, test: TrainingSet) -> float:
    """k-NN accuracy of the backbone as it is, in percent; leaves no trace in the method."""
    was_training = method.training
    accuracy = model_knn(encoder_of(method, recipe, "online", str(next(method.parameters()).device)), train, test)
    method.train(was_training)
    return accuracy


def model_knn(encoder: Encoder, train: TrainingSet, test: TrainingSet) -> float:
    """k-NN accuracy (percent) of an encoder's features under knn:v1: bank `train`, queries `test`."""
    bank, queries = (_features(encoder, images) for images in (train, test))
    labels, truth = (labels.to(bank.device) for labels in knn_labels(train, test))
    return knn_accuracy(bank, labels, queries, truth)


def _features(encoder: Encoder, images: TrainingSet) -> torch.Tensor:
    """float32 (N, dim), computed in float32 as an evaluation does, not normalised."""
    batches = pixel_batches(images, encoder.config.preprocessing)
    return torch.cat([encoder.encode(torch.from_numpy(batch), dtype="fp32") for batch in batches])


def knn_labels(train: TrainingSet, test: TrainingSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels of the bank (N,) and of the queries (Q,), both counted in the classes of `train`.

    Raises:
        ClzooError: no labels, or the two have different classes.
    """
    labels = train.require_labels("k-NN")
    test.require_labels("k-NN")
    truth = with_classes_of(train, test).labels
    assert truth is not None  # as required above
    return torch.from_numpy(labels), torch.from_numpy(truth)
