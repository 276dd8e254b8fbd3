"""ModelConfig: the one small object that says everything needed to use a model's weights.

It is `config.json` of a hub entry. Where timm builds the same network, that is timm's own keys (architecture,
model_args, num_features, global_pool, pretrained_cfg) and a `clzoo` block for the rest. Where only clzoo builds it, all
is in the `clzoo` block: timm, and transformers, which takes whatever has a `pretrained_cfg`, would build another
network and load what fits. For them the file then names an architecture and a model type that they do not know.
Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clzoo.errors import ClzooError
from clzoo.files import read_json, write_json
from clzoo.wording import shown

SCHEMA = 2
"""Version of config.json; a reader refuses a higher one. Version 1 had timm's keys for every network."""

HUB_PREFIX = "hf-hub:"
"""Before ORG/NAME: a model or a data set of the Hugging Face Hub."""

TIMM_PREFIX = "timm:"
"""Before NAME.TAG: a model of timm with its weights on the Hub."""

LONGEST_CONFIG = 1 << 20
"""Bytes of a config.json."""

_LONGEST_TEXT = 1000  # characters of a name, a license, a note
_MOST_FEATURES, _LARGEST_INPUT = 1 << 20, 1 << 14

SMALL_ALEXNET = "small_alexnet"
"""The one architecture that is not timm's; see clzoo.backbones."""


