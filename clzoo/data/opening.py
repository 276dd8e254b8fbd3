"""From what a user names to a collection of images: which kind of source it is, and which splits it has."""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial
from pathlib import Path

from clzoo.config import HUB_PREFIX
from clzoo.data.collection import Collection, FileImages
from clzoo.data.folders import open_folder
from clzoo.data.hub_sets import hub_splits, open_hub_set
from clzoo.data.packed import find_packs, open_pack
from clzoo.data.sources import in_words, taken
from clzoo.data.splits import KIND, first_labelled, shard_word, splits_of_folder
from clzoo.data.torchvision_sets import FOLDERS, open_torchvision_set
from clzoo.errors import ClzooError

log = logging.getLogger("clzoo")


def open_source(source: str | Path, split: str, *, name: str | None = None, download: bool = False) -> Collection:
    """One split of a source of any kind; nothing is decoded yet.

    Args:
        source: hf-hub:ORG/NAME; or a folder that holds, in this order of preference, a pack, the files of torchvision's
            `name`, or images or tar shards; or one .tar file.
        split: "pretrain", "train" or "test"; the first two differ where a data set has images for pretraining alone.
        name: the recipe's data set, such as "cifar10".
        download: fetch a torchvision data set into the folder if it is missing.

    Raises:
        ClzooError: nothing there, not this split, or damaged; with what was expected.
    """
    opened = _open(source, split, name, download)
    log.info("%s: %s", opened.origin, _taken(opened))
    return opened


def _open(source: str | Path, split: str, name: str | None, download: bool) -> Collection:
    part = "train" if split == "pretrain" else split
    if str(source).startswith(HUB_PREFIX):
        return open_hub_set(str(source), part)
    folder = Path(source)
    if packs := find_packs(folder, part):
        return first_labelled([partial(open_pack, pack) for pack in packs])
    known = _torchvision_set_in(folder, name)
    if known is None and name in FOLDERS and (download or not folder.is_dir() or not any(folder.iterdir())):
        known = name  # nothing else is there either: say how to get it, or get it
    if known is not None:
        return open_torchvision_set(known, folder, split, download=download)
    return open_folder(folder, part)


def open_split(source: str | Path, split: str) -> Collection:
    """ "train" or "test" of a source that holds both, with labels.

    Raises:
        ClzooError: nothing there, not this split, or no labels.
    """
    collection = open_source(source, split)
    if collection.labels is None:
        raise ClzooError(f"{collection.origin} has no labels. {collection.unlabelled}")
    return collection


def open_labelled(source: str | Path, split: str) -> Collection:
    """The same where the user named the split's source: of one without any splits, the whole.

    So both `data`, which holds `train` and `test`, and `data/test` name a test split.
    """
    folder = Path(source)
    is_folder = not str(source).startswith(HUB_PREFIX) and not find_packs(folder, split)
    if folder.is_file():
        word = shard_word(f"{folder.name}/")
        split = "train" if word is None else KIND[word]
    elif is_folder and _torchvision_set_in(folder, None) is None and not splits_of_folder(folder):
        split = "train"  # how `open_source` calls the whole
    return open_split(source, split)


def has_test_split(source: str | Path) -> bool:
    """Whether a source holds a test split, with labels or without."""
    if str(source).startswith(HUB_PREFIX):
        return "test" in hub_splits(str(source))
    folder = Path(source)
    return (
        bool(find_packs(folder, "test"))
        or _torchvision_set_in(folder, None) is not None
        or "test" in splits_of_folder(folder)
    )


def splits_of(source: str | Path) -> list[str]:
    """The splits of a source that is to be packed, "train" and "test"; empty where it is one whole.

    Raises:
        ClzooError: it is packed already, or a data set of arrays so small that packing gains nothing.
    """
    if str(source).startswith(HUB_PREFIX):
        return hub_splits(str(source))
    folder = Path(source)
    if find_packs(folder, "train") or find_packs(folder, "test"):
        raise ClzooError(f"{source} is a pack already. Type: clzoo pretrain R --data {source}")
    if (known := _torchvision_set_in(folder, None)) is not None:
        raise ClzooError(
            f"{source} holds {known}, which is small arrays already. Type: clzoo pretrain R --data {source}"
        )
    return splits_of_folder(folder)


def _taken(opened: Collection) -> str:
    """What was taken and what was passed over, by kind."""
    of_classes = "without labels" if opened.labels is None else f"of {len(opened.classes)} classes"
    if isinstance(opened.images, FileImages):
        found = taken(opened.images.items, opened.passed_over, len(opened.failures))
    else:
        found = f"passed over {in_words(Counter(opened.passed_over))}"
    return f"{len(opened.images):,} images {of_classes}; {found}"


def _torchvision_set_in(folder: Path, name: str | None) -> str | None:
    """`name` if its files are in the folder, or without a name any data set whose files are."""
    return next(
        (known for known, files in FOLDERS.items() if name in (None, known) and (folder / files).is_dir()), None
    )
