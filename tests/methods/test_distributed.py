"""Two processes with half the batch each against one with the whole."""

import os
from pathlib import Path

import pytest
import torch
from tiny import OPTIONS, tiny_batch, tiny_method
from two_processes import loss_and_gradients, without_batchnorm


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory, warm_python):
    out = tmp_path_factory.mktemp("gloo")
    script = Path(__file__).with_name("two_processes.py")
    for result in warm_python.ranks(2, (str(script), str(out)), os.environ, timeout=300):
        assert result.returncode == 0, result.stderr
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("kind", list(OPTIONS))
def test_halves_give_the_loss_the_gradient_and_the_queue_of_the_whole_batch(kind, of_two_processes):
    whole = loss_and_gradients(kind, without_batchnorm(tiny_method(kind)), tiny_batch(kind))
    for rank in of_two_processes:
        assert rank[kind].keys() == whole.keys()
        for name, expected in whole.items():
            error = (rank[kind][name] - expected).norm() / expected.norm().clamp_min(1e-6)
            assert error < 1e-5, f"{name}: relative error {error}"
