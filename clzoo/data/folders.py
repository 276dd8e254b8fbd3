"""Files as collections: one split of a folder, of shards or of a URL, and what the labels are."""

from __future__ import annotations

import dataclasses
import logging
import os
import shlex
from functools import partial
from pathlib import Path

import numpy as np

from clzoo.data.collection import EXPECTED_LABELS, Collection, FileImages
from clzoo.data.listing import CONTAINERS, Listing, is_hidden, is_made, label_of_item, printable
from clzoo.data.samples import numbered_labels, one_image_each
from clzoo.data.sources import is_list, list_images
from clzoo.data.splits import (
    KIND,
    SPLITS,
    are_splits,
    first_labelled,
    listed_splits,
    shard_word,
    split_folders,
    words_of_split,
)
from clzoo.data.storage import join
from clzoo.errors import ClzooError

log = logging.getLogger("clzoo")

_RUNS = "runs"  # where clzoo pretrain writes unless it is told otherwise
_NO_CLASSES = frozenset({"images", "image", "imgs", "img", "jpegimages", "jpegs"})  # names of the one folder of a split


def open_folder(source: Path, split: str) -> Collection:
    """The images of one split of a folder, of shards, or of a list of paths; sorted by path.

    The split is a sub-folder (`train`; `test`, `val`, `validation` or `valid`), or the shards with such a word in their
    names (see clzoo.data.splits); of several the first that has labels. A source without any split is the training
    split as a whole. Of samples with several images in shards one is taken (see clzoo.data.samples).

    Labels are, in this order: the class numbers of `key.cls` beside `key.jpg` in a shard (webdataset's layout); else
    the first sub-folder of every image; else there are none.

    Raises:
        ClzooError: no such source or split, two readings of which none is right for sure, no images, or damaged class
            numbers.
    """
    if not source.exists():
        raise ClzooError(
            f"{source} is not a folder or file. Expected {source}/<class>/<image>.jpg, tar shards, or what clzoo pack "
            "made. Name the folder or file that holds the images."
        )
    folders = split_folders(source)
    if split in folders:
        return first_labelled([partial(_open_listed, folder) for folder in folders[split]])
    if folders:
        raise _no_such_split(str(source), split, [folder.name for of_split in folders.values() for folder in of_split])
    listing = list_images(source)
    if is_zip(source):
        inside = unwrapped(listing, source.name)
        if listed_splits(inside, str(source)):
            return open_listed(inside, str(source), split)
        words_of_split([item.path for item in listing.items], str(source), split)  # raises if it is of another
        return _collection(inside, str(source))
    if is_list(source):
        return open_list(listing, str(source), split)
    return _by_words(listing, str(source), split, source.is_file())


def open_list(listing: Listing, source: str, split: str) -> Collection:
    """One split of a list of paths: as of a folder where they lie in those of both splits; else it is one whole."""
    if _lists_splits(listing, source):
        return open_listed(listing, source, split)
    return _by_words(listing, source, split, True)


def open_listed(listing: Listing, origin: str, split: str) -> Collection:
    """The same of what was listed already: below a URL, in a zip archive; `origin` is what was listed."""
    folders = listed_splits(listing, origin)
    if split in folders:
        below = [(listing.below(name), join(origin, name)) for name in folders[split]]
        return first_labelled([partial(_collection, part, place) for part, place in below])
    if folders:
        raise _no_such_split(origin, split, [name for names in folders.values() for name in names])
    return _by_words(listing, origin, split, False)


def splits_of_listing(listing: Listing, source: str) -> list[str]:
    """Which of the splits "train" and "test" a listing has, as folders or shards; empty where it has none."""
    kinds = set(listed_splits(listing, source))
    if not kinds:
        kinds = {KIND[word] for item in listing.items if (word := shard_word(item.path)) is not None}
    return [split for split in SPLITS if split in kinds]


def is_zip(source: str | Path) -> bool:
    """Whether a source is one zip archive, which has splits inside like a folder."""
    return Path(source).suffix.lower() == ".zip" and Path(source).is_file()


def splits_of_archive(source: Path) -> list[str]:
    """Which of the splits "train" and "test" a zip archive has, as folders in it."""
    return splits_of_listing(unwrapped(list_images(source), source.name), str(source))


def splits_of_list(source: Path, column: str | None = None) -> list[str]:
    """The splits "train" and "test" where the paths of a list lie in folders of both; else it is one whole."""
    return list(SPLITS) if _lists_splits(list_images(source, column=column), str(source)) else []


def _lists_splits(listing: Listing, source: str) -> bool:
    tops = (item.path.partition("/")[0] for item in listing.items)
    return are_splits(tops) and len(listed_splits(listing, source)) == len(SPLITS)


def _no_such_split(source: str, split: str, found: list[str]) -> ClzooError:
    return ClzooError(
        f"{source} has the split {', '.join(found)}, but not {split}; "
        f"expected {' or '.join(join(source, name) for name in SPLITS[split])}."
    )


def unwrapped(listing: Listing, name: str) -> Listing:
    """The members of one archive by their paths inside; without the one folder that a packed folder puts around."""
    inside = listing.below(name)
    while len(tops := {item.path.partition("/")[0] for item in inside.items}) == 1:
        (top,) = tops
        if not all(item.path.count("/") >= 2 for item in inside.items):
            break
        inside = inside.below(top)
    return inside if inside.items else listing


