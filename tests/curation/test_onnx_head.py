"""A classifier is written into one file only with the encoder that it was fitted to."""

from __future__ import annotations

import numpy as np
import pytest
from small_models import small_encoder

import clzoo
from clzoo import ClzooError
from clzoo.curation import Classifier
from clzoo.curation.few_shot import text_of
from clzoo.curation.naming import classify_images
from clzoo.curation.onnx_head import export_classifier
from clzoo.embed.manifest import preprocessing_of


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An encoder as a folder; it takes 32 px."""
    return small_encoder().save_pretrained(tmp_path_factory.mktemp("onnx_head") / "model")


@pytest.fixture(scope="module")
def classifier(model):
    """Of two classes, fitted to the encoder as it is."""
    encoder = clzoo.load(model, device="cpu")
    vector = np.ones(encoder.dim, np.float32)
    weight, bias = np.stack([vector, -vector]), np.zeros(2, np.float32)
    told = encoder.weights_sha256, text_of(preprocessing_of(encoder))
    return Classifier(weight, bias, 0 * vector, vector, 1.0, ("even", "odd"), *told, str(model))


def test_the_same_weights_at_another_size_are_refused_and_nothing_is_written(classifier, model, tmp_path):
    other = clzoo.load(model, device="cpu", size=64)
    assert other.weights_sha256 == classifier.weights_sha256
    with pytest.raises(
        ClzooError, match=r"size=32.* has another preprocessing, .*size=64.*clzoo.load\(NAME, size=32\)"
    ):
        export_classifier(classifier, other, tmp_path / "head.onnx")
    assert list(tmp_path.iterdir()) == []


def test_other_weights_are_refused_and_nothing_is_written(classifier, tmp_path):
    other = small_encoder(1)
    with pytest.raises(ClzooError, match=f"has {other.weights_sha256[:12]}. Name its encoder: --model NAME"):
        export_classifier(classifier, other, tmp_path / "head.onnx")
    assert list(tmp_path.iterdir()) == []


def test_images_are_named_by_the_same_rule(classifier, model, tmp_path):
    kept = classifier.save(tmp_path / "head.npz")
    with pytest.raises(ClzooError, match=r"size=32.* has another preprocessing, .*size=64"):
        classify_images(tmp_path, kept, encoder=clzoo.load(model, device="cpu", size=64))
