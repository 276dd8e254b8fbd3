import hashlib

import numpy as np
import pytest

from clzoo.data.imbalance import check_subset, class_sizes, imbalanced_rows
from clzoo.errors import ClzooError

CIFAR10, CIFAR100 = [5000] * 10, [500] * 100


def test_linear_keeps_500_to_5000_of_cifar10():
    assert class_sizes(CIFAR10, "linear") == list(range(500, 5001, 500))
    assert sum(class_sizes(CIFAR10, "linear")) == 27_500


def test_linear_truncates_the_exact_fraction_and_not_a_rounded_one():
    assert class_sizes([90] * 10, "linear")[6] == 63  # 0.7 * 90 is 62.99... in floating point


def test_exponential_keeps_the_published_numbers():
    assert class_sizes(CIFAR10, "exponential") == [0, 1, 4, 12, 33, 91, 248, 676, 1839, 5000]
    assert sum(class_sizes(CIFAR10, "exponential")) == 7_904
    assert sum(class_sizes(CIFAR100, "exponential")) == 7_870
    assert class_sizes(CIFAR100, "exponential").count(0) == 30


@pytest.mark.parametrize(
    ("counts", "ratio", "total"),
    [
        (CIFAR10, 10, 20_431),
        (CIFAR10, 50, 13_996),
        (CIFAR10, 100, 12_406),
        (CIFAR100, 10, 19_573),
        (CIFAR100, 50, 12_608),
        (CIFAR100, 100, 10_847),
    ],
)
def test_longtail_has_the_sizes_of_cifar_lt(counts, ratio, total):
    sizes = class_sizes(counts, f"longtail-{ratio}")
    assert sum(sizes) == total
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == counts[0]
    assert sizes[-1] * ratio == counts[0]


def test_longtail_never_keeps_more_than_a_class_has():
    assert class_sizes([100, 10, 100], "longtail-2") == [100, 10, 50]


def test_the_first_of_the_published_permutation_are_kept():
    first_of_5000, first_of_500 = [1249, 1470, 2888, 4458, 4309], [242, 219, 89, 285, 298]
    labels = np.repeat([0, 1], 5000)  # two classes: groups 0 and 5
    rows = imbalanced_rows(labels, 2, "longtail-1000")
    assert rows[rows >= 5000].tolist() == [5000 + p for p in sorted(first_of_5000)]
    labels = np.repeat([0, 1], 500)
    rows = imbalanced_rows(labels, 2, "longtail-100")
    assert rows[rows >= 500].tolist() == [500 + p for p in sorted(first_of_500)]


def test_rows_are_sorted_unique_and_reproducible_to_the_index():
    labels = np.random.RandomState(3).permutation(np.repeat(np.arange(10), 5000))  # interleaved, as in CIFAR
    rows = imbalanced_rows(labels, 10, "exponential")
    assert np.bincount(labels[rows], minlength=10).tolist() == class_sizes(CIFAR10, "exponential")
    assert (np.diff(rows) > 0).all()
    assert rows.dtype == np.int64
    # Written down once: any other choice of images is a defect.
    assert hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:16] == "2b9cd8083ad0673b"


def test_another_seed_keeps_as_many_other_images():
    labels = np.repeat(np.arange(10), 500)
    published, other = imbalanced_rows(labels, 10, "longtail-50"), imbalanced_rows(labels, 10, "longtail-50", seed=2022)
    assert imbalanced_rows(labels, 10, "longtail-50", seed=2021).tolist() == published.tolist()
    assert np.bincount(labels[other]).tolist() == np.bincount(labels[published]).tolist()
    assert other.tolist() != published.tolist()


def test_the_kept_images_of_a_class_do_not_depend_on_how_classes_are_laid_out():
    interleaved = np.tile(np.arange(10), 50)
    grouped = np.repeat(np.arange(10), 50)
    one = imbalanced_rows(interleaved, 10, "linear")
    two = imbalanced_rows(grouped, 10, "linear")
    for label in range(10):
        places = [np.flatnonzero(labels == label).tolist() for labels in (interleaved, grouped)]
        kept = [
            [place.index(row) for row in rows.tolist() if labels[row] == label]
            for place, rows, labels in ((places[0], one, interleaved), (places[1], two, grouped))
        ]
        assert kept[0] == kept[1]


@pytest.mark.parametrize("name", ["Linear", "longtail", "longtail-0", "longtail-0.5", "exp", "", "longtail-100x"])
def test_an_unknown_subset_is_refused_with_the_valid_names(name):
    with pytest.raises(ClzooError, match="linear, exponential, or longtail-R"):
        check_subset(name)


def test_a_known_subset_passes_the_check():
    assert [check_subset(name) for name in ("linear", "exponential", "longtail-50")] == [
        "linear",
        "exponential",
        "longtail-50",
    ]


def test_one_class_cannot_be_imbalanced():
    with pytest.raises(ClzooError, match="at least 2"):
        class_sizes([500], "linear")
