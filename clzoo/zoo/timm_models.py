"""Encoders that others publish in timm's format: "timm:NAME", and "hf-hub:ORG/NAME" without a `clzoo` block.

The first load pins the model on this machine: the commit that the Hub resolves, the SHA-256 that it states, the hash of
the tensors and the probe are kept in clzoo's cache with the converted weights, and every later load takes and compares
those. Only safetensors are opened.
"""

from __future__ import annotations

import datetime
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import EntryNotFoundError

from clzoo.backbones import create_backbone, feature_width
from clzoo.cache import hub_cache
from clzoo.config import LONGEST_CONFIG, ModelConfig, Preprocessing, Source
from clzoo.errors import ClzooError
from clzoo.files import read_json
from clzoo.proof import weights_sha256
from clzoo.timm_import import timm
from clzoo.transform import FILTERS
from clzoo.wording import clzoo_command
from clzoo.zoo import converted
from clzoo.zoo.convert import convert
from clzoo.zoo.entries import WEIGHTS
from clzoo.zoo.fetch import commit_of, fetch_file, fetch_source, has_file
from clzoo.zoo.weights import build_encoder

log = logging.getLogger("clzoo")

Pinned = tuple[ModelConfig, converted.CachedModel]

_PICKLES = ("pytorch_model.bin", "open_clip_pytorch_model.bin")


def full_name(name: str) -> tuple[str, str]:
    """A name of timm with its tag, and the Hub repository that holds its weights: ("resnet18.a1_in1k", "timm/...").

    Raises:
        ClzooError: timm knows no such model or tag, or no weights of it on the Hub.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = timm.list_models(f"*{architecture}*", pretrained=True)[:5]
        near = f" Near it: {', '.join(close)}." if close else ""
        raise ClzooError(f"timm {timm.__version__} has no model {architecture!r}.{near}")
    known = timm.list_pretrained(f"{architecture}.*")
    found = timm.models.get_pretrained_cfg(architecture) if not tag else None
    tag = tag or (found.tag if found is not None and found.tag else "")
    if f"{architecture}.{tag}" not in known:
        tags = f"It has {', '.join(known)}." if known else "It has none."
        raise ClzooError(f"timm {timm.__version__} knows no weights {name!r} of {architecture}. {tags}")
    full = f"{architecture}.{tag}"
    settings = timm.models.get_pretrained_cfg(full)
    if settings is None or not settings.hf_hub_id:
        raise ClzooError(
            f"timm {timm.__version__} names no repository of the Hub for {full}. If you have the file, type: "
            f"{clzoo_command('convert', 'FILE', '--arch', architecture, '--out', 'DIR')}"
        )
    return full, settings.hf_hub_id


def _source(repo: str) -> Source:
    return Source(repo, WEIGHTS, revision=None, sha256=None, size=None, layout="")


def is_timm_config(raw: Any) -> bool:
    """Whether the content of a `config.json` is timm's own: an architecture and its preprocessing, no `clzoo` block."""
    return (
        isinstance(raw, dict)
        and "clzoo" not in raw
        and isinstance(raw.get("architecture"), str)
        and isinstance(raw.get("pretrained_cfg"), dict)
    )


def pinned_model(name: str, repo: str, revision: str | None, cache_dir: str | Path | None) -> Pinned | None:
    """The model as it was pinned here; None if it was not.

    Args:
        name: what stores and cards call it: "timm:NAME.TAG" or "hf-hub:ORG/NAME".
    """
    model = converted.find(name, _source(repo), revision, cache_dir)
    return None if model is None else (ModelConfig.load(model.folder / "config.json"), model)


def pin(name: str, repo: str, revision: str | None, cache_dir: str | Path | None, offline: bool) -> Pinned:
    """Fetch a model in timm's format, check it, convert it, and keep it as pinned here; arguments as in `pinned_model`.

    Raises:
        ClzooError: not on the Hub, not in timm's format, no safetensors, a preprocessing that clzoo does not have, or
            tensors that are not exactly the architecture's and its classifier.
    """
    where = hub_cache(cache_dir)
    path = fetch_file(repo, "config.json", revision, hub_cache=where, offline=offline)
    commit = commit_of(path, "config.json")  # of both files, so that a push between the two requests cannot mix two
    raw = read_json(path, LONGEST_CONFIG)
    if not is_timm_config(raw):
        raise ClzooError(
            f"{repo}, config.json is neither clzoo's nor timm's: it has no `clzoo` block, and no architecture with a "
            "pretrained_cfg. To use its weights: clzoo convert FILE --arch ARCHITECTURE --out DIR"
        )
    source = _source(repo)
    config = config_of_timm(raw, name, where=f"{repo}, config.json")
    try:
        published = fetch_source(source, revision=commit, hub_cache=where, offline=offline)
    except ClzooError as error:
        if isinstance(error.__cause__, EntryNotFoundError):
            raise _only_a_pickle(repo, commit, where) or error from None
        raise
    step = f"{repo} is not what its config.json describes, or clzoo does not know this family's file format."
    made = convert(published.path, config, layout="", drop=_classifiers(raw), next_step=step)
    config = replace(
        config,
        source=replace(source, revision=published.commit, sha256=published.sha256, size=published.path.stat().st_size),
        weights_sha256=weights_sha256(made.tensors),
    )
    encoder = build_encoder(config, made.tensors, torch.device("cpu"), where=str(published.path), next_step=step)
    config = replace(config, probe=tuple(encoder.probe()))
    provenance = converted.Provenance(
        name=name,
        repo=repo,
        file=WEIGHTS,
        revision=published.commit,
        sha256=published.sha256,
        pinned=False,
        weights_sha256=config.weights_sha256 or "",
        pinned_here=datetime.date.today().isoformat(),
    )
    model = converted.keep(name, _source(repo), revision, cache_dir, provenance, made.tensors, {}, config=config)
    log.warning(
        "%s: pinned on this machine at commit %s, SHA-256 %s; later loads take and compare these. The zoo vouches for "
        "neither.",
        name,
        published.commit,
        published.sha256,
    )
    return config, model


