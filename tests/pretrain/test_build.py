"""What is trained is the network that the recipe names, compiled or not, in one process or in several."""

import pytest
import timm
import torch
from small_recipes import small_recipe

from clzoo.errors import ClzooError
from clzoo.pretrain.build import build_method, compile_networks, for_processes
from clzoo.pretrain.trained import encoder_of

WITH_ACTIVATIONS_IN_ITS_NORMS = (
    "backbone.architecture=regnetx_002",
    "backbone.model_args={}",
    "backbone.stem_stride=null",
    "backbone.zero_init_last=null",
)


@pytest.fixture
def two_processes(monkeypatch):
    monkeypatch.setattr("clzoo.pretrain.build.world_size", lambda: 2)


def test_synchronised_batchnorm_computes_what_the_network_does(two_processes):
    method = build_method(small_recipe("simclr_cifar10", *WITH_ACTIVATIONS_IN_ITS_NORMS), None).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = method.backbone(images)
    converted = for_processes(method, torch.device("cuda"), sharded=True).eval()
    kinds = {type(module) for module in converted.modules() if isinstance(module, torch.nn.SyncBatchNorm)}
    assert timm.layers.SyncBatchNormAct in kinds
    torch.testing.assert_close(converted.backbone(images), expected)


def test_groups_of_batchnorm_and_one_that_is_synchronised_exclude_each_other(two_processes):
    method = build_method(small_recipe("simclr_cifar10", "backbone.batchnorm_groups=2"), None)
    with pytest.raises(ClzooError, match=r"has no groups\. Type: --set backbone\.batchnorm_groups=1"):
        for_processes(method, torch.device("cuda"), sharded=True)


def test_an_encoder_looked_at_while_training_does_not_go_through_the_compiled_networks():
    recipe = small_recipe("simclr_cifar10")
    method = build_method(recipe, None)
    compile_networks(method)

    def compiled(*_):
        raise AssertionError("a graph was made for the images that k-NN looks at")

    method.backbone._compiled_call_impl = compiled
    encoder = encoder_of(method, recipe, "online", "cpu")
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    before = encoder.encode(images)
    assert method.training or not method.backbone.training  # whose mode is put back by who asked for the encoder
    assert method.backbone._compiled_call_impl is compiled
    with torch.no_grad():
        next(method.backbone.parameters()).add_(1)  # the encoder's weights are the method's own
    assert not torch.equal(encoder.encode(images), before)
