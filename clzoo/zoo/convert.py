"""Third-party checkpoints into clzoo's one key space (timm's names), strictly.

A checkpoint keeps its backbone under a prefix, and projectors, momentum encoders and optimiser state beside it. The
converter finds the prefix, requires exactly the backbone's tensors under it, and names everything it leaves behind.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from clzoo.backbones import feature_width, made_for
from clzoo.config import ModelConfig, Preprocessing
from clzoo.errors import ClzooError
from clzoo.files import atomic_path
from clzoo.proof import halves_sha256, weights_sha256
from clzoo.wording import clzoo_command
from clzoo.zoo.cards import UNKNOWN
from clzoo.zoo.checkpoint import INNER_WRAPPERS, WRAPPERS, Checkpoint, bare_name, read_checkpoint
from clzoo.zoo.entries import WEIGHTS
from clzoo.zoo.saving import save_entry
from clzoo.zoo.weights import Shapes, build_encoder, network, require_equal, shapes_of, skeleton, some

log = logging.getLogger("clzoo")

FAMILIES = ("base_encoder.", "encoder_q.", "encoder.", "backbone.", "visual.", "")
"""Prefixes under which backbones are published; `WRAPPERS` may stand in front of them and behind, in any nesting."""

HEADS = (
    *("fc", "head", "classifier", "projector", "predictor", "projection_head", "prediction_head"),
    *("momentum_encoder", "momentum_projector", "encoder_k", "queue", "queue_ptr", "filter", "logit_scale"),
    "n_averaged",  # of torch's AveragedModel
)
"""What pretraining leaves beside a backbone: dropped, and named in the report."""

ASIDE = ("filter",)
"""Dropped from the encoder, but kept in `pretrain.safetensors`: Hydra's gates (class relations are read from them)."""


@dataclass(frozen=True)
class Report:
    """What became of a checkpoint's tensors."""

    file: str
    layout: str  # prefix of the backbone in the file
    kept: list[str]  # names after conversion
    renamed: dict[str, str]  # name in the file -> name after conversion, where they differ
    dropped: dict[str, int]  # group of tensors -> how many
    others: list[str]  # entries of the file that are no tensors of the model: "epoch", "optimizer"
    aside: list[str]  # kept in pretrain.safetensors
    cast: list[str]  # kept, and converted to float32
    filled: list[str]  # counters that the file lacks, kept as 0
    choice: str  # which weights were taken, of a file that holds their moving average too

    def lines(self) -> list[str]:
        """The report in words."""
        dropped = [f"{group} ({count} tensors)" for group, count in self.dropped.items()] + self.others
        renamed = f"{len(self.renamed)} tensors, {self.layout}NAME -> NAME" if self.renamed else "none"
        lines = [f"weights: {self.choice}"] if self.choice else []
        lines += [f"kept:    {len(self.kept)} tensors", f"renamed: {renamed}"]
        lines.append(f"dropped: {', '.join(dropped) or 'nothing'}")
        if self.aside:
            lines.append(f"aside:   {len(self.aside)} tensors in pretrain.safetensors")
        if self.cast:
            lines.append(f"cast:    {len(self.cast)} tensors to float32: {some(self.cast)}")
        if self.filled:
            lines.append(f"filled:  {len(self.filled)} counters num_batches_tracked that the file lacks, with 0")
        return lines

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Converted:
    """The backbone's tensors under timm's names, what is kept aside, and the report."""

    tensors: dict[str, torch.Tensor]
    aside: dict[str, torch.Tensor]
    report: Report


