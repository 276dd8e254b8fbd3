"""--engine ray on a local Ray: the run of a single process, also when the worker is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_recipes import small_recipe
from small_runs import command, same, torchrun, wait_for_checkpoint, weights_of

from clzoo.errors import ClzooError
from clzoo.pretrain import ray_train
from clzoo.pretrain.checkpoint import load_checkpoint
from clzoo.pretrain.loop import pretrain
from clzoo.pretrain.recipe import Start


def test_without_ray_the_error_says_what_to_install(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClzooError, match=r'ray.train cannot be imported .*pip install "clzoo\[ray\]"'):
        ray_train.pretrain_on_ray(small_recipe("simclr_cifar10"), pictures, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_start_on_this_machine_is_found_from_the_folder_of_a_ray_worker(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, expected in (("runs/first", str(tmp_path / "runs" / "first")), ("supcon-resnet10_w48-tiny",) * 2):
        recipe = small_recipe("simclr_cifar10").model_copy(update={"start": Start(name=name, weights_sha256="0" * 64)})
        assert ray_train._with_whole_path(recipe).start.name == expected


def on_ray(pictures, run, *changes, name, workers) -> subprocess.Popen:
    """The command with a Ray of its own."""
    options = ["--engine", "ray", "--workers", str(workers)]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    arguments = [sys.executable, "-m", "clzoo", *command(pictures, run, *changes, name=name), *options]
    return subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_two_workers_train_what_two_processes_of_torchrun_do_also_when_one_of_them_is_killed(pictures, tmp_path):
    pytest.importorskip("ray.train")
    changes, name = ("schedule.epochs=10", "monitor.every_steps=0"), "mocov2_cifar10"
    process = on_ray(pictures, tmp_path / "run", *changes, name=name, workers=2)
    wait_for_checkpoint(tmp_path / "run", process)
    os.kill(worker_of(process), signal.SIGKILL)
    assert process.wait() == 0, process.stderr.read()
    for processes, run in ((2, "torchrun"), (1, "alone")):
        other = torchrun(pictures, tmp_path / run, *changes, name=name, processes=processes)
        assert other.wait() == 0, other.stderr.read()
    found, expected, alone = (weights_of(tmp_path / run) for run in ("run", "torchrun", "alone"))
    assert load_checkpoint(tmp_path / "run")["step"] == 80
    assert all(torch.allclose(found[key], expected[key], rtol=1e-4, atol=1e-5) for key in expected)
    assert not torch.allclose(found["queue.entries"], alone["queue.entries"], rtol=1e-2, atol=1e-3)  # two, not one


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_killed_worker_is_started_anew_and_the_run_ends_as_one_that_nobody_killed(pictures, tmp_path):
    pytest.importorskip("ray.train")
    changes = ("schedule.epochs=60", "monitor.every_steps=0")
    run = tmp_path / "run"
    process = on_ray(pictures, run, *changes, name="simclr_cifar10", workers=1)
    wait_for_checkpoint(run, process)
    os.kill(worker_of(process), signal.SIGKILL)
    assert process.wait() == 0, process.stderr.read()
    assert pretrain(small_recipe("simclr_cifar10", *changes), pictures, tmp_path / "whole", device="cpu")
    assert same(weights_of(run), weights_of(tmp_path / "whole"))
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"run", "whole"}


def worker_of(process) -> int:
    """The process that trains: a descendant of the command, by its title."""
    for _ in range(100):
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                is_worker = (entry / "cmdline").read_bytes().startswith(b"ray::RayTrainWorker")
                if is_worker and descends_from(int(entry.name), process.pid):
                    return int(entry.name)
            except OSError:
                continue
        time.sleep(0.1)
    raise AssertionError("no worker")


def descends_from(pid: int, ancestor: int) -> bool:
    while pid > 1 and pid != ancestor:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])  # the parent
    return pid == ancestor
