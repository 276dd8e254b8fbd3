"""The verdict where the truth is known: features that were made better, worse, or only different."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clzoo.adaptation.verdict import FEWEST_IMAGES, LEAST, gain_of, judge, kept_elsewhere, undecided
from clzoo.errors import ClzooError
from clzoo.evaluation.features import Features
from clzoo.evaluation.knn import evaluate_knn
from clzoo.knn import KNN_V1

CLASSES, DIM = 5, 16


def labels_of(count: int) -> torch.Tensor:
    return torch.arange(count) % CLASSES


def made_up(separation: float, seed: int, bank: int = 600, held_out: int = 400) -> tuple[Features, Features]:
    """Train and held-out features: a cloud for each class, so far from the origin."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for count in (bank, held_out):
        labels = labels_of(count)
        x = torch.randn(count, DIM, generator=generator) + separation * torch.eye(DIM)[labels]
        parts.append(Features(x, labels, tuple("abcde"), "made up", {}))
    return parts[0], parts[1]


def right(separation: float, seed: int = 0) -> np.ndarray:
    """(N,) which held-out images k-NN gets right."""
    train, test = made_up(separation, seed)
    outcome = evaluate_knn(train, test, protocols=(KNN_V1,), device=torch.device("cpu"))
    return outcome.arrays["predicted_knn_v1"] == test.labels.numpy()


def runs(*outcomes: np.ndarray) -> np.ndarray:
    return np.stack(outcomes)


def coins(generator: np.random.Generator, share: float, count: int = 400) -> np.ndarray:
    return generator.random(count) < share


def test_better_features_helped_worse_ones_harmed_and_other_ones_are_no_evidence() -> None:
    start = right(2.0)
    better = judge("k-NN", start, runs(right(4.0, 1), right(4.0, 2)))
    worse = judge("k-NN", start, runs(right(0.5, 1), right(0.5, 2)))
    other = judge("k-NN", start, runs(right(2.0, 1), right(2.0, 2)))
    assert (better.word, worse.word, other.word) == ("helped", "harmed", "no evidence")
    assert better.gain.low > LEAST
    assert worse.gain.high < 0
    assert other.gain.low < 0 < other.gain.high
    assert str(better).startswith("helped (+")
    assert better.because == () == worse.because
    assert other.because != ()


def test_the_same_encoder_is_no_evidence_with_a_gain_of_exactly_nothing() -> None:
    start = right(2.0)
    verdict = judge("k-NN", start, runs(start))
    assert verdict.word == "no evidence"
    assert (verdict.gain.value, verdict.gain.low, verdict.gain.high, verdict.gain.changes) == (0, 0, 0, 0)


def test_chance_is_called_help_or_harm_in_few_cases() -> None:
    seed = 7
    print(f"seed {seed}")
    generator = np.random.default_rng(seed)
    words = [
        judge("k-NN", coins(generator, 0.6), runs(coins(generator, 0.6), coins(generator, 0.6))).word
        for _ in range(100)
    ]
    assert sum(word != "no evidence" for word in words) <= 8


def test_the_interval_is_the_paired_one() -> None:
    """Half of the images change nothing: what they are makes no difference, as it would between unpaired accuracies."""
    generator = np.random.default_rng(0)
    start = coins(generator, 0.5, 2000)
    after = start.copy()
    after[:60] = True
    gain = gain_of(start, runs(after))
    expected = 100 * (~start[:60]).mean() * 60 / 2000
    assert gain.value == pytest.approx(expected)
    assert gain.high - gain.low < 1.2  # two separate accuracies of 2000 images have intervals of 4.4 points
    assert gain.low < gain.value < gain.high


def test_more_seeds_that_differ_are_less_sure_than_more_seeds_that_agree() -> None:
    start = np.zeros(400, bool)
    start[:200] = True
    same = start.copy()
    same[200:260] = True
    more, less = same.copy(), same.copy()
    more[260:290] = True
    less[230:260] = False
    agree, differ = gain_of(start, runs(same, same, same)), gain_of(start, runs(more, same, less))
    assert agree.value == differ.value
    assert differ.high - differ.low > 1.2 * (agree.high - agree.low)


