import numpy as np
import pytest
import torch

from clzoo.evaluation.scores import accuracy_of


def sorted_ranks(scores, labels):
    """Rank of the right class of each image, by sorting (higher scores first, then lower classes)."""
    ranks = []
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda c: (-row[c], c))
        ranks.append(order.index(label))
    return np.array(ranks)


@pytest.mark.parametrize("seed", range(3))
def test_top_1_and_top_5_equal_those_of_sorted_scores_with_ties(seed):
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 4, (200, 9), generator=g).float()  # many ties
    labels = torch.randint(0, 9, (200,), generator=g)
    ranks = sorted_ranks(scores, labels)
    accuracy = accuracy_of(scores, labels)
    assert accuracy.top1 == pytest.approx(100 * (ranks == 0).mean())
    assert accuracy.top5 == pytest.approx(100 * (ranks < 5).mean())
    assert accuracy.per_class[3] == pytest.approx(100 * (ranks[labels == 3] == 0).mean())


def test_balanced_accuracy_counts_every_class_alike_and_leaves_out_those_without_images():
    scores = torch.eye(3)[[0, 0, 0, 0, 0]]  # everything is taken for class 0
    labels = torch.tensor([0, 0, 0, 0, 1])
    accuracy = accuracy_of(scores, labels)
    assert accuracy.top1 == 80
    assert accuracy.balanced == 50
    assert accuracy.to_json()["per_class"] == [100.0, 0.0, None]


def test_five_classes_or_fewer_have_no_top_5():
    assert accuracy_of(torch.eye(5), torch.arange(5)).top5 is None
    assert accuracy_of(torch.eye(6), torch.arange(6)).top5 == 100
