"""timm architectures by name, plus the small-image stem."""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

from clzoo.errors import ClzooError

_NOT_ARCHITECTURE = (
    "checkpoint_path",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "cache_dir",
    "scriptable",
    "exportable",
    "no_jit",
    "features_only",
)
"""Arguments of `timm.create_model` that read files or change what a module returns; configs come from anywhere."""


def create_backbone(
    architecture: str,
    *,
    model_args: dict[str, Any],
    global_pool: str,
    stem_stride: int | None,
    stem_pool: bool = False,
) -> nn.Module:
    """A timm network without classifier, randomly initialised: (B, 3, H, W) -> (B, num_features).

    Args:
        architecture: timm's name, as in `timm.list_models()`.
        model_args: passed to `timm.create_model`; {"num_heads": 12} makes MoCo v3's ViT-Small.
        global_pool: "avg" for ResNets, "token" for ViTs whose feature is the class token.
        stem_stride: None keeps timm's stem; 1 or 2 puts one 3x3 convolution of that stride in its place and removes
            the max-pool: the usual stem for 32 px images (SimCLR, appendix B.9). ResNets only.
        stem_pool: keep the max-pool behind that convolution (64 px images).

    Raises:
        ClzooError: timm does not know the architecture, an argument is not of the architecture, or the stem does not
            fit it.
    """
    for argument in _NOT_ARCHITECTURE:
        if argument in model_args:
            raise ClzooError(
                f"model_args has {argument!r}, which is no property of an architecture. Remove it from config.json or "
                "the recipe; weights are taken from model.safetensors alone."
            )
    if not timm.is_model(architecture):
        close = timm.list_models(f"*{architecture}*")[:5] or timm.list_models("resnet*")[:5]
        raise ClzooError(f"timm {timm.__version__} has no architecture {architecture!r}. Near it: {', '.join(close)}.")
    try:
        module: nn.Module = timm.create_model(
            architecture, pretrained=False, num_classes=0, global_pool=global_pool, **model_args
        )
    except TypeError as error:  # timm hands arguments on to the class, which does not know them
        raise ClzooError(
            f"timm {timm.__version__} does not build {architecture} with {model_args}: {error}. "
            "Take the argument out of config.json, or of the recipe's backbone."
        ) from error
    if stem_stride is not None:
        _use_small_image_stem(module, architecture, stem_stride, stem_pool)
    return module


def _use_small_image_stem(module: Any, architecture: str, stride: int, pool: bool) -> None:
    is_resnet = isinstance(module, timm.models.resnet.ResNet)
    if not is_resnet:
        raise ClzooError(f"the small-image stem fits ResNets, not {architecture}. Remove stem_stride from the recipe.")
    if stride not in (1, 2):
        raise ClzooError(f"stem_stride must be 1 or 2, found {stride}.")
    width = module.bn1.num_features
    conv = nn.Conv2d(3, width, kernel_size=3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # timm's own initialisation
    module.conv1 = conv
    if not pool:
        module.maxpool = nn.Identity()
