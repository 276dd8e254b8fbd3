"""A published data set is recognised by its classes and its counts, and by nothing else."""

import pytest

from clzoo.data.known_sets import KNOWN, claimed, recognised
from clzoo.evaluation.taxonomy import read_taxonomy

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def leaves(taxonomy: str) -> list[str]:
    parents = read_taxonomy(taxonomy)
    return [name for name in parents if name not in set(parents.values())]


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tiny"])
def test_whole_sets_are_recognised_in_any_order_of_their_classes(name):
    classes = leaves(name)
    assert recognised(classes[::-1], KNOWN[name].images) is KNOWN[name]
    assert recognised(classes, {"test": 10_000}) is KNOWN[name]


@pytest.mark.parametrize(
    ("classes", "images"),
    [
        (CIFAR10, {"train": 2_000, "test": 10_000}),
        (CIFAR10, {"train": 50_000, "test": 2_000}),
        (CIFAR10[:-1], {"train": 50_000, "test": 10_000}),
        ([*CIFAR10[:-1], "lorry"], {"train": 50_000, "test": 10_000}),
        (CIFAR10, {}),
        (None, {"train": 50_000}),
        ([], {"train": 50_000}),
    ],
)
def test_parts_other_classes_and_images_without_labels_are_recognised_as_nothing(classes, images):
    assert recognised(classes, images) is None


def test_titles_and_ids_claim_a_set_as_a_whole_and_not_in_a_sentence():
    assert claimed("CIFAR-10") is claimed("cifar10") is claimed("Cifar 10") is KNOWN["cifar10"]
    assert claimed("Tiny ImageNet") is KNOWN["tiny"]
    assert claimed("CIFAR-10 (JPEG copy)") is None
    assert claimed("photographs") is None
