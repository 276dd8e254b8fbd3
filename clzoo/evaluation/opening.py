"""Which images an evaluation takes, and what they are called."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from clzoo.config import HUB_PREFIX
from clzoo.data.classes import with_classes_of
from clzoo.data.collection import Collection
from clzoo.data.drawn import drawn_splits
from clzoo.data.known_sets import claimed, recognised
from clzoo.data.opening import is_whole, open_labelled, open_split, selected
from clzoo.data.splits import KIND
from clzoo.errors import ClzooError

log = logging.getLogger("clzoo")

DataSource = str | Path | Mapping[str, str | Path]
"""A source with a train and a test split, or {"train": SOURCE, "test": SOURCE}."""


def open_splits(data: DataSource) -> tuple[Collection, Collection]:
    """The train and the test split, the labels of both counted in the classes of train.

    Raises:
        ClzooError: a split is missing, has no labels, or the two have other classes.
    """
    if isinstance(data, Mapping):
        if set(data) != {"train", "test"}:
            raise ClzooError(f"data must name train and test, found {', '.join(data) or 'nothing'}.")
        train, test = open_labelled(data["train"], "train"), open_labelled(data["test"], "test")
    elif "split" in selected(data)[1]:
        raise ClzooError(f"{data} is one split. Name both: --data train={data},test=SRC")
    else:
        train, test = open_split(data, "train"), open_split(data, "test")
    return train, with_classes_of(train, test)


def splits_to_judge(data: DataSource, *, cache_dir: str | Path | None = None) -> tuple[Collection, Collection]:
    """`open_splits`; of a source without splits a test split is drawn.

    Raises:
        ClzooError: what `open_splits` raises, or none can be drawn.
    """
    if isinstance(data, Mapping) or not is_whole(data):
        return open_splits(data)
    whole = open_split(data, "train")
    if odd := [name for name in whole.classes if name.lower() in KIND]:
        raise ClzooError(
            f"{whole.origin} has no splits, and its class {odd[0]} is called like one, so no test split is drawn from "
            "it. Name both: --data train=DIR,test=DIR; or give that class another name."
        )
    train, test = drawn_splits(whole, cache_dir=cache_dir)
    log.info(
        "%s has no test split: %d of its images are drawn to be tested on, %d are left (%s)",
        train.origin, len(test.images), len(train.images), test.drawn,
    )  # fmt: skip
    return train, test


def title_of(data: DataSource) -> str:
    """What to call data that were not given a title: the name of their folder."""
    source = str(data["train"] if isinstance(data, Mapping) else data)
    if source.startswith(HUB_PREFIX):
        return source.removeprefix(HUB_PREFIX)
    path = Path(source).resolve()
    return path.parent.name if path.name == "train" else path.name


def checked_title(title: str | None, data: DataSource, train: Collection, test: Collection) -> str:
    """The title, or the name of the folder; a title that claims a published data set must be that of these images."""
    claim = claimed(title) if title is not None else None
    counts = {"train": len(train.images), "test": len(test.images)}
    if claim is not None and recognised(train.classes, counts) is not claim:
        raise ClzooError(
            f"--title {title!r} is the name of a data set of {claim.images['train']:,} and {claim.images['test']:,} "
            f"images; these are {counts['train']:,} and {counts['test']:,} images in {len(train.classes)} classes, or "
            f"classes of other names. Leave out --title, or say what it is: --title {title_of(data)!r}"
        )
    return title or title_of(data)