def convert(
    path: Path,
    config: ModelConfig,
    *,
    next_step: str,
    layout: str | None = None,
    drop: Sequence[str] = (),
    ema: bool = False,
) -> Converted:
    """Take `config`'s backbone out of a checkpoint file.

    Args:
        path: a `.safetensors` file or one of `torch.save`.
        config: states the architecture; its name and source are not looked at.
        next_step: what to type where the file does not hold the backbone; ends that error.
        layout: prefix of the backbone's tensors; None looks for one of `FAMILIES` among `WRAPPERS`.
        drop: names of heads to leave behind, besides `HEADS`; "a.b" means the tensor a.b and all tensors a.b.*.
        ema: take the moving average of the weights, of a file that holds one beside them.

    Returns:
        Contiguous CPU tensors that may still be mapped from the file, floating-point ones as float32. Counters
        `num_batches_tracked` that the file lacks (torch before 0.4.1) are 0, as `load_state_dict` has it.

    Raises:
        ClzooError: not one whole backbone, a tensor that is neither backbone nor known head, or values that are not
            finite.
    """
    checkpoint = read_checkpoint(path, ema=ema)
    expected = shapes_of(skeleton(config, str(path)).state_dict())
    heads = (*HEADS, *drop)
    if layout is None:
        layout = _find_layout(checkpoint, expected, drop, path, config)
    groups = _sort(checkpoint, layout, expected, heads)
    missing = [name for name in expected if _is_counter(name) and name not in groups.backbone]
    filled = [name for name in missing if f"{name.rpartition('.')[0]}.running_mean" in groups.backbone]
    groups.backbone.update({name: torch.zeros(expected[name], dtype=torch.long) for name in filled})
    require_equal(
        shapes_of(groups.backbone | groups.unknown),
        expected,
        where=f"{path} (backbone under {layout!r})",
        architecture=config.architecture,
        next_step=next_step,
    )
    cast = [name for name, t in groups.backbone.items() if t.is_floating_point() and t.dtype != torch.float32]
    tensors = {
        name: (tensor.float() if name in cast else tensor).contiguous() for name, tensor in groups.backbone.items()
    }
    _require_finite(tensors, path)
    report = Report(
        file=str(path),
        layout=layout,
        kept=list(tensors),
        renamed={key: name for name, key in groups.keys.items() if key != name},
        dropped=dict(groups.dropped),
        others=list(checkpoint.others),
        aside=list(groups.aside),
        cast=cast,
        filled=filled,
        choice=checkpoint.choice,
    )
    return Converted(tensors, {name: tensor.contiguous() for name, tensor in groups.aside.items()}, report)


@dataclass(frozen=True)
class _Groups:
    backbone: dict[str, torch.Tensor]
    keys: dict[str, str]  # of the backbone's tensors: their names in the file
    aside: dict[str, torch.Tensor]
    unknown: dict[str, torch.Tensor]
    dropped: Counter[str]


def _sort(checkpoint: Checkpoint, layout: str, expected: Shapes, heads: Sequence[str]) -> _Groups:
    groups = _Groups({}, {}, {}, {}, Counter())
    for key, tensor in checkpoint.tensors.items():
        bare = bare_name(key)
        name = _inside(key, layout)
        if name in expected and name not in groups.backbone:
            groups.backbone[name], groups.keys[name] = tensor, key
            continue
        name = bare if name is None else bare_name(name)
        if _head_of(bare, ASIDE):
            groups.aside[bare] = tensor
        elif head := _head_of(name, heads):
            groups.dropped[key.removesuffix(name) + head] += 1
        else:
            groups.unknown[key] = tensor
    return groups


def _inside(key: str, layout: str) -> str | None:
    """A tensor's name behind the layout, without the wrappers of single layers; None if it is not there."""
    if not key.startswith(layout):
        return None
    return ".".join(part for part in key.removeprefix(layout).split(".") if part not in INNER_WRAPPERS)


def _head_of(name: str, heads: Sequence[str]) -> str | None:
    return next((head for head in heads if name == head or name.startswith(f"{head}.")), None)


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] == "num_batches_tracked"


