"""Numbers of degenerate inputs against slow references: equal features, absent classes, few images, ties."""

import math

import numpy as np
import pytest
import torch

from clzoo.errors import ClzooError
from clzoo.evaluation.features import Features
from clzoo.evaluation.imbalanced import evaluate_imbalanced
from clzoo.evaluation.knn import evaluate_knn
from clzoo.knn import Knn, knn_accuracy

CPU = torch.device("cpu")
NAMES = tuple("abcdefgh")


def features(x, labels, classes=NAMES):
    return Features(torch.as_tensor(x), torch.as_tensor(labels), classes, "points", {"sha256": "0"})


def ranks_in_loops(train, test, k, temperature, share=None):
    """Of each query the rank of its class among those with a vote; None where no neighbor is of its class."""
    found = []
    unit = [row / max(np.linalg.norm(row), 1e-12) for row in train.x.double().numpy()]
    for query, truth in zip(test.x.double().numpy(), test.labels.tolist(), strict=True):
        query = query / max(np.linalg.norm(query), 1e-12)
        cosines = [round(float(row @ query), 6) for row in unit]
        nearest = sorted(range(len(cosines)), key=lambda row: (-cosines[row], row))[:k]
        votes = {}
        for row in nearest:
            label = int(train.labels[row])
            votes[label] = votes.get(label, 0.0) + math.exp((cosines[row] - cosines[nearest[0]]) / temperature)
        if share is not None:
            votes = {label: value / share[label] for label, value in votes.items()}
        order = sorted(votes, key=lambda label: (-round(votes[label], 9), label))
        found.append(order.index(truth) if truth in votes else None)
    return found


def percent(hits):
    return 100 * sum(hits) / len(hits)


def bank_and_queries(case, seed):
    random = np.random.RandomState(seed)
    corners = np.eye(8, dtype=np.float32)
    labels, truth = random.randint(0, 8, 60), random.randint(0, 8, 40)
    if case == "absent from the bank":
        labels = random.choice([1, 3, 6], 60)
    elif case == "two classes":
        labels, truth = random.choice([2, 7], 60), random.choice([2, 7], 40)
    x, queries = corners[labels], corners[truth]
    if case == "all equal":
        x, queries = np.ones_like(x), np.ones_like(queries)
    elif case == "zeros":
        x, queries = np.zeros_like(x), np.zeros_like(queries)
    elif case == "the same picture again and again":
        x, queries = corners[random.randint(0, 3, 60)], corners[random.randint(0, 3, 40)]
    else:
        queries = queries + 0.25 * corners[random.randint(0, 8, 40)]
    return features(x, labels), features(queries.astype(np.float32), truth)


CASES = ["absent from the bank", "two classes", "all equal", "zeros", "the same picture again and again", "corners"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("k", "seed"), [(1, 0), (5, 1), (20, 2), (60, 3)])
def test_knn_is_that_counted_in_loops(case, k, seed):
    print(f"seed {seed}")
    train, test = bank_and_queries(case, seed)
    protocol = Knn("knn", k=k, temperature=0.07)
    (found,) = evaluate_knn(train, test, protocols=[protocol], device=CPU).details["protocols"].values()
    ranks = ranks_in_loops(train, test, k, 0.07)
    assert found["top1"] == pytest.approx(percent([rank == 0 for rank in ranks]), abs=1e-3)
    assert found["top5"] == pytest.approx(percent([rank is not None and rank < 5 for rank in ranks]), abs=1e-3)
    for label in range(8):
        of_class = [rank == 0 for rank, truth in zip(ranks, test.labels.tolist(), strict=True) if truth == label]
        assert found["per_class"][label] == (pytest.approx(percent(of_class), abs=1e-3) if of_class else None)


@pytest.mark.parametrize("case", CASES)
def test_the_knn_rows_of_imbalanced_are_those_counted_in_loops(case):
    train, test = bank_and_queries(case, 5)
    probes = evaluate_imbalanced(train, test, seeds=(0,), subsets=(), device=CPU).details["subsets"][0]["probes"]
    share = (torch.bincount(train.labels, minlength=8) / len(train)).tolist()
    for name, prior in (("knn", None), ("knn, prior-corrected", share)):
        ranks = ranks_in_loops(train, test, 20, 0.07, prior)
        assert probes[name]["top1"] == pytest.approx(percent([rank == 0 for rank in ranks]), abs=1e-3)
        top5 = percent([rank is not None and rank < 5 for rank in ranks])
        assert probes[name]["top5"] == pytest.approx(top5, abs=1e-3)


def test_a_class_that_no_probe_was_fitted_to_is_in_nobodys_top_five():
    train, test = bank_and_queries("absent from the bank", 6)
    asked = features(test.x[test.labels == 0], torch.zeros(int((test.labels == 0).sum()), dtype=torch.int64))
    for probe in (
        evaluate_imbalanced(train, asked, seeds=(0,), subsets=(), device=CPU).details["subsets"][0]["probes"].values()
    ):
        assert probe["top1"] == probe["top5"] == 0


def test_more_neighbors_than_images_are_refused():
    train, test = bank_and_queries("corners", 7)
    few = features(train.x[:19], train.labels[:19])
    with pytest.raises(ClzooError, match="needs at least 20 bank images, found 19"):
        evaluate_knn(few, test, protocols=[Knn("knn", 20, 0.07)], device=CPU)
    with pytest.raises(ClzooError, match="needs at least 20 bank images, found 19"):
        knn_accuracy(few.x, few.labels, test.x, test.labels)
