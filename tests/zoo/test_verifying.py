"""`clzoo verify`: hash and probe hold, or what is missing or wrong is said."""

import dataclasses

import pytest
from fake_checkpoints import SHIPPED, FakeZoo, saved_folder, shrunk

from clzoo.config import ModelConfig
from clzoo.errors import ClzooError
from clzoo.zoo import verify


@pytest.fixture
def saved(tmp_path):
    return saved_folder(tmp_path)


def change(folder, **values):
    dataclasses.replace(ModelConfig.load(folder / "config.json"), **values).save(folder)


def test_a_saved_model_is_verified(saved):
    result = verify(saved)
    assert result.verified
    assert result.problem is None
    assert result.largest_difference <= 1e-5
    assert len(result.probe) == 16


def test_without_a_recorded_probe_nothing_is_verified_and_the_values_are_shown(saved):
    change(saved, probe=None)
    result = verify(saved)
    assert not result.verified
    assert "no probe is recorded" in result.problem
    assert f"{result.probe[0]:.6g}" in result.problem


@pytest.mark.parametrize(("shift", "verified"), [(5e-5, True), (2e-2, False)])
def test_the_probe_has_the_documented_tolerance(saved, shift, verified):
    probe = ModelConfig.load(saved / "config.json").probe
    change(saved, probe=(probe[0] + shift, *probe[1:]))
    result = verify(saved)
    assert result.verified is verified
    assert verified or "the probe differs by up to 0.02" in result.problem


def test_another_preprocessing_is_caught_by_the_probe_alone(saved):
    config = ModelConfig.load(saved / "config.json")
    change(saved, preprocessing=dataclasses.replace(config.preprocessing, mean=(0.0, 0.0, 0.0)))
    assert "the probe differs" in verify(saved).problem


def test_a_wrong_hash_is_an_error(saved):
    change(saved, weights_sha256="0" * 64)
    with pytest.raises(ClzooError, match="the weights have hash"):
        verify(saved)


def test_a_hash_that_only_this_machine_recorded_does_not_verify(tmp_path, monkeypatch):
    zoo = FakeZoo(tmp_path, shrunk(SHIPPED["mocov3-vit_small-in1k"])).use(monkeypatch)
    result = verify(zoo.config.name, cache_dir=zoo.cache, offline=True)
    assert result.weights_sha256 is not None
    assert not result.recorded_in_entry
    assert not result.verified
    dataclasses.replace(zoo.config, probe=tuple(result.probe)).save(zoo.hub / zoo.config.name)
    again = verify(zoo.config.name, cache_dir=zoo.cache, offline=True)
    assert not again.verified
    assert "records no weights_sha256" in again.problem
