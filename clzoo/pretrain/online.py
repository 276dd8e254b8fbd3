"""What a run measures of itself while it trains: monitors, diagnostics, and k-NN on the test split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clzoo.data.classes import with_classes_of
from clzoo.data.training import TrainingSet, open_training_set
from clzoo.errors import ClzooError
from clzoo.methods import Batch
from clzoo.pretrain.diagnostics import EARLY, diagnose
from clzoo.pretrain.feed import Steps, labels_of_queue
from clzoo.pretrain.monitors import monitor
from clzoo.pretrain.recipe import Recipe


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
    from clzoo.evaluation.controls import model_knn
    from clzoo.pretrain.trained import encoder_of

    was_training = method.training
    accuracy = model_knn(encoder_of(method, recipe, "online", str(next(method.parameters()).device)), train, test)
    method.train(was_training)
    return accuracy
