"""Small pictures on disk whose pixels tell which they are."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def picture(label: int, number: int, width: int = 40, height: int = 30) -> Image.Image:
    """One colour: red tells the class, green the number."""
    return Image.new("RGB", (width, height), (40 * label + 10, 5 * number + 3, 200))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def make_folder(root: Path, classes: dict[str, int], **sizes: int) -> Path:
    """`root/<class>/<number>.png`, so many of each class; returns root."""
    for label, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            picture(label, number, **sizes).save(root / name / f"{number:02}.png")
    return root


def make_shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def noise(count: int, size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)
