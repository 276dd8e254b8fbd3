"""torchrun -m clzoo embed: two processes leave the store of one."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from picture_folders import make_shard
from pictures import files_of, make_image, make_images
from test_sharding import assert_equal_stores
from warm_python import WarmPython

from clzoo import ClzooError, Encoder, embed_folder, open_store
from clzoo.embed.shares import Share
from clzoo.embed.writer import LOCK

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Gloo and SIGKILL")

Ranks = Callable[..., subprocess.CompletedProcess[str]]

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def torchrun(source: Path | str, model: Path, out: Path, *options: str, processes: int = 2) -> list[str]:
    """The command line."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    embed = ["-m", "clzoo", "embed", str(source), "--model", str(model), "--out", str(out), *options]
    return [sys.executable, *launcher, *embed]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = torchrun(*arguments)  # type: ignore[arg-type]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


@pytest.fixture
def ranks(warm_python: WarmPython) -> Ranks:
    """As `run`, without the launcher: what the two processes printed, one after the other."""

    def run(source: Path | str, model: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
        arguments = ("-m", "clzoo", "embed", str(source), "--model", str(model), "--out", str(out), *options)
        both = warm_python.ranks(2, arguments, ENVIRONMENT, timeout=300)
        code = max(abs(done.returncode) for done in both)
        texts = ("".join(getattr(done, name) for done in both) for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess(list(arguments), code, *texts)

    return run


def shares(out: Path) -> list[Path]:
    return sorted(out.parent.glob(f"{out.name}-shard-*"))


def test_two_processes_leave_the_store_of_one_and_update_it(
    images: Path, encoder: Encoder, model_folder: Path, tmp_path: Path, ranks: Ranks
) -> None:
    (images / "broken.jpg").touch()
    out = tmp_path / "store"
    done = ranks(images, model_folder, out, "--labels", "--json")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)  # of one process alone
    assert (counts["rows"], counts["embedded"], counts["failed"], counts["store"]) == (24, 24, 1, str(out))
    assert "broken.jpg: empty file" in done.stderr
    assert done.stderr.count("images failed") == 1
    assert shares(out) == []
    embed_folder(images, str(model_folder), tmp_path / "single", labels=True, progress=False)
    assert_equal_stores(open_store(out), open_store(tmp_path / "single"))

    make_image(images / "cats" / "000.jpg", np.random.default_rng(5))
    (images / "dogs" / "001.png").unlink()
    again = ranks(images, model_folder, out, "--json", "--quiet")
    assert again.returncode == 0, again.stderr
    updated = json.loads(again.stdout)
    assert (updated["embedded"], updated["unchanged"], updated["dropped"]) == (1, 22, 1)
    assert updated["generation"] > counts["generation"]
    embed_folder(images, str(model_folder), tmp_path / "single", progress=False)
    assert_equal_stores(open_store(out), open_store(tmp_path / "single"))

    third = json.loads(ranks(images, model_folder, out, "--json", "--quiet").stdout)
    assert (third["embedded"], third["generation"]) == (0, updated["generation"])  # an index stays valid


def test_two_processes_read_shards_behind_a_url(
    images: Path, encoder: Encoder, model_folder: Path, tmp_path: Path, ranks: Ranks
) -> None:
    members = {path.relative_to(images).as_posix(): path.read_bytes() for path in sorted(images.rglob("*.*"))}
    url = make_shard(tmp_path / "shards" / "a.tar", members).parent.as_uri()
    done = ranks(url, model_folder, tmp_path / "store")
    assert done.returncode == 0, done.stderr
    embed_folder(url, str(model_folder), tmp_path / "single", progress=False)
    assert len(open_store(tmp_path / "store")) == 24
    assert_equal_stores(open_store(tmp_path / "store"), open_store(tmp_path / "single"))


def test_what_one_process_began_two_continue(images: Path, model_folder: Path, tmp_path: Path) -> None:
    embed_folder(images, str(model_folder), tmp_path / "store", progress=False)
    make_image(images / "new.png", np.random.default_rng(5))
    done = run(images, model_folder, tmp_path / "store", "--json", "--strict")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert (counts["embedded"], counts["unchanged"]) == (1, 24)


def test_a_script_of_the_users_shares_out_the_work_too_and_every_process_has_the_whole(
    images: Path, model_folder: Path, tmp_path: Path, warm_python: WarmPython
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, clzoo, torch.distributed as dist\n"
        "if sys.argv[4] == 'open': dist.init_process_group('gloo')\n"
        "done = clzoo.embed_folder(sys.argv[1], sys.argv[2], sys.argv[3], progress=False)\n"
        "rows = len(clzoo.open_store(sys.argv[3]))\n"
        "print(f\"{os.environ['RANK']}: {rows} {done.rows} {done.embedded} {dist.is_initialized()}\\n\", end='')\n"
    )
    embed_folder(images, str(model_folder), tmp_path / "single", progress=False)
    for group, embedded in (("closed", 24), ("open", 0)):
        arguments = (str(script), str(images), str(model_folder), str(tmp_path / "store"), group)
        both = warm_python.ranks(2, arguments, ENVIRONMENT, timeout=120)
        assert [done.returncode for done in both] == [0, 0], both
        assert [done.stdout for done in both] == [f"{n}: 24 24 {embedded} {group == 'open'}\n" for n in (0, 1)]
    assert shares(tmp_path / "store") == []
    assert_equal_stores(open_store(tmp_path / "store"), open_store(tmp_path / "single"))


def test_a_share_of_a_share_is_refused(images: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ClzooError, match="torchrun shares out the work already; leave out --share"):
        embed_folder(images, encoder, share=Share(1, 2))


@pytest.mark.slow
def test_an_error_of_the_input_ends_all_processes_and_leaves_no_store(
    images: Path, model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    done = run(tmp_path / "empty", model_folder, tmp_path / "store")
    assert done.returncode != 0
    assert "holds no images" in done.stderr
    assert "Traceback" not in done.stderr.partition("ChildFailedError")[0].partition("torch/distributed")[0]
    (tmp_path / "store").mkdir(exist_ok=True)
    with FileLock(tmp_path / "store" / LOCK):
        locked = run(images, model_folder, tmp_path / "store")
    assert locked.returncode != 0
    assert "another clzoo process" in locked.stderr


@pytest.mark.slow
def test_killed_at_random_instants_until_it_ends_nothing_is_lost_or_doubled(model_folder: Path, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", 400)
    single = embed_folder(images, str(model_folder), tmp_path / "single", progress=False).store
    out = tmp_path / "store"
    rng = random.Random(seed := random.SystemRandom().randrange(1000))
    print("seed", seed)
    for _ in range(6):
        process = subprocess.Popen(
            torchrun(images, model_folder, out), env=ENVIRONMENT, start_new_session=True, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(3, 9))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if (out / "manifest.json").exists():
            assert_rows(out, single)
    done = run(images, model_folder, out)
    assert done.returncode == 0, done.stderr
    assert_equal_stores(open_store(out), open_store(single))
    assert shares(out) == []


def assert_rows(out: Path, single: Path) -> None:
    store = open_store(out)
    assert store.complete
    assert store.items.equals(open_store(single).items)


@pytest.mark.slow
def test_an_unfinished_share_is_continued_and_one_of_another_number_is_named(
    images: Path, model_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "store"
    for share in (Share(1, 2), Share(1, 3)):
        embed_folder(images, str(model_folder), out, share=share, progress=False)
    done = run(images, model_folder, out, "--json")
    assert done.returncode == 0, done.stderr
    assert "store-shard-1-of-3 is of a run with another number of processes" in done.stderr
    counts = json.loads(done.stdout)
    assert 0 < counts["unchanged"] < 24
    assert counts["embedded"] + counts["unchanged"] == counts["rows"] == 24
    assert [path.name for path in shares(out)] == ["store-shard-1-of-3"]
    shutil.rmtree(shares(out)[0])
    assert len(files_of(out)) == 4