def config_of_timm(raw: dict[str, Any], name: str, where: str) -> ModelConfig:
    """timm's `config.json` as a ModelConfig, its feature measured.

    Raises:
        ClzooError: an entry that is no value of its kind, an architecture that timm does not build, images that are not
            square, or a preprocessing other than "resize the shorter side, cut the centre out".
    """
    settings = raw["pretrained_cfg"]
    try:
        channels, height, width = settings["input_size"]
        preprocessing = Preprocessing(
            size=height,
            crop_pct=settings.get("crop_pct", 0.875),
            interpolation=settings.get("interpolation", "bicubic"),
            mean=tuple(settings["mean"]),
            std=tuple(settings["std"]),
        )
        model_args = dict(raw.get("model_args") or {})
        model_args.pop("num_classes", None)  # timm repeats what a network was made with
        pool = raw.get("global_pool") or model_args.get("global_pool")
        model_args.pop("global_pool", None)
    except (KeyError, TypeError, ValueError) as error:
        raise ClzooError(f"{where} is no valid config of timm: {error!r}.") from error
    mode = settings.get("crop_mode") or "center"
    if (channels, height) != (3, width) or mode != "center" or preprocessing.interpolation not in FILTERS:
        raise ClzooError(
            f"{where}: input_size {settings['input_size']}, crop_mode {mode!r}, interpolation "
            f"{preprocessing.interpolation!r}. clzoo prepares square RGB images by centre crops with "
            f"{' or '.join(FILTERS)} alone; with anything else its vectors would not be the model's."
        )
    architecture = raw["architecture"]
    try:
        pool = pool if isinstance(pool, str) else _default_pool(architecture, model_args)
        with torch.device("meta"):
            network = create_backbone(architecture, model_args=model_args, global_pool=pool, stem_stride=None)
        dim = feature_width(network, preprocessing.size)
    except ClzooError as error:
        raise ClzooError(f"{where}: {error}") from error
    config = ModelConfig(
        name=name,
        architecture=architecture,
        num_features=dim,
        method="timm",
        backbone=architecture,
        data=str(settings.get("tag") or "not stated"),
        global_pool=pool,
        model_args=model_args,
        preprocessing=preprocessing,
        license=str(settings.get("license") or "not stated"),
    )
    return ModelConfig.from_json(config.to_json(), where)  # refuses what is no value of its kind


def _default_pool(architecture: str, model_args: dict[str, Any]) -> str:
    """What timm pools by where a config does not say."""
    try:
        with torch.device("meta"):
            network: Any = timm.create_model(architecture, pretrained=False, num_classes=0, **model_args)
    except Exception as error:  # of whatever kind the architecture's own code raises
        raise ClzooError(f"timm {timm.__version__} does not build {architecture}: {error}") from error
    for owner in (network, getattr(network, "head", None)):
        pool = getattr(owner, "global_pool", None)
        pool = getattr(pool, "pool_type", pool)
        if isinstance(pool, str) and pool:
            return pool
    return "avg"


def _classifiers(raw: dict[str, Any]) -> tuple[str, ...]:
    """Names of the classifiers that timm leaves out of a network without classes."""
    named = raw["pretrained_cfg"].get("classifier") or ()
    return (named,) if isinstance(named, str) else tuple(named)


def _only_a_pickle(repo: str, commit: str, hub_cache: Path | None) -> ClzooError | None:
    """The error that names a repository's pickle, if it has one in place of safetensors."""
    for file in _PICKLES:
        if has_file(repo, file, commit):
            return ClzooError(
                f"{repo} holds no {WEIGHTS}, only {file}: a pickle, which can run any code when it is opened, and is "
                f"not. If you trust its author: hf download {repo} {file}; clzoo convert FILE --arch ARCHITECTURE "
                "--out DIR reads it without executing anything."
            )
    return None
