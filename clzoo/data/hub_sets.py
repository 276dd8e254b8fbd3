"""Data sets of the Hugging Face Hub, or local ones in its layouts, through the package `datasets`."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clzoo.config import HUB_PREFIX
from clzoo.data.collection import Collection
from clzoo.data.content import Stamp, stamp_of
from clzoo.data.listing import Listing, shard_of
from clzoo.data.parquet import ALSO_LABELS, LABELS
from clzoo.data.remote import list_remote
from clzoo.data.sources import list_images
from clzoo.data.splits import SPLITS, first_labelled
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.images import decode_image

log = logging.getLogger("clzoo")

"""How a Hub data set is named: hf-hub:ORG/NAME."""

_CONVERTED = "refs%2Fconvert%2Fparquet"  # the branch in which the Hub keeps Parquet files that it makes of a data set
_PLAIN = re.compile(r"u?int\d+|bool|(large_)?string")  # types of values that are classes as they are


@dataclass(frozen=True)
class HubImages:
    """Encoded images in an Arrow table, decoded when they are asked for."""

    dataset: Any  # datasets.Dataset with the image column alone, not decoded
    column: str

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, row: int) -> str:
        return self._paths[row] or f"row {row}"

    def read(self, row: int) -> Image.Image:
        return decode_image(self.content(row))

    def content(self, row: int) -> bytes:
        value = self.dataset[row][self.column]
        if value is None:
            raise UnreadableImageError("the row has no image")
        if value["bytes"] is not None:
            return bytes(value["bytes"])
        try:
            return Path(value["path"]).read_bytes()
        except OSError as error:
            raise UnreadableImageError(error.strerror or str(error)) from error

    def stamp(self, row: int) -> Stamp | None:
        if not self._has_bytes[row]:
            return None if (path := self._paths[row]) is None else stamp_of(path)
        return None if self._tables is None else self._tables._replace(offset=row)

    @cached_property
    def _paths(self) -> list[str | None]:
        """From Arrow, which reads no image for it."""
        paths: list[str | None] = self._part("path").to_pylist()
        return paths

    @cached_property
    def _has_bytes(self) -> np.ndarray:
        has_bytes: np.ndarray = self._part("bytes").is_valid().to_numpy()
        return has_bytes

    def _part(self, name: str) -> Any:
        import pyarrow.compute as pc

        return pc.struct_field(self.dataset.data.column(self.column), name)

    @cached_property
    def _tables(self) -> Stamp | None:
        """One stamp for the Arrow files that the rows lie in, which stay mapped; None if they are in memory alone."""
        files = [table["filename"] for table in self.dataset.cache_files]
        stamps = [stamp for file in files if (stamp := stamp_of(file)) is not None]
        if not files or len(stamps) < len(files):
            return None
        joined = hashlib.sha256("".join(map(str, stamps)).encode()).digest()
        changed = max(stamp.mtime_ns for stamp in stamps), max(stamp.ctime_ns for stamp in stamps)
        size = sum(stamp.size for stamp in stamps)
        stamp = Stamp(stamps[0].file, 0, size, int.from_bytes(joined[:8], "big"), *changed)
        return stamp.of_column(self.column)


def hub_splits(name: str) -> list[str]:
    """Which of the splits "train" and "test" a data set has (see `open_hub_set`)."""
    present = _published_splits(name)
    return [split for split, names in SPLITS.items() if set(names) & set(present)]


def list_hub(name: str, split: str | None = None, column: str | None = None) -> tuple[Listing, str]:
    """Every image of a data set, streamed from its files on the Hub, and the URL (or folder) that they lie in.

    The files are the Parquet files of images in the repository; without any its images, shards and archives; without
    these the Parquet files that the Hub makes of it. The package `datasets` is not needed.

    Args:
        name: "hf-hub:ORG/NAME", or a local folder in place of ORG/NAME.
        split: only files with this word in their names or folders.
        column: of the images, where there are several.

    Raises:
        ClzooError: nothing there, no images, or none of this split.
    """
    where = name.removeprefix(HUB_PREFIX)
    if Path(where).is_dir():
        listing = list_images(where, column=column)
        return _of_split(listing, name, split), str(listing.root)
    if not re.fullmatch(r"[^/@#]+/[^/@#]+", where):
        raise ClzooError(f"{name} does not exist; expected {HUB_PREFIX}ORG/NAME, or a folder in place of ORG/NAME.")
    url = f"hf://datasets/{where}"
    attempts = [(url, ".parquet"), (url, ""), (f"{url}@{_CONVERTED}", ".parquet")]
    problem: ClzooError | None = None
    for place, suffix in attempts:
        try:
            listing = list_remote(place, column=column, only=lambda path, suffix=suffix: path.lower().endswith(suffix))  # type: ignore[misc]
            return _of_split(listing, name, split), place
        except ClzooError as error:
            if not ("holds no images" in str(error) or "RevisionNotFound" in str(error)):
                raise
            problem = problem or error
    assert problem is not None
    raise ClzooError(
        f"{name} has no Parquet files of images, no images and no shards. To see what it has: https://huggingface.co/"
        f"datasets/{where}/tree/main. With the package datasets: save_to_disk its images as files, and embed those."
    ) from problem


def _of_split(listing: Listing, name: str, split: str | None) -> Listing:
    if split is None:
        return listing
    wanted = f"-{_words(split)}-"
    mine = [wanted in f"-{_words(_file_of(item.path))}-" for item in listing.items]
    if not any(mine):
        files = sorted({_file_of(item.path) for item in listing.items})
        raise ClzooError(f"{name}: no file is of the split {split}; found {', '.join(files[:5])}.")
    items = [item for item, is_mine in zip(listing.items, mine, strict=True) if is_mine]
    return dataclasses.replace(listing, items=items, ids=listing.ids[np.array(mine)])


def _words(text: str) -> str:
    """data/train_sft-00000-of-00001.parquet -> data-train-sft-00000-of-00001-parquet"""
    return "-".join(re.split(r"[^a-z0-9]+", text.lower()))


def _file_of(path: str) -> str:
    return shard_of(path) or path


def open_hub_set(name: str, split: str, part: str | None = None, column: str | None = None) -> Collection:
    """One split of a data set.

    Args:
        name: "hf-hub:ORG/NAME"; a local folder with Parquet files in place of ORG/NAME works too.
        split: "train", or "test", for which "validation" is taken where there is no test split with labels.
        part: the published split to take instead.
        column: of the images, where there are several.

    Raises:
        ClzooError: `datasets` is not installed, the set cannot be had, or it has no such split or no image column.
    """
    present = _published_splits(name)
    wanted = SPLITS[split] if part is None else (part,)
    chosen = [published for published in wanted if published in present]
    if not chosen:
        raise ClzooError(f"{name} has the splits {', '.join(present)}; expected {' or '.join(wanted)}.")
    return first_labelled([partial(_open_part, name, published, column) for published in chosen])


def _open_part(name: str, part: str, wanted: str | None = None) -> Collection:
    import datasets

    with _errors_of(name):
        dataset = datasets.load_dataset(name.removeprefix(HUB_PREFIX), split=part)
    images, column = _image_column(dataset, name, wanted)
    labels, classes, found = _class_column(dataset, name)
    if labels is None:
        log.warning("%s, split %s: no labels. %s", name, part, found)
    passed_over = {f"column {other}": 1 for other in dataset.features if other not in (column, found)}
    origin = f"{name} (split {part})"
    return Collection(origin, HubImages(images, column), labels, classes, unlabelled=found, passed_over=passed_over)


def _published_splits(name: str) -> list[str]:
    try:
        import datasets
    except ImportError as error:
        raise ClzooError(f'{name} needs the package datasets. Type: pip install "clzoo[data]"') from error
    with _errors_of(name):
        return list(datasets.get_dataset_split_names(name.removeprefix(HUB_PREFIX)))


@contextmanager
def _errors_of(name: str) -> Iterator[None]:
    import datasets

    try:
        yield
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ClzooError(f"{name} cannot be loaded: {error}") from error


def _image_column(dataset: Any, name: str, wanted: str | None) -> tuple[Any, str]:
    """The data set with its image column alone, encoded; and that column's name."""
    from datasets import Image as Encoded

    columns = [column for column, feature in dataset.features.items() if isinstance(feature, Encoded)]
    if wanted is not None:
        columns = [column for column in columns if column == wanted]
    if len(columns) != 1:
        which = "expected exactly one of images" if wanted is None else f"expected images in {wanted}"
        raise ClzooError(f"{name} has the columns {', '.join(dataset.features)}; {which}. Type: {name}#column=NAME")
    return dataset.select_columns(columns).cast_column(columns[0], Encoded(decode=False)), columns[0]


