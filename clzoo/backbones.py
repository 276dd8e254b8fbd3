"""timm architectures by name, plus the small-image stem and the small AlexNet of CACR's tables."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from clzoo.config import SMALL_ALEXNET, ModelConfig
from clzoo.errors import ClzooError
from clzoo.timm_import import timm
from clzoo.wording import first_line

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
    """A timm network without classifier, randomly initialised: (B, 3, H, W) -> (B, D); D is `feature_width`'s to say.

    Args:
        architecture: timm's name, as in `timm.list_models()`, or "small_alexnet".
        model_args: passed to `timm.create_model`; {"num_heads": 12} makes MoCo v3's ViT-Small.
        global_pool: "avg" for ResNets, "token" for ViTs whose feature is the class token.
        stem_stride: None keeps timm's stem; 1 or 2 puts one 3x3 convolution of that stride in its place and removes
            the max-pool: the usual stem for 32 px images (SimCLR, appendix B.9). ResNets only.
        stem_pool: keep the max-pool behind that convolution (64 px images).

    Raises:
        ClzooError: timm does not know the architecture, an argument is not of the architecture or asks for other images
            than RGB, or the stem does not fit it.
    """
    for argument in _NOT_ARCHITECTURE:
        if argument in model_args:
            raise ClzooError(
                f"model_args has {argument!r}, which is no property of an architecture. Remove it from config.json or "
                "the recipe; weights are taken from model.safetensors alone."
            )
    if model_args.get("in_chans", 3) != 3:
        raise ClzooError(
            f"model_args has in_chans={model_args['in_chans']!r}: images have 3 channels (grey ones too, once "
            "decoded), so the first layer must take 3. Spread its weights over 3 channels, and leave in_chans out."
        )
    made_for(model_args)
    if architecture == SMALL_ALEXNET:
        if global_pool != "avg" or stem_stride is not None:
            raise ClzooError(f"{SMALL_ALEXNET} ends in connected layers and has one stem: stem or pool do not fit.")
    elif not timm.is_model(architecture):
        close = timm.list_models(f"*{architecture}*")[:5] or timm.list_models("resnet*")[:5]
        raise ClzooError(f"timm {timm.__version__} has no architecture {architecture!r}. Near it: {', '.join(close)}.")
    try:
        if architecture == SMALL_ALEXNET:
            return SmallAlexNet(**model_args)
        module: nn.Module = timm.create_model(
            architecture, pretrained=False, num_classes=0, global_pool=global_pool, **model_args
        )
    except Exception as error:  # of whatever kind the architecture's own code raises
        raise ClzooError(
            f"timm {timm.__version__} does not build {architecture} with model_args {model_args} and global_pool "
            f"{global_pool!r}: {first_line(error)}. Correct config.json, the recipe's backbone or --model-arg."
        ) from error
    if stem_stride is not None:
        _use_small_image_stem(module, architecture, stem_stride, stem_pool)
    return module


def network_of(config: ModelConfig) -> nn.Module:
    """The config's network, randomly initialised; errors as in `create_backbone`."""
    return create_backbone(
        config.architecture,
        model_args=config.model_args,
        global_pool=config.global_pool,
        stem_stride=config.stem_stride,
        stem_pool=config.stem_pool,
    )


def skeleton_of(config: ModelConfig) -> nn.Module:
    """The config's network on the meta device (names and shapes without memory), its feature measured.

    Raises:
        ClzooError: as `create_backbone` and `feature_width`; or the feature is not `num_features` long.
    """
    module, found = _measured(_Built.of(config))
    _require_width(found, config)
    return copy.deepcopy(module)


def unfilled_network_of(config: ModelConfig) -> nn.Module:
    """The config's network on the CPU, for weights that take the place of all parameters: those are not drawn.

    What the network computes beside them is there, and torch's random state stays. Not on the meta device, whose
    arithmetic imports torch's compiler: that takes longer than to load most models. Errors as in `create_backbone`.
    """
    with torch.random.fork_rng(devices=[]), _Undrawn():
        return network_of(config)


def require_feature(network: nn.Module, config: ModelConfig) -> None:
    """Run a network on one image, on its device, and compare its feature with the config.

    Raises:
        ClzooError: it does not take images of the config's size, or the feature is not `num_features` long.
    """
    device = next(network.parameters()).device
    size = config.preprocessing.size
    with torch.no_grad():  # what a network keeps of a forward pass may be needed in training, unlike inference tensors
        _require_width(_width(network.eval(), torch.zeros(1, 3, size, size, device=device)), config)


