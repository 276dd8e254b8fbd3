import math

import pytest
import torch

from clzoo import knn
from clzoo.errors import ClzooError
from clzoo.evaluation.features import Features
from clzoo.evaluation.knn import evaluate_knn
from clzoo.knn import KNN_INSTDISC, KNN_V1, Knn, vote
from clzoo.neighbors import nearest

CPU = torch.device("cpu")


def random_features(seed=0, bank=60, queries=20, dim=8, classes=4):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (bank,), generator=g)
    return torch.randn(bank, dim, generator=g), labels, torch.randn(queries, dim, generator=g)


def splits(seed=0, bank=400, queries=50, classes=7):
    bank, labels, queries = random_features(seed, bank, queries, classes=classes)
    names = tuple("abcdefg"[:classes])
    truth = torch.randint(classes, (len(queries),), generator=torch.Generator().manual_seed(seed + 1))
    return Features(bank, labels, names, "train", {}), Features(queries, truth, names, "test", {})


def votes_of(bank, labels, query, k, temperature, classes):
    """Votes in float64, one neighbor after the other."""
    similarity = [float(query @ row / (query.norm() * row.norm())) for row in bank]
    votes = [0.0] * classes
    for i in sorted(range(len(bank)), key=lambda i: (-similarity[i], i))[:k]:
        votes[labels[i]] += math.exp(similarity[i] / temperature)
    return votes