def _class_column(dataset: Any, name: str) -> tuple[np.ndarray | None, tuple[str, ...], str]:
    """Labels, names of the classes, and the column of both; or why there are no labels.

    The column is `label` or `fine_label`, else the first that the data set itself declares as classes, else one that is
    called as labels often are. Integers, text and booleans are classes by their values: sorted, integers as numbers.
    """
    from datasets import ClassLabel

    features = dataset.features
    declared = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    wanted = [*LABELS, *declared[:1], *ALSO_LABELS]
    column = next((column for column in wanted if column in features), None)
    if column is None:
        return None, (), f"Expected a column label that holds classes; found {', '.join(features)}."
    if len(declared) > 1:
        log.info("%s: the labels are the column %s of %s", name, column, ", ".join(declared))
    feature = features[column]
    cast = f'ds.cast_column("{column}", datasets.ClassLabel(names=[...]))'
    if not (isinstance(feature, ClassLabel) or _PLAIN.fullmatch(str(getattr(feature, "dtype", "")))):
        kind = getattr(feature, "dtype", type(feature).__name__)
        return None, (), f"The column {column} is {kind}; expected ClassLabel, integers, text or booleans: {cast}"
    values = dataset.data.column(column).to_pylist()
    unfilled = sum(value is None or (not isinstance(value, str) and value < 0) for value in values)
    if unfilled:  # the Hub's test splits without labels have -1
        return None, (), f"The column {column} is not filled in {unfilled} of {len(values)} rows."
    if isinstance(feature, ClassLabel):
        return np.array(values, np.int64), tuple(feature.names), column
    found = sorted(set(values))
    number = {value: position for position, value in enumerate(found)}
    labels = np.array([number[value] for value in values], np.int64)
    log.info(
        "%s: the column %s holds %d values, which are the classes; to name them: %s", name, column, len(found), cast
    )
    return labels, tuple(map(str, found)), column