def _find_layout(checkpoint: Checkpoint, expected: Shapes, drop: Sequence[str], path: Path, config: ModelConfig) -> str:
    """The prefix under which the whole backbone lies; of incomplete ones the fullest, for the error that follows."""
    keys = [key for key in checkpoint.tensors if not _head_of(bare_name(key), drop)]
    required = sum(not _is_counter(name) for name in expected)
    found: Counter[str] = Counter()
    for key in keys:
        parts = key.split(".")
        prefixes = (".".join(parts[:count]) + "." if count else "" for count in range(len(parts)))
        found.update(prefix for prefix in prefixes if (n := _inside(key, prefix)) in expected and not _is_counter(n))
    # A wrapper of the whole network is seen both as the layout's and as a layer's: the longer prefix is meant.
    known = {prefix: count for prefix, count in found.items() if _family(prefix) in FAMILIES}
    known = {p: n for p, n in known.items() if not any(_is_wrapped(q, p) and m >= n for q, m in known.items())}
    whole = [prefix for prefix, count in known.items() if count == required]
    if len(whole) > 1:
        raise ClzooError(
            f"{path} holds {len(whole)} whole {config.architecture} networks, under {' and '.join(map(repr, whole))}. "
            "Say which to leave behind: add --drop NAME; or which to take: --prefix PREFIX."
        )
    elsewhere = [prefix for prefix, count in found.items() if count == required and prefix not in known]
    if not whole and elsewhere and _family(elsewhere[0]) not in FAMILIES:
        raise ClzooError(
            f"{path} holds a whole {config.architecture} under {' and '.join(map(repr, elsewhere))}, which is no "
            f"prefix that clzoo knows. If that is the encoder, add --prefix {elsewhere[0]}"
        )
    if not known:
        raise ClzooError(
            f"{path} holds no tensor of {config.architecture} under a known prefix "
            f"({', '.join(family or '(none)' for family in FAMILIES)}, among them in any nesting _orig_mod. of "
            "torch.compile, module. of DataParallel and model. of Lightning). "
            f"Its tensors begin: {some(keys)}. Is it another architecture? Or name the prefix: --prefix PREFIX"
        )
    return max(known, key=lambda prefix: known[prefix])


def _family(prefix: str) -> str:
    """A prefix without the wrappers in it."""
    return "".join(f"{part}." for part in prefix.split(".") if part and part not in WRAPPERS)


def _is_wrapped(longer: str, shorter: str) -> bool:
    return longer != shorter and longer.startswith(shorter) and _family(longer) == _family(shorter)


def _require_finite(tensors: dict[str, torch.Tensor], path: Path) -> None:
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ClzooError(
            f"{path} holds values that are not finite in {some(broken)}: its training diverged or it is damaged."
        )


def convert_to_folder(
    path: Path,
    architecture: str,
    out: Path,
    *,
    model_args: dict[str, Any],
    drop: Sequence[str] = (),
    prefix: str | None = None,
    ema: bool = False,
) -> tuple[Report, ModelConfig]:
    """Convert a checkpoint into a folder that `clzoo.load` reads; the folder's name becomes the model's.

    A checkpoint does not say everything, and `assumptions` names what is assumed: the feature is the class token of a
    network that has one, and else the global average pool; the preprocessing is ImageNet's, at the architecture's own
    input size, or at `img_size` of `model_args`.

    Args:
        model_args: for timm, e.g. {"num_heads": 12}.
        drop, ema: see `convert`.
        prefix: of the backbone's tensors in the file, where clzoo does not find it; the last dot may be left out.

    Raises:
        ClzooError: see `convert`; or `out` exists already and is another model. Of the same one it stays as it is.
    """
    taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    refusal = f"{out} exists already and is not an empty folder. Name another one with --out."
    if taken and not (out / "config.json").is_file():
        raise ClzooError(refusal)
    config = _config_for(architecture, out.resolve().name, model_args)
    again = clzoo_command("convert", path, "--arch", architecture, "--out", out, "--drop", "NAME")
    converted = convert(
        path,
        config,
        drop=drop,
        layout=f"{prefix.rstrip('.')}." if prefix else prefix,
        ema=ema,
        next_step="Is it another architecture, or of another image size (--model-arg img_size=N)? "
        f"A head may be left behind by its name: {again}",
    )
    config = replace(config, **_terms_beside(path, converted.tensors))
    if taken:
        there = ModelConfig.load(out / "config.json")
        wanted = replace(
            config,
            weights_sha256=weights_sha256(converted.tensors),
            probe=there.probe,
            parameters=there.parameters,
            pretrain_sha256=there.pretrain_sha256,
        )
        if there != wanted or not (out / WEIGHTS).is_file():
            raise ClzooError(refusal)
        log.info("%s is this very model already", out)
        return converted.report, there
    encoder = build_encoder(config, converted.tensors, torch.device("cpu"), where=str(path), next_step="")

    def add_aside(folder: Path) -> None:
        if converted.aside:
            with atomic_path(folder / "pretrain.safetensors") as temporary:
                save_file(converted.aside, temporary, metadata={"format": "pt"})

    save_entry(encoder, out, add=add_aside)
    return converted.report, ModelConfig.load(out / "config.json")


