"""Controls are measured like the model: the same features, device, dtype and protocol."""

import pytest
import torch
from labelled_pictures import make_splits
from small_models import small_encoder

from clzoo.evaluation import controls, evaluate
from clzoo.evaluation.controls import PIXELS, UNTRAINED, measure_controls, untrained_encoder
from clzoo.evaluation.opening import open_splits
from clzoo.metrics import THIS_MODEL


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_splits(tmp_path_factory.mktemp("data") / "alike", contrast=6)


@pytest.fixture(scope="module")
def evaluation(pictures, tmp_path_factory):
    return evaluate(
        small_encoder(), pictures, "knn,linear", seeds=2, controls=True, cache_dir=tmp_path_factory.mktemp("cache")
    )


def test_every_control_stands_under_the_protocol_of_the_model(evaluation):
    of = {}
    for row in evaluation.results:
        if row["metric"] == "top-1":
            of.setdefault(row["of"], {})[row["protocol"].partition("(")[0]] = row
    assert set(of) == {THIS_MODEL, UNTRAINED, PIXELS}
    assert set(of[UNTRAINED]) == set(of[THIS_MODEL]) == {"knn:v1", "linear:v1"}
    assert set(of[PIXELS]) == {"knn:v1"}
    assert of[UNTRAINED]["knn:v1"]["seeds"] == [0, 1]
    assert evaluation.value("knn:v1") == of[THIS_MODEL]["knn:v1"]["value"]  # not a control's


def test_an_encoder_judged_as_a_control_and_as_a_model_gets_the_same_votes(pictures, tmp_path):
    model = small_encoder()
    train, test = open_splits(pictures)
    untrained = untrained_encoder(model.config, 0, train, model.device)
    as_model = evaluate(untrained, pictures, "knn,linear", cache_dir=tmp_path / "one")
    as_control = measure_controls(model, train, test, ["knn", "linear"], seeds=(0,), cache_dir=tmp_path / "two")
    found = {result.protocol: result.to_json("", "")["value"] for of, result in as_control if of == UNTRAINED}
    assert found == {row["protocol"]: row["value"] for row in as_model.results if row["metric"] == "top-1"}


def test_an_untrained_network_is_that_of_its_seed_and_leaves_the_generator_alone(pictures):
    config = small_encoder().config
    train, _ = open_splits(pictures)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, again, other = (untrained_encoder(config, seed, train, torch.device("cpu")) for seed in (0, 0, 1))
    assert torch.rand(1) == expected
    assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256


def test_pixels_that_do_not_fit_are_left_out_and_said(pictures, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(controls, "_MOST_BYTES", 1000)
    train, test = open_splits(pictures)
    with caplog.at_level("INFO", "clzoo"):
        found = measure_controls(small_encoder(), train, test, ["knn"], seeds=(0,), cache_dir=tmp_path)
    assert {of for of, _ in found} == {UNTRAINED}
    assert "raw pixels are not measured" in caplog.text


def test_what_has_no_control_measures_nothing(pictures, tmp_path):
    assert measure_controls(small_encoder(), *open_splits(pictures), ["collapse"], seeds=(0,), cache_dir=tmp_path) == []
