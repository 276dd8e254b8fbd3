"""From what a user names to a collection of images: which kind of source it is, and which splits it has."""

from __future__ import annotations

import io
import logging
from collections import Counter
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clzoo.config import HUB_PREFIX
from clzoo.data.arrays import list_arrays
from clzoo.data.collection import Collection, FileImages
from clzoo.data.folders import (
    is_zip,
    open_folder,
    open_list,
    open_listed,
    splits_of_archive,
    splits_of_list,
    splits_of_listing,
    unwrapped,
)
from clzoo.data.held import list_held
from clzoo.data.hub_sets import hub_splits, list_hub, open_hub_set
from clzoo.data.known_sets import claimed
from clzoo.data.listing import CONTAINERS, Item, Listing, in_words, is_hidden, taken
from clzoo.data.lists import TABLES
from clzoo.data.packed import find_packs, open_pack
from clzoo.data.remote import has_list_suffix, list_remote, read_remote
from clzoo.data.sources import is_list, list_images, read_image
from clzoo.data.splits import KIND, first_labelled, listed_splits, shard_word, splits_of_folder
from clzoo.data.storage import is_remote
from clzoo.data.torchvision_sets import FOLDERS, open_torchvision_set
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.images import SUFFIXES
from clzoo.wording import clzoo_command

log = logging.getLogger("clzoo")


def open_source(
    source: Any, split: str | None = None, *, name: str | None = None, download: bool = False
) -> Collection:
    """A source of any kind, as a whole or one split of it; nothing is decoded yet. The one door of all commands.

    Args:
        source: a folder of images or shards (tar, zip, Parquet), or one such file; a list of paths; a folder that holds
            a pack or the files of torchvision's `name`; hf-hub:ORG/NAME; or a URL of any of the files. Its end may
            choose: `#column=NAME` of a table, `#split=NAME` of a Hub data set. As a whole also what a program holds
            (`clzoo.data.held`).
        split: "pretrain", "train" or "test"; the first two differ where a data set has images for pretraining alone.
            None: every image there is, by its own path, with a listing; what is embedded.
        name: the recipe's data set, such as "cifar10".
        download: fetch a torchvision data set into the folder if it is missing.

    Raises:
        ClzooError: nothing there, not this split, or damaged; with what was expected.
    """
    if split is None:
        opened = _whole(source) if isinstance(source, str | Path) else _held(source)
        found = taken(opened.listing.items, opened.passed_over, len(opened.failures)) if opened.listing else ""
        log.info("%s: %s", opened.origin, found)
        return opened
    opened = _open(source, split, name, download)
    log.info("%s: %s", opened.origin, _taken(opened))
    return opened


def selected(source: str | Path) -> tuple[str | Path, dict[str, str]]:
    """A source, and what its end chooses of it: `SOURCE#split=NAME&column=NAME`. Of a Path nothing is chosen.

    Raises:
        ClzooError: another key.
    """
    if not isinstance(source, str) or "#" not in source or (not is_remote(source) and Path(source).exists()):
        return source, {}
    base, _, end = source.rpartition("#")
    chosen = dict(part.partition("=")[::2] for part in end.split("&"))
    if unknown := [part for part in end.split("&") if part.partition("=")[0] not in ("split", "column")]:
        raise ClzooError(f"{source}: {unknown[0]} chooses nothing; expected {base}#split=NAME or {base}#column=NAME.")
    if "split" in chosen and not is_hub(base):
        raise ClzooError(f"{source}: a split is chosen of Hub data sets alone. Name its folder or file: {base}/NAME")
    return base, chosen


def place_of(source: str | Path) -> str | Path:
    """Where a recorded source lies: what its end chooses is left out, unless it is of the folder's own name."""
    try:
        return selected(source)[0]
    except ClzooError:  # of a folder with # in its name that is there no more
        return source


def _held(source: Any) -> Collection:
    listing, called = list_held(source)
    return _listed(listing, f"{called} ({len(listing.items)} images)", str(listing.root))