@dataclass(frozen=True)
class Preprocessing:
    """From a decoded RGB image to the network's input: resize the shorter side, centre crop, normalise."""

    size: int = 224
    crop_pct: float = 0.875
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @property
    def resize(self) -> int:
        """Length of the shorter side before the crop, in pixels (timm's rule: floor(size / crop_pct))."""
        return int(self.size / self.crop_pct)

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON file gives them back: `mean` and `std` are lists."""
        return {**dataclasses.asdict(self), "mean": list(self.mean), "std": list(self.std)}


@dataclass(frozen=True)
class Source:
    """A checkpoint published by somebody else on the Hugging Face Hub."""

    repo: str
    file: str
    revision: str | None  # commit; None: resolved and reported at the first download
    sha256: str | None  # of the published file; None: checked against the Hub's own record
    size: int | None  # bytes
    layout: str  # prefix of the backbone's tensors in the file ("" for a raw state dict)
    drop: tuple[str, ...] = ()  # prefixes (after the layout's) of known heads that are not kept


@dataclass(frozen=True)
class ModelConfig:
    """Everything that is needed to use one model's weights; see the module's docstring."""

    name: str
    architecture: str
    num_features: int
    method: str
    backbone: str
    data: str
    global_pool: str = "avg"
    model_args: dict[str, Any] = field(default_factory=dict)
    stem_stride: int | None = None  # small-image stem (one 3x3 convolution) of this stride; None: timm's own stem
    stem_pool: bool = False  # whether the small-image stem keeps the max-pool
    preprocessing: Preprocessing = Preprocessing()
    license: str = "not stated"
    license_note: str = ""
    derived_from: str = ""  # the encoder that these weights began with or learnt from, whose license they keep
    recipe: str | None = None
    source: Source | None = None
    weights_sha256: str | None = None  # clzoo.proof: over the converted tensors; None: never downloaded
    pretrain_sha256: str | None = None  # of the file pretrain.safetensors beside the weights; None: there is none
    probe: tuple[float, ...] | None = None  # first 16 features of the probe image; None: never downloaded
    parameters: int | None = None  # numbers that training moves, of the network without classifier
    published: dict[str, float] = field(default_factory=dict)  # e.g. {"linear": 74.7, "knn": 69.4}, top-1 in percent
    published_source: str = ""  # who published them, where it is not the source's repository
    # Whether timm makes the network for one input size; see clzoo.backbones.with_fixed_size. None: not asked yet.
    fixed_input_size: bool | None = field(default=None, compare=False)

    @property
    def network(self) -> dict[str, Any]:
        """What a network is built from: of other values it computes something else, though the same tensors may fit."""
        keys = ("architecture", "model_args", "global_pool", "stem_stride", "stem_pool")
        return {key: _in_lists(getattr(self, key)) for key in keys}

    @property
    def timm_builds_it(self) -> bool:
        """Whether timm alone builds this network (the small-image stem and the small AlexNet are ours)."""
        return self.stem_stride is None and self.architecture != SMALL_ALEXNET

    @property
    def feature(self) -> str:
        """What the vector of an image is, in words."""
        if self.architecture == SMALL_ALEXNET:
            return "second connected layer"
        if self.architecture.startswith("resnet") and self.global_pool == "token":  # CLIP's
            return "attention pool"
        return _FEATURES.get(self.global_pool, f"global_pool {self.global_pool!r} of timm")

    def to_json(self) -> dict[str, Any]:
        """The content of `config.json`."""
        ours = dataclasses.asdict(self)
        del ours["fixed_input_size"]
        if not self.derived_from:  # of nearly all
            del ours["derived_from"]
        if not self.timm_builds_it:
            return {"model_type": "clzoo", "architecture": self._name_unknown_to_timm(), "clzoo": _block(ours)}
        for key in (*_NETWORK, "preprocessing"):
            del ours[key]
        return {
            "architecture": self.architecture,
            "num_classes": 0,
            "num_features": self.num_features,
            "global_pool": self.global_pool,
            # timm and transformers call create_model(architecture, **model_args), and look nowhere else for the pool.
            "model_args": {**self.model_args, "global_pool": self.global_pool},
            "dtype": "float32",  # of the arithmetic, for transformers: it would compute in the stored type
            "pretrained_cfg": self._pretrained_cfg(),
            "clzoo": _block(ours),
        }

    def _name_unknown_to_timm(self) -> str:
        """What timm says that it does not know; without a slash or colon, which would be a place to it."""
        stem = "" if self.stem_stride is None else " with a small-image stem"
        return f"clzoo's {self.architecture}{stem}"

    def _pretrained_cfg(self) -> dict[str, Any]:
        p = self.preprocessing
        # What timm's create_model needs to know of the classifier it is asked to leave out.
        is_vit = self.architecture.startswith("vit") or self.global_pool == "token"  # "deit_...", "test_vit"
        first_conv, classifier = ("patch_embed.proj", "head") if is_vit else ("conv1", "fc")
        return {
            "tag": f"{self.method}_{self.data}",
            "custom_load": False,
            "input_size": [3, p.size, p.size],
            "fixed_input_size": is_vit if self.fixed_input_size is None else self.fixed_input_size,
            "interpolation": p.interpolation,
            "crop_pct": p.crop_pct,
            "crop_mode": "center",
            "mean": list(p.mean),
            "std": list(p.std),
            "num_classes": 0,
            "first_conv": first_conv,
            "classifier": classifier,
            "license": self.license,
        }

    def save(self, folder: Path) -> None:
        """Write `folder/config.json` atomically."""
        write_json(folder / "config.json", self.to_json())

    @classmethod
    def load(cls, path: Path) -> ModelConfig:
        """Read a `config.json`.

        Raises:
            ClzooError: missing file, not JSON, no `clzoo` block, unknown or missing keys, newer schema.
        """
        return cls.from_json(read_json(path, LONGEST_CONFIG), where=str(path))

    @classmethod
    def from_json(cls, raw: Any, where: str) -> ModelConfig:
        """Build from the content of a `config.json`; `where` is named in errors."""
        if not isinstance(raw, dict) or not isinstance(raw.get("clzoo"), dict):
            raise ClzooError(
                f"{where} has no `clzoo` block, so it is not a clzoo model. "
                "To use a foreign checkpoint: clzoo convert FILE --arch ARCHITECTURE --out DIR"
            )
        ours = dict(raw["clzoo"])
        schema = ours.pop("schema", None)
        if not isinstance(schema, int) or schema > SCHEMA:
            raise ClzooError(
                f"{where}: clzoo.schema is {schema!r}, this clzoo reads up to {SCHEMA}. "
                "Type: pip install --upgrade clzoo"
            )
        try:
            network, preprocessing = _from_timm_keys(raw, where) if "pretrained_cfg" in raw else _from_block(ours)
            source = ours.pop("source", None)
            probe = ours.pop("probe", None)
            config = cls(
                **network,
                preprocessing=preprocessing,
                source=None if source is None else Source(**{**source, "drop": tuple(source.get("drop", ()))}),
                probe=None if probe is None else tuple(probe),
                **ours,
            )
        except (KeyError, TypeError, IndexError) as error:
            raise ClzooError(
                f"{where} is not a valid model config: {error}. Compare it with `clzoo info NAME --json`."
            ) from error
        for problem in _problems(config):
            raise ClzooError(f"{where} is not a valid model config: {problem}.")
        return config


_FEATURES = {
    "avg": "global average pool",
    "token": "class token after the last norm",
    "map": "attention pool",
    "max": "global maximum",
}
_NETWORK = ("architecture", "num_features", "global_pool", "model_args")


def _in_lists(value: Any) -> Any:
    """A value as JSON gives it back: its tuples are lists."""
    if isinstance(value, dict):
        return {key: _in_lists(each) for key, each in value.items()}
    return [_in_lists(each) for each in value] if isinstance(value, list | tuple) else value


def _block(ours: dict[str, Any]) -> dict[str, Any]:
    return {"schema": SCHEMA, **ours}


def _from_timm_keys(raw: dict[str, Any], where: str) -> tuple[dict[str, Any], Preprocessing]:
    """The network and its preprocessing, of a config that timm reads too (and of every one of version 1)."""
    cfg, model_args = raw["pretrained_cfg"], raw.get("model_args") or {}
    pool = raw.get("global_pool", "avg")
    if isinstance(model_args, dict) and "global_pool" in model_args:
        if model_args["global_pool"] != pool:
            raise ClzooError(
                f"{where} is not a valid model config: global_pool is {shown(pool)}, and "
                f"{shown(model_args['global_pool'])} in model_args, which is what timm and transformers read."
            )
        model_args = {key: value for key, value in model_args.items() if key != "global_pool"}
    preprocessing = Preprocessing(
        size=cfg["input_size"][-1],
        crop_pct=cfg["crop_pct"],
        interpolation=cfg["interpolation"],
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
    )
    network = {key: raw[key] for key in ("architecture", "num_features")}
    network |= {"global_pool": pool, "model_args": model_args, "fixed_input_size": cfg.get("fixed_input_size")}
    return network, preprocessing


def _from_block(ours: dict[str, Any]) -> tuple[dict[str, Any], Preprocessing]:
    """The same of a config that only clzoo reads; takes them out of its `clzoo` block."""
    network = {key: ours.pop(key) for key in _NETWORK}
    p = ours.pop("preprocessing")
    return network, Preprocessing(**{**p, "mean": tuple(p["mean"]), "std": tuple(p["std"])})


def _problems(config: ModelConfig) -> Iterator[str]:
    """What in a config from elsewhere is no value of its kind."""
    p = config.preprocessing
    texts = ("name", "architecture", "method", "backbone", "data", "global_pool", "license", "license_note")
    for key in (*texts, "derived_from", "published_source"):
        if not isinstance(value := getattr(config, key), str) or len(value) > _LONGEST_TEXT:
            yield f"{key} is {shown(value)}, expected a text of at most {_LONGEST_TEXT} characters"
    for key, count, most in (
        ("num_features", config.num_features, _MOST_FEATURES),
        ("input_size", p.size, _LARGEST_INPUT),
    ):
        if type(count) is not int or not 1 <= count <= most:
            yield f"{key} is {shown(count)}, expected a whole number from 1 to {most}"
    if not (_is_number(p.crop_pct) and 0 < p.crop_pct <= 4):
        yield f"crop_pct is {shown(p.crop_pct)}, expected a share above 0"
    for key, values in (("mean", p.mean), ("std", p.std)):
        if len(values) != 3 or not all(map(_is_number, values)) or (key == "std" and min(values) <= 0):
            yield f"{key} is {shown(values)}, expected three numbers" + (" above 0" if key == "std" else "")
    if config.probe is not None and not (len(config.probe) <= 16 and all(map(_is_number, config.probe))):
        yield f"probe is {shown(config.probe)}, expected at most 16 numbers"
    for key in ("recipe", "weights_sha256", "pretrain_sha256"):
        if not isinstance(value := getattr(config, key), str | None):
            yield f"{key} is {shown(value)}, expected a text or null"
    published_bytes = None if config.source is None else config.source.size
    for key, number in (("parameters", config.parameters), ("source.size", published_bytes)):
        if number is not None and (type(number) is not int or number < 0):
            yield f"{key} is {shown(number)}, expected a whole number or null"
    if config.fixed_input_size not in (None, True, False):
        yield f"fixed_input_size is {shown(config.fixed_input_size)}, expected true or false"
    for key in ("model_args", "published"):
        if not isinstance(value := getattr(config, key), dict):
            yield f"{key} is {shown(value)}, expected a table"
        elif key == "published" and not all(map(_is_number, value.values())):
            yield f"published is {shown(value)}, expected a table of numbers"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9  # no NaN either
