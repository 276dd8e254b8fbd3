import json

import numpy as np
import pytest
from labelled_pictures import make_splits
from small_models import small_encoder

from clzoo.errors import ClzooError
from clzoo.evaluation import compare


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_splits(tmp_path_factory.mktemp("data") / "animals")


def test_one_page_sets_encoders_side_by_side(pictures, tmp_path):
    models = [small_encoder(0), small_encoder(1), small_encoder(0)]
    comparison = compare(models, pictures, "knn", cache_dir=tmp_path / "cache")
    assert len(set(comparison.names)) == 3
    assert comparison.cka[0, 2] == pytest.approx(1)
    assert comparison.overlap[0, 2] == pytest.approx(1)
    assert comparison.cka[0, 1] < 1
    assert np.array_equal(comparison.cka, comparison.cka.T)
    columns, rows = comparison.accuracy_table()
    assert columns[2:] == list(comparison.names)
    assert rows[0][2] == rows[0][4]  # the same encoder twice

    folder = comparison.write(tmp_path / "out")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["models"][comparison.names[1]]["results"][0]["value"] == pytest.approx(rows[0][3], abs=0.01)
    assert (folder / "compare.html").read_text().count("<svg") == 3
    assert comparison.differences == []  # of three there is no one difference


def test_settings_hold_for_every_model(pictures, tmp_path):
    models = [small_encoder(0), small_encoder(1)]
    settings = ["linear_sgd.epochs=1", "linear_sgd.batch_size=4"]
    comparison = compare(models, pictures, "linear:sgd", settings=settings, cache_dir=tmp_path / "cache")
    epochs = [len(e.metrics["details"]["linear:sgd"]["losses"]) for e in comparison.evaluations]
    assert epochs == [1, 1]
    with pytest.raises(ClzooError, match="of finetune, which is not asked for"):
        compare(models, pictures, "knn", settings=["finetune.epochs=5"], cache_dir=tmp_path / "cache")


def test_one_model_is_no_comparison(pictures):
    with pytest.raises(ClzooError, match="at least two models, found 1"):
        compare([small_encoder()], pictures)


def test_a_model_that_is_not_there_is_named_before_the_others_are_measured(pictures, tmp_path):
    with pytest.raises(ClzooError, match="no-such-model"):
        compare([small_encoder(), "no-such-model"], pictures, "knn", cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("seeds", [1, 2])
def test_of_several_seeds_the_page_says_of_which_the_paired_difference_is(pictures, tmp_path, seeds):
    models = [small_encoder(0), small_encoder(1)]
    folder = compare(models, pictures, "linear", seeds=seeds, cache_dir=tmp_path / "cache").write(tmp_path / "out")
    assert ("is of the evaluation&#39;s seed 0" in (folder / "compare.html").read_text()) == (seeds > 1)


def test_two_encoders_differ_by_a_number_with_its_interval_and_in_images_with_their_neighbors(tmp_path):
    pictures = make_splits(tmp_path / "alike", contrast=6)
    models = [small_encoder(0, name="cacr-test_resnet-a"), small_encoder(1, name="cacr-test_resnet-b")]
    comparison = compare(models, pictures, "knn,linear", cache_dir=tmp_path / "cache")
    values = [evaluation.value("knn:v1") for evaluation in comparison.evaluations]
    difference = comparison.differences[0]
    assert difference.value == pytest.approx(values[0] - values[1], abs=0.01)
    assert difference.low <= difference.value <= difference.high
    assert [d.protocol.partition("(")[0] for d in comparison.differences] == ["knn:v1", "linear:v1"]
    folder = comparison.write(tmp_path / "out")
    page = (folder / "compare.html").read_text()
    assert json.loads((folder / "metrics.json").read_text())["differences"][0]["value"] == difference.value
    assert len(comparison.cases) == min(12, difference.only_first + difference.only_second) > 0
    assert page.count("<img") == len(comparison.cases) * (1 + 2 * 5)
    for case in comparison.cases:
        assert sorted(side.right for side in case.sides) == [False, True]
        assert all((side.answer == case.truth) == side.right for side in case.sides)
    with (folder / "metrics.json").open() as file:
        assert "picture" not in file.read()
