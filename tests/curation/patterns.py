"""Pictures that differ as photographs do: soft patterns of colours, each with its own."""

from pathlib import Path

import numpy as np
from PIL import Image


def pattern(seed: int, side: int = 48) -> Image.Image:
    """A picture of its own for every seed."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (5, 5, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    fine = np.asarray(picture, np.int16) + random.integers(-12, 13, (side, side, 3))
    return Image.fromarray(np.clip(fine, 0, 255).astype(np.uint8))


def make_patterns(folder: Path, count: int, first: int = 0) -> Path:
    """`folder/000.png` and so on; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        pattern(number).save(folder / f"{number:03}.png")
    return folder


def content_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a folder with its bytes and its time."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
