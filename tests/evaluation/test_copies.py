"""Planted copies: the share is what a search by hand counts, and an image that is there twice is found as either."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import small_encoder

from clzoo.data.collection import ArrayImages, Collection
from clzoo.errors import ClzooError
from clzoo.evaluation import copies
from clzoo.evaluation.copies import KINDS, PROTOCOL, evaluate_copies
from clzoo.evaluation.features import extract


def noise(count: int, seed: int = 0) -> np.ndarray:
    """uint8 (count, 40, 40, 3)."""
    small = np.random.default_rng(seed).integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    return small.repeat(8, axis=1).repeat(8, axis=2)


def bank_of(encoder, pixels: np.ndarray):
    images = ArrayImages(pixels)
    return extract(encoder, Collection("noise", images), needs_labels=False), images


def test_the_share_is_the_one_that_a_search_by_hand_counts():
    encoder, pixels = small_encoder(), noise(60)
    outcome = evaluate_copies(encoder, *bank_of(encoder, pixels))
    bank = np.stack([encoder.embed(image) for image in pixels])  # (60, D), normalised
    expected = {}
    for kind, change in KINDS.items():
        changed = np.stack([encoder.embed(change(Image.fromarray(image))) for image in pixels])
        expected[kind] = 100 * np.mean((changed @ bank.T).argmax(axis=1) == np.arange(60))
    assert outcome.details["found"] == pytest.approx(expected)
    assert 0 < expected["mirror"] < 100  # the numbers can be told apart
    by_metric = {result.metric: result.value for result in outcome.results}
    assert by_metric["copies found"] == pytest.approx(np.mean(list(expected.values())))
    assert {result.protocol for result in outcome.results} == {PROTOCOL}
    assert len(outcome.results) == 1 + len(KINDS)


def test_an_image_that_the_set_holds_twice_is_found_as_either(monkeypatch):
    encoder, pixels = small_encoder(), noise(10)
    monkeypatch.setattr(copies, "KINDS", {"none": lambda image: image})
    twice = evaluate_copies(encoder, *bank_of(encoder, np.concatenate([pixels, pixels])))
    assert twice.details == {"images": 20, "queries": 20, "found": {"none": 100.0}}


def test_a_constant_encoder_finds_nothing_but_by_chance(monkeypatch):
    encoder = small_encoder()
    with torch.no_grad():
        for parameter in encoder.module.parameters():
            parameter.mul_(0).add_(0.01)
    monkeypatch.setattr(copies, "QUERIES", 7)
    bank, images = bank_of(small_encoder(), noise(30))
    outcome = evaluate_copies(encoder, bank, images)  # features of another encoder: no copy is near its image
    assert outcome.details["queries"] == 7
    assert outcome.results[0].value < 50


def test_one_image_is_too_few():
    encoder = small_encoder()
    with pytest.raises(ClzooError, match="at least two images"):
        evaluate_copies(encoder, *bank_of(encoder, noise(1)))
