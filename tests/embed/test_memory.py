"""Memory does not grow with the number of images."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pictures import make_images

_EMBED = """
import resource, sys
from clzoo.config import ModelConfig, Preprocessing
from clzoo.encoder import Encoder
from clzoo.embed import embed_folder, open_store

config = ModelConfig(
    name="small", architecture="resnet18", num_features=256, method="none", backbone="resnet18", data="none",
    model_args={"channels": [8, 16, 32, 256]}, stem_stride=2, preprocessing=Preprocessing(size=32, crop_pct=1.0),
)
embed_folder(sys.argv[1], Encoder.untrained(config), sys.argv[2], batch_size=64, workers=2, progress=False)
assert len(open_store(sys.argv[2])) == int(sys.argv[3])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_peak_memory_at_20000_images_is_within_a_tenth_of_that_at_2000(tmp_path: Path) -> None:
    pictures = sorted(make_images(tmp_path / "few", 50).rglob("*.*"))

    def peak(count: int) -> int:
        folder = tmp_path / f"images-{count}"
        folder.mkdir()
        for number in range(count):
            source = pictures[number % len(pictures)]
            os.link(source, folder / f"{number:05d}{source.suffix}")
        arguments = [str(folder), str(tmp_path / f"store-{count}"), str(count)]
        done = subprocess.run([sys.executable, "-c", _EMBED, *arguments], stdout=subprocess.PIPE, text=True, check=True)
        return int(done.stdout)

    small, large = peak(2_000), peak(20_000)
    print(f"peak RSS: {small} at 2,000 images, {large} at 20,000")
    assert large < 1.1 * small
