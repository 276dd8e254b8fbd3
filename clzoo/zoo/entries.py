"""The models of the zoo: one folder `hub/<name>/` each, whose `config.json` is the entry. Imports no torch."""

from __future__ import annotations

import difflib
import fnmatch
from pathlib import Path
from typing import Any, Literal

from clzoo import assets
from clzoo.config import ModelConfig
from clzoo.errors import ClzooError

WEIGHTS = "model.safetensors"

PRETRAINING_STATE = "pretrain.safetensors"
"""Beside an entry's weights, where it was kept: heads, gates, queue, momentum encoder."""

Status = Literal["bundled", "hub", "recipe-only"]


def list_models(pattern: str = "*") -> list[str]:
    """Sorted names of the zoo that match a shell pattern, e.g. `list_models("*vit*")`; recipe-only names included."""
    names = (folder.parent.name for folder in assets.HUB.glob("*/config.json"))
    return sorted(fnmatch.filter(names, pattern))


def entries() -> list[ModelConfig]:
    """The configs of all entries, sorted by name."""
    return [ModelConfig.load(assets.HUB / name / "config.json") for name in list_models()]


def entry(name: str) -> ModelConfig:
    """The config of one entry.

    Raises:
        ClzooError: no such name; the message holds the closest ones.
    """
    names = list_models()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        near = f"The closest: {', '.join(close)}. " if close else ""
        raise ClzooError(f"the zoo has no model {name!r}. {near}Type: clzoo list")
    return ModelConfig.load(assets.HUB / name / "config.json")


def bundled_weights(name: str) -> Path | None:
    """The weights that lie beside an entry, if they do."""
    path = assets.HUB / name / WEIGHTS
    return path if path.is_file() else None


def status(config: ModelConfig) -> Status:
    """Where an entry's weights come from: shipped with clzoo, published on the Hub, or yours to train."""
    if bundled_weights(config.name):
        return "bundled"
    return "hub" if config.source else "recipe-only"


def training_command(config: ModelConfig) -> str:
    """What to type to train a recipe-only entry."""
    command = f"clzoo pretrain {config.recipe}"
    ships = config.recipe is not None and (assets.RECIPES / Path(config.recipe).name).is_file()
    return command if ships else f"{command} (this version of clzoo does not ship that recipe yet)"


def row(config: ModelConfig) -> dict[str, Any]:
    """One line of `clzoo list`. `verified`: hash and probe of the weights are recorded, so `clzoo verify` can pass."""
    return {
        "name": config.name,
        "method": config.method,
        "backbone": config.backbone,
        "data": config.data,
        "dim": config.num_features,
        "status": status(config),
        "source": config.source.repo if config.source else None,
        "licence": config.license,
        "verified": config.weights_sha256 is not None and config.probe is not None,
    }


def facts(config: ModelConfig) -> list[tuple[str, object]]:
    """`clzoo info` as (label, value) pairs; None where nothing is recorded."""
    p, source = config.preprocessing, config.source
    published = ", ".join(f"{evaluation} {value:g}" for evaluation, value in config.published.items())
    options = f" {config.model_args}" if config.model_args else ""
    pairs: list[tuple[str, object]] = [
        *((label, value) for label, value in row(config).items() if label not in ("source", "licence", "verified")),
        ("architecture", f"timm {config.architecture}{options}"),
        ("feature", "class token" if config.global_pool == "token" else "global average pool"),
        ("input", f"shorter side {p.resize} px, {p.interpolation}, centre {p.size} px, mean {p.mean}, std {p.std}"),
        ("licence", f"{config.license}. {config.license_note}" if config.license_note else config.license),
        ("recipe", config.recipe),
        ("published, top-1 %", published or None),
        ("weights_sha256", config.weights_sha256 or "not recorded"),
        ("probe", "recorded" if config.probe else "not recorded"),
    ]
    if source:
        pairs += [
            ("source", f"https://huggingface.co/{source.repo}"),
            ("revision", source.revision or "not pinned yet"),
            ("file", source.file),
            ("size", f"{source.size:,} bytes" if source.size else None),
            ("sha256", source.sha256 or "not recorded: checked against the Hub's own"),
            ("layout", f"{source.layout or '(no prefix)'}; dropped besides: {', '.join(source.drop) or 'nothing'}"),
        ]
        if config.probe is None:
            pairs.append(("proof", "not verified on the published file"))
    return pairs
