"""ModelConfig: the one small object that says everything needed to use a model's weights.

It is `config.json` of a hub entry: timm's own keys (architecture, model_args, num_features, global_pool,
pretrained_cfg) and a `clzoo` block for the rest. Nothing here imports torch.
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

SCHEMA = 1
"""Version of the `clzoo` block; a reader refuses a higher one."""

HUB_PREFIX = "hf-hub:"
"""Before ORG/NAME: a model or a data set of the Hugging Face Hub."""

TIMM_PREFIX = "timm:"
"""Before NAME.TAG: a model of timm with its weights on the Hub."""

LONGEST_CONFIG = 1 << 20
"""Bytes of a config.json."""

_LONGEST_TEXT = 1000  # characters of a name, a licence, a note
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
    recipe: str | None = None
    source: Source | None = None
    weights_sha256: str | None = None  # clzoo.proof: over the converted tensors; None: never downloaded
    pretrain_sha256: str | None = None  # of the file pretrain.safetensors beside the weights; None: there is none
    probe: tuple[float, ...] | None = None  # first 16 features of the probe image; None: never downloaded
    parameters: int | None = None  # numbers that training moves, of the network without classifier
    published: dict[str, float] = field(default_factory=dict)  # e.g. {"linear": 74.7, "knn": 69.4}, top-1 in percent
    published_source: str = ""  # who published them, where it is not the source's repository

    @property
    def timm_builds_it(self) -> bool:
        """Whether timm alone can build this architecture (the small-image stem and the small AlexNet are ours)."""
        return self.stem_stride is None and self.architecture != SMALL_ALEXNET

    def to_json(self) -> dict[str, Any]:
        """The content of `config.json`."""
        p = self.preprocessing
        # What timm's create_model needs to know of the classifier it is asked to leave out.
        is_vit = self.architecture.startswith("vit") or self.global_pool == "token"  # "deit_...", "test_vit"
        first_conv, classifier = ("patch_embed.proj", "head") if is_vit else ("conv1", "fc")
        ours = dataclasses.asdict(self)
        for key in ("architecture", "num_features", "global_pool", "model_args", "preprocessing"):
            del ours[key]
        return {
            "architecture": self.architecture,
            "num_classes": 0,
            "num_features": self.num_features,
            "global_pool": self.global_pool,
            "model_args": self.model_args,
            "pretrained_cfg": {
                "tag": f"{self.method}_{self.data}",
                "custom_load": False,
                "input_size": [3, p.size, p.size],
                "fixed_input_size": is_vit,
                "interpolation": p.interpolation,
                "crop_pct": p.crop_pct,
                "crop_mode": "center",
                "mean": list(p.mean),
                "std": list(p.std),
                "num_classes": 0,
                "first_conv": first_conv,
                "classifier": classifier,
                "license": self.license,
            },
            "clzoo": {"schema": SCHEMA, **ours},
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
            cfg = raw["pretrained_cfg"]
            timm_keys = {key: raw[key] for key in ("architecture", "num_features")}
            preprocessing = Preprocessing(
                size=cfg["input_size"][-1],
                crop_pct=cfg["crop_pct"],
                interpolation=cfg["interpolation"],
                mean=tuple(cfg["mean"]),
                std=tuple(cfg["std"]),
            )
            source = ours.pop("source", None)
            probe = ours.pop("probe", None)
            config = cls(
                **timm_keys,
                global_pool=raw.get("global_pool", "avg"),
                model_args=raw.get("model_args") or {},
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


def _problems(config: ModelConfig) -> Iterator[str]:
    """What in a config from elsewhere is no value of its kind."""
    p = config.preprocessing
    texts = ("name", "architecture", "method", "backbone", "data", "global_pool", "license", "license_note")
    for key in (*texts, "published_source"):
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
    for key in ("model_args", "published"):
        if not isinstance(value := getattr(config, key), dict):
            yield f"{key} is {shown(value)}, expected a table"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9  # no NaN either