def _whole(source: str | Path) -> Collection:
    base, chosen = selected(source)
    column = chosen.get("column")
    if is_hub(base):
        listing, root = list_hub(str(base), chosen.get("split"), column)
        return _listed(listing, str(source), root)
    if isinstance(base, str) and is_remote(base):
        origin = base.rstrip("/") if not base.endswith("://") else base
        listing = list_remote(base, column=column)
        folder, _, name = origin.rpartition("/")
        paths = [item.path for item in listing.items[:1]] + [failure.path for failure in listing.failures[:1]]
        is_list = has_list_suffix(name) and not any(path.startswith(f"{name}/") or path == name for path in paths)
        return _listed(listing, f"{origin}{str(source)[len(base) :]}", folder if is_list else origin)
    try:
        listing = list_images(base, column=column)
    except ClzooError:
        arrays = list_arrays(Path(base)) if Path(base).is_dir() else None
        if arrays is None:
            raise
        listing = arrays
    # The paths of a list start from the folder of its name, wherever that leads as a link.
    place = Path(base).parent.resolve() / Path(base).name if Path(base).is_file() else Path(base).resolve()
    return _listed(listing, f"{place}{str(source)[len(str(base)) :]}", str(listing.root))


def read_stored(root: str, path: str, origin: str = "") -> bytes:
    """As `stored_content`; pixels of an array as PNG."""
    return _encoded(stored_content(root, path, origin))


def stored_content(root: str, path: str, origin: str = "") -> bytes | np.ndarray:
    """The encoded image at an item's path below the root of a whole source; of an array its pixels.

    Args:
        origin: of the source, whose end may have chosen the column of the images.

    Raises:
        UnreadableImageError: it is not there (any more); the message is the reason alone.
    """
    column = column_of(origin, path)
    if is_remote(root) or is_remote(path):
        return read_remote(root, path, column)
    try:
        return read_image(Path(root), path, column)
    except UnreadableImageError:
        row = _arrays_at(root).get(path)
        if row is None:
            raise
        content: bytes | np.ndarray = row.read()
        return content


def encoded_image(item: Item) -> bytes:
    """An item's encoded image; pixels of an array as PNG.

    Raises:
        UnreadableImageError: it is not there (any more); the reason alone.
    """
    return _encoded(item.read())


def _encoded(content: bytes | np.ndarray) -> bytes:
    if isinstance(content, bytes):
        return content
    png = io.BytesIO()
    Image.fromarray(content).save(png, "PNG")
    return png.getvalue()


def column_of(origin: str, path: str) -> str | None:
    """The column that holds the image at an item's path, where the end of the source's origin chose one."""
    base, _, end = origin.rpartition("#")
    chosen = dict(part.partition("=")[::2] for part in end.split("&"))
    if chosen.keys() - {"split", "column"}:  # the # is part of a name
        return None
    is_list = base.lower().endswith(TABLES) and not path.startswith(f"{Path(base).name}/")
    return None if is_list else chosen.get("column")  # of a list it is the column of the paths


@lru_cache(maxsize=1)
def _arrays_at(root: str) -> dict[str, Item]:
    listing = list_arrays(Path(root))
    return {} if listing is None else {item.path: item for item in listing.items}


def _listed(listing: Listing, origin: str, root: str) -> Collection:
    return Collection(
        origin,
        FileImages(listing.items),
        failures=tuple(f"{failure.path}: {failure.reason}" for failure in listing.failures),
        passed_over=listing.ignored,
        listing=listing,
        root=root,
    )


def _open(source: str | Path, split: str, name: str | None, download: bool) -> Collection:
    part = "train" if split == "pretrain" else split
    base, chosen = selected(source)
    if is_hub(base):
        return open_hub_set(str(base), part, chosen.get("split"), chosen.get("column"))
    if isinstance(base, str) and is_remote(base):
        return open_listed(_of_url(base, chosen.get("column")), base, part)
    folder = Path(base)
    if chosen:
        opens = open_list if is_list(folder) else open_listed
        return opens(list_images(folder, column=chosen["column"]), str(folder), part)
    if packs := find_packs(folder, part):
        return first_labelled([partial(open_pack, pack) for pack in packs])
    known = _torchvision_set_in(folder, name)
    is_empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if known is None and name in FOLDERS and (download or is_empty):
        known = name  # nothing else is there either: say how to get it, or get it
    if known is not None:
        return open_torchvision_set(known, folder, split, download=download)
    return open_folder(folder, part)


def _of_url(url: str, column: str | None = None) -> Listing:
    """What lies behind a URL; of one zip archive with splits, what lies in it."""
    listing, name = list_remote(url, column=column), url.rpartition("/")[2]
    inside = unwrapped(listing, name) if name.lower().endswith(".zip") else listing
    return inside if listed_splits(inside, url) else listing


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
    return open_split(source, _named_split(source, split))


