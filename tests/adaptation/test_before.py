"""What is measured before training is used again for the same arguments alone, and time is counted for them alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from labelled_pictures import make_splits
from pretended_clock import Ticking
from small_models import small_encoder

import clzoo.adaptation.before
import clzoo.adaptation.clock
import clzoo.adaptation.planning
import clzoo.adaptation.run
from clzoo.adaptation import adapt
from clzoo.adaptation.before import START, measure_before
from clzoo.adaptation.measures import ALIGNMENT, KNN, LINEAR, knn_outcomes, part
from clzoo.adaptation.planning import Job
from clzoo.data.opening import open_source
from clzoo.data.parts import parts_of
from clzoo.errors import ClzooError
from clzoo.files import read_json


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """120 pictures of six classes, which encoders take for each other."""
    return make_splits(tmp_path_factory.mktemp("before") / "pictures", train=20, test=1, contrast=20) / "train"


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """Two encoders of other weights, as folders."""
    place = tmp_path_factory.mktemp("before")
    return [small_encoder(seed, method="simclr").save_pretrained(place / f"start-{seed}") for seed in range(2)]


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Names of the encoders that are measured, in turn: by k-NN alone with labels, else by what is soon told."""
    names = []

    def quickly(encoder, train, held, *, labels):
        names.append(encoder.config.name)
        found = knn_outcomes(encoder, train, held)
        outcomes = {KNN: found, LINEAR: found} if labels else {ALIGNMENT: found}
        return outcomes, {name: 100 * float(np.mean(each)) for name, each in outcomes.items()}

    monkeypatch.setenv("CLZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(clzoo.adaptation.before, "measure", quickly)
    monkeypatch.setattr(clzoo.adaptation.run, "measure", quickly)
    return names


@pytest.fixture
def before(pictures, tmp_path, measured):
    """`measure_before` on the pictures, in one folder."""
    whole = open_source(pictures, "pretrain")
    parts = parts_of(whole.images)
    train, held = part(whole, parts.train), part(whole, parts.judged)

    def of(encoder, *, labels=True, folder=tmp_path / "run", **further):
        arguments = {"weights_sha256": encoder.weights_sha256, "labels": labels, **further}
        return measure_before(encoder, train, held, folder, arguments, labels=labels)

    return of


def test_what_was_measured_is_used_again_for_the_same_arguments(before, measured):
    encoder = small_encoder()
    first = before(encoder, minutes=0.17)
    assert len(measured) == 3  # the start and two controls
    again = before(encoder, minutes=0.17)
    assert len(measured) == 3
    assert again.values == first.values
    assert np.array_equal(again.outcomes[START][KNN], first.outcomes[START][KNN])


def test_another_encoder_or_labels_that_were_not_asked_for_are_measured_anew(before, tmp_path):
    one, other = (small_encoder(seed) for seed in range(2))
    first = before(one, labels=False)
    assert set(first.outcomes[START]) == {ALIGNMENT}
    assert set(before(one).outcomes[START]) == {KNN, LINEAR}
    expected = before(other, folder=tmp_path / "empty")
    assert expected.values != before(one).values  # else nothing is shown
    assert before(other).values == expected.values
    assert before(one, labels=False).values == first.values


def test_measuring_that_broke_off_leaves_nothing_of_other_arguments(before, measured, monkeypatch):
    one, other = (small_encoder(seed) for seed in range(2))
    first = before(one)
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            before(other)
    del measured[:]
    assert before(other).values != first.values
    assert len(measured) == 3


def test_after_an_attempt_that_was_refused_another_start_has_its_own_figures_and_its_own_time(
    pictures, starts, tmp_path, monkeypatch, measured
):
    monkeypatch.setattr(clzoo.adaptation.planning, "EPOCHS", 1)
    monkeypatch.setattr(clzoo.adaptation.planning, "seconds_per_step", lambda *_: 0.5)

    def attempt(start, folder, **options):
        monkeypatch.setattr(clzoo.adaptation.clock, "now", Ticking(0.01))
        return adapt(pictures, start=start, labels=True, out=tmp_path / folder, device="cpu", **options)

    with pytest.raises(ClzooError, match=r"--minutes 0\.1 are .* Type: --minutes"):
        attempt(starts[0], "run", minutes=0.1)  # enough for the steps, but not for the verdict beside them
    place = tmp_path / "run" / "adaptation"
    assert (place / "before.npz").is_file()
    assert not (place / "plan.json").exists()
    assert (place / "time.json").is_file()

    monkeypatch.setattr(clzoo.adaptation.run, "_trained", lambda *_: False)  # stopped by hand
    attempt(starts[1], "run")
    attempt(starts[1], "fresh")
    told, expected = (read_json(tmp_path / folder / "adaptation" / "before.json") for folder in ("run", "fresh"))
    assert told["values"] == expected["values"]
    assert told["arguments"] == read_json(place / "plan.json")["arguments"]
    times = [read_json(tmp_path / folder / "adaptation" / "time.json") for folder in ("run", "fresh")]
    assert times[0] == times[1]
    del measured[:]
    attempt(starts[1], "run")
    assert measured == []


def test_images_whose_labels_were_corrected_are_another_adaptation_where_labels_count(pictures, tmp_path):
    whole = open_source(pictures, "pretrain")
    corrected = dataclasses.replace(whole, labels=np.roll(whole.labels, 1))

    def arguments(images, *, labels):
        job = Job(
            small_encoder(), "start", pictures, images, parts_of(images.images), None, "pictures", None, None, labels,
            1, False, tmp_path / "plan",
        )  # fmt: skip
        return job.arguments

    assert arguments(whole, labels=True) != arguments(corrected, labels=True)
    assert arguments(whole, labels=True) == arguments(dataclasses.replace(whole), labels=True)
    assert arguments(whole, labels=False) == arguments(corrected, labels=False)
