"""The models of the zoo: one folder `hub/<name>/` each, whose `config.json` is the entry. Imports no torch."""

from __future__ import annotations

import difflib
import fnmatch
import os
from pathlib import Path
from typing import Any, Literal

from clzoo import assets
from clzoo.config import HUB_PREFIX, TIMM_PREFIX, ModelConfig
from clzoo.errors import ClzooError
from clzoo.files import read_json
from clzoo.metrics import measured
from clzoo.wording import clzoo_command

DEFAULT_MODEL = "supcon-resnet10_w48-tiny"
"""The bundled model, used where none is named."""

WEIGHTS = "model.safetensors"

PRETRAINING_STATE = "pretrain.safetensors"
"""Beside an entry's weights, where it was kept: heads, gates, queue, momentum encoder."""

Status = Literal["bundled", "hub", "recipe-only", "local", "run"]


def list_models(pattern: str = "*") -> list[str]:
    """Sorted names of the zoo that hold a text ("vit") or match a shell pattern ("*vit_*"), also without weights."""
    names = (folder.parent.name for folder in assets.HUB.glob("*/config.json"))
    return sorted(fnmatch.filter(names, pattern if set(pattern) & set("*?[") else f"*{pattern}*"))


def entries() -> list[ModelConfig]:
    """The configs of all entries, sorted by name."""
    return [ModelConfig.load(assets.HUB / name / "config.json") for name in list_models()]


def entry(name: str) -> ModelConfig:
    """The config of one entry.

    Raises:
        ClzooError: no such name; the message holds the closest ones.
    """
    if name not in list_models():
        raise ClzooError(f"the zoo has no model {name!r}. {closest(name)}Type: clzoo list")
    return ModelConfig.load(assets.HUB / name / "config.json")


def closest(name: str) -> str:
    """A sentence with the names nearest to one that the zoo does not have; empty if none is near."""
    close = difflib.get_close_matches(name, list_models(), n=3, cutoff=0.5)
    return f"The closest: {', '.join(close)}. " if close else ""


def is_path(text: str) -> bool:
    """Whether a model's name is a path: it has a separator or a suffix. A plain word is a zoo name."""
    separators = {"/", os.sep, os.altsep}
    return (
        any(separator in text for separator in separators if separator)
        or Path(text).suffix != ""
        or text in (".", "..")
    )


def is_local(text: str) -> bool:
    """Whether a model's name is a place on this machine: not of the zoo, the Hub or timm."""
    return is_path(text) and not text.startswith((HUB_PREFIX, TIMM_PREFIX))


def whole_name(name_or_path: str | Path) -> str:
    """A model's place by the path that leads to it from any folder; a name as it is."""
    is_place = isinstance(name_or_path, Path) or is_local(name_or_path)
    return str(Path(name_or_path).expanduser().resolve() if is_place else name_or_path)


def can_be_loaded(text: str) -> bool:
    """Whether a model's name leads somewhere, as far as this machine knows: that a place is there, or a name known."""
    if is_path(text) and is_local(text):
        return Path(text).expanduser().exists()
    return text.startswith((HUB_PREFIX, TIMM_PREFIX)) or text in list_models()


def is_run(name_or_path: str | Path) -> bool:
    """Whether this names a run folder: a path that holds a recipe and the state of its training."""
    if not (isinstance(name_or_path, Path) or is_path(str(name_or_path))):
        return False
    folder = Path(name_or_path).expanduser()
    return (folder / "recipe.yaml").is_file() and (folder / "state.json").is_file()


def has_encoder(run: Path) -> bool:
    """Whether a run folder holds the encoder that the end of its training writes, config.json last."""
    written = (run / "config.json").is_file() and (run / WEIGHTS).is_file()
    return written and bool(read_json(run / "state.json").get("finished"))


def without_encoder(run: Path) -> ClzooError:
    """What to say of a run folder where `has_encoder` is false, to those who need its files."""
    state = read_json(run / "state.json")
    why = "its encoder is not written yet" if state.get("finished") else f"it stopped at step {state['step']}"
    return ClzooError(
        f"{run} is a run, and {why} (of {state['steps']} steps): the end of training writes the files of its encoder. "
        "Type the same clzoo pretrain command again; or for its newest checkpoint: "
        f"{clzoo_command('convert', run, '--out', 'DIR')}"
    )


def described(name_or_path: str) -> tuple[ModelConfig, Status, Path]:
    """The config of a zoo name, or of a folder or run on this machine, where its weights are, and the folder of both.

    Raises:
        ClzooError: no such name; a path without a config.json, or a run without its encoder.
    """
    if not is_path(name_or_path):
        config = entry(name_or_path)
        return config, status(config), assets.HUB / config.name
    path = Path(name_or_path).expanduser()
    folder = path if path.is_dir() else path.parent
    if is_run(folder) and not has_encoder(folder):
        raise without_encoder(folder)
    if not path.exists():
        raise ClzooError(f"{path} does not exist; expected a folder with a config.json, or a name of clzoo list.")
    return ModelConfig.load(folder / "config.json"), "run" if is_run(folder) else "local", folder


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
    train = clzoo_command("pretrain", config.recipe)
    ships = config.recipe is not None and (assets.RECIPES / Path(config.recipe).name).is_file()
    return train if ships else f"{train} (this version of clzoo does not ship that recipe yet)"


def row(config: ModelConfig) -> dict[str, Any]:
    """One line of `clzoo list`.

    `parameters`: None where nobody counted them. `input`: side in pixels. `linear`, `knn`: top-1 in percent by
    linear:v1 and knn:v1 on `measured_on`; None where nothing was. `verified`: hash and probe of the weights are
    recorded, so `clzoo verify` can pass.
    """
    return {
        "name": config.name,
        "method": config.method,
        "backbone": config.backbone,
        "data": config.data,
        "parameters": config.parameters,
        "input": config.preprocessing.size,
        "dim": config.num_features,
        **measured(assets.HUB / config.name),
        "status": status(config),
        "source": config.source.repo if config.source else None,
        "license": config.license,
        "verified": config.weights_sha256 is not None and config.probe is not None,
    }


def facts(config: ModelConfig, found: str, folder: Path | None) -> list[tuple[str, object]]:
    """`clzoo info` as (label, value) pairs; None where nothing is recorded.

    Args:
        found: where the weights are.
        folder: of the model, where a metrics.json may lie; None: it has none on this machine.
    """
    p, source = config.preprocessing, config.source
    published = ", ".join(f"{evaluation} {value:g}" for evaluation, value in config.published.items())
    line = {**row(config), **measured(folder), "status": found}
    options = f" {config.model_args}" if config.model_args else ""
    pairs: list[tuple[str, object]] = [
        *((label, line[label]) for label in ("name", "method", "backbone", "data", "dim", "status")),
        ("parameters", f"{config.parameters:,}" if config.parameters else None),
        ("architecture", f"timm {config.architecture}{options}"),
        ("feature", config.feature),
        ("input", f"shorter side {p.resize} px, {p.interpolation}, centre {p.size} px, mean {p.mean}, std {p.std}"),
        ("license", f"{config.license}. {config.license_note}" if config.license_note else config.license),
        ("derived from", config.derived_from or None),
        ("recipe", config.recipe),
        (
            "measured by clzoo",
            f"linear {line['linear']} / k-NN {line['knn']}, top-1 % on {line['measured_on']}"
            if line["measured_on"]
            else None,
        ),
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
