"""Names of others never steer the terminal: every command is run with hostile ones, and its raw bytes are looked at."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_models import small_encoder

from clzoo.cli import _COMMANDS, main
from clzoo.doctor.probing import Probe

sys.path.insert(0, str(Path(__file__).parents[1] / "pretrain"))
from small_recipes import small_recipe

EVIL = "e\x1b]0;owned\x07\x1b[31m\rx\nerror: forged\u202egpj\u2066\x9b1m\x7f"
"""Sets the title and the color, forges a line of ours, and turns the direction of writing."""


def run(*arguments: object) -> int:
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def output(capfdbinary):
    """Call it after a command: asserts on the raw bytes of both streams and returns them as one text."""

    def check(*, names: bool = True) -> str:
        captured = capfdbinary.readouterr()
        text = (captured.out + captured.err).decode("utf-8")
        for line in text.split("\n"):
            assert line.isprintable(), repr(line)
            assert not line.lstrip().startswith("error: forged"), repr(line)
        if names:
            assert "owned" in text, "the hostile name is not in this output: the test tests nothing"
        return text

    capfdbinary.readouterr()
    return check


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """EVIL/model, EVIL/data/{train,test}/<EVIL classes>/<EVIL pictures>, and one that cannot be decoded."""
    place = tmp_path_factory.mktemp("evil") / EVIL
    model = small_encoder().save_pretrained(place / "model")
    config = json.loads((model / "config.json").read_text())
    config["clzoo"] |= {"name": EVIL, "license": EVIL, "license_note": EVIL}
    (model / "config.json").write_text(json.dumps(config))
    for split, count in (("train", 8), ("test", 3)):
        for number in range(3):
            folder = place / "data" / split / f"{number}{EVIL}"
            folder.mkdir(parents=True)
            for picture in range(count):
                pixels = np.random.default_rng(picture).integers(80 * number, 80 * number + 90, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{EVIL}{picture}.png")
    (place / "data" / "train" / f"0{EVIL}" / f"broken{EVIL}.png").write_bytes(b"nothing")
    recipe = small_recipe("simclr_cifar10").to_yaml()
    (place / "recipe.yaml").write_text(recipe)
    return place


@pytest.fixture(scope="module")
def store(place) -> Path:
    main(["embed", str(place / "data/train"), "--model", str(place / "model"), "--out", str(place / "store")])
    main(["store", "index", str(place / "store")])
    return place / "store"


@pytest.fixture(scope="module")
def finished_run(place) -> Path:
    main(["pretrain", str(place / "recipe.yaml"), "--data", str(place / "data"), "--out", str(place / "run")])
    return place / "run"


def test_embed(place, output):
    arguments = ["embed", place / "data/train", "--model", place / "model", "--out", place / "other", "--labels"]
    assert run(*arguments) == 0
    assert "broken" in output()
    assert run(*arguments, "--strict") == 1
    output()
    assert run("embed", place / "data/train", "--model", place / "model", "--out", place / "model") == 1
    output()


def test_store(place, store, output):
    copied = place / "copied"
    for code, arguments in (
        (0, ["info", store]),
        (0, ["info", store, "--json"]),
        (0, ["export", store, "--format", "csv", "--out", place / "rows.csv"]),
        (0, ["export", store, "--for", "embedding-atlas", "--out", place / "atlas.parquet"]),
        (0, ["export", store, "--for", "tensorboard", "--out", place / "projector"]),
        (0, ["compact", store]),
        (0, ["index", store]),
        (0, ["copy", store, f"file://{copied}"]),
        (1, ["info", place]),
        (1, ["merge", place / "merged", store, place / "none"]),
        (1, ["copy", place, f"file://{copied}"]),
    ):
        assert run("store", *arguments) == code, arguments
        output(names=arguments[0] not in ("compact", "copy", "index"))


def test_search(place, store, output):
    main(["store", "index", str(store)])
    query = next((place / "data/test").glob("0*/*.png"))
    for code, arguments in (
        (0, [store, query]),
        (0, [store, query, "--json"]),
        (0, [store, query, "--html", place / "page.html"]),
        (1, [store, place / "none.jpg"]),
        (1, [store, place / "data/train"]),
        (1, [place / "none", query]),
    ):
        assert run("search", *arguments) == code, arguments
        output()


def test_curate(place, store, output):
    labelled = place / "labelled"
    assert run("embed", place / "data/train", "--model", place / "model", "--out", labelled, "--labels") == 0
    output()
    (place / "given.csv").write_text(f'"none{EVIL}","label{EVIL}"', encoding="utf-8")
    for code, arguments in (
        (0, ["duplicates", store]),
        (0, ["duplicates", store, "--json", "--html", place / "curated.html"]),
        (1, ["duplicates", place / "none"]),
        (1, ["duplicates", store, "--images", place / "none"]),
        (0, ["leaks", store, store, "--threshold", "0.9999", "--json", "--out", place / "leaks.json"]),
        (0, ["leaks", store, store, "--threshold", "0.9999", "--html", place / "curated.html"]),
        (1, ["leaks", store, place / "none"]),
        (0, ["labels", labelled, "--method", "knn"]),
        (0, ["labels", labelled, "--json", "--html", place / "curated.html"]),
        (1, ["labels", store]),
        (0, ["outliers", labelled]),
        (0, ["outliers", labelled, "--by-class", "--json", "--html", place / "curated.html"]),
        (1, ["outliers", store, "--by-class"]),
        (0, ["select", labelled, "-n", "3"]),
        (0, ["select", labelled, "-n", "3", "--json", "--html", place / "curated.html"]),
        (1, ["select", labelled, "-n", "3", "--labels", place / "given.csv"]),
        (0, ["classify", labelled, "--by-folder", "--save", place / "head.npz", "--out", place / "named.csv"]),
        (0, ["classify", labelled, "--by-folder", "--onnx", place / "head.onnx"]),
        (0, ["classify", labelled, "--with", place / "head.npz", "--json", "--html", place / "curated.html"]),
        (1, ["classify", labelled, "--labels", place / "given.csv"]),
        (1, ["classify", labelled, "--with", place / "given.csv"]),
        (1, ["duplicates", store, "--model", place / "none"]),
    ):
        assert run("curate", *arguments) == code, arguments
        output(names=arguments[-1] not in (store, "knn"))
    page = (place / "curated.html").read_text(encoding="utf-8")
    assert "owned" in page


def test_explore(place, store, output):
    for code, arguments in (
        (0, [store, "--map", "pca", "--html", place / "map.html"]),
        (0, [store, "--map", "pca", "--flags", "none", "--sample", "3", "--html", place / "map.html"]),
        (1, [store, store, "--map", "pca"]),
        (1, [store, "--images", place / "none"]),
        (1, [place / "none"]),
    ):
        assert run("explore", *arguments) == code, arguments
        output()


def test_json_is_exact_although_it_is_plain(store, place, output):
    main(["store", "index", str(store)])
    query = next((place / "data/test").glob("0*/*.png"))
    output(names=False)
    assert run("search", store, query, "--json", "--quiet") == 0
    found = json.loads(output())
    assert found["results"][0]["query"] == str(query)
    assert found["root"] == str(place / "data/train")
    assert all(EVIL in hit["path"] for hit in found["results"][0]["hits"])


def test_names_that_are_no_unicode_are_printed_and_exact_in_json(place, store, output):
    main(["store", "index", str(store)])
    query = place / os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (32, 32)).save(query)
    assert run("search", store, query) == 0
    assert r"caf\xe9.png" in output()
    assert run("search", store, query, "--json", "--quiet") == 0
    assert json.loads(output())["results"][0]["query"] == str(query)


def test_the_zoo(place, output):
    for code, arguments in (
        (1, ["info", EVIL]),
        (1, ["verify", EVIL]),
        (1, ["cached", "--rm", EVIL]),
        (1, ["push", place / "none", "ORG/NAME"]),
        (1, ["export", place / "none", "--to", "onnx", "--out", place / "x.onnx"]),
        (0, ["export", place / "model", "--to", "onnx", "--out", place / "x.onnx"]),
        (1, ["convert", place / "none.pth", "--arch", "resnet18", "--out", place / "converted"]),
        (1, ["convert", place / "recipe.yaml", "--arch", EVIL, "--out", place / "converted"]),
        (2, ["list", "--format", EVIL]),
        (2, [f"{EVIL}"]),
        (2, ["list", f"--{EVIL}"]),
    ):
        assert run(*arguments) == code, arguments
        output(names=code != 2)
    assert run("list", EVIL) in (0, 1)
    output(names=False)


def test_recipes_packs_and_views(place, output):
    for code, arguments in (
        (0, ["recipes"]),
        (0, ["pack", place / "data", "--size", "32", "--out", place / "packed"]),
        (1, ["pack", place / "none", "--size", "32", "--out", place / "packed2"]),
        (0, ["views", place / "recipe.yaml", "--data", place / "data", "--sample", "0", "--out", place / "views.png"]),
        (1, ["views", place / "none.yaml", "--data", place / "data", "--sample", "0", "--out", place / "views.png"]),
        (1, ["pretrain", EVIL]),
        (1, ["pretrain", place / "recipe.yaml", "--set", f"{EVIL}=1"]),
        (1, ["pretrain", place / "recipe.yaml", "--set", f"precision={json.dumps(EVIL)}"]),
        (0, ["pretrain", place / "recipe.yaml", "--dry-run"]),
    ):
        assert run(*arguments) == code, arguments
        output(names=arguments[0] != "recipes" and arguments[-1] != "--dry-run")


def test_pretrain_and_publish(place, finished_run, output):
    from clzoo.pretrain.recipe_files import load_recipe

    backbone = load_recipe(place / "recipe.yaml").backbone.name
    name = f"simclr-{backbone}-cifar10"
    assert run("pretrain", place / "recipe.yaml", "--data", place / "data", "--out", finished_run) == 0
    output()
    assert run("publish", finished_run, name, "--data", place / "data", "--out", place / "entry") == 0
    output()
    assert run("publish", place / "data", "mine", "--data", place / "data", "--out", place / "entry2") == 1
    output()
    assert run("explain-batch", finished_run, "--html", place / "saw.html") == 0
    output()
    assert run("explain-batch", finished_run, "--json", "--quiet") == 0
    output()
    assert run("explain-batch", place / "none") == 1
    output()
    assert "owned" in (place / "saw.html").read_text(encoding="utf-8")


def test_adapt_and_distil(place, store, output, monkeypatch):
    images, out = place / "data/train", place / "adapted"
    assert run("adapt", images, "--from", place / "model", "--out", out) == 1
    output()
    assert run("distil", store, "--out", out) == 1
    output()
    monkeypatch.setattr("clzoo.adaptation.survey.FEWEST", 5)
    monkeypatch.setattr("clzoo.adaptation.planning.EPOCHS", 1)
    monkeypatch.setattr("clzoo.adaptation.recipes.FEWEST_BATCH", 4)
    assert run("adapt", images, "--from", place / "model", "--out", out, "--labels", "--method", "simclr") == 0
    output()
    assert run("pretrain", out / "adaptation/recipe.yaml", "--data", images, "--out", place / "again") == 0
    output()
    assert "<script" not in (out / "verdict.html").read_text()


def test_evaluate_and_compare(place, output):
    model, data = place / "model", place / "data"
    assert run("evaluate", model, "--data", data, "--protocol", "knn", "--out", place / "report") == 0
    output()
    assert run("evaluate", model, "--data", place / "none", "--out", place / "report") == 1
    output()
    assert run("evaluate", model, "--data", data, "--taxonomy", EVIL, "--protocol", "relations") == 1
    output()
    assert run("compare", model, model, "--data", data, "--protocol", "knn", "--out", place / "compared") in (0, 1)
    output()


def test_doctor(place, output, monkeypatch):
    monkeypatch.setenv("CLZOO_CACHE", str(place / "cache"))
    monkeypatch.setenv("HF_HOME", str(place / "hf"))
    monkeypatch.setattr("clzoo.doctor.probe", lambda code: Probe(error=EVIL))  # what a library says when it breaks
    assert run("doctor") == 1
    output()
    assert run("cached") == 0
    output()


def test_log_records_are_plain_for_every_handler(caplog):
    with caplog.at_level("INFO", logger="clzoo"):
        logging.getLogger("clzoo").warning("cannot read %s", EVIL)
    assert caplog.records[-1].getMessage().isprintable()
    assert "owned" in caplog.records[-1].getMessage()


def test_every_command_is_among_them():
    text = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in _COMMANDS if f'"{name}"' not in text] == []
