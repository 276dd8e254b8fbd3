"""From a name or a path to checked weights: bundled, then of the cache, then of the Hub. Never random ones."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from clzoo import assets, cache
from clzoo.config import HUB_PREFIX, LONGEST_CONFIG, TIMM_PREFIX, ModelConfig, Source
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.files import read_json, sha256_of
from clzoo.proof import weights_sha256
from clzoo.wording import clzoo_command
from clzoo.zoo import converted
from clzoo.zoo.convert import convert
from clzoo.zoo.entries import (
    PRETRAINING_STATE,
    WEIGHTS,
    bundled_weights,
    entry,
    has_encoder,
    is_path,
    is_run,
    training_command,
    without_encoder,
)
from clzoo.zoo.fetch import commit_of, fetch_file, fetch_source, is_offline
from clzoo.zoo.swapping import settle
from clzoo.zoo.weights import build_encoder, read_safetensors

log = logging.getLogger("clzoo")


@dataclass(frozen=True)
class Located:
    """A model's config and weights on this machine, and what the weights must hash to."""

    config: ModelConfig
    weights: Path
    weights_sha256: str | None  # None: nobody recorded it
    origin: str  # "bundled", "cache", "hf-hub" or "local"
    next_step: str  # what to type if the file is damaged
    pretrain_sha256: str | None = None  # of pretrain.safetensors beside the weights; None: there is none
    pinned_here: str | None = None  # day on which this machine pinned the weights, where nobody else did


def locate(
    name_or_path: str | Path, *, revision: str | None = None, cache_dir: str | Path | None = None, offline: bool = False
) -> Located:
    """Find a model's files on this machine, fetching and converting them if need be; arguments as in `clzoo.load`."""
    text = str(name_or_path)
    if text.startswith(TIMM_PREFIX):
        return _in_timm(text.removeprefix(TIMM_PREFIX), revision, cache_dir, offline)
    if text.startswith(HUB_PREFIX):
        return _on_hub(text.removeprefix(HUB_PREFIX), revision, cache_dir, offline)
    if isinstance(name_or_path, Path) or is_path(text):
        if revision is not None:
            raise ClzooError(f"revision {revision!r} was given with the local path {text}; files have no revisions.")
        return _local(Path(text).expanduser())
    return _in_zoo(text, revision, cache_dir, offline)


def read_encoder(found: Located, device: torch.device) -> Encoder:
    """The encoder of located files, its weights checked against the recorded hash."""
    pretraining_state(found, required=False)
    tensors = read_safetensors(found.weights, next_step=found.next_step)
    _require_hash(tensors, found)
    encoder = build_encoder(found.config, tensors, device, where=str(found.weights), next_step=found.next_step)
    if found.origin != "bundled":  # those came with clzoo, whose README tells their terms
        _say_license(found.config)
    return encoder


def pretraining_state(found: Located, *, required: bool = True) -> Path | None:
    """The pretrain.safetensors that belongs to located weights, compared with its recorded hash; None if there is none.

    Args:
        required: one that is recorded must be there. Of a repository of the Hub it is not fetched, and may be missing.

    Raises:
        ClzooError: it is of another model, damaged, recorded nowhere, or missing.
    """
    path = found.weights.with_name(PRETRAINING_STATE)
    if not path.is_file():
        if found.pretrain_sha256 is None or not required or found.origin == "hf-hub":
            return None
        raise ClzooError(
            f"{path} is missing, and the config of {found.config.name} says that it belongs to the weights. "
            f"{found.next_step}"
        )
    if (actual := sha256_of(path)) != found.pretrain_sha256:
        recorded = f"recorded is {found.pretrain_sha256}" if found.pretrain_sha256 else "the config records none"
        raise ClzooError(
            f"{path} has SHA-256 {actual}, {recorded}: it is damaged, or of another model than {found.config.name}. "
            f"{found.next_step}"
        )
    return path


