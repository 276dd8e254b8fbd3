"""timm architectures by name, plus the small-image stem and the small AlexNet of CACR's tables."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn

from clzoo.config import SMALL_ALEXNET
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
        architecture: timm's name, as in `timm.list_models()`, or "small_alexnet".
        model_args: passed to `timm.create_model`; {"num_heads": 12} makes MoCo v3's ViT-Small.
        global_pool: "avg" for ResNets, "token" for ViTs whose feature is the class token.
        stem_stride: None keeps timm's stem; 1 or 2 puts one 3x3 convolution of that stride in its place and removes
            the max-pool: the usual stem for 32 px images (SimCLR, appendix B.9). ResNets only.
        stem_pool: keep the max-pool behind that convolution (64 px images).

    Raises:
        ClzooError: timm does not know the architecture, an argument is no property of an architecture, or the stem does
            not fit it.
        TypeError: an argument that the architecture does not know.
    """
    for argument in _NOT_ARCHITECTURE:
        if argument in model_args:
            raise ClzooError(
                f"model_args has {argument!r}, which is no property of an architecture. Remove it from config.json or "
                "the recipe; weights are taken from model.safetensors alone."
            )
    if architecture == SMALL_ALEXNET:
        if global_pool != "avg" or stem_stride is not None:
            raise ClzooError(f"{SMALL_ALEXNET} ends in connected layers and has one stem: stem or pool do not fit.")
        return SmallAlexNet(**model_args)
    if not timm.is_model(architecture):
        close = timm.list_models(f"*{architecture}*")[:5] or timm.list_models("resnet*")[:5]
        raise ClzooError(f"timm {timm.__version__} has no architecture {architecture!r}. Near it: {', '.join(close)}.")
    module: nn.Module = timm.create_model(
        architecture, pretrained=False, num_classes=0, global_pool=global_pool, **model_args
    )
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


class SmallAlexNet(nn.Module):
    """The network of Align+Uniform's and CACR's small-image tables: (B, 3, S, S) -> (B, 4096), for one input size S.

    Five 3x3 convolutions with BatchNorm and ReLU, 3x3 max-pools of stride 2 after the first, second and fifth, and two
    fully connected layers of 4096 with BatchNorm and ReLU (known); torch's own initial weights (our choice). The
    published last layer, 4096 to 128, is the recipe's projector.
    """

    num_features = 4096

    def __init__(self, img_size: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before, side = 3, img_size
        for width, pool in ((96, True), (192, True), (384, False), (384, False), (192, True)):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            if pool:
                layers.append(nn.MaxPool2d(3, stride=2))
                side = (side - 3) // 2 + 1
            before = width
        if side < 1:
            raise ClzooError(f"{SMALL_ALEXNET} takes images of at least 15 px, found img_size {img_size}.")
        self.img_size = img_size
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential()
        for inputs in (before * side * side, self.num_features):
            self.classifier.append(nn.Linear(inputs, self.num_features, bias=False))
            self.classifier.append(nn.BatchNorm1d(self.num_features))
            self.classifier.append(nn.ReLU(inplace=True))

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> (B, 192, h, w)."""
        if images.shape[2:] != (self.img_size, self.img_size):
            raise ClzooError(
                f"this {SMALL_ALEXNET} takes images of {self.img_size} px, found {tuple(images.shape[2:])}. In a recipe"
                " all views, data.size and backbone.model_args.img_size are the same number."
            )
        maps: torch.Tensor = self.features(images)
        return maps

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.classifier(self.forward_features(images).flatten(1))
        return pooled
