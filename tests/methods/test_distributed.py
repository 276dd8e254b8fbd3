"""Two processes with half the batch each against one with the whole."""

import os
from pathlib import Path

import pytest
import torch
from tiny import OPTIONS, tiny_batch, tiny_method
from torch import nn
from two_processes import loss_and_gradients, without_batchnorm

from clzoo.pretrain import build


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


def test_buffers_stay_each_processs_own(of_two_processes):
    for rank, found in enumerate(of_two_processes):
        assert found["buffers"].item() == pytest.approx(0.19 * (1 + rank))  # momentum 0.1, twice


class BeforeTorch213(nn.Module):
    """DistributedDataParallel's signature, as far as it matters here."""

    def __init__(self, module, device_ids=None, output_device=None, dim=0, broadcast_buffers=True):
        super().__init__()
        self.said = {"device_ids": device_ids, "broadcast_buffers": broadcast_buffers}


class SinceTorch213(nn.Module):
    def __init__(self, module, device_ids=None, broadcast_buffers=None, *, forward_sync_buffers=None):
        super().__init__()
        self.said = {"broadcast_buffers": broadcast_buffers, "forward_sync_buffers": forward_sync_buffers}


def test_the_option_of_buffers_has_the_name_that_this_torch_has_for_it(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", BeforeTorch213)
    assert build.data_parallel(nn.Linear(1, 1), cpu).said == {"device_ids": None, "broadcast_buffers": False}
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", SinceTorch213)
    found = build.data_parallel(nn.Linear(1, 1), cpu).said
    assert found == {"broadcast_buffers": None, "forward_sync_buffers": False}
