"""The wheel, installed where no checkout is near, does everything that the checkout does."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from warm_python import WarmPython

ROOT = Path(__file__).resolve().parent.parent

NARROW = (
    "backbone.architecture=resnet10t",
    "backbone.model_args={channels: [4, 8, 8, 8], stem_type: deep, stem_width: 4}",
    "backbone.stem_stride=2",
    "schedule.epochs=1",
    "schedule.batch_size=8",
)


@pytest.fixture(scope="module")
def clzoo(tmp_path_factory):
    """A function that runs the installed `clzoo` in an empty folder: (folder, run)."""
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = place.glob("*.whl")
    environment = place / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    install = ["install", "--quiet", "--disable-pip-version-check", "--no-deps", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", query], check=True, capture_output=True, text=True).stdout.strip()
    # The dependencies of this environment, behind the new one's own packages.
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    folder = place / "elsewhere"
    folder.mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CLZOO_CACHE")}

    with WarmPython(python, kept) as warm:

        def run(*arguments: str, code: int = 0) -> str:
            environment = {**kept, "CLZOO_CACHE": str(place / "cache")}
            done = warm.run(("-m", "clzoo", *arguments), environment, 300, folder=folder)
            assert done.returncode == code, f"{arguments}: {done.stderr}"
            return done.stdout + done.stderr

        where = warm.run(("-c", "import clzoo; print(clzoo.__file__)"), kept, 60, folder=folder).stdout
        assert site in where, "the test must import the installed package, not the checkout"
        yield folder, run


def draw_pictures(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for name in ("dark", "light"):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 120, (40, 40, 3)) + (120 if name == "light" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")


def test_the_zoo_and_the_recipes_are_inside(clzoo):
    folder, run = clzoo
    assert "cacr-resnet50-in1k" in run("list")
    assert "hjzheng/CACR" in run("info", "cacr-resnet50-in1k")
    assert "reco_in1k" in run("recipes")
    run("cached")
    torch.save(timm.create_model("test_resnet").state_dict(), folder / "theirs.pth")
    run("convert", "theirs.pth", "--arch", "test_resnet", "--out", "theirs")
    run("verify", "./theirs")


def test_the_bundled_model_is_verified_embeds_and_searches(clzoo):
    folder, run = clzoo
    from clzoo.embed.pipeline import DEFAULT_MODEL

    run("verify", DEFAULT_MODEL)
    draw_pictures(folder / "images", 6)
    run("embed", "images/", "--index", "faiss")
    assert "dark" in run("search", "images-embeddings", "images/dark/0.png", "-k", "3")
    run("search", "images-embeddings", "images/dark/0.png", "--html", "found.html")  # from a template in the wheel
    assert "<img" in (folder / "found.html").read_text()
    run("explore", "images-embeddings", "--map", "pca", "--flags", "none", "--html", "map.html")
    assert "clzoo explorer, built by make web" in (folder / "map.html").read_text()
    run("store", "export", "images-embeddings", "--format", "npz")
    run("store", "compact", "images-embeddings")


def test_a_shipped_recipe_trains_and_its_run_becomes_an_entry(clzoo):
    folder, run = clzoo
    draw_pictures(folder / "data" / "train", 16)
    draw_pictures(folder / "data" / "test", 4)
    overrides = [part for value in NARROW for part in ("--set", value)]
    run("pretrain", "cacr_cifar10", "--data", "data", "--out", "run", *overrides)
    run("publish", "run", "cacr-tiny-dots", "--data", "data")
    run("verify", "hub/cacr-tiny-dots")
    run("embed", "data/test", "--model", "hub/cacr-tiny-dots", "--out", "vectors")
    assert "nowhere" in run("push", "nowhere", "org/name", code=1)
    run("views", "cacr_cifar10", "--data", "data", "--sample", "3", "--out", "views.png")
    run("pack", "data/train", "--size", "32", "--out", "packed")