def _named_split(source: str | Path, split: str) -> str:
    """How `open_source` calls the split that a source is named for: "train" of one without any, which is the whole."""
    if is_hub(source) or (not is_remote(source) and find_packs(Path(source), split)):
        return split
    if is_remote(source) or not Path(selected(source)[0]).is_file():
        is_set = not is_remote(source) and _torchvision_set_in(Path(source), None) is not None
        return split if is_set or _splits_in(source) else "train"
    if _splits_in(source):
        return split
    if is_list(Path(selected(source)[0])):
        return "train"
    word = shard_word(f"{Path(selected(source)[0]).name}/")
    return "train" if word is None else KIND[word]


def _splits_in(source: str | Path) -> list[str]:
    """Which of the splits "train" and "test" files have, by folders and names of shards; empty where they are one."""
    source, chosen = selected(source)
    if isinstance(source, str) and is_remote(source):
        return splits_of_listing(_of_url(source, chosen.get("column")), source)
    path = Path(source)
    if is_list(path):
        return splits_of_list(path, chosen.get("column"))
    return splits_of_archive(path) if is_zip(path) else splits_of_folder(path)


def is_hub(source: str | Path) -> bool:
    """Whether a source is a data set of the Hub, by its prefix."""
    return str(source).startswith(HUB_PREFIX)


def has_test_split(source: str | Path) -> bool:
    """Whether a source holds a test split beside its training split, with labels or without."""
    base, chosen = selected(source)
    if is_hub(base):
        return "split" not in chosen and "test" in hub_splits(str(base))
    if not is_remote(base) and (find_packs(Path(base), "test") or _torchvision_set_in(Path(base), None)):
        return True
    return "test" in _splits_in(source)


def is_whole(source: str | Path) -> bool:
    """Whether a source has no splits: a folder of classes, a pack or archive of it, a list, one chosen split.

    A Hub data set of the one split "train" is whole too: that is how the Hub calls what has no splits.
    """
    base, chosen = selected(source)
    if is_hub(base):
        return "split" in chosen or hub_splits(str(base)) == ["train"]
    if is_remote(base):
        return not _splits_in(source)
    folder = Path(base)
    if is_list(folder):
        return not _splits_in(source)
    if folder.is_file():
        return _named_split(source, "test") == "train" and shard_word(f"{folder.name}/") is None
    if packs := [*find_packs(folder, "train"), *find_packs(folder, "test")]:
        return packs == [folder]
    return folder.is_dir() and _torchvision_set_in(folder, None) is None and not _splits_in(source)


def splits_of(source: str | Path) -> list[str]:
    """The splits of a source that is to be packed, "train" and "test"; empty where it is one whole.

    Raises:
        ClzooError: it is packed already, or a data set of arrays so small that packing gains nothing.
    """
    base, chosen = selected(source)
    if is_hub(base):
        return [] if "split" in chosen else hub_splits(str(base))
    if is_remote(base):
        return _splits_in(source)
    folder = Path(base)
    train = clzoo_command("pretrain", "RECIPE", "--data", source)
    if find_packs(folder, "train") or find_packs(folder, "test"):
        raise ClzooError(f"{source} is a pack already. Type: {train}")
    if (known := _torchvision_set_in(folder, None)) is not None:
        raise ClzooError(f"{source} holds {known}, which is small arrays already. Type: {train}")
    return _splits_in(source)


def _taken(opened: Collection) -> str:
    """What was taken and what was passed over, by kind."""
    of_classes = "without labels" if opened.labels is None else f"of {len(opened.classes)} classes"
    if isinstance(opened.images, FileImages):
        found = taken(opened.images.items, opened.passed_over, len(opened.failures))
    else:
        found = f"passed over {in_words(Counter(opened.passed_over))}"
    return f"{len(opened.images):,} images {of_classes}; {found}"


def _torchvision_set_in(folder: Path, name: str | None) -> str | None:
    """`name` if its files are in the folder, or without a name any data set whose files are.

    By a name that no published set has, too, where nothing else is in the folder.
    """
    is_own = name is not None and claimed(name) is None and name != "in100"
    wanted = [name] if name in FOLDERS else list(FOLDERS) if name is None or (is_own and _holds_sets(folder)) else []
    return next((known for known in wanted if (folder / FOLDERS[known]).is_dir()), None)


def _holds_sets(folder: Path) -> bool:
    """Whether a folder holds nothing but torchvision's sets, and the archives that they came in."""
    if not folder.is_dir():
        return False
    visible = [path for path in folder.iterdir() if not is_hidden(path.name)]
    folders = {path.name for path in visible if path.is_dir()}
    return folders <= set(FOLDERS.values()) and not any(
        path.suffix.lower() in (*CONTAINERS, *SUFFIXES) for path in visible if path.name not in folders
    )
