"""From a recipe to the module that trains."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from clzoo.backbones import create_backbone, measured_width
from clzoo.config import ModelConfig
from clzoo.distributed import world_size
from clzoo.errors import ClzooError
from clzoo.methods import Batch, create_method
from clzoo.methods.batchnorm import SplitBatchNorm2d, split_batchnorm
from clzoo.pretrain.recipe import Backbone, Recipe
from clzoo.pretrain.recomputing import recompute_blocks
from clzoo.timm_import import timm


def build_method(recipe: Recipe, classes: int | None) -> Any:
    """The recipe's method with its initial weights, a function of the recipe's seed.

    Args:
        classes: number of classes of the data, or None where it has no labels.

    Raises:
        ClzooError: views, labels or queue that do not fit the method, an unknown backbone, or one that does not take
            images of the recipe's sizes.
    """
    width = model_config(recipe).num_features
    torch.manual_seed(recipe.seed)
    backbone: Any = build_backbone(recipe.backbone)
    views = len(recipe.view_policies())
    method = create_method(backbone, width, recipe.method, views=views, classes=classes)
    method.needs.check_sizes(recipe.method.name, [policy.size for policy in recipe.view_policies()])
    if recipe.gradient_checkpointing:
        recompute_blocks(method.backbone, recipe.backbone.architecture)
    batch_size = recipe.schedule.batch_size
    queue = getattr(recipe.method, "queue", 0) if hasattr(method, "queue") else 0
    if queue % batch_size:
        raise ClzooError(
            f"method.queue={queue} is no multiple of schedule.batch_size={batch_size}. "
            f"Type: --set method.queue={max(1, queue // batch_size) * batch_size}"
        )
    group, local_batch = getattr(recipe.method, "group", None), batch_size // world_size()
    if group and local_batch % group:
        common = math.gcd(group, local_batch)
        raise ClzooError(
            f"method.group={group} does not divide the {local_batch} images of a process. "
            f"Type: --set method.group={common if common > 1 else local_batch}"
        )
    groups = recipe.backbone.batchnorm_groups
    if groups > 1 and (local_batch % groups or local_batch == groups):
        right = max((n for n in range(1, groups) if local_batch % n == 0 and local_batch // n >= 2), default=1)
        raise ClzooError(
            f"backbone.batchnorm_groups={groups} does not divide the {local_batch} images of a process into groups of "
            f"at least two. Type: --set backbone.batchnorm_groups={right}"
        )
    return method


def model_config(recipe: Recipe) -> ModelConfig:
    """How the trained backbone is used (`Recipe.model_config_of`), with the length that its feature really has.

    Raises:
        ClzooError: an unknown backbone, or one that does not take the views or the whole images of the recipe.
    """
    config = recipe.model_config_of(0)
    for size in {policy.size for policy in recipe.view_policies()}:
        measured_width(config, size)
    return replace(config, num_features=measured_width(config))


def build_backbone(b: Backbone) -> nn.Module:
    """The architecture with the recipe's BatchNorm groups, initial weights, fixed positions and frozen parts."""
    model_args = b.model_args | ({} if b.zero_init_last is None else {"zero_init_last": b.zero_init_last})
    backbone: Any = create_backbone(
        b.architecture,
        model_args=model_args,
        global_pool=b.global_pool,
        stem_stride=b.stem_stride,
        stem_pool=b.stem_pool,
    )
    if b.batchnorm_groups > 1:
        split_batchnorm(backbone, b.batchnorm_groups)
    if b.init == "mocov3":
        _init_as_mocov3(backbone, b.architecture)
    if b.sincos_positions:
        _fix_positions(backbone, b.architecture)
    for prefix in b.frozen:
        chosen = [parameter for name, parameter in backbone.named_parameters() if name.startswith(prefix)]
        if not chosen:
            raise ClzooError(f"backbone.frozen: {b.architecture} has no parameter whose name starts with {prefix!r}.")
        for parameter in chosen:
            parameter.requires_grad_(False)
    return backbone


