"""A newcomer's road, typed: unlabelled photographs, an interrupted run, vectors, a search, the Hub, and back."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clzoo
from clzoo.embed import open_store

pytestmark = pytest.mark.slow  # a dozen processes

TINY = (
    *("schedule.epochs=12", "schedule.batch_size=8", "schedule.warmup_epochs=0", "data.size=32", "views.0.size=24"),
    *("method.projector=[16, 8]", "backbone={architecture: test_resnet, stem_stride: 2}"),
)
REPO = "tester/photos"


def photographs(folder: Path, first: int, count: int) -> Path:
    """Real ones where CLZOO_TEST_DATA has them, else noise."""
    shards = Path(os.environ.get("CLZOO_TEST_DATA", "")) / "imagenet-samples.tar"
    folder.mkdir()
    if not shards.is_file():
        for number in range(first, first + count):
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((96, 80), Image.Resampling.NEAREST).save(folder / f"{number:03}.jpg")
        return folder
    import tarfile

    with tarfile.open(shards) as tar:
        members = sorted((m for m in tar.getmembers() if m.isfile()), key=lambda member: member.name)
        for member in members[first : first + count]:
            (folder / Path(member.name).name).write_bytes(tar.extractfile(member).read())
    return folder


def test_from_a_folder_of_photographs_to_the_hub_and_back(hub, tmp_path):
    photographs(tmp_path / "photos", 0, 40)
    photographs(tmp_path / "other", 40, 20)

    run, store, entry = tmp_path / "runs" / "mine", tmp_path / "store", tmp_path / "entry"

    def type_(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = hub.python("-m", "clzoo", *map(str, words), timeout=300)
        assert done.returncode == code, done.stderr
        return done

    sets = [word for change in TINY for word in ("--set", change)]
    train = [
        "pretrain",
        "simclr_cifar10",
        "--data",
        str(tmp_path / "photos"),
        "--out",
        str(run),
        "--device",
        "cpu",
        *sets,
    ]
    process = subprocess.Popen([sys.executable, "-m", "clzoo", *train], env=hub.environment())
    while not list(run.glob("checkpoint-*.json")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)  # Ctrl-C
    process.wait(120)
    assert not json.loads((run / "state.json").read_text())["finished"]
    assert "stopped at step" in type_("verify", run, code=1).stderr
    next_command = shlex.split(type_(*train).stdout.partition("Next: ")[2])
    assert type_("verify", run, "--json").stdout.count('"verified": true') == 1

    other = tmp_path / "other"
    type_("embed", other, "--model", run, "--index", "faiss", "--out", store, "--device", "cpu")
    query = sorted(path.name for path in other.iterdir())[3]
    assert query in type_("search", store, other / query, "-k", "3").stdout
    type_("export", run, "--to", "onnx", "--out", tmp_path / "model.onnx")

    assert next_command[:3] == ["clzoo", "publish", str(run)]
    assert "--data" not in next_command
    type_(*next_command[1:4], "--out", entry)
    card = (entry / "README.md").read_text()
    assert "No labelled evaluation" in card
    assert "CIFAR" not in card
    assert "pretrained on photos (40 images) without labels" in card
    type_("push", entry, REPO)

    code = "import sys, clzoo; print(clzoo.load(sys.argv[1], device='cpu').embed(sys.argv[2]).tolist())"
    child = hub.python("-c", code, f"hf-hub:{REPO}", str(other / query))
    assert child.returncode == 0, child.stderr
    vector = np.array(json.loads(child.stdout))
    assert vector == pytest.approx(clzoo.load(run, device="cpu").embed(other / query), abs=1e-5)
    embedded = open_store(store)
    stored = embedded.embeddings()[list(embedded.paths).index(query)]
    assert np.dot(vector, stored) == pytest.approx(1, abs=1e-3)
