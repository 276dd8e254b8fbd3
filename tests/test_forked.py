"""Encoders in forked processes: preloading servers, and multiprocessing as Linux starts it by default."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys
import numpy as np, torch
torch.set_num_threads(2)  # what waits for ever needs more than one
from small_models import small_encoder
import clzoo

images = [np.full((40, 50, 3), level, np.uint8) for level in range(8)]
encoder = small_encoder()
here = encoder.embed(images)
if (child := os.fork()) == 0:
    if sys.argv[1] == "load":
        encoder = clzoo.load(clzoo.load("cacr-resnet10_w16-cifar10", device="cpu").save_pretrained(sys.argv[2]), "cpu")
        os._exit(0 if encoder.embed(images).shape == (8, 128) and torch.get_num_threads() == 1 else 1)
    there = encoder.embed(images)
    os._exit(0 if np.allclose(here, there, atol=1e-6) and torch.get_num_threads() == 1 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert torch.get_num_threads() == 2
"""


@pytest.mark.skipif(sys.platform != "linux", reason="torch has GNU OpenMP on Linux")
@pytest.mark.parametrize("what", ["embed", "load"])
def test_a_forked_process_computes_with_one_thread_and_says_so(what, tmp_path):
    paths = {"PYTHONPATH": ":".join([str(Path(__file__).parent), *sys.path])}
    child = subprocess.run(
        [sys.executable, "-c", SCRIPT, what, str(tmp_path / "model")],
        env={**os.environ, **paths},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert child.stderr.count("forked from one in which torch had computed") == 1
