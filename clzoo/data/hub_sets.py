"""Data sets of the Hugging Face Hub, or local ones in its layouts, through the package `datasets`."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clzoo.data.collection import Collection
from clzoo.data.folders import SPLITS
from clzoo.data.images import decode_image
from clzoo.errors import ClzooError, UnreadableImageError

log = logging.getLogger("clzoo")

PREFIX = "hf-hub:"
"""How a Hub data set is named: hf-hub:ORG/NAME."""

_LABELS = ("label", "fine_label")  # columns that are taken first where several hold classes


@dataclass(frozen=True)
class HubImages:
    """Encoded images in an Arrow table, decoded when they are asked for."""

    dataset: Any  # datasets.Dataset with the image column alone, not decoded
    column: str

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, row: int) -> str:
        return self.dataset[row][self.column]["path"] or f"row {row}"

    def read(self, row: int) -> Image.Image:
        value = self.dataset[row][self.column]
        if value is None:
            raise UnreadableImageError("the row has no image")
        return decode_image(value["bytes"] if value["bytes"] is not None else Path(value["path"]))

    def digest(self, rows: np.ndarray) -> str:
        """Of the encoded sizes, which Arrow knows without reading the images; of the paths where it has only those."""
        import pyarrow.compute as pc

        column = self.dataset.data.column(self.column)
        sizes = pc.fill_null(pc.binary_length(pc.struct_field(column, "bytes")), -1)
        digest = hashlib.sha256(sizes.to_numpy()[rows].astype("<i8").tobytes())
        for path in pc.struct_field(column, "path").to_pylist() if -1 in sizes.to_numpy() else ():
            digest.update(f"{path}\n".encode())
        return digest.hexdigest()


def hub_splits(name: str) -> list[str]:
    """Which of the splits "train" and "test" a data set has (see `open_hub_set`)."""
    present = _published_splits(name)
    return [split for split, names in SPLITS.items() if set(names) & set(present)]


def open_hub_set(name: str, split: str) -> Collection:
    """One split of a data set.

    Args:
        name: "hf-hub:ORG/NAME"; a local folder with Parquet files in place of ORG/NAME works too.
        split: "train", or "test", for which "validation" is taken where there is no test split.

    Raises:
        ClzooError: `datasets` is not installed, the set cannot be had, or it has no such split or no image column.
    """
    present = _published_splits(name)
    chosen = next((part for part in SPLITS[split] if part in present), None)
    if chosen is None:
        raise ClzooError(f"{name} has the splits {', '.join(present)}; expected {' or '.join(SPLITS[split])}.")
    import datasets

    with _errors_of(name):
        dataset = datasets.load_dataset(name.removeprefix(PREFIX), split=chosen)
    images, column = _image_column(dataset, name)
    labels, classes = _class_column(dataset, name)
    return Collection(name, HubImages(images, column), labels, classes)


def _published_splits(name: str) -> list[str]:
    try:
        import datasets
    except ImportError as error:
        raise ClzooError(f'{name} needs the package datasets. Type: pip install "clzoo[data]"') from error
    with _errors_of(name):
        return list(datasets.get_dataset_split_names(name.removeprefix(PREFIX)))


@contextmanager
def _errors_of(name: str) -> Iterator[None]:
    import datasets

    try:
        yield
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ClzooError(f"{name} cannot be loaded: {error}") from error


def _image_column(dataset: Any, name: str) -> tuple[Any, str]:
    """The data set with its image column alone, encoded; and that column's name."""
    from datasets import Image as Encoded

    columns = [column for column, feature in dataset.features.items() if isinstance(feature, Encoded)]
    if len(columns) != 1:
        raise ClzooError(f"{name} has the columns {', '.join(dataset.features)}; expected exactly one of images.")
    return dataset.select_columns(columns).cast_column(columns[0], Encoded(decode=False)), columns[0]


def _class_column(dataset: Any, name: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels and names of the classes: of the column `label` or `fine_label`, else of the first that holds classes."""
    from datasets import ClassLabel

    columns = [column for column, feature in dataset.features.items() if isinstance(feature, ClassLabel)]
    column = next((column for column in (*_LABELS, *columns[:1]) if column in columns), None)
    if column is None:
        return None, ()
    if len(columns) > 1:
        log.info("%s: the labels are the column %s of %s", name, column, ", ".join(columns))
    labels = dataset.data.column(column).to_pylist()
    if any(label is None or label < 0 for label in labels):  # the Hub's test splits without labels have -1
        log.warning("%s: no labels, the column %s is not filled", name, column)
        return None, ()
    return np.array(labels, np.int64), tuple(dataset.features[column].names)
