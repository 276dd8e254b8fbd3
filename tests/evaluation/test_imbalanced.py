import dataclasses
import math
from functools import partial

import numpy as np
import pytest
import torch

from clzoo.data.imbalance import class_sizes, imbalanced_rows
from clzoo.errors import ClzooError
from clzoo.evaluation import imbalanced
from clzoo.evaluation.features import Features
from clzoo.evaluation.imbalanced import AS_GIVEN, SUBSETS, evaluate_imbalanced, kept_counts, shots, subset_of

evaluate = partial(evaluate_imbalanced, device=torch.device("cpu"))
PROBES = ["knn", "knn, prior-corrected", "linear", "linear, class-balanced", "linear, logit-adjusted"]


def clusters(counts, seed=0, spread=1.0, dim=8, origin="a/train"):
    """Overlapping classes; the centers are the same whatever the seed."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    centers = torch.randn(len(counts), dim, generator=torch.Generator().manual_seed(99))
    x = centers[labels] + spread * torch.randn(len(labels), dim, generator=torch.Generator().manual_seed(seed))
    classes = tuple(f"c{i}" for i in range(len(counts)))
    return Features(x, labels, classes, origin, {"sha256": "0"})


TRAIN, TEST = clusters([150] * 6), clusters([30] * 6, seed=1, origin="a/test")


@pytest.fixture(scope="module")
def outcome():
    return evaluate(TRAIN, TEST, seeds=(0, 1), subsets=("longtail-50", "linear"))


def one_by_one(per_class, kept, group):
    values = [value for value, images in zip(per_class, kept, strict=True) if group(images) and not math.isnan(value)]
    return sum(values) / len(values) if values else None


@pytest.mark.parametrize("seed", range(3))
def test_shots_by_counts_are_means_over_the_classes_above_100_from_20_to_100_and_below_20(seed):
    random = np.random.RandomState(seed)
    per_class = random.rand(40) * 100
    per_class[5] = np.nan
    kept = random.choice([0, 1, 19, 20, 21, 99, 100, 101, 5000], 40)
    found = shots(per_class, kept.tolist())["counts"]
    assert found == pytest.approx(
        {
            "many": one_by_one(per_class, kept, lambda n: n > 100),
            "medium": one_by_one(per_class, kept, lambda n: 20 <= n <= 100),
            "few": one_by_one(per_class, kept, lambda n: n < 20),
        }
    )


@pytest.mark.parametrize(
    ("classes", "sizes"), [(10, (4, 3, 3)), (100, (34, 33, 33)), (9, (3, 3, 3)), (5, (3, 1, 1)), (3, (1, 1, 1))]
)
def test_thirds_are_of_the_classes_sorted_by_frequency(classes, sizes):
    order = np.random.RandomState(classes).permutation(classes)
    kept = (1000 - 7 * order).tolist()  # the class that is 0 in `order` has most images
    found = shots(order.astype(float), kept)["thirds"]
    ranks, first = np.arange(classes, dtype=float), 0
    for name, size in zip(("many", "medium", "few"), sizes, strict=True):
        assert found[name] == pytest.approx(ranks[first : first + size].mean())
        first += size


def test_of_classes_with_as_many_images_the_first_counts_as_more_frequent():
    assert shots(np.array([1.0, 2.0, 3.0]), [7, 7, 7])["thirds"] == {"many": 1.0, "medium": 2.0, "few": 3.0}


def test_a_class_without_test_images_is_of_no_third():
    with_absent = shots(np.array([np.nan, 1.0, 2.0, np.nan, 3.0]), [0, 30, 20, 900, 10])["thirds"]
    assert with_absent == shots(np.array([1.0, 2.0, 3.0]), [30, 20, 10])["thirds"]


def test_a_class_that_is_a_name_alone_does_not_make_a_split_imbalanced():
    train, test = (
        Features(part.x, part.labels, (*part.classes, "nothing"), part.origin, part.fingerprint)
        for part in (clusters([30, 30, 30]), clusters([5, 5, 5], seed=1))
    )
    found = evaluate(train, test, seeds=(0,), subsets=("longtail-10",)).details["subsets"]
    assert [subset["name"] for subset in found] == ["longtail-10"]


def test_a_group_without_classes_is_none():
    assert shots(np.array([50.0, 60.0]), [500, 400]) == {
        "counts": {"many": 55.0, "medium": None, "few": None},
        "thirds": {"many": 55.0, "medium": None, "few": None},
    }
    assert shots(np.array([50.0, np.nan, np.nan]), [500, 50, 5])["counts"] == {
        "many": 50.0,
        "medium": None,
        "few": None,
    }


def test_seed_0_draws_the_published_subset_and_another_seed_another():
    labels = TRAIN.labels.numpy()
    published = imbalanced_rows(labels, 6, "longtail-50")
    zero, one = subset_of(TRAIN, "longtail-50", 0), subset_of(TRAIN, "longtail-50", 1)
    assert torch.equal(zero.x, TRAIN.x[published])
    assert torch.equal(one.x, TRAIN.x[imbalanced_rows(labels, 6, "longtail-50", 2022)])
    assert not torch.equal(zero.x, one.x)
    assert kept_counts(zero) == kept_counts(one) == class_sizes([150] * 6, "longtail-50")
    assert zero.fingerprint != one.fingerprint


def test_five_probes_are_reported_on_each_subset(outcome):
    assert [subset["name"] for subset in outcome.details["subsets"]] == ["longtail-50", "linear"]
    for subset in outcome.details["subsets"]:
        assert subset["kept"] == class_sizes([150] * 6, subset["name"])
        assert list(subset["probes"]) == PROBES
        for probe in subset["probes"].values():
            assert set(probe) == {"top1", "top5", "balanced", "per_class", "shots"}
            assert probe["top1"] == pytest.approx(probe["balanced"], abs=1e-3)  # the test split is balanced
            thirds = probe["shots"]["thirds"]
            ends = [np.mean(probe["per_class"][:2]), np.mean(probe["per_class"][4:])]
            many, few = ends if subset["name"] == "longtail-50" else ends[::-1]  # "linear" grows with the class
            assert (thirds["many"], thirds["few"]) == pytest.approx((many, few), abs=1e-3)
    assert outcome.details["pretrained_on"] is None


def test_results_carry_the_subset_and_the_probe_and_are_means_over_seeds(outcome):
    ids = [f"imbalanced:v1(longtail-50, {probe})" for probe in ("knn:v1", "knn:v1 prior-corrected", "linear:v1")]
    ids += [f"imbalanced:v1(longtail-50, linear:v1 {loss})" for loss in ("class-balanced", "logit-adjusted")]
    rows = {(r.protocol, r.metric): r for r in outcome.results}
    assert list(dict.fromkeys(protocol for protocol, _ in rows))[:5] == ids
    assert len(rows) == 2 * 5 * 4
    first, second = (
        {
            (r.protocol, r.metric): r.value
            for r in evaluate(TRAIN, TEST, seeds=(seed,), subsets=("longtail-50",)).results
        }
        for seed in (0, 1)
    )
    for key, value in first.items():
        assert rows[key].value == pytest.approx((value + second[key]) / 2)
        assert rows[key].std == pytest.approx(abs(value - second[key]) / math.sqrt(2))
        assert rows[key].seeds == (0, 1)
    probe = outcome.details["subsets"][0]["probes"]["linear"]
    assert rows[(ids[2], "few-shot")].value == pytest.approx(probe["shots"]["thirds"]["few"], abs=1e-3)
    assert rows[(ids[2], "balanced accuracy")].value == pytest.approx(probe["balanced"], abs=1e-3)


@pytest.mark.parametrize("corrected", ["linear, class-balanced", "linear, logit-adjusted", "knn, prior-corrected"])
def test_corrections_help_rare_classes_and_balanced_accuracy(outcome, corrected):
    probes = outcome.details["subsets"][0]["probes"]
    plain = probes["knn" if corrected.startswith("knn") else "linear"]
    assert probes[corrected]["shots"]["thirds"]["few"] > plain["shots"]["thirds"]["few"] + 5
    assert probes[corrected]["balanced"] > plain["balanced"]


def test_the_penalty_is_chosen_by_class_and_not_by_image(monkeypatch):
    asked = []

    def recorded(*args, **options):
        asked.append((options["loss"], options["balanced_choice"], options["seed"]))
        return linear_scores(*args, **options)

    linear_scores = imbalanced.linear_scores
    monkeypatch.setattr(imbalanced, "linear_scores", recorded)
    evaluate(TRAIN, TEST, seeds=(3,), subsets=("longtail-50",))
    assert asked == [(loss, True, 3) for loss in ("plain", "class-balanced", "logit-adjusted")]


def test_classes_left_empty_or_with_one_image_do_not_stop_the_probes():
    train, test = clusters([120] * 10, spread=0.3), clusters([20] * 10, seed=1, spread=0.3)
    kept = class_sizes([120] * 10, "exponential")
    assert kept[:6] == [0, 0, 0, 0, 0, 2]
    result = evaluate(train, test, seeds=(0,), subsets=("exponential",))
    for name, probe in result.details["subsets"][0]["probes"].items():
        assert probe["per_class"][:5] == [0.0] * 5, name
        assert probe["per_class"][9] > 90, name
    single = clusters([120, 120, 1], spread=0.3)
    result = evaluate(single, clusters([20] * 3, seed=1, spread=0.3), seeds=(0,), subsets=())
    assert result.details["subsets"][0]["kept"] == [120, 120, 1]


def test_a_train_split_that_is_not_balanced_is_probed_as_given_too():
    train = clusters([150, 150, 150, 150, 60, 20])
    result = evaluate(train, TEST, seeds=(0, 1), subsets=("longtail-10",))
    assert [(subset["name"], subset["kept"]) for subset in result.details["subsets"]] == [
        ("longtail-10", class_sizes([150, 150, 150, 150, 60, 20], "longtail-10")),
        (AS_GIVEN, [150, 150, 150, 150, 60, 20]),
    ]
    seeds = {r.protocol: r.seeds for r in result.results}
    assert seeds["imbalanced:v1(as given, linear:v1)"] == (0, 1)
    assert seeds["imbalanced:v1(as given, knn:v1)"] == (0,)  # draws nothing, so it is measured once


def test_a_few_missing_images_do_not_make_a_split_imbalanced():
    result = evaluate(clusters([150, 149, 150, 140, 150, 150]), TEST, seeds=(0,), subsets=("longtail-10",))
    assert [subset["name"] for subset in result.details["subsets"]] == ["longtail-10"]


def test_pretraining_counts_group_the_classes_of_probes_of_the_whole_train_split():
    kept = [2, 500, 30, 400, 300, 10]
    result = evaluate(TRAIN, TEST, seeds=(0,), subsets=(), pretrained_on=("longtail-250", np.array(kept)))
    section = result.details["pretrained_on"]
    assert (section["name"], section["kept"], list(section["probes"])) == ("longtail-250", kept, ["knn", "linear"])
    for probe in section["probes"].values():
        per_class = probe["per_class"]
        assert probe["shots"]["counts"]["many"] == pytest.approx(np.mean([per_class[i] for i in (1, 3, 4)]), abs=1e-3)
        assert probe["shots"]["thirds"]["few"] == pytest.approx(np.mean([per_class[i] for i in (0, 5)]), abs=1e-3)
    assert {r.protocol for r in result.results} == {
        "imbalanced:v1(whole train, classes by longtail-250 pretraining, knn:v1)",
        "imbalanced:v1(whole train, classes by longtail-250 pretraining, linear:v1)",
    }
    assert result.details["subsets"] == []


def test_the_five_published_subsets_are_the_default():
    assert SUBSETS == ("linear", "exponential", "longtail-10", "longtail-50", "longtail-100")
    train, test = clusters([1200] * 10, dim=4), clusters([5] * 10, seed=1, dim=4)
    result = evaluate(train, test, seeds=(0,))
    assert [subset["name"] for subset in result.details["subsets"]] == list(SUBSETS)


def test_a_subset_that_leaves_one_class_or_fewer_images_than_k_is_an_error_that_names_it():
    two = clusters([150, 150])
    others = r"Choose the others: .*imbalanced.subsets=\[linear\]"
    with pytest.raises(ClzooError, match=rf"exponential of a/train keeps 2 images of 1 class; .*at least 20.*{others}"):
        evaluate(two, clusters([9, 9], seed=1), seeds=(0,), subsets=("linear", "exponential"))
    small = clusters([10] * 6)
    with pytest.raises(ClzooError, match=r"longtail-100 of a/train keeps 14 images of 3 classes.*\. Give a train"):
        evaluate(small, TEST, seeds=(0,), subsets=("longtail-100",))


def test_the_order_of_the_test_splits_classes_does_not_matter(outcome):
    turned = dataclasses.replace(TEST, classes=TEST.classes[::-1], labels=5 - TEST.labels)
    found = evaluate(TRAIN, turned, seeds=(0, 1), subsets=("longtail-50", "linear"))
    assert found.results == outcome.results


def test_an_unknown_subset_other_classes_and_broken_features_are_errors():
    with pytest.raises(ClzooError, match="longtail"):
        evaluate(TRAIN, TEST, seeds=(0,), subsets=("longtail",))
    with pytest.raises(ClzooError, match="differ in their classes: only in train c0; only in test cow"):
        evaluate(TRAIN, dataclasses.replace(TEST, classes=("cow", *TEST.classes[1:])), seeds=(0,))
    broken = dataclasses.replace(TEST, x=TEST.x.clone())
    broken.x[3, 1] = float("nan")
    with pytest.raises(ClzooError, match="not finite"):
        evaluate(TRAIN, broken, seeds=(0,))
