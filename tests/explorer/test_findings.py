"""Flags and scores: what the jobs found, and what could not be looked for, said aloud."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest
from looking import places_of, random_vectors
from written_stores import write_store

from clzoo import ClzooError, explore, find_label_errors, find_leaks, find_outliers, open_store
from clzoo.certificate import sealed
from clzoo.curation.leaks import content_sha256
from clzoo.explorer import exploring
from clzoo.files import write_json


def flag_of(view, name):
    (flag,) = [flag for flag in view.findings.flags if flag.name == name]
    return flag


def score_of(view, name):
    (score,) = [score for score in view.findings.scores if score.name == name]
    return score.values


def test_a_copy_is_flagged_as_a_duplicate(view, place):
    assert set(places_of(place / "store", "ant_00.png", "ant_01.png")) <= set(flag_of(view, "duplicate").rows.tolist())


def test_label_errors_are_those_of_the_job(view, place):
    errors = find_label_errors(place / "store")
    assert sorted(flag_of(view, "probable label error").rows) == sorted(error.row for error in errors.errors)
    quality = score_of(view, "label quality")
    assert [quality[error.row] for error in errors.ranked] == pytest.approx([error.score for error in errors.ranked])


def test_the_distance_of_an_outlier_is_that_of_the_job_and_the_farthest_are_flagged(view, place):
    ranked = find_outliers(place / "store").ranked
    distance = score_of(view, "outlier distance")
    assert [distance[one.row] for one in ranked] == pytest.approx([one.distance for one in ranked], abs=1e-3)
    assert flag_of(view, "outlier").rows.tolist() == [int(distance.argmax())]


def test_what_cannot_be_looked_for_is_noted_and_the_rest_goes_on(tmp_path, caplog):
    write_store(tmp_path / "store", random_vectors(40), labels=["one"] * 39 + ["alone"])
    with caplog.at_level(logging.WARNING, logger="clzoo"):
        view = explore(tmp_path / "store", projection="pca")
    assert [flag.name for flag in view.findings.flags] == ["outlier"]
    notes = "\n".join(view.notes)
    assert "Not looked for: duplicates." in notes
    assert "Not looked for: labels. class 'alone'" in notes
    assert "duplicates are not looked for" in caplog.text


def test_leaked_images_are_flagged_by_a_certificate_and_one_of_another_store_is_refused(place, tmp_path):
    test = shutil.copytree(place / "store", tmp_path / "test")
    leaks = find_leaks(place / "store", test, threshold=0.99999)
    leaks.save(tmp_path / "leaks.json")
    view = explore(test, flags=[], leaks=tmp_path / "leaks.json", projection="pca")
    assert len(flag_of(view, "leak").rows) == len(open_store(test))
    write_store(tmp_path / "elsewhere", random_vectors(40))
    with pytest.raises(ClzooError, match="is neither, or has changed"):
        explore(tmp_path / "elsewhere", flags=[], leaks=tmp_path / "leaks.json", projection="pca")


def test_an_unknown_flag_is_an_error(place):
    with pytest.raises(ClzooError, match="there are no flags copies; expected some of duplicates, labels, outliers"):
        explore(place / "store", flags=["copies"], projection="pca")


def test_what_cannot_be_done_is_refused_before_the_work(place, tmp_path, monkeypatch):
    monkeypatch.setattr(exploring, "_seen", lambda *_: pytest.fail("neighbors and a map, which take minutes"))
    other = write_store(tmp_path / "other", random_vectors(8))
    find_leaks(place / "store", place / "store").save(tmp_path / "leaks.json")
    for options, message in (
        ({"flags": ["outlier"]}, "no flags outlier; expected some of duplicates, labels, outliers"),
        ({"projection": "tsne"}, "found 'tsne'"),
        ({"leaks": tmp_path / "none.json"}, "none.json"),
        ({"leaks": tmp_path / "leaks.json"}, "other is neither, or has changed"),
    ):
        with pytest.raises(ClzooError, match=message):
            explore(other, **options)


def test_a_sample_is_always_the_same_one_and_says_so(place):
    views = [explore(place / "store", flags=["outliers"], projection="pca", sample=10) for _ in range(2)]
    np.testing.assert_array_equal(views[0].seen[0].rows, views[1].seen[0].rows)
    assert len(views[0]) == 10
    assert "A sample: 10 of 36 images" in views[0].notes[0]
    assert set(flag_of(views[0], "outlier").rows) <= set(views[0].seen[0].rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"leaks": [{"test": "none.png", "train": "x", "test_sha256": None}]}, "names 1 images that are not in"),
        ({"leaks": ["x"]}, "lacks what a certificate"),
        ({"leaks": [{"test": ["x"], "train": "x"}]}, "lacks what a certificate"),
        ({"train": None}, "lacks what a certificate"),
        ({"version": 2}, r"of version 2, this clzoo reads 1\. Type: pip install --upgrade clzoo; or make it again"),
    ],
)
def test_a_certificate_that_somebody_else_sealed_is_refused(tmp_path, change, message):
    store = write_store(tmp_path / "store", np.eye(8, dtype=np.float32))
    told = {
        "store": "s",
        "source": "",
        "generation": 1,
        "images": 8,
        "files_sha256": "",
        "sha256": content_sha256(store),
    }
    content = {"model": "m", "weights_sha256": "", "threshold": 0.9, "train": told, "test": told, "leaks": []}
    write_json(tmp_path / "whole.json", sealed(content))
    assert explore(store, flags=[], leaks=tmp_path / "whole.json", projection="pca").findings.flags[0].rows.size == 0
    write_json(tmp_path / "changed.json", sealed(content | change))
    with pytest.raises(ClzooError, match=message):
        explore(store, flags=[], leaks=tmp_path / "changed.json", projection="pca")
