"""clzoo.evaluate on real files with a real (untrained) network."""

import json
import shutil

import pytest
from labelled_pictures import CLASSES, make_splits
from small_models import small_encoder

import clzoo
from clzoo.errors import ClzooError
from clzoo.evaluation import evaluate
from clzoo.evaluation.opening import open_splits, title_of
from clzoo.evaluation.run import parse_protocols
from clzoo.metrics import check_metrics


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_splits(tmp_path_factory.mktemp("data") / "animals")


@pytest.fixture(scope="module")
def encoder():
    return small_encoder()


@pytest.fixture(scope="module")
def evaluation(pictures, encoder, tmp_path_factory):
    return evaluate(
        encoder, pictures, "knn,linear,collapse,relations", seeds=2, cache_dir=tmp_path_factory.mktemp("cache")
    )


def test_every_number_carries_its_protocol_and_data(evaluation):
    check_metrics(evaluation.metrics)
    rows = {(row["protocol"].partition("(")[0], row["metric"]) for row in evaluation.results}
    assert ("knn:v1", "top-1") in rows
    assert ("linear:v1", "top-1") in rows
    assert {row["dataset"] for row in evaluation.results} == {"animals"}
    assert evaluation.value("knn:v1") > 50  # six colours; chance is 17


def test_metrics_say_which_weights_images_and_versions_they_are_of(evaluation, encoder):
    metrics = evaluation.metrics
    assert metrics["model"]["weights_sha256"] == encoder.weights_sha256
    assert metrics["data"]["train"]["images"] == 72
    assert len(metrics["data"]["test"]["sha256"]) == 64
    assert metrics["versions"]["torch"]
    assert metrics["seeds"] == [0, 1]
    assert metrics["data"]["classes"] == list(CLASSES)


def test_seeds_give_a_spread_where_something_is_drawn_and_none_where_nothing_is(evaluation):
    by_protocol = {row["protocol"].partition("(")[0]: row for row in evaluation.results if row["metric"] == "top-1"}
    assert by_protocol["linear:v1"]["seeds"] == [0, 1]
    assert "seeds" not in by_protocol["knn:v1"]


def test_a_report_is_one_page_with_everything_inside_and_the_numbers_beside_it(evaluation, tmp_path):
    folder = evaluation.write(tmp_path / "report")
    page = (folder / "report.html").read_text()
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(evaluation.metrics))
    assert {path.name for path in folder.iterdir()} == {"metrics.json", "report.html", "plots", "arrays.npz"}
    assert page.count("<svg") == len(list((folder / "plots").iterdir())) == 3  # figures, drawn in the page itself
    assert "http" not in page.replace("Content-Security-Policy", "").replace("http-equiv", "")
    assert "script" not in page
    assert f"{evaluation.value('knn:v1'):.2f}" in page
    evaluation.write(folder)  # again, in place
    (folder / "mine.txt").write_text("keep")
    with pytest.raises(ClzooError, match=r"mine\.txt.*another --out"):
        evaluation.write(folder)


def test_a_value_that_was_not_measured_is_an_error_that_lists_what_was(evaluation):
    with pytest.raises(ClzooError, match=r"nothing was measured by finetune.*knn:v1"):
        evaluation.value("finetune")


def test_splits_may_be_named_one_by_one(pictures, encoder, tmp_path):
    both = {"train": pictures / "train", "test": pictures / "test"}
    named = evaluate(encoder, both, "knn", cache_dir=tmp_path)
    whole = evaluate(encoder, str(pictures), ["knn:v1"], cache_dir=tmp_path)
    assert named.value("knn") == whole.value("knn")
    assert named.metrics["data"]["train"]["sha256"] == whole.metrics["data"]["train"]["sha256"]
    assert title_of(both) == title_of(pictures) == "animals"


def test_classes_that_differ_are_named(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "data")
    (tmp_path / "data" / "test" / "fox").rename(tmp_path / "data" / "test" / "gnu")
    with pytest.raises(ClzooError, match="only in train fox; only in test gnu"):
        open_splits(tmp_path / "data")


def test_what_cannot_be_evaluated_is_refused_with_the_next_step(pictures, encoder, tmp_path):
    with pytest.raises(ClzooError, match="there is no protocol 'kmm'; expected some of knn"):
        parse_protocols("kmm")
    shutil.copytree(pictures / "train", tmp_path / "half" / "train")
    with pytest.raises(ClzooError, match="has the split train, but not test"):
        evaluate(encoder, tmp_path / "half")
    with pytest.raises(ClzooError, match="k=200 needs at least 200 bank images, found 72"):
        evaluate(encoder, pictures, "knn:instdisc", cache_dir=tmp_path)
    with pytest.raises(ClzooError, match="linear:sgd, which is not asked for"):
        evaluate(encoder, pictures, "knn", settings=["linear_sgd.lr=1"])
    with pytest.raises(ClzooError, match="expected linear_sgd"):
        evaluate(encoder, pictures, "knn", settings=["lr=1"])


SHORT = ("linear_sgd.epochs=1", "linear_sgd.batch_size=16")


def test_what_a_short_protocol_refuses_is_refused_before_the_long_ones(pictures, encoder, tmp_path, caplog):
    caplog.set_level("INFO", "clzoo")
    settings = (*SHORT, "transfer.sets=[no-such-folder]")
    with pytest.raises(ClzooError, match="no-such-folder"):
        evaluate(encoder, pictures, "linear:sgd,transfer", settings=settings, cache_dir=tmp_path)
    assert "transfer on" in caplog.text
    assert "linear:sgd on" not in caplog.text


def test_numbers_stand_in_the_order_in_which_they_were_asked_for(pictures, encoder, tmp_path):
    found = evaluate(encoder, pictures, "linear:sgd,knn", settings=SHORT, cache_dir=tmp_path)
    assert [row["protocol"].partition("(")[0] for row in found.results if row["metric"] == "top-1"] == [
        "linear:sgd",
        "knn:v1",
    ]
    assert list(found.metrics["details"]) == ["linear:sgd", "knn"]


@pytest.mark.parametrize(
    ("asked", "remedy"),
    [({"controls": True}, "--protocol collapse,lowshot,knn"), ({"taxonomy": "no-such.csv"}, "lowshot,relations")],
)
def test_what_none_of_the_protocols_would_look_at_is_refused(asked, remedy, pictures, encoder, tmp_path):
    with pytest.raises(ClzooError, match=f"asked for.*{remedy}"):
        evaluate(encoder, pictures, "collapse,lowshot", cache_dir=tmp_path, **asked)
    assert list(tmp_path.iterdir()) == []


def test_evaluate_is_a_public_name():
    assert clzoo.evaluate is evaluate
