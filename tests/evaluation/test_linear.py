import dataclasses

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from clzoo.errors import ClzooError
from clzoo.evaluation import linear
from clzoo.evaluation.features import Features
from clzoo.evaluation.linear import (
    LINEAR_V1,
    PENALTIES,
    Standardization,
    evaluate_linear,
    fit_softmax,
    linear_scores,
    loss_terms,
    validation_rows,
)

CPU = torch.device("cpu")


def features(x, labels, classes=None, origin="a/train"):
    labels = torch.as_tensor(labels)
    count = int(labels.max()) + 1 if classes is None else classes
    return Features(torch.as_tensor(x).float(), labels, tuple(f"c{i}" for i in range(count)), origin, {})


def digits(train=1200):
    """Handwritten digits, 8 x 8 pixels; some pixels are always 0."""
    data = load_digits()
    order = np.random.RandomState(0).permutation(len(data.target))
    x, labels = data.data[order], data.target[order]
    return features(x[:train], labels[:train]), features(x[train:], labels[train:], origin="a/test")


def clusters(seed=0, counts=(40, 40, 40), spread=1.0, dim=6, origin="a/train"):
    g = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    centers = 4 * torch.eye(dim)[: len(counts)]
    return features(centers[labels] + spread * torch.randn(len(labels), dim, generator=g), labels, len(counts), origin)


def test_accuracy_is_scikit_learns_at_the_chosen_penalty():
    train, test = digits()
    outcome = evaluate_linear(train, test, seeds=(0,), device=CPU)
    mean, std = train.x.mean(dim=0), train.x.std(dim=0, unbiased=False)
    std[std == 0] = 1
    theirs = LogisticRegression(C=1 / (outcome.details["penalty"] * len(train)), tol=1e-8, max_iter=10_000)
    theirs.fit(((train.x - mean) / std).numpy(), train.labels.numpy())
    expected = 100 * theirs.score(((test.x - mean) / std).numpy(), test.labels.numpy())
    assert outcome.results[0].value == pytest.approx(expected, abs=0.2)
    assert outcome.results[0].value > 90


@pytest.mark.parametrize("penalty", [1e-1, 1e-4])
def test_the_class_balanced_loss_is_scikit_learns_balanced_class_weight(penalty):
    train = clusters(counts=(60, 20, 5), spread=3.0)
    x = train.x.double()
    weights, offset = loss_terms(train.labels, 3, torch.ones(len(train), dtype=torch.bool), "class-balanced")
    assert offset is None
    fit = fit_softmax(x, train.labels, 3, penalty=penalty, weights=weights, tolerance=1e-8)
    theirs = LogisticRegression(C=1 / (penalty * len(train)), class_weight="balanced", tol=1e-9, max_iter=10_000)
    theirs.fit(x.numpy(), train.labels.numpy())
    np.testing.assert_allclose(fit.weight.numpy(), theirs.coef_, atol=1e-4)


def test_logit_adjustment_adds_the_log_of_the_shares_in_training_alone():
    train, test = clusters(counts=(60, 20, 5), spread=3.0), clusters(1, counts=(20, 20, 20), spread=3.0)
    weights, offset = loss_terms(train.labels, 3, torch.ones(len(train), dtype=torch.bool), "logit-adjusted")
    assert weights.tolist() == [1.0] * len(train)
    torch.testing.assert_close(offset, torch.tensor([60 / 85, 20 / 85, 5 / 85]).log())
    plain, adjusted = (
        torch.bincount(linear_scores(train, test, seed=0, loss=loss, device=CPU).scores.argmax(dim=1), minlength=3)
        for loss in ("plain", "logit-adjusted")
    )
    assert adjusted[2] > plain[2]
    assert adjusted[0] < plain[0]


def test_a_tenth_of_each_class_is_held_out():
    labels = np.random.RandomState(0).permutation(np.repeat([0, 1, 2, 3, 4], [100, 46, 8, 2, 1]))
    rows = validation_rows(labels, seed=3)
    assert np.bincount(labels[rows], minlength=5).tolist() == [10, 5, 1, 1, 0]
    assert (np.diff(rows) > 0).all()


def test_the_held_out_images_are_drawn_by_the_seed():
    labels = np.repeat([0, 1], 50)
    assert validation_rows(labels, 0).tolist() == validation_rows(labels, 0).tolist()
    assert validation_rows(labels, 0).tolist() != validation_rows(labels, 1).tolist()


def test_held_out_images_are_not_fitted_before_the_penalty_is_chosen(monkeypatch):
    train, test = clusters(), clusters(1)
    seen = []

    def recorded(*args, **options):
        seen.append((options["penalty"], options["weights"]))
        return fit_softmax(*args, **options)

    monkeypatch.setattr(linear, "fit_softmax", recorded)
    fit = linear_scores(train, test, seed=5, loss="plain", device=CPU)
    held_out = torch.from_numpy(validation_rows(train.labels.numpy(), 5))
    for penalty, weights in seen[:-1]:
        assert (weights == 0).nonzero()[:, 0].tolist() == held_out.tolist(), penalty
    assert [penalty for penalty, _ in seen] == [*PENALTIES, fit.penalty]
    assert (seen[-1][1] == 1).all()


def test_the_last_fit_is_of_the_whole_train_split():
    train, test = digits()
    fit = linear_scores(train, test, seed=0, loss="plain", device=CPU)
    standardization = Standardization.of(train.x)
    alone = fit_softmax(train.x, train.labels, 10, penalty=fit.penalty, standardization=standardization)
    assert (alone.scores(test.x).argmax(dim=1) == fit.scores.argmax(dim=1)).float().mean() > 0.99
    torch.testing.assert_close(fit.scores.softmax(dim=1), alone.scores(test.x).softmax(dim=1), atol=0.02, rtol=0)


