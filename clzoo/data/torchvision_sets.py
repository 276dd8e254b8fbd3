"""CIFAR-10, CIFAR-100 and STL-10 in the files that their authors publish, read by torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from clzoo.data.collection import ArrayImages, Collection
from clzoo.errors import ClzooError

FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python", "stl10": "stl10_binary"}
"""The folder under the root in which each data set's files lie."""


def open_torchvision_set(name: str, root: Path, split: str, *, download: bool = False) -> Collection:
    """One split, as an array in memory.

    torchvision checks the MD5 of every file before it reads it, so that no foreign pickle is executed.

    Args:
        name: "cifar10", "cifar100" or "stl10".
        split: "pretrain", "train" or "test". The first two differ for STL-10 alone: its 5,000 labelled and 100,000
            unlabelled images, in this order and without labels, are for pretraining, the labelled ones for probes.
        download: fetch the files into `root` if they are not there.

    Raises:
        ClzooError: the files are missing or damaged, with the command that downloads them.
    """
    from torchvision import datasets

    dataset_class: Any = getattr(datasets, name.upper())
    if name == "stl10":
        arguments: dict[str, Any] = {"split": "train+unlabeled" if split == "pretrain" else split}
    else:
        arguments = {"train": split != "test"}
    try:
        dataset = dataset_class(str(root), download=download, **arguments)
    except (RuntimeError, OSError) as error:
        state = "damaged or incomplete" if (root / FOLDERS[name]).is_dir() else "missing"
        kind = dataset_class.__name__
        raise ClzooError(
            f"{root / FOLDERS[name]}, the files of {name}, is {state}. Download them: "
            f'python -c "from torchvision.datasets import {kind}; {kind}({str(root)!r}, download=True)"'
        ) from error
    if name != "stl10":
        return Collection(
            f"{name} in {root}", ArrayImages(dataset.data), np.array(dataset.targets, np.int64), tuple(dataset.classes)
        )
    images = ArrayImages(np.ascontiguousarray(dataset.data.transpose(0, 2, 3, 1)))
    if split == "pretrain":
        return Collection(f"{name} in {root}", images)
    return Collection(f"{name} in {root}", images, dataset.labels.astype(np.int64), tuple(dataset.classes))
