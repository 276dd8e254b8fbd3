import math

import pytest
import torch

from clzoo.errors import ClzooError
from clzoo.evaluation import knn


def random_features(seed=0, bank=60, queries=20, dim=8, classes=4):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (bank,), generator=g)
    return torch.randn(bank, dim, generator=g), labels, torch.randn(queries, dim, generator=g)


def one_at_a_time(bank, labels, query, k, temperature):
    similarity = [float(query @ row / (query.norm() * row.norm())) for row in bank]
    nearest = sorted(range(len(bank)), key=lambda i: -similarity[i])[:k]
    votes = [0.0] * (int(labels.max()) + 1)
    for i in nearest:
        votes[labels[i]] += math.exp(similarity[i] / temperature)
    return votes.index(max(votes))


@pytest.mark.parametrize("k", [1, 5, 60])
def test_equals_weighted_votes_counted_one_query_at_a_time(k):
    bank, labels, queries = random_features()
    expected = [one_at_a_time(bank.double(), labels, query.double(), k, 0.07) for query in queries]
    assert knn.knn_predict(bank, labels, queries, k=k).tolist() == expected


def test_chunks_do_not_change_the_predictions(monkeypatch):
    bank, labels, queries = random_features()
    whole = knn.knn_predict(bank, labels, queries, k=7)
    monkeypatch.setattr(knn, "_CHUNK_BYTES", 4 * len(bank) * 3)  # three queries at a time
    assert torch.equal(knn.knn_predict(bank, labels, queries, k=7), whole)


def test_the_length_of_a_feature_does_not_matter():
    bank, labels, queries = random_features()
    scaled = bank * torch.linspace(0.1, 10, len(bank))[:, None]
    assert torch.equal(knn.knn_predict(scaled, labels, 5 * queries, k=9), knn.knn_predict(bank, labels, queries, k=9))


def test_separated_classes_are_all_recognised():
    centres = torch.eye(4) * 10
    labels = torch.arange(4).repeat(30)
    bank = centres[labels] + torch.randn(120, 4, generator=torch.Generator().manual_seed(1))
    assert knn.knn_accuracy(bank, labels, centres, torch.arange(4)) == 100.0


def test_a_bank_smaller_than_k_and_broken_features_are_errors():
    bank, labels, queries = random_features(bank=10)
    with pytest.raises(ClzooError, match="k=20 needs at least 20 bank images, found 10"):
        knn.knn_predict(bank, labels, queries)
    queries[3, 2] = float("nan")
    with pytest.raises(ClzooError, match="not finite"):
        knn.knn_predict(bank, labels, queries, k=3)
