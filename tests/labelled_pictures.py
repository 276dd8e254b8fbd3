"""Six classes of coloured noise that even an untrained network tells apart, as train and test folders."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox")


def make_splits(
    root: Path, train: int = 12, test: int = 4, classes: tuple[str, ...] = CLASSES, contrast: int = 150
) -> Path:
    """`root/train/<class>/*.png` and `root/test/<class>/*.png`, 32 px; returns root. Less contrast is harder."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for number, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            color = np.array([number % 2, number // 2 % 2, number // 4]) * contrast + 50
            for picture in range(count):
                pixels = np.clip(color + random.normal(0, 40, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{picture:02}.png")
    return root