def _terms_beside(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """License and origin of a file that is the weights of a clzoo model, whose config.json lies beside it."""
    beside = path.parent / "config.json"
    try:
        config = ModelConfig.load(beside) if beside.is_file() else None
    except ClzooError:  # of another library
        return {}
    if config is None or config.weights_sha256 not in (weights_sha256(tensors), halves_sha256(tensors)):
        return {}
    own = f"{config.name} ({config.source.repo})" if config.source else config.name
    return {
        "license": config.license,
        "license_note": config.license_note,
        "derived_from": config.derived_from or own,
    }


def assumptions(config: ModelConfig) -> list[str]:
    """What a converted model's config states although no checkpoint does, in words."""
    p = config.preprocessing
    lines = [
        f"feature: {config.feature}, {config.num_features} values",
        f"input:   shorter side {p.resize} px ({p.interpolation}), centre {p.size} px, ImageNet mean and std",
    ]
    heads = _attention_heads(config)
    if heads is not None:
        given = "as given" if "num_heads" in config.model_args else "timm's default; MoCo v3's ViT-Small has 12"
        lines.append(f"heads:   {heads} ({given}; another number loads as well and is wrong: --model-arg num_heads=N)")
    return lines


def _attention_heads(config: ModelConfig) -> int | None:
    blocks = getattr(skeleton(config, "--arch"), "blocks", None)
    attention = getattr(blocks[0], "attn", None) if blocks is not None and len(blocks) else None
    return getattr(attention, "num_heads", None)


def _config_for(architecture: str, name: str, model_args: dict[str, Any]) -> ModelConfig:
    """What the architecture itself says: where its feature is, how long that is, and the size of its images."""
    config = ModelConfig(
        name=name,
        architecture=architecture,
        num_features=0,
        method=UNKNOWN,
        backbone=architecture,
        data=UNKNOWN,
        model_args=model_args,
    )
    with torch.device("meta"):
        try:
            module: Any = network(config, "--arch")
        except ClzooError as error:
            config, module = _with_token(config, error)
        else:
            if getattr(module, "cls_token", None) is not None:
                config, module = _with_token(config)
    size = made_for(model_args) or int(module.pretrained_cfg["input_size"][-1])
    return replace(config, num_features=feature_width(module, size), preprocessing=Preprocessing(size=size))


def _with_token(config: ModelConfig, refused: ClzooError | None = None) -> tuple[ModelConfig, nn.Module]:
    """The config whose feature is the class token, and its network; `refused` is raised if there is none either.

    Distilled DeiTs and CLIP's ResNets are built with no other.
    """
    config = replace(config, global_pool="token")
    try:
        return config, network(config, "--arch")
    except ClzooError:
        if refused is None:
            raise
        raise refused from None


def parse_model_args(pairs: Sequence[str]) -> dict[str, Any]:
    """("num_heads=12", "qk_norm=true") -> {"num_heads": 12, "qk_norm": True}: values are JSON, or else text."""
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise ClzooError(f"--model-arg takes KEY=VALUE, e.g. num_heads=12; found {pair!r}.")
        try:
            parsed[key] = json.loads(value)
        except (ValueError, RecursionError):
            parsed[key] = value
    return parsed
