"""Label errors: planted ones rank first, the formulas are those of the paper; nothing is changed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from patterns import content_of
from test_pairs import unit
from written_stores import write_store

from clzoo import ClzooError, find_label_errors, find_outliers
from clzoo.cli import main
from clzoo.curation.folds import Labelled, folds_of, out_of_fold
from clzoo.curation.labels import quality

PLANTED = (3, 57, 111)


def clusters(count: int = 150, classes: int = 3, spread: float = 0.25) -> tuple[np.ndarray, list[str]]:
    """Vectors around one direction a class, and the labels "0", "1", "2", in turn."""
    labels = np.arange(count) % classes
    vectors = unit(classes, seed=5, dim=16)[labels] + spread * unit(count, seed=6, dim=16)
    return vectors, [str(label) for label in labels]


@pytest.fixture
def store(tmp_path):
    vectors, labels = clusters()
    for row in PLANTED:
        labels[row] = str((int(labels[row]) + 1) % 3)
    return write_store(tmp_path / "store", vectors, labels=labels)


@pytest.mark.parametrize("method", ["knn", "linear"])
@pytest.mark.parametrize("ranking", ["self_confidence", "normalized_margin"])
def test_planted_errors_rank_first_with_the_label_they_had(store, method, ranking):
    found = find_label_errors(store, method=method, ranking=ranking)
    assert sorted(error.row for error in found.ranked[:3]) == list(PLANTED)
    assert [error.suggested for error in sorted(found.ranked[:3], key=lambda e: e.row)] == ["0", "0", "0"]
    assert set(PLANTED) <= {error.row for error in found.errors}
    assert len(found.errors) < 10
    assert found.accuracy == pytest.approx(98, abs=1)


def test_folds_hold_every_class_evenly_and_no_image_judges_itself():
    labels = np.repeat([0, 1, 2], [50, 10, 3])
    fold = folds_of(labels)
    for number in range(3):
        counts = np.bincount(fold[labels == number], minlength=5)
        assert counts.max() - counts.min() <= 1
    vectors = np.eye(30, dtype=np.float32)  # nothing is like anything: only the image itself could tell its label
    known = Labelled(np.arange(30), np.arange(30) % 2, ("a", "b"))
    found = out_of_fold(vectors, known, "knn")
    assert np.allclose(found.sum(axis=1), 1)
    assert found.max() < 0.9


def test_the_formulas_by_hand():
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]], np.float32)
    labels = np.array([0, 0, 1, 2])
    assert quality(probabilities, labels, "self_confidence") == pytest.approx([0.9, 0.2, 0.3, 0.7])
    assert quality(probabilities, labels, "normalized_margin") == pytest.approx([0.9, 0.25, 0.35, 0.75])


def test_scores_are_those_of_cleanlab():
    rank = pytest.importorskip("cleanlab.rank")
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), 200)
    labels = np.random.default_rng(1).integers(0, 4, 200)
    for ranking in ("self_confidence", "normalized_margin"):
        theirs = rank.get_label_quality_scores(labels, probabilities, method=ranking)
        assert np.allclose(quality(probabilities, labels, ranking), theirs, atol=1e-6)


def test_commands_print_json_write_pages_and_change_nothing(store, capsys, tmp_path):
    before = content_of(store.path)
    for job in ("labels", "outliers"):
        main(["curate", job, str(store.path), "--json", "--quiet", "--html", str(tmp_path / f"{job}.html")])
        assert json.loads(capsys.readouterr().out)["store"] == str(store.path)
        assert "default-src 'none'" in (tmp_path / f"{job}.html").read_text()
    assert content_of(store.path) == before


def test_what_cannot_be_judged_is_refused(tmp_path):
    vectors, labels = clusters(12)
    with pytest.raises(ClzooError, match="no labels"):
        find_label_errors(write_store(tmp_path / "a", vectors))
    with pytest.raises(ClzooError, match="one class"):
        find_label_errors(write_store(tmp_path / "b", vectors, labels=["x"] * 12))
    with pytest.raises(ClzooError, match=r"'once' .* has one image"):
        find_label_errors(write_store(tmp_path / "c", vectors, labels=["once", *labels[1:]]))
    with pytest.raises(ClzooError, match="method is one of"):
        find_label_errors(write_store(tmp_path / "d", vectors, labels=labels), method="svm")


def test_strangers_are_the_first_outliers_and_within_a_class_the_misplaced(tmp_path, store):
    vectors, labels = clusters()
    vectors[[10, 20]] = -vectors[[10, 20]].sum(axis=0)  # far from all, near to each other
    found = find_outliers(write_store(tmp_path / "strange", vectors, labels=labels))
    assert {outlier.row for outlier in found.ranked[:2]} == {10, 20}
    assert len(found.ranked) == 150

    by_class = find_outliers(store, by_class=True)
    assert {outlier.row for outlier in by_class.ranked[:3]} == set(PLANTED)
    unit_rows = store.embeddings() / np.linalg.norm(store.embeddings(), axis=1, keepdims=True)
    own = np.flatnonzero(np.array(store.labels) == store.labels[PLANTED[0]])
    distances = np.sort(np.linalg.norm(unit_rows[own] - unit_rows[PLANTED[0]], axis=1))
    at = next(outlier for outlier in by_class.ranked if outlier.row == PLANTED[0])
    assert at.distance == pytest.approx(distances[10], abs=1e-3)


def test_outliers_of_one_image_and_of_classes_of_one(tmp_path):
    with pytest.raises(ClzooError, match="has 1 image;"):
        find_outliers(write_store(tmp_path / "one", unit(1)))
    found = find_outliers(write_store(tmp_path / "few", unit(3), labels=["a", "a", "b"]), by_class=True)
    assert found.alone == ("b",)
    assert len(found.ranked) == 2
    assert "neighbor 1 of its class" in found.summary()[0]  # there are no ten
    assert find_outliers(write_store(tmp_path / "four", unit(4))).k == 3
    with pytest.raises(ClzooError, match=r"each of the 3 classes of .* has one image.*leave out --by-class"):
        find_outliers(write_store(tmp_path / "alone", unit(3), labels=["a", "b", "c"]), by_class=True)