def test_one_seed_without_gain_is_no_evidence_though_the_mean_is_high() -> None:
    start = np.zeros(400, bool)
    high, none = np.ones(400, bool), np.zeros(400, bool)
    verdict = judge("k-NN", start, runs(high, high, none))
    assert verdict.word == "no evidence"
    assert "a seed did not gain" in verdict.because


def test_a_gain_that_batchnorm_statistics_give_alone_is_no_evidence() -> None:
    start, after = right(2.0), right(4.0, 1)
    control = right(4.0, 2)
    assert judge("k-NN", start, runs(after), batchnorm=start).word == "helped"
    verdict = judge("k-NN", start, runs(after), batchnorm=control)
    assert verdict.word == "no evidence"
    assert "BatchNorm" in verdict.because[0]
    assert verdict.over_batchnorm is not None
    assert verdict.over_batchnorm.low <= 0


def test_a_probe_that_says_the_opposite_takes_help_back() -> None:
    start, after = right(2.0), right(4.0, 1)
    assert judge("k-NN", start, runs(after), beside={"linear": gain_of(start, runs(after))}).word == "helped"
    verdict = judge("k-NN", start, runs(after), beside={"linear": gain_of(after, runs(start))})
    assert verdict.word == "no evidence"
    assert "linear says the opposite" in verdict.because[0]


def test_a_sure_gain_of_less_than_a_point_is_no_evidence() -> None:
    start = np.zeros(40_000, bool)
    after = start.copy()
    after[:200] = True
    verdict = judge("k-NN", start, runs(after))
    assert verdict.gain.low > 0
    assert verdict.word == "no evidence"
    assert verdict.because == ("the gain is below 1 point",)


def test_few_images_and_few_changes_say_nothing() -> None:
    few = np.zeros(FEWEST_IMAGES - 1, bool)
    assert judge("k-NN", few, runs(~few)).because == (f"{FEWEST_IMAGES - 1} held-out images are fewer than 40",)
    start = np.zeros(FEWEST_IMAGES, bool)
    assert judge("k-NN", start, runs(~start)).word == "helped"
    nine = start.copy()
    nine[:9] = True
    verdict = judge("k-NN", start, runs(nine))
    assert verdict.gain.low > 0
    assert (verdict.word, verdict.because) == ("no evidence", ("the two differ on 9 held-out images, fewer than 10",))
    assert judge("k-NN", nine, runs(start)).word == "no evidence"  # harm is held to the same


def test_what_is_kept_elsewhere() -> None:
    worse, better = right(0.5, 1), right(4.0, 2)
    assert kept_elsewhere(gain_of(better, runs(worse))) == "lost"
    assert kept_elsewhere(gain_of(worse, runs(better))) == "gained"
    assert kept_elsewhere(gain_of(right(2.0), runs(right(2.0, 1)))) == "no evidence of a loss"


def test_a_measure_that_predicts_nothing_decides_nothing() -> None:
    start = right(2.0)
    verdict = undecided("copies found", start, runs(right(4.0, 1)), "not shown to predict accuracy")
    assert (verdict.word, verdict.because) == ("no evidence", ("not shown to predict accuracy",))
    assert verdict.gain.low > 0


def test_the_json_holds_the_rule_and_every_number() -> None:
    start = right(2.0)
    found = judge("k-NN", start, runs(right(4.0, 1), right(4.0, 2)), batchnorm=start).to_json()
    assert found["rule"].startswith("verdict:v1(")
    assert found["verdict"] == "helped"
    assert len(found["gain"]["by_seed"]) == 2
    assert found["over_batchnorm"] == found["gain"]


@pytest.mark.parametrize("shape", [(1, 5), (1, 0), (0, 4)])
def test_outcomes_of_other_images_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ClzooError, match="the same images"):
        gain_of(np.zeros(4), np.zeros(shape))
