"""Which parts of a source are its splits: by the names of folders and shards, unless what lies beside them says no.

`train` may be a split or a class of vehicles. A folder of such a name is read as a split if nothing but splits lies
beside it, or if it is laid out as one (`train/<class>/...` beside a test split). It is read as a class if it holds
images directly and other folders with images lie beside it. Anything else is an error that names both readings.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from clzoo.data.collection import Collection
from clzoo.data.listing import CONTAINERS, Listing, is_hidden, is_image, is_made
from clzoo.data.storage import is_remote, join
from clzoo.errors import ClzooError

log = logging.getLogger("clzoo")

SPLITS = {"train": ("train",), "test": ("test", "val", "validation", "valid")}
"""Names under which folders and shards keep a split, the preferred first."""

KIND = {name: split for split, names in SPLITS.items() for name in names}
"""Name -> "train" or "test"."""

_LIKE_SPLITS = frozenset(
    ("training", "testing", "trainval", "dev", "eval", "evaluation", "holdout", "extra", "unlabeled", "unlabelled")
)  # no class is called so
_SHARD = re.compile(r"(.*?)(\.tar|\.zip|\.parquet)/", re.IGNORECASE | re.DOTALL)
_DEPTH = 6  # folders below a candidate that are searched for a first image


def are_splits(names: Iterable[str]) -> bool:
    """Whether names of folders are all those of splits, and more than one; asks for no more at the first other name."""
    found = set()
    for name in map(str.lower, names):
        if name not in KIND and name not in _LIKE_SPLITS:
            return False
        found.add(name)
    return len(found) > 1


def split_folders(source: Path) -> dict[str, list[Path]]:
    """The sub-folders of `source` that are splits: "train" and "test", each with its folders, the preferred first.

    Empty where the source is one whole, such as a folder of classes.

    Raises:
        ClzooError: folders named for splits that may as well be classes; says what to type for either.
    """
    if not source.is_dir():
        return {}
    try:
        with os.scandir(source) as entries:  # a flat folder may hold millions of images: the disk is not asked for each
            visible = [(entry.name, _is_folder(entry)) for entry in entries if not is_hidden(entry.name)]
    except OSError as error:
        raise ClzooError(f"{source} cannot be read: {error.strerror or error}.") from error
    found = _splits_among(
        str(source),
        sorted(name for name, is_folder in visible if is_folder),
        sorted(name for name, is_folder in visible if not is_folder and (is_image(name) or _is_shard(name))),
        lambda name, direct: _first_image_below(source / name, direct=direct),
    )
    return {split: [source / name for name in names] for split, names in found.items()}


def listed_splits(listing: Listing, source: str) -> dict[str, list[str]]:
    """The same of what was listed, such as a URL or a zip archive: names of folders at its top. Raises as above."""
    paths = [item.path for item in listing.items]
    tops = {top for top, slash, _ in (path.partition("/") for path in paths) if slash and not _is_shard(top)}
    loose = sorted({top for top in (path.partition("/")[0] for path in paths) if top not in tops})

    def holds(folder: str, direct: bool) -> bool:
        below = (path[len(folder) + 1 :] for path in paths if path.startswith(f"{folder}/"))
        return any(direct or "/" in path for path in below)

    return _splits_among(source, sorted(tops), loose, holds)


def _splits_among(
    source: str, folders: list[str], loose: list[str], holds: Callable[[str, bool], bool]
) -> dict[str, list[str]]:
    """Names of the folders that are splits.

    Args:
        loose: names of images and shards beside the folders.
        holds: whether images or shards lie below a folder; without its second argument not right in it.
    """
    named = [name for name in folders if name.lower() in KIND]
    if not named:
        return {}
    beside = [name for name in folders if name not in named and holds(name, True)]
    if not _are_splits(source, named, beside, loose, lambda name: holds(name, False)):
        log.info("%s: %s is read as a class, no split: beside it lies %s", source, ", ".join(named), _some(beside))
        return {}
    if beside or loose:
        log.warning("%s: beside the splits %s is passed over", source, _some([*beside, *loose]))
    found: dict[str, list[str]] = {}
    for name in KIND:
        for folder in named:
            if folder.lower() == name:
                found.setdefault(KIND[name], []).append(folder)
    return found


def _are_splits(
    source: str, named: list[str], beside: list[str], loose: list[str], holds_class_folders: Callable[[str], bool]
) -> bool:
    """Whether folders named for splits are splits (else classes), by the folders and images beside them."""
    kinds = {KIND[name.lower()] for name in named}
    of_train = [name for name in named if KIND[name.lower()] == "train"] or named
    in_classes = all(map(holds_class_folders, of_train))
    odd = [name for name in beside if name.lower() not in _LIKE_SPLITS]
    if not beside and not loose:
        return True
    if in_classes and (len(kinds) == 2 or not odd):
        return True
    if beside and len(odd) == len(beside) and len(kinds) == 1 and not any(map(holds_class_folders, named)):
        return False
    first = join(source, named[0])
    raise ClzooError(
        f"{source} can be read in two ways: {', '.join(named)} as "
        f"{'splits' if len(named) > 1 else 'a split'}, without {_some([*beside, *loose])} beside; or as classes like "
        f"those. For a split name its folder: {first} (of evaluate: --data train=DIR,test=DIR). For classes rename it: "
        f"mv {first} {first}-class"
    )


# Shards ---------------------------------------------------------------------------------------------------------------


def shard_word(path: str) -> str | None:
    """The split that a shard's name states (`in1k-val-0001.tar`: val), of `shard.tar/` or of an item inside.

    Raises:
        ClzooError: it states two.
    """
    shard = _SHARD.match(path)
    words = re.split(r"[^a-z]+", shard[1].lower().rpartition("/")[2]) if shard else []
    found = [word for word in dict.fromkeys(words) if word in KIND]
    if shard and len({KIND[word] for word in found}) > 1:
        name = f"{shard[1]}{shard[2]}".rpartition("/")[2]
        raise ClzooError(
            f"{name} can be read in two ways: as a shard of {' or of '.join(found)}. Rename it, so that one of "
            "these words is left."
        )
    return found[0] if found else None


def words_of_split(paths: Iterable[str], source: str, split: str) -> list[str]:
    """The words, the preferred first, that name the shards of a split among `paths`; empty where they name none.

    Raises:
        ClzooError: no such split; or words that may be no splits, since other shards or images are without.
    """
    first: dict[str | None, str] = {}
    for path in paths:
        first.setdefault(shard_word(path), path)
    words = {word for word in first if word is not None}
    if not words and split == "train":
        return []
    kinds = {KIND[word] for word in words}
    if None in first and len(kinds) == 1:
        of_split, without = first[min(words)].split("/")[0], first[None].split("/")[0]
        raise ClzooError(
            f"{source} can be read in two ways: {of_split} as a shard of the split {min(words)}, without {without}; or "
            "as one of many, the word being no split. For the split put its shards into a folder "
            f"{join(source, SPLITS[min(kinds)][0])}; for the other rename them, so that the word {min(words)} is gone."
        )
    if split not in kinds:
        found = f"shards of {', '.join(sorted(words))}" if words else "no splits"
        here = None if is_remote(source) else Path(source)
        if here and (classes := [name for name in KIND if (here / name).is_dir()]):  # else it would have been opened
            found += f" ({', '.join(classes)} is a class among others; name the splits: --data train=DIR,test=DIR)"
        raise ClzooError(
            f"{source} has {found}; for the {split} split expected the folder "
            f"{' or '.join(join(source, name) for name in SPLITS[split])}, or shards with such a word in their names."
        )
    return [word for word in SPLITS[split] if word in words]


def splits_of_folder(source: Path) -> list[str]:
    """Which of the splits "train" and "test" a folder has, as sub-folders or shards; empty where it has none."""
    if not source.is_dir():
        return []
    kinds = set(split_folders(source))
    if not kinds:
        names = (path.name for path in source.rglob("*") if _is_shard(path.name) and not is_hidden(path.name))
        kinds = {KIND[word] for name in names if (word := shard_word(f"{name}/")) is not None}
    return [split for split in SPLITS if split in kinds]


# Choosing -------------------------------------------------------------------------------------------------------------


def first_labelled(candidates: Sequence[Callable[[], Collection]]) -> Collection:
    """The first of a split's candidates that has labels; without any the first, which tells what each lacks.

    So ImageNet's labelled `val` is taken where `test` has no labels.

    Raises:
        ClzooError: the first candidate's, if none can be opened.
    """
    if len(candidates) == 1:
        return candidates[0]()
    passed: list[str] = []
    unlabelled: list[Collection] = []
    errors: list[ClzooError] = []
    for candidate in candidates:
        try:
            opened = candidate()
        except ClzooError as error:
            errors.append(error)
            passed.append(str(error))
            continue
        if opened.labels is not None:
            if passed:
                log.warning("%s, which has labels, is taken for the split: %s", opened.origin, "; ".join(passed))
            return opened
        unlabelled.append(opened)
        passed.append(f"{opened.origin} has none")
    if not unlabelled:
        raise errors[0]
    rest = [f"{other.origin} has none either. {other.unlabelled}" for other in unlabelled[1:]]
    return replace(unlabelled[0], unlabelled=" ".join([unlabelled[0].unlabelled, *rest]))


# Looking into folders -------------------------------------------------------------------------------------------------


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself; listing names it
        return False


def _first_image_below(folder: Path, *, direct: bool) -> bool:
    """Whether there is an image or a shard; without `direct` images right in the folder do not count."""
    for place, names, files in os.walk(folder, followlinks=True):
        names[:] = sorted(name for name in names if not is_hidden(name))
        depth = len(Path(place).relative_to(folder).parts)
        if depth >= _DEPTH:
            names.clear()
        if is_made({*names, *files}):
            names.clear()
            continue
        visible = (name for name in files if not is_hidden(name))
        if any(_is_shard(name) or (is_image(name) and (direct or depth > 0)) for name in visible):
            return True
    return False


def _is_shard(name: str) -> bool:
    return name.lower().endswith(CONTAINERS)


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest
