"""Packs and torchvision's files as a whole, to be embedded: their images have no files, yet paths that stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clzoo.data.collection import Collection, Images
from clzoo.data.listing import Item, Listing, finished
from clzoo.data.packed import find_packs, open_pack
from clzoo.data.torchvision_sets import FOLDERS, open_torchvision_set


class ArrayItem(Item):
    """An image of decoded pixels: `offset` is its number in `how` (images,)."""

    __slots__ = ()

    def read(self) -> np.ndarray:  # type: ignore[override]
        """uint8 (H, W, 3)."""
        images: Images = self.how[0]
        content = images.content(self.offset or 0)
        assert isinstance(content, np.ndarray)
        return content


def list_arrays(folder: Path) -> Listing | None:
    """Every image of the packs or the torchvision set in a folder, by path; None where neither is.

    Of a pack the path is that of its source, below the name of its split; of torchvision's files it is the number.

    Raises:
        ClzooError: damaged files.
    """
    listing = Listing(folder.resolve())
    if packs := [*find_packs(folder, "train"), *find_packs(folder, "test")]:
        for pack in packs:
            _add(listing, open_pack(pack), _stored_paths(pack), "" if pack == folder else f"{pack.name}/", pack)
        return finished(listing, folder)
    present = [name for name, files in FOLDERS.items() if (folder / files).is_dir()]
    if not present:
        return None
    name, *others = present
    listing.ignored.update(f"data set {other}" for other in others)
    for split in ("pretrain" if name == "stl10" else "train", "test"):
        opened = open_torchvision_set(name, folder, split)
        numbers = [f"{row:06}" for row in range(len(opened))]
        _add(listing, opened, numbers, f"{split}/", folder / FOLDERS[name])
    return finished(listing, folder)


def _stored_paths(pack: Path) -> list[str]:
    import pyarrow.parquet as pq

    paths: list[str] = pq.read_table(pack / "items.parquet", columns=["path"])["path"].to_pylist()
    return paths


def _add(listing: Listing, opened: Collection, paths: list[str], prefix: str, place: Path) -> None:
    changed = max(file.stat().st_mtime_ns for file in place.iterdir() if file.is_file())
    listing.classes.update(dict.fromkeys(opened.classes))
    size = len(opened.images.content(0).tobytes()) if paths else 0  # type: ignore[union-attr]
    for row, path in enumerate(paths):
        label = None if opened.labels is None else opened.classes[opened.labels[row]]
        listing.items.append(ArrayItem(f"{prefix}{path}", size, changed, str(place), row, (opened.images,), label))
