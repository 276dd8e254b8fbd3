"""The threshold keeps its promise where the truth is known."""

import re

import numpy as np
import pytest
from test_pairs import unit

from clzoo import ClzooError
from clzoo.curation.calibration import (
    Calibration,
    _stands_out,
    check_settings,
    choose_threshold,
    draw_samples,
    expected_at_most,
    in_words,
)
from clzoo.curation.distinct import fit_distinct
from clzoo.curation.pairs import pairs_above, similarity_of

COPIES = 200


def collection(seed: int, copies: int = COPIES) -> np.ndarray:
    """2,000 distinct vectors of 12 dimensions, and noisy copies of the first of them."""
    vectors = unit(2000, seed=seed, dim=12)
    noise = np.random.default_rng(seed + 100).normal(size=(copies, 12)).astype(np.float32)
    near = vectors[:copies] + noise * np.linspace(0.001, 0.06, copies, dtype=np.float32)[:, None]
    return np.concatenate([vectors, near / np.linalg.norm(near, axis=1, keepdims=True)])


def reported(vectors: np.ndarray, false_flags: float) -> np.ndarray:
    """Of each pair reported whether it is a planted one."""
    distinct = fit_distinct(vectors, draw_samples(len(vectors))[1])
    pairs = pairs_above(vectors, distinct.similarity_of(len(vectors) / 2))
    exact = similarity_of(pairs, vectors, vectors)
    threshold, count = choose_threshold(exact, distinct, false_flags)
    chosen = pairs.where(exact >= threshold)
    assert len(chosen) == count
    return chosen.second - chosen.first == 2000


@pytest.mark.parametrize("share", [0.2, 0.05])
def test_the_share_of_false_flags_is_kept_and_most_copies_are_found(share):
    found = np.concatenate([reported(collection(seed), share) for seed in range(5)])
    assert (~found).mean() <= share
    assert found.sum() >= 0.5 * 5 * COPIES


def test_a_smaller_share_reports_less():
    vectors = collection(0)
    counts = [len(reported(vectors, share)) for share in (0.2, 0.01, 0.001)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] > 0


def test_a_collection_without_copies_has_hardly_ever_anything_to_report():
    assert sum(len(reported(collection(seed, copies=0), 0.001)) for seed in range(5)) == 0


@pytest.mark.parametrize(("dimension", "width"), [(2, 0.05), (5, 0.05), (8, 0.01)])
def test_an_encoder_that_hardly_tells_images_apart_makes_no_duplicates_of_them(dimension, width):
    seed = 7
    print(f"seed {seed}")
    vectors = np.zeros((2000, 64))
    vectors[:, 0] = 1
    vectors[:, 1 : 1 + dimension] = width * np.random.default_rng(seed).normal(size=(2000, dimension))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    assert len(pairs_above(vectors, 0.9999)) > 10  # all of them distinct
    distinct = fit_distinct(vectors, draw_samples(2000)[1])
    _, rule, pairs, _ = _stands_out(vectors, None, distinct, 0.001)
    assert len(pairs) == 0
    assert re.match(r"No pair stands out .* the threshold is (0\.9999\d+|1\.0+)\.$", rule), rule
    vectors[1] = vectors[0] + np.float32(1e-7)  # and a copy, far nearer than any two of them
    _, rule, pairs, _ = _stands_out(vectors, None, distinct, 0.1)
    assert list(zip(pairs.first, pairs.second, strict=True)) == [(0, 1)], rule


def test_what_the_fit_does_not_reach_is_not_foretold():
    vectors = unit(1000, seed=0, dim=32)
    distinct = fit_distinct(vectors, draw_samples(1000)[1])
    real = len(pairs_above(vectors, 0.5))
    assert distinct.expected(0.5) == pytest.approx(real, rel=0.1)
    assert distinct.expected(0.2) is None  # 66,126 of them
    calibration = Calibration(0.2, "as given", None, distinct.expected(0.2), distinct.dimension)
    assert "not known: it is too low for an estimate" in in_words(calibration)[1]
    assert calibration.as_json()["expected_false"] is None


def test_what_is_held_out_is_not_what_the_fit_sees():
    for count in (1, 29, 30, 100, 10_000):
        held_out, sample = draw_samples(count)
        assert not set(held_out) & set(sample)
        assert len(held_out)


@pytest.mark.parametrize(("share", "threshold"), [(0, None), (1, None), (float("nan"), None), (0.1, 0), (0.1, 1.1)])
def test_settings_out_of_range_are_refused(share, threshold):
    with pytest.raises(ClzooError, match="found"):
        check_settings(share, threshold)


def test_in_nearly_every_collection_the_share_is_kept_and_not_only_on_average():
    shares = [1 - reported(collection(seed), 0.05).mean() for seed in range(20)]
    assert sum(share > 0.05 for share in shares) <= 3  # one of twenty is expected


def test_what_may_be_expected_by_hand():
    few, more, many = expected_at_most(0.01, np.array([69, 150, 100_000]))
    assert few == pytest.approx(-np.log(0.95))  # none of 69 may be false: P(0) = exp(-x) = 0.95
    assert more == pytest.approx(0.3554, abs=1e-4)  # one may: (1 + x) exp(-x) = 0.95
    assert 0.93 * 1000 < many < 1000
    assert expected_at_most(0.001, np.array([5]))[0] == pytest.approx(0.005)  # the average is stricter here
