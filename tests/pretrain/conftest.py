"""Pictures that every file of this folder trains on, and the command in a process of its own."""

import os

import numpy as np
import pytest
from PIL import Image
from small_runs import command
from warm_python import Child


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """64 pictures of two classes: stripes along the rows or the columns, noise on top; and 16 to test with."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", 32), ("test", 16)):
        for name, axis in (("rows", 0), ("columns", 1)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                stripes = np.indices((32, 32))[axis] // rng.integers(2, 5) % 2 * 120
                noisy = stripes[..., None] + rng.integers(0, 100, (32, 32, 3))
                Image.fromarray(noisy.astype(np.uint8)).save(folder / f"{number}.png")
    return root


@pytest.fixture
def curves():
    """The runs of a test that asks for this draw their curves; others save half of their time."""


@pytest.fixture(autouse=True)
def drawn_where_asked(request, monkeypatch):
    if "curves" not in request.fixturenames:
        monkeypatch.setattr("clzoo.pretrain.loop.draw_curves", lambda _: None)


@pytest.fixture
def start(warm_python):
    """Starts the command in a process of its own, after `first` was executed there."""

    def start(*arguments, first="", **options) -> Child:
        code = f"{first}\nimport sys\nfrom clzoo.cli import main\nmain(sys.argv[1:])"
        return warm_python.start(("-c", code, *command(*arguments, **options)), os.environ, timeout=500)

    return start
