"""Controls are measured like the model: the same features, device, dtype and protocol."""

import numpy as np
import pytest
import torch
from labelled_pictures import make_splits
from small_models import small_encoder
from torch import nn

from clzoo.data.collection import ArrayImages, Collection
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.evaluation import controls, evaluate
from clzoo.evaluation.controls import (
    PIXELS,
    UNTRAINED,
    calibrate_batchnorm,
    measure_controls,
    recalibrated,
    untrained_encoder,
)
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


# BatchNorm statistics -----------------------------------------------------------------------------------------------


class Damaged(ArrayImages):
    """Images of which those that are all of 13 cannot be read."""

    def read(self, row):
        if (self.pixels[row] == 13).all():
            raise UnreadableImageError(self.name(row))
        return super().read(row)


def plain(*brightness: int) -> np.ndarray:
    """Images of 32 px, each of one brightness."""
    return np.broadcast_to(np.array(brightness, np.uint8)[:, None, None, None], (len(brightness), 32, 32, 3)).copy()


def first_mean(encoder) -> torch.Tensor:
    """The running mean of the first BatchNorm, which stands behind a linear layer."""
    return next(part for part in encoder.module.modules() if isinstance(part, nn.BatchNorm2d)).running_mean


@pytest.mark.parametrize("bright", [1, 49, 51])
def test_an_image_counts_the_same_in_the_last_batch_as_in_the_first(bright, monkeypatch):
    images = Collection("toy", ArrayImages(plain(*[20] * 50, *[255] * bright)))
    whole = first_mean(recalibrated(small_encoder(), images))
    monkeypatch.setattr(controls, "BATCH", 50)
    torch.testing.assert_close(first_mean(recalibrated(small_encoder(), images)), whole, rtol=0, atol=1e-3)


def test_batches_of_other_sizes_weigh_as_many_images_as_they_hold():
    dark, bright = torch.from_numpy(plain(*[20] * 30)), torch.from_numpy(plain(*[255] * 10))
    one, parts = small_encoder(), small_encoder()
    calibrate_batchnorm(one, [torch.cat([dark, bright])])
    calibrate_batchnorm(parts, [dark, bright])
    torch.testing.assert_close(first_mean(parts), first_mean(one), rtol=0, atol=1e-3)


def batches_of(count: int, monkeypatch) -> list[int]:
    monkeypatch.setattr(controls, "BATCH", 50)
    images = Collection("toy", ArrayImages(plain(*[20] * count)))
    return [len(rows) for rows, _ in controls._read(small_encoder(), images)]


@pytest.mark.parametrize(
    ("count", "sizes"), [(0, []), (1, [1]), (50, [50]), (51, [25, 26]), (100, [50, 50]), (149, [49, 50, 50])]
)
def test_batches_are_nearly_equal_and_as_few_as_can_be(count, sizes, monkeypatch):
    assert batches_of(count, monkeypatch) == sizes


def test_a_network_that_takes_no_single_image_is_calibrated_on_one_more_than_a_batch(monkeypatch):
    monkeypatch.setattr(controls, "BATCH", 8)
    small = small_encoder()
    encoder = Encoder(nn.Sequential(small.module, nn.BatchNorm1d(small.dim)), small.config, small.device)
    images = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)
    assert recalibrated(encoder, Collection("toy", ArrayImages(images))).dim == small.dim
    images[5:] = 13
    images[8] = 200  # the one of the second batch that can be read
    assert recalibrated(encoder, Collection("toy", Damaged(images))).dim == small.dim


def test_one_image_is_refused_where_there_is_batchnorm_and_alone_there():
    one = Collection("toy", ArrayImages(plain(20)))
    for encoder in (recalibrated, lambda of, images: untrained_encoder(of.config, 0, images, of.device)):
        with pytest.raises(ClzooError, match=r"at least 2 images .*, found 1\. Name a folder with more images"):
            encoder(small_encoder(), one)
    vit = small_encoder(architecture="test_vit", backbone="test_vit", num_features=64, model_args={"img_size": 32})
    assert recalibrated(vit, one) is None
    assert untrained_encoder(vit.config, 0, one, vit.device).dim == 64
