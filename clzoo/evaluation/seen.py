"""What a model saw in pretraining of the images that it is to be judged on."""

from __future__ import annotations

import logging

import numpy as np

from clzoo.data.classes import places_by_name
from clzoo.data.collection import ChosenImages, Collection
from clzoo.data.imbalance import class_sizes
from clzoo.data.parts import parts_of
from clzoo.errors import ClzooError
from clzoo.evaluation.features import Features
from clzoo.evaluation.subject import Subject
from clzoo.pretrain.recipe import Recipe

log = logging.getLogger("clzoo")


def saw_in_pretraining(subject: Subject, train: Collection, test: Collection) -> bool:
    """Whether train and test, drawn from one source, are what a model was pretrained on, images without their labels.

    A part of them counts too, if the recipe leaves out what judges (`data.held_out`): which part is no split of these.
    They are if there are as many images in classes of the same names (a run keeps no more than that and a hash of its
    pixels). A warning says so, and also where it cannot be told of a model that learned from labels.

    Raises:
        ClzooError: they are, and it learned from their labels: its accuracy on them would say nothing.
    """
    if subject.recipe is None:
        return False
    named = "--data train=DIR,test=DIR"
    place = None if subject.classes is None else places_by_name(train.classes, subject.classes)
    if place is None or subject.images is None:
        if subject.learned_labels and (subject.classes is None or place is not None):
            _warn_of_labels(subject, named)
        return False
    assert train.labels is not None
    assert test.labels is not None
    counts = np.zeros(len(place), np.int64)  # in the order of the classes that pretraining knew, as subsets count
    counts[place] = np.bincount(np.concatenate([train.labels, test.labels]), minlength=len(place))
    if _count(counts, subject.recipe, test) not in (subject.images, subject.images + subject.skipped):
        if subject.learned_labels:
            _warn_of_labels(subject, named)
        return False
    if subject.learned_labels:
        raise ClzooError(
            f"{subject.title} was pretrained on the {subject.images:,} images of {test.origin} with their labels, so "
            f"none of them can be drawn as a test split. Name images that it has not seen: {named}"
        )
    log.warning(
        "%s was pretrained, without labels, on the images of %s: those that are drawn to be tested on are among them. "
        "For others: %s", subject.title, test.origin, named,
    )  # fmt: skip
    return True


def _warn_of_labels(subject: Subject, named: str) -> None:
    what = "labels that it does not name" if subject.classes is None else "labels of classes that are called like these"
    log.warning(
        "%s learned from %s; if it was from these images, the accuracy says nothing. Name images that it has not seen: "
        "%s", subject.title, what, named,
    )  # fmt: skip


def _count(counts: np.ndarray, recipe: Recipe, test: Collection) -> int:
    """How many of so many images (C,) of each class a run takes, of the source that `test` is drawn from."""
    if recipe.data.held_out and isinstance(test.images, ChosenImages):
        return len(parts_of(test.images.images).train)
    subset = recipe.data.subset
    return int(counts.sum()) if subset is None else sum(class_sizes(counts.tolist(), subset))


def pretrained_subset(subject: Subject, train: Features) -> tuple[str, np.ndarray] | None:
    """The subset that the encoder was pretrained on, and how many images of each class it kept."""
    recipe = subject.recipe
    if recipe is None or recipe.data.subset is None:
        return None
    classes = train.classes
    pretrained = subject.classes or classes  # a subset thins them in the order that pretraining knew
    place = places_by_name(classes, pretrained)
    if place is None:
        log.warning(
            "%s was pretrained on other classes than those of %s, so classes are not grouped by pretraining frequency",
            subject.title, train.origin,
        )  # fmt: skip
        return None
    counts = np.zeros(len(classes), np.int64)
    counts[place] = np.bincount(train.labels.numpy(), minlength=len(classes))
    kept = np.array(class_sizes(counts.tolist(), recipe.data.subset))[place]
    if subject.images is not None and subject.images != kept.sum():
        log.warning(
            "%s was pretrained on %d images; %s of %s would be %d, so classes are not grouped by pretraining frequency",
            subject.title, subject.images, recipe.data.subset, train.origin, kept.sum(),
        )  # fmt: skip
        return None
    return recipe.data.subset, kept
