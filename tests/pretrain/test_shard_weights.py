"""Shared weights (FSDP2): two processes that each keep a part end as two that each keep all."""

import os
from pathlib import Path

import pytest
import torch
from shares import recipe_of
from small_recipes import small_recipe
from small_runs import lines_of, same, weights_of

import clzoo
from clzoo.errors import ClzooError
from clzoo.pretrain.checkpoint import load_checkpoint
from clzoo.pretrain.loop import pretrain


def two_processes(kind, pictures, out, warm_python):
    script = Path(__file__).with_name("shares.py")
    for result in warm_python.ranks(2, (str(script), str(pictures), str(out), kind), os.environ, timeout=300):
        assert result.returncode == 0, result.stderr
    return out


@pytest.fixture(scope="module")
def runs(pictures, tmp_path_factory, warm_python):
    return two_processes("plain", pictures, tmp_path_factory.mktemp("shares"), warm_python)


def require_equal(expected, found):
    assert found["method"].keys() == expected["method"].keys()
    for name, tensor in expected["method"].items():
        torch.testing.assert_close(found["method"][name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    assert found["optimizer"]["state"].keys() == expected["optimizer"]["state"].keys()
    for number, state in expected["optimizer"]["state"].items():
        for key, value in state.items():
            torch.testing.assert_close(found["optimizer"]["state"][number][key], value, rtol=1e-3, atol=1e-6)


def test_weights_and_optimiser_are_those_of_processes_that_keep_all(runs):
    require_equal(load_checkpoint(runs / "whole"), load_checkpoint(runs / "shares"))


@pytest.mark.slow
def test_so_they_are_in_pieces_with_accumulated_gradients_and_recomputed_blocks(pictures, tmp_path, warm_python):
    two_processes("more", pictures, tmp_path, warm_python)
    require_equal(load_checkpoint(tmp_path / "whole"), load_checkpoint(tmp_path / "shares"))


def test_a_run_looks_at_itself_and_leaves_a_model_as_any_other(runs):
    expected, found = (lines_of(runs / name) for name in ("whole", "shares"))
    assert [line.keys() for line in found] == [line.keys() for line in expected]
    for line, other in zip(found, expected, strict=True):
        for key in line.keys() & {"loss", "alignment", "effective_rank", "cone_q_q"}:
            assert line[key] == pytest.approx(other[key], rel=1e-3, abs=1e-3)
    assert sum("knn" in line for line in found) == 2
    images = torch.rand(2, 32, 32, 3).mul(255).byte()
    vectors = [clzoo.load(runs / name, device="cpu").encode(images) for name in ("whole", "shares")]
    torch.testing.assert_close(vectors[0], vectors[1], rtol=1e-3, atol=1e-4)


def test_a_checkpoint_of_shares_goes_on_in_one_process(runs, tmp_path, pictures):
    """It holds whole tensors: alone, `shard_weights` changes nothing."""
    recipe = recipe_of(True, "schedule.epochs=2")
    assert not pretrain(recipe, pictures, tmp_path / "run", device="cpu", max_minutes=0)
    assert same(
        {name: torch.zeros(tensor.shape) for name, tensor in weights_of(tmp_path / "run").items()},
        {name: torch.zeros(tensor.shape) for name, tensor in weights_of(runs / "shares").items()},
    )
    assert all(type(tensor) is torch.Tensor for tensor in weights_of(runs / "shares").values())


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(ClzooError, match="shard_weights: it takes sgd, adam or adamw, not lars"):
        small_recipe("simclr_cifar10", "shard_weights=true")
    with pytest.raises(ClzooError, match="shard_weights: it excludes compile"):
        small_recipe("mocov2_cifar10", "shard_weights=true", "compile=true")
