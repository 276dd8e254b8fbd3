"""ModelConfig: the one small object that says everything needed to use a model's weights.

It is `config.json` of a hub entry: timm's own keys (architecture, model_args, num_features, global_pool,
pretrained_cfg) and a `clzoo` block for the rest. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clzoo.errors import ClzooError
from clzoo.files import read_json, write_json

SCHEMA = 1
"""Version of the `clzoo` block; a reader refuses a higher one."""


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
        return cls.from_json(read_json(path), where=str(path))

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
            return cls(
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
