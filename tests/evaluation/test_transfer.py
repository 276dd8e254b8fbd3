import dataclasses

import pytest
import torch
from labelled_pictures import make_splits
from small_models import small_encoder

from clzoo.errors import ClzooError
from clzoo.evaluation import evaluate
from clzoo.evaluation.features import Features
from clzoo.evaluation.transfer import evaluate_transfer
from clzoo.publish import _with_hub_id

CPU = torch.device("cpu")


def points(classes, right, count=100):
    """Train features on which a probe is exact, and test features of which it gets the share `right`."""
    train_labels, labels = torch.arange(40 * classes) % classes, torch.arange(count * classes) % classes
    seen = labels.clone()
    seen[: round((1 - right) * len(labels))] += 1
    names = tuple(f"class {n}" for n in range(classes))
    corners = torch.eye(classes)
    return [
        Features(corners[rows % classes], truth, names, "points", {"sha256": str(classes)})
        for rows, truth in ((train_labels, train_labels), (seen, labels))
    ]


def test_the_normalised_mean_counts_what_is_above_chance():
    sets = [("two", *points(2, 0.9), False), ("five", *points(5, 0.6), True)]
    outcome = evaluate_transfer(sets, seeds=(0,), device=CPU)
    rows = {(result.dataset, result.metric): result.value for result in outcome.results}
    assert rows[("two", "top-1")] == pytest.approx(90)
    assert rows[("five", "top-1")] == pytest.approx(60)
    assert rows[("two, five", "mean top-1")] == pytest.approx(75)
    assert rows[("two, five", "normalised mean")] == pytest.approx((80 + 50) / 2)  # above 50 and above 20
    assert len({result.protocol for result in outcome.results}) == 3  # one a set, one of the means
    seen = "test, seen in pretraining without labels"
    assert [result.split for result in outcome.results] == ["test", seen, *[f"test; {seen}"] * 2]


def test_chance_is_among_the_classes_that_have_images():
    named = [dataclasses.replace(part, classes=(*part.classes, "x", "y", "z")) for part in points(2, 0.9)]
    outcome = evaluate_transfer([("two", *named, False)], seeds=(0,), device=CPU)
    assert {result.metric: result.value for result in outcome.results}["normalised mean"] == pytest.approx(80)


def test_sets_are_told_apart_by_their_titles():
    with pytest.raises(ClzooError, match="two sets of transfer are called 'two'"):
        evaluate_transfer([("two", *points(2, 1.0), False)] * 2, seeds=(0,), device=CPU)


def test_the_protocol_takes_the_data_and_further_folders(tmp_path):
    first = make_splits(tmp_path / "animals")
    second = make_splits(tmp_path / "birds", classes=("kea", "owl", "tit"))
    setting = f"transfer.sets=[{second}]"
    found = evaluate(small_encoder(), first, "transfer,linear", settings=[setting], title="A", cache_dir=tmp_path)
    assert [row["dataset"] for row in found.results] == ["A", "birds", "A, birds", "A, birds", "A", "A"]
    assert found.value("transfer:v1(linear:v1,A)") == found.value("linear:v1")
    assert found.metrics["details"]["transfer"]["sets"][1]["classes"] == 3
    found.write(tmp_path / "report")
    assert "normalised mean" in (tmp_path / "report" / "report.html").read_text()
    with pytest.raises(ClzooError, match="nowhere"):
        evaluate(small_encoder(), first, "transfer", settings=["transfer.sets=[nowhere]"], cache_dir=tmp_path)


@pytest.mark.parametrize(("train", "known"), [(50_000, True), (2_000, False)])
def test_only_rows_of_a_recognised_data_set_name_it_on_the_hub(train, known):
    rows = [{"of": "this model", "dataset": name} for name in ("mine", "birds", "mine, birds")]
    rows.append({"of": "raw pixels", "dataset": "mine"})
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    data = {"title": "mine", "classes": classes, "train": {"images": train}, "test": {"images": 10_000}}
    told = _with_hub_id({"results": rows, "data": data})
    assert [row.get("dataset_id") for row in told] == ["uoft-cs/cifar10" if known else None, None, None, None]