def _require_width(found: int, config: ModelConfig) -> None:
    if found != config.num_features:
        raise ClzooError(
            f"num_features is {config.num_features}, but {config.architecture} gives {found} values for an image. "
            "Correct config.json."
        )


class _Undrawn(TorchFunctionMode):
    """Parameters are not filled with random values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _DRAWING and args and isinstance(args[0], nn.Parameter):
            return args[0]
        return func(*args, **(kwargs or {}))


_DRAWING = {
    *(getattr(torch.Tensor, name) for name in ("normal_", "uniform_", "erfinv_")),
    *(getattr(nn.init, name) for name in ("normal_", "uniform_", "trunc_normal_", "kaiming_normal_")),
    *(getattr(nn.init, name) for name in ("kaiming_uniform_", "xavier_normal_", "xavier_uniform_", "orthogonal_")),
}
"""What draws into its first argument. (Those of `nn.init` are seen from outside only, not what they call.)"""


@dataclass(frozen=True)
class _Built:
    """A config, equal to another of the same network and input size."""

    decides: str
    config: ModelConfig = field(compare=False)

    @classmethod
    def of(cls, config: ModelConfig) -> _Built:
        parts = (config.architecture, config.model_args, config.global_pool, config.stem_stride, config.stem_pool)
        return cls(repr((*parts, config.preprocessing.size)), config)


# A load asks twice, controls, comparisons and runs often; building one takes a quarter of a second.
@lru_cache(maxsize=16)
def _measured(built: _Built) -> tuple[nn.Module, int]:
    with torch.device("meta"):
        module = network_of(built.config)
    return module, feature_width(module, built.config.preprocessing.size)


def measured_width(config: ModelConfig, size: int | None = None) -> int:
    """`feature_width` of the config's network at its own input size, or at another; remembered."""
    if size is not None:
        config = replace(config, preprocessing=replace(config.preprocessing, size=size))
    return _measured(_Built.of(config))[1]


def with_fixed_size(config: ModelConfig) -> ModelConfig:
    """The config with `fixed_input_size` as timm has it for the architecture.

    timm makes such a network for the `input_size` of a config.json, where no `img_size` is given; of any other it takes
    the size that the class has by default. A wrong value gives another network, or one that does not fit the weights.
    """
    if not config.timm_builds_it:
        return config
    settings = timm.models.get_pretrained_cfg(config.architecture)
    args = config.model_args
    any_size = args.get("dynamic_img_size") or args.get("strict_img_size") is False or args.get("use_naflex")
    fixed = bool(settings is not None and settings.fixed_input_size) and not any_size
    return replace(config, fixed_input_size=fixed)


def made_for(model_args: dict[str, Any]) -> int | None:
    """The side in pixels of the images that `model_args` makes a network for (`img_size`); None if they do not say.

    Raises:
        ClzooError: no whole number, or two that differ: images are square here.
    """
    size = model_args.get("img_size")
    sides = list(size) if isinstance(size, list | tuple) else [size]
    if size is None:
        return None
    if len(set(sides)) != 1 or isinstance(sides[0], bool) or not isinstance(sides[0], int) or sides[0] < 1:
        raise ClzooError(f"model_args has img_size={size!r}; expected one side of square images in pixels, e.g. 224.")
    return sides[0]


def feature_width(network: nn.Module, size: int) -> int:
    """Length of the feature that a network gives of an image of `size` x `size` pixels, measured by a forward pass.

    timm's `num_features` is not it: that counts the channels of the last map, and 14 families (MobileNetV3, VGG, HGNet,
    MambaOut, ...) end with further layers.

    Args:
        network: on the meta device, where a forward pass computes shapes alone; a copy of it runs.

    Raises:
        ClzooError: the network does not take such images, or does not give one vector for each.
    """
    twin = copy.deepcopy(network).eval()  # some networks keep what a forward pass computed, such as position grids
    with torch.inference_mode():
        return _width(twin, torch.empty(1, 3, size, size, device="meta"))


def _width(network: nn.Module, image: torch.Tensor) -> int:
    size = image.shape[-1]
    try:
        features = network(image)
    except Exception as error:  # of whatever kind the network's own code raises
        raise ClzooError(
            f"{type(network).__name__} does not take images of 3 x {size} x {size}: {first_line(error)}. Say for "
            "which size it was made: img_size in its model_args (convert: --model-arg img_size=N, a recipe: --set "
            "'backbone.model_args={img_size: N}'), and input_size in a config.json."
        ) from error
    if not isinstance(features, torch.Tensor) or features.ndim != 2 or len(features) != 1:
        found = list(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise ClzooError(
            f"{type(network).__name__} gives {found} for one image; expected one vector, [1, D]. Is global_pool right?"
        )
    return features.shape[1]


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