@pytest.mark.parametrize("k", [1, 5, 60])
@pytest.mark.parametrize("temperature", [0.07, 0.1])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_weighted_votes_counted_one_query_at_a_time(k, temperature, seed):
    bank, labels, queries = random_features(seed)
    expected = [votes_of(bank.double(), labels, query.double(), k, temperature, 4) for query in queries]
    predicted = knn.knn_predict(bank, labels, queries, k=k, temperature=temperature)
    assert predicted.tolist() == [votes.index(max(votes)) for votes in expected]
    similarity, rows = nearest(bank, queries, 60)  # more than are asked for: the first k vote
    votes = vote(similarity, labels[rows], 4, k=k, temperature=temperature)
    assert ((votes == -math.inf) == (torch.tensor(expected) == 0)).all()  # no vote is no rank
    votes = votes.clamp_min(0)
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(
        votes / votes.sum(1, keepdim=True), expected / expected.sum(1, keepdim=True), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equal_votes_go_to_the_lower_class(seed):
    g = torch.Generator().manual_seed(seed)
    bank = torch.randint(2, (200, 16), generator=g) * 2.0 - 1  # of length 4: cosines and ties are exact
    queries = torch.randint(2, (100, 16), generator=g) * 2.0 - 1
    labels = torch.randint(6, (200,), generator=g)
    ties = 0
    for query, predicted in zip(queries, knn.knn_predict(bank, labels, queries, k=8), strict=True):
        votes = votes_of(bank.double(), labels, query.double(), 8, 0.07, 6)
        best = [c for c in range(6) if math.isclose(votes[c], max(votes), rel_tol=1e-12)]
        assert predicted == best[0]
        ties += len(best) > 1
    assert ties > 0


def test_votes_divided_by_the_prior_are_those_that_a_balanced_bank_would_give():
    similarity = torch.zeros(1, 12)  # all equally near
    labels = torch.tensor([[0] * 9 + [1] * 3])
    votes = vote(similarity, labels, 3, k=12, temperature=0.07, prior=torch.tensor([0.9, 0.1, 0.0]))
    assert votes[0].tolist() == pytest.approx([10, 30, -math.inf])
    assert vote(similarity, labels, 3, k=12, temperature=0.07).tolist() == [[9, 3, -math.inf]]


def test_the_length_of_a_feature_does_not_matter():
    bank, labels, queries = random_features()
    scaled = bank * torch.linspace(0.1, 10, len(bank))[:, None]
    assert torch.equal(knn.knn_predict(scaled, labels, 5 * queries, k=9), knn.knn_predict(bank, labels, queries, k=9))


def test_separated_classes_are_all_recognised():
    centres = torch.eye(4) * 10
    labels = torch.arange(4).repeat(30)
    bank = centres[labels] + torch.randn(120, 4, generator=torch.Generator().manual_seed(1))
    assert knn.knn_accuracy(bank, labels, centres, torch.arange(4)) == 100.0


def test_several_protocols_in_one_pass_are_each_as_if_alone(monkeypatch):
    train, test = splits()
    calls = []
    monkeypatch.setattr("clzoo.evaluation.knn.nearest", lambda *a, **b: calls.append(a[2]) or nearest(*a, **b))
    outcome = evaluate_knn(train, test, device=CPU)
    assert calls == [200]
    assert [result.protocol for result in outcome.results] == [KNN_V1.id, KNN_INSTDISC.id]
    for result, k, temperature in zip(outcome.results, (20, 200), (0.07, 0.1), strict=True):
        predicted = knn.knn_predict(train.x, train.labels, test.x, k=k, temperature=temperature)
        expected = 100 * (predicted == test.labels).double().mean().item()
        assert (result.metric, result.value, result.std) == ("top-1", pytest.approx(expected), None)
        details = outcome.details["protocols"][result.protocol]
        assert details["top1"] == pytest.approx(expected, abs=1e-4)
        assert len(details["per_class"]) == 7
    (alone,) = evaluate_knn(train, test, protocols=[Knn("knn:mine", 3, 0.5)], device=CPU).results
    assert alone.protocol == "knn:mine(k=3,T=0.5)"


def test_the_ids_of_the_protocols_are_those_that_are_published():
    assert (KNN_V1.id, KNN_INSTDISC.id) == ("knn:v1(k=20,T=0.07,cos)", "knn:instdisc(k=200,T=0.1)")
    assert KNN_V1.id == knn.PROTOCOL


def test_the_order_of_the_test_splits_classes_does_not_matter():
    train, test = splits()
    names, last = train.classes, len(train.classes) - 1
    turned = Features(test.x, last - test.labels, names[::-1], test.origin, {})
    assert evaluate_knn(train, turned, device=CPU).results == evaluate_knn(train, test, device=CPU).results


def test_a_class_without_images_in_the_bank_gets_no_test_image_right():
    train, test = splits()
    names = (*train.classes, "unseen")
    train, test = (Features(part.x, part.labels, names, part.origin, {}) for part in (train, test))
    test.labels[:10] = 7
    details = evaluate_knn(train, test, device=CPU).details["protocols"][KNN_V1.id]
    assert details["per_class"][-1] == 0
    assert max(details["per_class"]) > 0


def test_a_bank_smaller_than_k_and_broken_features_are_errors():
    bank, labels, queries = random_features(bank=10)
    with pytest.raises(ClzooError, match="k=20 needs at least 20 bank images, found 10"):
        knn.knn_predict(bank, labels, queries)
    queries[3, 2] = float("nan")
    with pytest.raises(ClzooError, match="not finite"):
        knn.knn_predict(bank, labels, queries, k=3)


def test_an_evaluation_with_too_few_images_names_them_and_another_protocol():
    with pytest.raises(ClzooError, match=r"instdisc.*at least 200 bank images, found 100 in train.*--protocol knn"):
        evaluate_knn(*splits(bank=100), device=CPU)
    with pytest.raises(ClzooError, match=r"knn:v1.*at least 20 bank images, found 19 in train.*--protocol linear"):
        evaluate_knn(*splits(bank=19), device=CPU)


@pytest.mark.gpu
def test_a_gpu_predicts_what_the_cpu_predicts():
    bank, labels, queries = random_features(bank=5000, queries=1000, dim=128)
    predicted = knn.knn_predict(bank.cuda(), labels.cuda(), queries.cuda())
    assert predicted.device.type == "cuda"
    assert torch.equal(predicted.cpu(), knn.knn_predict(bank, labels, queries))
    train, test = splits()
    assert evaluate_knn(train, test, device=torch.device("cuda")) == evaluate_knn(train, test, device=CPU)
