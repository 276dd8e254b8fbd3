"""Deferring torch's compiler while timm is imported leaves nothing behind: it comes when it is asked for, and works."""

import os

import pytest
import torch
from small_models import small_config, small_encoder
from warm_python import WarmPython

import clzoo

DEFERRED = """
import sys
from clzoo.timm_import import timm
assert "torch._dynamo" not in sys.modules and "sympy" not in sys.modules
"""


@pytest.fixture(scope="module")
def run():
    """Runs code in a fresh process that has imported torch without its compiler, after the import of timm."""
    with WarmPython(imports="import torch") as warm:

        def run(code: str, before: str = DEFERRED) -> None:
            done = warm.run(("-c", before + code), os.environ, 120)
            assert done.returncode == 0, done.stderr

        yield run


def test_the_compiler_comes_later_and_is_the_real_one(run):
    run("""
import torch, torchvision
import torch._dynamo.utils
assert torch._dynamo.__file__.endswith("__init__.py") and torch._dynamo.utils.counters is not None
assert torch.compile(lambda x: x + 1, backend="eager", fullgraph=True)(torch.ones(2)).tolist() == [2, 2]
boxes = torch.tensor([[0, 0, 0, 4.0, 4.0]])
assert torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), boxes, 2).tolist() == [[[[1, 1], [1, 1]]]]
""")


def test_what_timm_keeps_from_the_compiler_stays_kept_from_it(run):
    run("""
import torch
from clzoo.timm_import import _disable
seen = []
@_disable
def kept(x):
    seen.append(torch.compiler.is_compiling())
    return x * 2
assert kept(torch.ones(1)).item() == 2
compiled = torch.compile(lambda x: kept(x + 1) + 1, backend="eager")
assert compiled(torch.ones(1)).item() == 5 and seen == [False, False]
try:
    torch.compile(lambda x: kept(x + 1), backend="eager", fullgraph=True)(torch.ones(1))
except torch._dynamo.exc.Unsupported:
    pass
else:
    raise AssertionError("compiled in one graph")
""")


@pytest.mark.parametrize(
    "wanted", ["from torch._dynamo.utils import counters", "import torch._dynamo.config", "from torch import _dynamo"]
)
def test_whoever_asks_for_another_part_meanwhile_gets_it(run, wanted):
    code = f"""
import sys
assert "torch._dynamo" not in sys.modules
from clzoo import timm_import
with timm_import._compiler_deferred():
    {wanted}
    import torch
    torch._dynamo.reset()
    assert not isinstance(sys.modules["torch._dynamo"], timm_import._Deferred)
"""
    run(code, before="")


def test_loading_leaves_the_random_state_alone(tmp_path):
    model = small_encoder().save_pretrained(tmp_path / "model")
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    clzoo.load(model, device="cpu")
    assert torch.equal(torch.rand(2), wanted)


def test_a_loaded_network_may_be_trained(tmp_path):
    vit = {"architecture": "test_vit", "global_pool": "token", "num_features": 64, "model_args": {"img_size": 32}}
    from clzoo.encoder import Encoder

    for encoder in (small_encoder(), Encoder.untrained(small_config(**vit))):
        loaded = clzoo.load(encoder.save_pretrained(tmp_path / encoder.config.architecture), device="cpu")
        loaded.module.train()(torch.rand(2, 3, 32, 32)).sum().backward()
        assert all(parameter.grad is not None for parameter in loaded.module.parameters())
