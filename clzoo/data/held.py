"""Images that a Python program holds: a list of paths, PIL images by id, or a `datasets.Dataset`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from clzoo.data.listing import Item, Listing, finished
from clzoo.errors import ClzooError
from clzoo.images import as_rgb

EXPECTED = (
    "a folder or another source by its name, a list of paths, a dict of PIL images by id, or a datasets.Dataset with a "
    "column of images"
)


A_LIST = "a list of paths"

HELD = (A_DATASET, BY_ID) = ("a Dataset", "images by id")
"""What is called so is no file, whatever lies at its paths."""


class HeldItem(Item):
    """An image that `how` (images by number,) gives for `offset`."""

    __slots__ = ()

    def read(self) -> Image.Image:  # type: ignore[override]
        """An RGB image; errors as in `as_rgb`."""
        return as_rgb(self.how[0][self.offset])


def list_held(source: Any) -> tuple[Listing, str]:
    """What a program holds, listed, and what to call it.

    A list of paths is what a text file of them in the current folder is. Of the others an image is known by its id (a
    Dataset's by its number), and is embedded anew where its pixels, or the fingerprint of the Dataset, are others.

    Raises:
        ClzooError: something else, an empty one, an id that is no text, or a Dataset without images.
    """
    if hasattr(source, "features") and hasattr(source, "column_names"):
        listing, called = _of_dataset(source), A_DATASET
    elif isinstance(source, Mapping):
        listing, called = _of_pictures(source), BY_ID
    elif isinstance(source, Iterable) and not isinstance(source, bytes | bytearray | Image.Image):
        return _of_paths(list(source)), A_LIST
    else:
        raise ClzooError(f"cannot embed the images of a {type(source).__name__}; expected {EXPECTED}.")
    return finished(listing, called), called


def _of_paths(paths: list[Any]) -> Listing:
    from clzoo.data.sources import list_paths

    for position, path in enumerate(paths):
        if isinstance(path, Image.Image):
            raise ClzooError(
                f"image {position} of the list is a {type(path).__name__} without an id, which a store needs to be "
                "continued. Give a dict: {'id': image, ...}"
            )
        if not isinstance(path, str | Path):
            raise ClzooError(f"element {position} is a {type(path).__name__}; expected {EXPECTED}.")
    return list_paths(Listing(Path.cwd()), [str(path) for path in paths], "the list")


def _of_pictures(pictures: Mapping[Any, Any]) -> Listing:
    listing = Listing(Path.cwd())
    images = list(pictures.values())
    for number, (name, image) in enumerate(pictures.items()):
        if not isinstance(name, str) or not name:
            raise ClzooError(f"the id of image {number} is {name!r}; expected a text.")
        if not isinstance(image, Image.Image):
            raise ClzooError(f"{name!r} is a {type(image).__name__}; expected a PIL image.")
        size, stamp = _size_and_stamp(image)
        listing.items.append(HeldItem(name, size, stamp, "", number, (images,)))
    return listing


def _size_and_stamp(image: Image.Image) -> tuple[int, int]:
    """Bytes of an image's pixels, and what stands for its time: of all that its colours and its upright side are."""
    pixels = image.tobytes()
    kind = f"{image.mode} {image.size}"
    further = {"palette": image.getpalette("RGBA"), "orientation": image.getexif().get(ExifTags.Base.Orientation)}
    further |= {key: image.info.get(key) for key in ("transparency", "icc_profile")}
    if further := {key: value for key, value in further.items() if value is not None}:
        kind += f" {further}"
    return len(pixels), _stamp(kind.encode() + pixels)


def _of_dataset(dataset: Any) -> Listing:
    column = next((name for name, kind in dataset.features.items() if type(kind).__name__ == "Image"), None)
    if column is None:
        raise ClzooError(
            f"the Dataset has the columns {', '.join(dataset.column_names)}, and none of images. Say which it is: "
            "dataset.cast_column(NAME, datasets.Image())"
        )
    named = {name: kind.names for name, kind in dataset.features.items() if hasattr(kind, "names")}
    label = next((name for name in ("label", "labels", "fine_label") if name in named), next(iter(named), None))
    labels = [None] * len(dataset) if label is None else dataset[label]
    stamp = _stamp(str(getattr(dataset, "_fingerprint", "")).encode())
    listing = Listing(Path.cwd())
    images = _Column(dataset, column)
    for number, value in enumerate(labels):
        name = None if value is None or label is None or value < 0 else named[label][value]  # -1: not labelled
        listing.items.append(HeldItem(f"{number:08}", 0, stamp, "", number, (images,), name))
    if label is not None:
        listing.classes.update(dict.fromkeys(named[label]))
    return listing


class _Column:
    """One column of a Dataset: an image by its number, decoded or not."""

    def __init__(self, dataset: Any, column: str) -> None:
        self._dataset, self._column = dataset, column

    def __getitem__(self, number: int) -> Any:
        image = self._dataset[number][self._column]
        if isinstance(image, dict):  # of a column that is not decoded
            return image["bytes"] if image.get("bytes") is not None else image["path"]
        return image


def _stamp(content: bytes) -> int:
    """Stands for the time of a file: another number for other content."""
    return int.from_bytes(hashlib.sha256(content).digest()[:7], "big")