def _in_zoo(name: str, revision: str | None, cache_dir: str | Path | None, offline: bool) -> Located:
    here = f"A folder ./{name} lies here: to load it, type ./{name}" if name and Path(name).is_dir() else ""
    settle(assets.HUB / name)
    try:
        config = entry(name)
    except ClzooError as error:
        raise ClzooError(f"{error}{'. ' + here if here else ''}") from None
    if here:
        log.warning("%r is taken as the name of a zoo model. %s", name, here)
    bundled = bundled_weights(name)
    if bundled and revision is None:
        return Located(
            config,
            bundled,
            config.weights_sha256,
            "bundled",
            "Type: pip install --force-reinstall clzoo",
            config.pretrain_sha256,
        )
    if config.source is None:
        if bundled:
            raise ClzooError(f"{name} is shipped with clzoo and has no revisions; leave out revision={revision!r}.")
        raise ClzooError(
            f"{name} is a recipe, and nobody has published weights of it. Train it: {training_command(config)}"
        )
    model = converted.find(name, config.source, revision, cache_dir) or _fetch_and_convert(
        config, config.source, revision, cache_dir, offline
    )
    config = _as_converted(config, config.source, model.provenance)
    expected = config.weights_sha256 or model.provenance.weights_sha256
    return Located(
        config,
        model.weights,
        expected,
        "cache",
        converted.remove_command(name, cache_dir),
        model.provenance.pretrain_sha256,
    )


def _as_converted(config: ModelConfig, source: Source, provenance: converted.Provenance) -> ModelConfig:
    """The entry's config with the commit and the hash that were really taken."""
    taken = replace(source, revision=provenance.revision, sha256=provenance.sha256)
    if source.revision not in (None, provenance.revision):  # the entry's proof speaks of the pinned file only
        config = replace(config, weights_sha256=None, probe=None)
        taken = replace(taken, size=None)
    return replace(config, source=taken)


def _fetch_and_convert(
    config: ModelConfig, source: Source, revision: str | None, cache_dir: str | Path | None, offline: bool
) -> converted.CachedModel:
    if not is_offline(offline):
        size = f" ({source.size / 1e6:,.0f} MB)" if source.size else ""
        log.info("%s: taking %s%s from %s on the Hugging Face Hub", config.name, source.file, size, source.repo)
    published = fetch_source(source, revision=revision, hub_cache=cache.hub_cache(cache_dir), offline=offline)
    if not published.pinned:
        log.warning(
            "%s is not pinned yet: the zoo records no SHA-256 of its published file. Took commit %s, SHA-256 %s, "
            "which is what the Hub states; both are kept, and later loads check against them.",
            config.name,
            published.commit,
            published.sha256,
        )
    made = convert(
        published.path,
        config,
        layout=source.layout,
        drop=source.drop,
        next_step="The published file is not what this zoo entry describes. Type: pip install --upgrade clzoo",
    )
    for line in made.report.lines():
        log.info("  %s", line)
    provenance = converted.Provenance(
        name=config.name,
        repo=source.repo,
        file=source.file,
        revision=published.commit,
        sha256=published.sha256,
        pinned=published.pinned,
        weights_sha256=weights_sha256(made.tensors),
    )
    model = converted.keep(config.name, source, revision, cache_dir, provenance, made.tensors, made.aside)
    log.info("%s: converted into %s", config.name, model.folder)
    return model


def _on_hub(repo: str, revision: str | None, cache_dir: str | Path | None, offline: bool) -> Located:
    from clzoo.zoo.timm_models import is_timm_config, pin, pinned_model

    hub_cache = cache.hub_cache(cache_dir)
    name = f"{HUB_PREFIX}{repo}"
    if pinned := pinned_model(name, repo, revision, cache_dir):
        return _pinned_here(*pinned, cache_dir)
    path = fetch_file(repo, "config.json", revision, hub_cache=hub_cache, offline=offline)
    raw = read_json(path, LONGEST_CONFIG)
    if is_timm_config(raw):
        return _pinned_here(*pin(name, repo, revision, cache_dir, offline), cache_dir)
    config = ModelConfig.from_json(raw, where=f"{name}, config.json")
    # The commit of the config, so that a push between the two requests cannot mix two models.
    weights = fetch_file(repo, WEIGHTS, commit_of(path, "config.json"), hub_cache=hub_cache, offline=offline)
    into = f" --cache-dir {hub_cache}" if hub_cache else ""
    again = f"Type: hf cache rm model/{repo}{into}; then the same command again."
    return Located(config, weights, _recorded(config), "hf-hub", again, config.pretrain_sha256)