def _init_as_mocov3(vit: Any, architecture: str) -> None:
    """MoCo v3's initial weights: uniform after Glorot with q, k and v counted on their own, so too the patch embedding.

    timm's "moco" does all but the patch embedding. Queries then have the standard deviation 1 / sqrt(D): .051 in ViT-S,
    .036 in ViT-B, in place of .02.
    """
    if not isinstance(vit, timm.models.vision_transformer.VisionTransformer):
        raise ClzooError(f"backbone.init=mocov3 is for ViTs, not {architecture}. Remove it from the recipe.")
    vit.init_weights("moco")
    patch = vit.patch_embed.proj  # Conv2d(3, D, P, P)
    bound = math.sqrt(6 / (patch.weight[0].numel() + patch.out_channels))
    nn.init.uniform_(patch.weight, -bound, bound)
    if patch.bias is not None:
        nn.init.zeros_(patch.bias)


def _fix_positions(vit: Any, architecture: str) -> None:
    """MoCo v3's fixed two-dimensional sine-cosine positions; zero for the class token."""
    if getattr(vit, "pos_embed", None) is None:
        raise ClzooError(f"backbone.sincos_positions is for ViTs; {architecture} has no position embedding.")
    table = timm.layers.build_sincos2d_pos_embed(list(vit.patch_embed.grid_size), dim=vit.embed_dim)
    prefix = torch.zeros(vit.num_prefix_tokens, vit.embed_dim)
    with torch.no_grad():
        vit.pos_embed.copy_(torch.cat([prefix, table])[None])
    vit.pos_embed.requires_grad_(False)


def compile_step(method: Any, model: nn.Module) -> Callable[[Batch], torch.Tensor]:
    """What a run calls in place of `model`, the method or its wrapper: compiled in its first call.

    Forward passes and loss are one region where each network is passed once in a step, in a run of one process. The
    method itself stays as it is: whoever looks at the run computes with it, or with a copy.
    """
    if world_size() > 1 or not getattr(method, "one_pass", False):
        compile_networks(method)
        return model
    if not hasattr(method, "prepare"):
        forward: Callable[[Batch], torch.Tensor] = torch.compile(method.forward, fullgraph=True, dynamic=False)
        return forward
    loss = torch.compile(method.loss, fullgraph=True, dynamic=False)
    return lambda batch: loss(batch, *method.prepare(batch))


def compile_networks(method: nn.Module) -> None:
    """Have each network of a method compiled at its first call, once for all the views that go through it.

    A region compiles each pass anew: with five passes that took minutes. An identity (methods without a predictor) is
    left out: nothing is to be gained, and torch 2.14 sums gradients in another order in the call that compiles it, so a
    resumed run would end elsewhere.
    """
    for name in ("backbone", "projector", "predictor", "momentum_backbone", "momentum_projector"):
        network = getattr(method, name, None)
        if network is not None and any(True for _ in network.parameters()):
            network.compile(dynamic=False)  # views of another size are another graph, whoever came first


def for_processes(method: nn.Module, device: torch.device, *, sharded: bool = False) -> nn.Module:
    """Wrapped for torchrun; with one process, or where the processes share the weights out, the method itself.

    Raises:
        ClzooError: synchronised BatchNorm is asked for where torch has none (CPU), or BatchNorm in groups beside it.
    """
    if world_size() == 1:
        return method
    norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in method.modules())
    if norms and method.needs.batchnorm == "sync":  # type: ignore[union-attr]
        if device.type != "cuda":
            raise ClzooError(
                "this method synchronises BatchNorm over processes, which torch can do on CUDA only. "
                "Run one process on a CPU: clzoo pretrain RECIPE --data DIR"
            )
        if any(isinstance(module, SplitBatchNorm2d) for module in method.modules()):
            raise ClzooError(
                "backbone.batchnorm_groups: this method synchronises BatchNorm over processes, so that the batch has "
                "no groups. Type: --set backbone.batchnorm_groups=1"
            )
        method = timm.layers.convert_sync_batchnorm(method)  # torch's loses the activations that some norms hold
    if sharded:
        return method
    return data_parallel(method, device)


def data_parallel(method: nn.Module, device: torch.device) -> nn.Module:
    """Gradients are averaged over processes; buffers stay each process's own.

    Queues are equal by construction, shuffled BatchNorm is local on purpose. At the start all are equal, so that what
    torch does with them there, and since 2.13 does in any case, changes nothing.
    """
    wrapper = nn.parallel.DistributedDataParallel
    is_renamed = "forward_sync_buffers" in inspect.signature(wrapper).parameters  # in torch 2.13
    own_buffers: Any = {"forward_sync_buffers" if is_renamed else "broadcast_buffers": False}
    return wrapper(method, device_ids=[device] if device.type == "cuda" else None, **own_buffers)
