"""JPEG photographs decoded by Pillow and by torchcodec on a CPU: images a second of one thread, and pixels that differ.

    python benchmarks/decode.py --images photographs/          # a folder or a .tar; with pip install torchcodec

Only plain files are compared (clzoo.data.gpu_decoding), which is what torchcodec would be given; looking whether a file
is plain is part of its time. CPU time of this process, best of interleaved rounds.
"""

from __future__ import annotations

import argparse
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import features

from clzoo.data.gpu_decoding import is_plain_jpeg
from clzoo.data.images import decode_image
from clzoo.hardware import describe_hardware


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    import torchcodec
    from torchcodec.decoders import decode_jpeg

    def by_torchcodec(data: bytes) -> np.ndarray:
        assert is_plain_jpeg(data)
        return decode_jpeg(data).permute(1, 2, 0).numpy()

    def by_pillow(data: bytes) -> np.ndarray:
        return np.asarray(decode_image(data))

    files = contents(arguments.images)
    plain = [data for data in files if is_plain_jpeg(data)]
    turbo = features.version_feature("libjpeg_turbo")
    print(f"{describe_hardware()}, one thread, Pillow {PIL.__version__} (libjpeg-turbo {turbo}), "
          f"torchcodec {torchcodec.__version__}")  # fmt: skip
    differ = sum(not np.array_equal(by_pillow(data), by_torchcodec(data)) for data in plain)
    print(f"{len(files)} JPEG files, {len(plain)} of them plain; torchcodec's pixels differ in {differ}")
    pillow, codec = best(arguments.rounds, plain, by_pillow, by_torchcodec)
    print(f"Pillow {len(plain) / pillow:.0f} images/s, torchcodec {len(plain) / codec:.0f}, ratio {pillow / codec:.2f}")


def contents(images: Path) -> list[bytes]:
    """The JPEG files of a folder or an archive."""
    if images.is_dir():
        return [path.read_bytes() for path in sorted(images.rglob("*.[jJ][pP]*[gG]"))]
    with tarfile.open(images) as archive:
        members = [member for member in archive if member.name.lower().endswith((".jpg", ".jpeg"))]
        return [file.read() for member in members if (file := archive.extractfile(member)) is not None]


def best(rounds: int, files: list[bytes], *decoders: Callable[[bytes], np.ndarray]) -> list[float]:
    """Least CPU seconds of each decoder for all files."""
    least = [float("inf")] * len(decoders)
    for _ in range(rounds):
        for number, decode in enumerate(decoders):
            since = time.process_time()
            for data in files:
                decode(data)
            least[number] = min(least[number], time.process_time() - since)
    return least


if __name__ == "__main__":
    main()
