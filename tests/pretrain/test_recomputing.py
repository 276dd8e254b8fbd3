"""Gradient checkpointing: the same gradients and the same BatchNorm averages, with fewer activations kept."""

import copy

import pytest
import torch
from small_recipes import small_recipe
from small_runs import same, weights_of
from torch import nn

from clzoo.errors import ClzooError
from clzoo.methods import Batch
from clzoo.methods.batchnorm import SplitBatchNorm2d
from clzoo.pretrain.build import build_method
from clzoo.pretrain.feed import render_views
from clzoo.pretrain.loop import pretrain

# A ResNet with plain BatchNorm and several forward passes in a step, one with split BatchNorm and a momentum encoder,
# and a ViT whose patch embedding is frozen.
NAMES = ["cacr_cifar10", "reco_cifar10", "hydra_moco_in1k"]


def batch_of(recipe, count=8):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)
    samples = torch.arange(count)
    return Batch(render_views(pixels, samples, recipe, epoch=0), samples % 2, progress=0.3)


def gradients_and_state(method, batch):
    loss = method(batch)
    loss.backward()
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return loss, gradients, method.state_dict()


def kept_by(backbone, images) -> int:
    """Numbers that a forward pass leaves for the backward pass, weights not counted."""
    kept = []

    def keep(x):
        kept.append(0 if isinstance(x, nn.Parameter) else x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        backbone(images)
    return sum(kept)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_and_averages_are_the_same_bit_for_bit_and_less_is_kept(name):
    plain = small_recipe(name)
    frugal = small_recipe(name, "gradient_checkpointing=true")
    batch = batch_of(plain)
    methods = [build_method(recipe, 2) for recipe in (plain, frugal)]
    (loss, gradients, state), (loss_too, gradients_too, state_too) = (gradients_and_state(m, batch) for m in methods)
    assert torch.equal(loss, loss_too)
    assert len(gradients) > 10
    assert same(gradients, gradients_too)
    assert same(state, state_too)
    many, few = (kept_by(method.backbone, batch.views[0]) for method in methods)
    assert few < 0.6 * many


def test_batchnorm_counts_each_batch_once():
    method = build_method(small_recipe("simclr_cifar10", "gradient_checkpointing=true"), None)
    for _ in range(3):
        method(batch_of(small_recipe("simclr_cifar10"))).backward()
    counts = [int(m.num_batches_tracked) for m in method.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(counts) > 8
    assert set(counts) == {3}


def test_the_names_of_tensors_and_a_copy_of_the_network_are_as_without_it():
    recipe = small_recipe("mocov2_cifar10")
    frugal_recipe = small_recipe("mocov2_cifar10", "gradient_checkpointing=true")
    plain, frugal = (build_method(each, None) for each in (recipe, frugal_recipe))
    assert same(plain.state_dict(), frugal.state_dict())
    assert any(isinstance(module, SplitBatchNorm2d) for module in frugal.backbone.layer1.modules())
    twin = copy.deepcopy(frugal)
    with torch.no_grad():
        twin.backbone.layer1[0].conv1.weight.zero_()
    images = torch.rand(4, 3, 24, 24)
    assert torch.equal(frugal.eval().backbone(images), plain.eval().backbone(images))
    assert not torch.equal(twin.eval().backbone(images), plain.backbone(images))


def test_a_run_ends_with_the_weights_of_one_that_keeps_everything_and_resumes(pictures, tmp_path):
    plain, frugal = (small_recipe("mocov2_cifar10", f"gradient_checkpointing={on}") for on in ("false", "true"))
    assert pretrain(plain, pictures, tmp_path / "plain", device="cpu")
    assert not pretrain(frugal, pictures, tmp_path / "frugal", device="cpu", max_minutes=0)
    assert pretrain(frugal, pictures, tmp_path / "frugal", device="cpu")
    assert same(weights_of(tmp_path / "plain"), weights_of(tmp_path / "frugal"))


def test_what_it_does_not_fit_is_refused():
    with pytest.raises(ClzooError, match=r"gradient_checkpointing: it excludes compile\..*--set compile=false"):
        small_recipe("simclr_cifar10", "gradient_checkpointing=true", "compile=true")
    alexnet = ("backbone.architecture=small_alexnet", "backbone.model_args={img_size: 32}", "backbone.stem_stride=null")
    with pytest.raises(ClzooError, match="small_alexnet has no blocks"):
        build_method(small_recipe("simclr_cifar10", *alexnet, "gradient_checkpointing=true", "views.0.size=32"), None)