def _by_words(listing: Listing, source: str, split: str, is_file: bool) -> Collection:
    """The shards of a split by the words in their names; a source without such words is a training split."""
    words = words_of_split([item.path for item in listing.items], source, split) if listing.items else []
    if not words:
        return _collection(listing, source)
    return first_labelled([partial(_of_word, listing, source, word, is_file) for word in words])


def _open_listed(folder: Path) -> Collection:
    return _collection(list_images(folder), str(folder))


def _of_word(listing: Listing, source: str, word: str, is_file: bool) -> Collection:
    """Only the shards with the word in their names (`in1k-train-0001.tar`)."""
    mine = np.array([shard_word(item.path) == word for item in listing.items])
    ignored = listing.ignored.copy()
    ignored["images of other shards"] += int((~mine).sum())
    chosen = dataclasses.replace(
        listing,
        items=[item for item, is_mine in zip(listing.items, mine, strict=True) if is_mine],
        ids=listing.ids[mine],
        class_files=[item for item in listing.class_files if shard_word(item.path) == word],
        failures=[failure for failure in listing.failures if _word_of_failure(failure.path) in (word, None)],
        ignored=+ignored,
    )
    whole = all(mine) or is_file
    return _collection(chosen, source if whole else f"{source} (shards of {word})")


def _word_of_failure(path: str) -> str | None:
    is_member = any(f"{suffix}/" in path.lower() for suffix in CONTAINERS)
    return shard_word(path if is_member else f"{path}/")


def _collection(listing: Listing, origin: str) -> Collection:
    failures = tuple(f"{failure.path}: {failure.reason}" for failure in listing.failures)
    for failure in failures:
        log.warning("skipped %s", failure)
    if not listing.items:
        raise ClzooError(f"{origin} holds no readable image: {len(failures)} failed, the first is {failures[0]}")
    listing = one_image_each(listing)
    labels, classes, why = numbered_labels(listing) if listing.class_files else _by_folder(listing)
    passed_over = listing.ignored.copy()
    if labels is not None and listing.class_files:
        del passed_over[".cls"]  # they were taken, for the labels
    elif labels is None and why:
        log.warning("no labels: %s", why)
    images = FileImages(listing.items)
    unlabelled = f"{why} {EXPECTED_LABELS}".lstrip()
    return Collection(origin, images, labels, classes, failures, unlabelled=unlabelled, passed_over=dict(passed_over))


def _by_folder(listing: Listing) -> tuple[np.ndarray | None, tuple[str, ...], str]:
    """Labels by a table or the first sub-folder, classes sorted by name; an empty class folder keeps its number."""
    names = [label_of_item(item) for item in listing.items]
    if all(name is None for name in names):
        return None, (), ""
    if None in names:
        first = listing.items[names.index(None)].path
        count = names.count(None)
        place = first if listing.is_remote else listing.root / first
        outside = f"{count} of {len(names)} images lie outside of class folders, the first is {place}."
        return None, (), outside
    used = {name for name in names if name is not None}
    is_table = all(item.label is not None for item in listing.items)
    is_shards = is_table or listing.is_remote or any(item.offset is not None for item in listing.items)
    classes = sorted(used | (_empty_classes(listing, used) if listing.is_folder and not is_shards else set()))
    if is_table:
        numbers = all(name.isdecimal() for name in used)
        classes = (
            list(listing.classes) if used <= set(listing.classes) else sorted(used, key=int) if numbers else classes
        )
    if len(classes) == 1 and classes[0].lower() in _NO_CLASSES and not is_shards:
        return None, (), _of_one_folder(listing, classes[0])
    if empty := [name for name in classes if name not in used]:
        log.warning("%d of %d class folders hold no images: %s", len(empty), len(classes), ", ".join(empty))
    number = {name: position for position, name in enumerate(classes)}
    return np.array([number[name] for name in names if name is not None], np.int64), tuple(classes), ""


def _empty_classes(listing: Listing, used: set[str]) -> set[str]:
    """The other sub-folders, but those in which clzoo wrote runs, stores or reports."""
    names = (path.name for path in listing.root.iterdir() if path.is_dir() and not is_hidden(path.name))
    others = {name for name in names if name not in used and printable(name) == name}  # of others no image is taken
    return {name for name in others if name != _RUNS and not _holds_made(listing.root / name)}


def _holds_made(folder: Path) -> bool:
    return any(is_made({*names, *files}) for _, names, files in os.walk(folder))


def _of_one_folder(listing: Listing, name: str) -> str:
    """Why one folder that is called `images` is no class, and how its annotations make classes of it."""
    root = listing.root
    reason = f"all images of {root} lie in the one folder {name!r}, which is taken for no class."
    annotations = next((path for path in sorted(root.glob("*.txt")) if "annotation" in path.name), None)
    if annotations is None:
        return reason
    with annotations.open(encoding="utf-8", errors="replace") as file:
        words = file.readline().split()
    if len(words) < 2 or not (root / name / words[0]).is_file():
        return f"{reason} Sort them into class folders by {annotations}."
    return (
        f"{reason} Sort them into class folders: (cd {shlex.quote(str(root))} && while read -r f c rest; do "
        f'mkdir -p "$c" && mv {name}/"$f" "$c"/; done < {shlex.quote(annotations.name)} && rmdir {name})'
    )
