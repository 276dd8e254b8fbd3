"""--engine ray on a local Ray: the store of a single run, also when a worker is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from picture_folders import make_shard
from pictures import make_image, make_images
from test_sharding import assert_equal_stores

from clzoo import ClzooError, Encoder, embed_folder, open_store
from clzoo.embed import ray_engine

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def command(source: Path | str, model: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "clzoo", "embed", str(source), "--model", str(model), "--out", str(out), *options]


def on_ray(source: Path | str, model: Path, out: Path) -> subprocess.CompletedProcess[str]:
    arguments = command(source, model, out, "--engine", "ray", "--batch-size", "4")
    return subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, timeout=180)


def on_one_process(source: Path | str, model: Path, out: Path) -> None:
    # By torch, as the workers: alone, a CPU takes what is fastest on it, whose vectors differ in the last digits.
    embed_folder(source, str(model), out, backend="torch", progress=False)


@pytest.mark.slow
def test_workers_leave_the_store_of_a_single_run_and_update_it(
    images: Path, encoder: Encoder, model_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    (images / "cats" / "broken.jpg").touch()
    for embedded in (24, 1):
        done = on_ray(images, model_folder, tmp_path / "store")
        assert done.returncode == 0, done.stderr
        assert f"embedded {embedded}," in done.stdout
        on_one_process(images, model_folder, tmp_path / "single")
        assert_equal_stores(open_store(tmp_path / "store"), open_store(tmp_path / "single"))
        make_image(images / "birds" / "new.png", np.random.default_rng(5))


@pytest.mark.slow
def test_workers_read_shards_behind_a_url(images: Path, model_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    members = {path.relative_to(images).as_posix(): path.read_bytes() for path in sorted(images.rglob("*.*"))}
    url = make_shard(tmp_path / "shards" / "a.tar", {**members, "broken.png": b""}).parent.as_uri()
    done = on_ray(url, model_folder, tmp_path / "store")
    assert done.returncode == 0, done.stderr
    on_one_process(url, model_folder, tmp_path / "single")
    assert len(open_store(tmp_path / "store")) == 24
    assert_equal_stores(open_store(tmp_path / "store"), open_store(tmp_path / "single"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_worker_that_is_killed_loses_and_doubles_nothing(model_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    images = make_images(tmp_path / "images", 1500)
    on_one_process(images, model_folder, tmp_path / "single")
    arguments = command(images, model_folder, tmp_path / "store", "--engine", "ray", "--batch-size", "4")
    process = subprocess.Popen(arguments, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    killed: set[int] = set()
    before: set[int] = set()
    started_after: set[int] = set()
    while process.poll() is None:
        workers = set(workers_of(process.pid)) - killed
        if killed:
            started_after |= workers - before
        elif workers:
            time.sleep(0.5)  # it loads the model, or has begun
            before = workers
            os.kill(victim := min(workers), signal.SIGKILL)
            killed.add(victim)
        time.sleep(0.05)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert started_after  # in the place of the killed one: there was work left
    assert_equal_stores(open_store(tmp_path / "store"), open_store(tmp_path / "single"))


def workers_of(ancestor: int) -> list[int]:
    """Processes below this one that run the embedder."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue

    def is_below(process: int) -> bool:
        while process in parents and process > 1:
            process = parents[process]
            if process == ancestor:
                return True
        return False

    return [process for process, name in names.items() if b"Embedder" in name and is_below(process)]


def test_a_model_that_is_not_given_by_name_is_refused(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(ClzooError, match="give its name or path"):
        embed_folder(images, encoder, tmp_path / "store", engine="ray", progress=False)
    with pytest.raises(ClzooError, match="engine must be one of"):
        embed_folder(images, encoder, tmp_path / "store", engine="spark", progress=False)
    assert not (tmp_path / "store").exists()


def test_without_ray_the_error_says_what_to_install(
    images: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClzooError, match=r'pip install "clzoo\[ray\]"'):
        embed_folder(images, str(model_folder), tmp_path / "store", engine="ray", progress=False)


@pytest.mark.parametrize(
    ("resources", "device", "expected"),
    [
        ({"CPU": 8.0}, "auto", (8, 1, 0)),
        ({"CPU": 8.0, "GPU": 2.0}, "auto", (2, 4, 1)),
        ({"CPU": 8.0, "GPU": 2.0}, "cpu", (8, 1, 0)),
        ({}, "auto", (1, 1, 0)),
    ],
)
def test_each_gpu_or_each_core_is_a_worker(
    resources: dict[str, float], device: str, expected: tuple[int, int, int]
) -> None:
    assert ray_engine._share(resources, device) == expected


@pytest.mark.parametrize(("device", "message"), [("cuda", "no GPU"), ("mps", "expected auto, cpu or cuda")])
def test_a_device_that_the_cluster_does_not_have_is_an_error(device: str, message: str) -> None:
    with pytest.raises(ClzooError, match=message):
        ray_engine._share({"CPU": 4.0}, device)
