"""Every job on collections that it cannot work on: an error that says what is wrong and what to do, never a crash."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from patterns import content_of, make_patterns
from small_models import small_encoder
from test_pairs import unit
from written_stores import write_store

import clzoo
from clzoo import ClzooError
from clzoo.cli import main

JOBS = {
    "duplicates": ["duplicates", "STORE"],
    "leaks": ["leaks", "STORE", "STORE"],
    "labels": ["labels", "STORE", "--method", "knn"],
    "outliers": ["outliers", "STORE"],
    "select": ["select", "STORE", "-n", "1"],
    "classify": ["classify", "STORE", "--by-folder"],
}


@pytest.fixture
def job(capsys):
    """Run a job on a store; returns the exit code and what it printed, errors included."""

    def run(name: str, store: Path, *more: str) -> tuple[int, str]:
        arguments = [str(store) if word == "STORE" else word for word in JOBS[name]]
        code = 0
        try:
            main(["curate", *arguments, *more, "--quiet"])
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        text = printed.out + printed.err
        assert "unexpected" not in text, text  # how the command names what is no error of its own
        return code, text

    return run


@pytest.fixture(scope="module")
def empty(tmp_path_factory, encoder) -> Path:
    place = tmp_path_factory.mktemp("empty")
    (place / "images").mkdir()
    (place / "images" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ClzooError, match="none of the 1 images"):
        clzoo.embed_folder(place / "images", encoder, out=place / "store")
    return place / "store"


@pytest.mark.parametrize("name", JOBS)
def test_an_empty_store(job, empty, name):
    code, text = job(name, empty)
    assert code == 1
    assert f"{empty} is empty. Embed images into it: clzoo embed IMAGES --out {empty}" in text


@pytest.mark.parametrize("name", JOBS)
def test_vectors_that_are_not_finite(job, tmp_path, name):
    vectors = unit(40)
    vectors[7, 3] = np.nan
    store = write_store(tmp_path / "store", vectors, labels=["a", "b"] * 20)
    code, text = job(name, store.path)
    assert code == 1
    assert "holds 1 vectors that are not finite (row 7, 000007.jpg)" in text
    assert f"--out {store.path}-again" in text


@pytest.mark.parametrize("name", JOBS)
def test_one_image(job, tmp_path, encoder, name):
    make_patterns(tmp_path / "images" / "a", 1)
    clzoo.embed_folder(tmp_path / "images", encoder, out=tmp_path / "store", labels=True)
    code, text = job(name, tmp_path / "store")
    expected = {"duplicates": 0, "leaks": 0, "select": 0}
    assert code == expected.get(name, 1), text
    if code:
        assert any(words in text for words in ("one class", "has 1 image;"))
        # Each command is told what it takes itself.
        assert ("--labels FILE" in text) == (name == "classify")
        assert ("clzoo embed" in text) == (name == "labels")


@pytest.mark.parametrize("name", JOBS)
def test_nothing_but_copies(job, tmp_path, encoder, name):
    for label in "ab":
        folder = make_patterns(tmp_path / "images" / label, 1)
        for number in range(1, 20):
            shutil.copy(folder / "000.png", folder / f"{number:03}.png")
    clzoo.embed_folder(tmp_path / "images", encoder, out=tmp_path / "store", labels=True)
    before = content_of(tmp_path)
    code, text = job(name, tmp_path / "store")
    assert code == 0, text
    assert content_of(tmp_path) == before
    expected = {"duplicates": "39 could go", "leaks": "40 of 40 test images (100.00%)", "outliers": "40 images"}
    assert expected.get(name, "") in text


@pytest.mark.parametrize("name", JOBS)
def test_pictures_that_are_gone_are_asked_for_where_they_are_needed(job, tmp_path, encoder, name):
    make_patterns(tmp_path / "images" / "a", 20)
    make_patterns(tmp_path / "images" / "b", 20, first=20)
    clzoo.embed_folder(tmp_path / "images", encoder, out=tmp_path / "store", labels=True)
    (tmp_path / "images").rename(tmp_path / "moved")
    page = tmp_path / "page.html"
    options = ["--html", str(page)]
    code, text = job(name, tmp_path / "store", *options)
    needs_them = name in ("duplicates", "leaks")
    assert code == (1 if needs_them else 0), text
    if needs_them:
        assert "are not at" in text
        assert (" --train-images DIR" if name == "leaks" else " --images DIR") in text
    elif name != "classify":  # which has nothing left to name, and shows nothing
        assert "no such file" in page.read_text().lower()
    wrong = ["--train-images", str(tmp_path / "none")] if name == "leaks" else ["--images", str(tmp_path / "none")]
    assert job(name, tmp_path / "store", *options, *wrong)[0] == 1
    moved = str(tmp_path / "moved")
    right = ["--train-images", moved, "--test-images", moved] if name == "leaks" else ["--images", moved]
    code, text = job(name, tmp_path / "store", *options, *right)
    assert code == 0, text
    assert "no such file" not in page.read_text().lower()


def test_pictures_of_the_test_store_that_are_gone_are_asked_for_too(tmp_path, encoder, clzoo_says):
    """A certificate knows the test images by the hashes of their files."""
    for name in ("train", "test"):
        clzoo.embed_folder(make_patterns(tmp_path / name, 8), encoder, out=tmp_path / f"{name}-store")
    (tmp_path / "test").rename(tmp_path / "moved")
    arguments = ["curate", "leaks", tmp_path / "train-store", tmp_path / "test-store", "--quiet"]
    code, _, err = clzoo_says(*arguments)
    assert code == 1
    assert "test-store are not at" in err
    assert "--test-images DIR" in err
    code, out, _ = clzoo_says(*arguments, "--test-images", tmp_path / "moved")
    assert code == 0
    assert "8 byte-identical" in out


def test_all_images_labelled_leaves_none_to_choose_and_more_than_there_are_is_answered_with_the_number(tmp_path):
    store = write_store(tmp_path / "store", unit(10))
    with pytest.raises(ClzooError, match=r"every image of .* has a label: nothing is left to choose"):
        clzoo.select_images(store, 1, labels=["a"] * 10)
    with pytest.raises(ClzooError, match=r"has 7 images without a label, found n=8. Ask for 1 to 7: -n 7"):
        clzoo.select_images(store, 8, labels=["a"] * 3 + [None] * 7)


def test_stores_of_different_encoders(job, tmp_path, encoder):
    make_patterns(tmp_path / "images", 4)
    for number, made_by in enumerate((encoder, small_encoder())):
        clzoo.embed_folder(tmp_path / "images", made_by, out=tmp_path / f"store{number}")
    with pytest.raises(ClzooError, match="their vectors cannot be compared"):
        clzoo.find_leaks(tmp_path / "store0", tmp_path / "store1")


@pytest.mark.parametrize("name", ["select", "classify"])
def test_labels_that_name_no_row(job, tmp_path, name, capsys):
    store = write_store(tmp_path / "store", unit(10))
    (tmp_path / "labels.csv").write_text("elsewhere.jpg,a\n")
    arguments = {"select": ["-n", "1"], "classify": []}[name]
    with pytest.raises(SystemExit):
        main(["curate", name, str(store.path), *arguments, "--labels", str(tmp_path / "labels.csv"), "--quiet"])
    text = capsys.readouterr().err
    assert "names 1 images that are not in" in text
    assert "elsewhere.jpg" in text


def test_a_store_that_is_none(job, tmp_path):
    for name in JOBS:
        code, text = job(name, tmp_path / "none")
        assert code == 1
        assert str(tmp_path / "none") in text


def test_json_of_nothing_found_is_whole(job, tmp_path, encoder):
    make_patterns(tmp_path / "images", 3)
    clzoo.embed_folder(tmp_path / "images", encoder, out=tmp_path / "store")
    code, text = job("duplicates", tmp_path / "store", "--json", "--threshold", "0.99999")
    assert code == 0
    assert json.loads(text)["groups"] == []


@pytest.mark.parametrize("name", ["labels", "outliers", "select", "classify"])
def test_a_page_that_cannot_be_written_there(job, tmp_path, name):
    store = write_store(tmp_path / "store", unit(40), labels=["a", "b"] * 20)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    code, text = job(name, store.path, "--html", str(tmp_path / "folder"))
    assert code == 2
    assert "is a directory" in text
    code, text = job(name, store.path, "--html", str(tmp_path / "file" / "page.html"))
    assert code == 1
    assert "page.html cannot be written" in text
    with pytest.raises(ClzooError, match="is a folder; expected the name of a file"):
        clzoo.select_images(store, 1).write_page(tmp_path / "folder")
    assert list((tmp_path / "folder").iterdir()) == []