def test_the_penalty_with_the_best_validation_accuracy_is_chosen():
    train, test = digits(300)
    fit = linear_scores(train, test, seed=0, loss="plain", device=CPU)
    assert [penalty for penalty, _ in fit.sweep] == list(PENALTIES)
    accuracies = [accuracy for _, accuracy in fit.sweep]
    assert fit.penalty == PENALTIES[accuracies.index(max(accuracies))]
    assert len(set(accuracies)) > 1


def test_of_penalties_that_do_as_well_the_strongest_is_chosen():
    fit = linear_scores(clusters(spread=0.1), clusters(1, spread=0.1), seed=0, loss="plain", device=CPU)
    assert [accuracy for _, accuracy in fit.sweep] == [100.0] * 5
    assert fit.penalty == PENALTIES[0]


def test_a_balanced_choice_counts_each_class_alike():
    train, test = clusters(counts=(200, 20, 20), spread=4.0), clusters(1)
    by_image, by_class = (
        linear_scores(train, test, seed=0, loss="plain", device=CPU, balanced_choice=choice) for choice in (False, True)
    )
    rows = torch.from_numpy(validation_rows(train.labels.numpy(), 0))
    assert torch.bincount(train.labels[rows]).tolist() == [20, 2, 2]
    # The accuracy over images is in steps of 1 / 24, the mean over classes in steps of 1 / 60.
    for accuracy, total in [(a, 24) for _, a in by_image.sweep] + [(a, 60) for _, a in by_class.sweep]:
        assert accuracy * total / 100 == pytest.approx(round(accuracy * total / 100), abs=1e-6)
    assert [a for _, a in by_image.sweep] != [a for _, a in by_class.sweep]


def test_labels_of_the_test_split_have_no_say():
    train, test = digits()
    shuffled = dataclasses.replace(test, labels=test.labels.flip(0))
    one, two = (linear_scores(train, split, seed=0, loss="plain", device=CPU) for split in (test, shuffled))
    assert torch.equal(one.scores, two.scores)
    assert (one.penalty, one.sweep) == (two.penalty, two.sweep)


def test_results_carry_the_protocol_and_the_mean_over_seeds():
    train, test = digits()
    outcome = evaluate_linear(train, test, seeds=(0, 1, 2), device=CPU)
    each = [evaluate_linear(train, test, seeds=(seed,), device=CPU) for seed in (0, 1, 2)]
    assert [(r.protocol, r.metric, r.seeds) for r in outcome.results] == [
        (LINEAR_V1, "top-1", (0, 1, 2)),
        (LINEAR_V1, "top-5", (0, 1, 2)),
    ]
    values = [one.results[0].value for one in each]
    assert outcome.results[0].value == pytest.approx(np.mean(values))
    assert outcome.results[0].std == pytest.approx(np.std(values, ddof=1))
    assert outcome.details == each[0].details
    assert set(outcome.details) == {"protocol", "penalty", "sweep", "top1", "top5", "balanced", "per_class"}
    assert [set(point) for point in outcome.details["sweep"]] == [{"penalty", "validation"}] * 5


def test_five_classes_or_fewer_have_no_top_5():
    outcome = evaluate_linear(clusters(), clusters(1), seeds=(0,), device=CPU)
    assert [result.metric for result in outcome.results] == ["top-1"]
    assert outcome.results[0].std is None


def test_a_class_with_one_image_is_an_error_that_names_it():
    with pytest.raises(ClzooError, match=r"'c1' has 1 image in a/train; linear:v1 needs 2 or more.*Add images"):
        evaluate_linear(clusters(counts=(5, 1, 5)), clusters(1), seeds=(0,), device=CPU)


def test_a_class_with_test_images_alone_is_an_error_and_an_empty_one_is_not():
    train = clusters(counts=(20, 0, 20))
    with pytest.raises(ClzooError, match="'c1' has 0 images in a/train"):
        evaluate_linear(train, clusters(1), seeds=(0,), device=CPU)
    outcome = evaluate_linear(train, clusters(1, counts=(20, 0, 20)), seeds=(0,), device=CPU)
    assert outcome.results[0].value > 90
    assert outcome.details["per_class"][1] is None


def test_the_order_of_the_test_splits_classes_does_not_matter():
    train, test = clusters(), clusters(1, origin="a/test")
    turned = dataclasses.replace(test, classes=test.classes[::-1], labels=2 - test.labels)
    one, other = (evaluate_linear(train, part, seeds=(0,), device=CPU) for part in (test, turned))
    assert one.results == other.results
    assert one.details["per_class"] == other.details["per_class"]


def test_other_classes_fewer_than_two_and_broken_features_are_errors():
    train, test = clusters(), clusters(1, origin="a/test")
    renamed = dataclasses.replace(test, classes=("c0", "cow", "c2"))
    with pytest.raises(
        ClzooError, match=r"a/train and a/test differ in their classes: only in train c1; only in test cow"
    ):
        evaluate_linear(train, renamed, seeds=(0,), device=CPU)
    with pytest.raises(ClzooError, match="a/train has images of 1 class; a classifier needs at least 2"):
        evaluate_linear(clusters(counts=(20, 0, 0)), test, seeds=(0,), device=CPU)
    for broken in (train, test):
        value = broken.x[7, 2].item()
        for bad in (float("nan"), float("inf")):
            broken.x[7, 2] = bad
            with pytest.raises(ClzooError, match=f"features of {broken.origin} are not finite.*clzoo verify"):
                evaluate_linear(train, test, seeds=(0,), device=CPU)
        broken.x[7, 2] = value
