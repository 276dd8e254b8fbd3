"""SIGKILL at every step and at random instants: a reader always finds a whole generation, and the next run finishes."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pictures import assert_same_rows, by_path, files_of, make_image, make_images
from warm_python import WarmPython

from clzoo import Encoder, embed_folder, open_store
from clzoo.embed.manifest import MANIFEST

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and fork are POSIX")

# Forks a child for every line "SOURCE OUT WHEN"; WHEN is "step:K", "after:SECONDS" or "never". Prints its exit code.
_VICTIMS = """
import os, signal, sys, threading, time
from small_models import small_encoder
from warm_python import WarmPython
from clzoo.embed import run
from clzoo.embed.pipeline import embed_folder

run.FLUSH_ROWS = 8
encoder = small_encoder()
encoder.weights_sha256
print("ready", flush=True)

def kill_before_step(folder, step):
    # "Step": an open, rename or unlink inside the store's folder.
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        if event in ("open", "os.rename", "os.remove") and str(arguments[0]).startswith(folder):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

for line in sys.stdin:
    source, out, when = line.split()
    if (child := os.fork()) == 0:
        if when.startswith("step:"):
            kill_before_step(out, int(when.removeprefix("step:")))
        try:
            embed_folder(source, encoder, out, batch_size=4, workers=2, progress=False)
        finally:
            os._exit(0)
    if when.startswith("after:"):
        time.sleep(float(when.removeprefix("after:")))
        os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Victims:
    """Runs `embed_folder` in processes that can be killed, without importing torch each time."""

    def __init__(self, warm: WarmPython, folder: Path) -> None:
        pipes = [folder / "told", folder / "said"]
        for pipe in pipes:
            os.mkfifo(pipe)
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}){_VICTIMS}"
        self.process = warm.start(("-c", code), os.environ, timeout=600, stdin=pipes[0], stdout=pipes[1])
        self._told, self._said = os.fdopen(os.open(pipes[0], os.O_RDWR), "w"), pipes[1].open()
        assert self._line() == "ready"

    def embed(self, source: Path, out: Path, when: str) -> bool:
        """Whether the run came to its end."""
        self._told.write(f"{source} {out} {when}\n")
        self._told.flush()
        code = int(self._line())
        assert code in (0, -9)
        return code == 0

    def _line(self) -> str:
        return self._said.readline().strip()


@pytest.fixture(scope="module")
def victims(warm_python: WarmPython, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victims]:
    victims = Victims(warm_python, tmp_path_factory.mktemp("pipes"))
    yield victims
    victims.process.kill()


def changed(images: Path) -> Path:
    """A source of which some files were changed, deleted, added and broken."""
    rng = np.random.default_rng(9)
    for name in ("cats/002.jpg", "dogs/021.png", "birds/1.png", "birds/2.png", "zebras/3.png"):
        make_image(images / name, rng)
    for name in ("cats/000.jpg", "dogs/001.png"):
        (images / name).unlink()
    (images / "cats" / "004.jpg").write_bytes(b"broken")
    return images


def assert_snapshot(out: Path, allowed: list[dict[str, np.ndarray]]) -> None:
    """Whatever can be read is true: each row's vector belongs to its path, before or after the change."""
    if not (out / MANIFEST).exists():
        return
    store = open_store(out)
    for path, vector in by_path(store).items():
        assert any(path in rows and np.allclose(rows[path], vector, atol=2e-3) for rows in allowed), path
    if store.complete:
        assert any(sorted(store.paths) == sorted(rows) for rows in allowed)
    assert not set(store.paths) & {error["path"] for error in store.errors()} - {"cats/004.jpg"}


@pytest.mark.slow
def test_killed_before_every_step_a_fresh_run_is_continued(
    victims: Victims, images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    embed_folder(images, encoder, tmp_path / "whole", progress=False)
    whole = by_path(open_store(tmp_path / "whole"))
    step = 0
    finished = False
    while not finished:
        step += 1
        out = tmp_path / f"killed-{step}"
        finished = victims.embed(images, out, f"step:{step}")
        assert_snapshot(out, [whole])
        embed_folder(images, encoder, out, batch_size=4, progress=False)
        assert_finished(out, whole)
        shutil.rmtree(out)
    assert step > 30  # else the steps were not seen


@pytest.mark.slow
def test_killed_before_every_step_an_updating_run_is_continued(
    victims: Victims, images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    embed_folder(images, encoder, tmp_path / "start", progress=False)
    before = by_path(open_store(tmp_path / "start"))
    embed_folder(changed(images), encoder, tmp_path / "whole", progress=False)
    after = by_path(open_store(tmp_path / "whole"))
    step = 0
    finished = False
    while not finished:
        step += 1
        out = tmp_path / f"killed-{step}"
        shutil.copytree(tmp_path / "start", out)
        finished = victims.embed(images, out, f"step:{step}")
        assert_snapshot(out, [before, after])
        embed_folder(images, encoder, out, batch_size=4, progress=False)
        assert_finished(out, after)
        assert [error["path"] for error in open_store(out).errors()] == ["cats/004.jpg"]
        shutil.rmtree(out)
    assert step > 30


def test_killed_at_random_instants_until_it_ends_nothing_is_lost_or_doubled(
    victims: Victims, encoder: Encoder, tmp_path: Path
) -> None:
    images = make_images(tmp_path / "images", 80)
    embed_folder(images, encoder, tmp_path / "whole", progress=False)
    whole = by_path(open_store(tmp_path / "whole"))
    rng = random.Random(seed := random.SystemRandom().randrange(1000))
    print("seed", seed)
    for round in range(3):
        out = tmp_path / f"out-{round}"
        kills = 0
        while not victims.embed(images, out, f"after:{rng.uniform(0, 0.25):.4f}") and kills < 30:
            kills += 1
            assert_snapshot(out, [whole])
        embed_folder(images, encoder, out, progress=False)
        assert_finished(out, whole)


def test_numbers_of_files_that_a_killed_run_left_are_not_used_again(
    victims: Victims, images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    embed_folder(images, encoder, tmp_path / "store", progress=False)
    (tmp_path / "store" / "embeddings-70.npy").write_bytes(b"half")
    make_image(images / "new.png", np.random.default_rng(9))
    summary = embed_folder(images, encoder, tmp_path / "store", progress=False)
    assert summary.generation > 70
    assert not (tmp_path / "store" / "embeddings-70.npy").exists()


def test_a_killed_run_leaves_no_lock(victims: Victims, images: Path, encoder: Encoder, tmp_path: Path) -> None:
    assert not victims.embed(images, tmp_path / "store", "step:20")
    assert (tmp_path / "store" / ".lock").exists()
    assert embed_folder(images, encoder, tmp_path / "store", progress=False).rows == 24


def assert_finished(out: Path, whole: dict[str, np.ndarray]) -> None:
    """The store equals an uninterrupted run's row for row, and nothing else lies there."""
    store = open_store(out)
    assert store.complete
    assert store.paths == sorted(whole)
    assert_same_rows(store, whole)
    (segment,) = store.manifest.segments
    assert files_of(out) == {MANIFEST, "errors.parquet", segment.embeddings, segment.items}