def _in_timm(name: str, revision: str | None, cache_dir: str | Path | None, offline: bool) -> Located:
    from clzoo.zoo.timm_models import full_name, pin, pinned_model

    full, repo = full_name(name)
    called = f"{TIMM_PREFIX}{full}"
    if full != name:
        log.info("%s is timm's name for %s", name, full)
    pinned = pinned_model(called, repo, revision, cache_dir) or pin(called, repo, revision, cache_dir, offline)
    return _pinned_here(*pinned, cache_dir)


def _pinned_here(config: ModelConfig, model: converted.CachedModel, cache_dir: str | Path | None) -> Located:
    again = converted.remove_command(config.name, cache_dir)
    day = model.provenance.pinned_here
    return Located(config, model.weights, model.provenance.weights_sha256, "cache", again, pinned_here=day)


def _local(path: Path) -> Located:
    settle(path.parent if path.suffix == ".safetensors" else path)
    if path.is_dir():
        folder, weights = path, path / WEIGHTS
    else:
        folder, weights = path.parent, path
        if not path.exists():
            repo = f" If it is a repository of the Hub, type {HUB_PREFIX}{path}" if len(path.parts) == 2 else ""
            raise ClzooError(f"{path} does not exist; expected a folder or a .safetensors file.{repo}")
        if path.suffix == ".onnx":
            raise ClzooError(
                f"{path} is an ONNX graph, which holds no network that clzoo could load. Name the model that it was "
                f"exported from; or use the graph itself: clzoo.lite.load({str(path)!r})"
            )
        if path.suffix != ".safetensors" or not (folder / "config.json").is_file():
            lacks = "has no config.json beside it" if path.suffix == ".safetensors" else "is not a .safetensors file"
            how = clzoo_command("convert", path, "--arch", "ARCHITECTURE", "--out", "DIR")
            raise ClzooError(f"{path} {lacks}. Type: {how}")
    if is_run(folder) and not has_encoder(folder):
        raise without_encoder(folder)
    if not (folder / "config.json").is_file():
        raise ClzooError(
            f"{folder} is no model: it holds no config.json. Expected a run, a folder that clzoo saved, or a name of: "
            "clzoo list"
        )
    config = ModelConfig.load(folder / "config.json")
    if not weights.is_file():
        by_name = f" Load it by its name: {config.name}" if config.source else ""
        raise ClzooError(f"{folder} holds no {WEIGHTS}.{by_name}")
    return Located(
        config,
        weights,
        _recorded(config),
        "local",
        "Restore the file, or make the folder anew.",
        config.pretrain_sha256,
    )


def _recorded(config: ModelConfig) -> str | None:
    if config.weights_sha256 is None:
        log.warning("%s: its config.json records no weights_sha256, so its weights cannot be checked.", config.name)
    return config.weights_sha256


def _require_hash(tensors: dict[str, torch.Tensor], found: Located) -> None:
    if found.weights_sha256 is None:
        return
    actual = weights_sha256(tensors)
    if actual != found.weights_sha256:
        raise ClzooError(
            f"{found.weights}: the weights have hash {actual}, recorded is {found.weights_sha256}: they are damaged or "
            f"not those of {found.config.name}. {found.next_step}"
        )


def _say_license(config: ModelConfig) -> None:
    if config.license == "not stated":
        _say_once(f"{config.name}: no license is stated for these weights; ask their authors before you redistribute.")
    if config.license_note:
        _say_once(f"{config.name}: license {config.license}. {config.license_note}")


@functools.cache
def _say_once(message: str) -> None:
    log.warning(message)
