"""Model cards: the README.md of a hub entry, written from its config.json and metrics.json and from nothing else."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCardData

from clzoo.config import HUB_PREFIX, ModelConfig
from clzoo.data.known_sets import KNOWN
from clzoo.files import write_text
from clzoo.metrics import THIS_MODEL, check_metrics, headlines
from clzoo.page import render
from clzoo.wording import clzoo_command
from clzoo.zoo.entries import training_command

log = logging.getLogger("clzoo")


class _Method(NamedTuple):
    """How a card names a method; `implementation` says what clzoo's own training of it is."""

    title: str
    arxiv: str
    labels: bool  # whether pretraining uses class labels
    implementation: str


_OTHERS = {"barlow": _Method("Barlow Twins", "2103.03230", labels=False, implementation="clzoo")}
"""Methods that clzoo has weights of and does not train."""

_IN100 = ("in100", "ImageNet-100")  # which 100 classes differs from paper to paper, so nothing is recognised as it

# Identifiers of https://huggingface.co/docs/hub/repositories-licenses that weights usually carry. The Hub refuses one
# that it does not know, so any other license goes as "other" with its name.
_HUB_LICENSES = {
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "openrail"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "other", "unknown"),
}

_SEAL = "<!-- Written by clzoo ({digest}). Edit freely: a card that was edited is never overwritten. -->\n"

UNKNOWN = "unknown"
"""Method and data of a converted checkpoint (`clzoo convert`)."""


def render_card(config: ModelConfig, metrics: dict[str, Any], *, address: str | None = None) -> str:
    """The card of an entry: front matter for the Hub, then what a reader needs; ends with a seal (see `write_card`).

    Args:
        config: with `weights_sha256` null for an entry that holds no weights.
        metrics: content of metrics.json, {"results": [...], "training": {...}}. A result has protocol, dataset,
            split, metric, value and of ("this model", or the control that it is of), and may have seeds, std, images
            (how many were measured on) and dataset_id (on the Hub). An entry that says in "evaluation" that "labels" is
            False has no labelled evaluation, and the card says so.
        address: what `clzoo.load` is given: "hf-hub:ORG/NAME", a path, or a zoo name (default: the config's name).

    Raises:
        ClzooError: a result without one of those keys, or whose value is not a finite number.
    """
    check_metrics(metrics)
    text = render("card.md", **_values(config, metrics, address or config.name))
    return text + _SEAL.format(digest=_digest(text))


def write_card(folder: Path, config: ModelConfig, metrics: dict[str, Any], *, address: str | None = None) -> None:
    """Write `folder/README.md`, unless a person wrote or edited the one that lies there.

    The rule: a README.md is replaced only if it is to the byte a card that clzoo wrote, which the hash in its last
    line shows. Otherwise it stays as it is, and a warning says so.
    """
    path = folder / "README.md"
    if path.exists() and not is_generated(path.read_text(encoding="utf-8", errors="replace")):
        log.warning("%s was written by hand and is kept: check that it describes these weights.", path)
        return
    write_text(path, render_card(config, metrics, address=address))


def is_generated(card: str) -> bool:
    """Whether a card is exactly as `render_card` returned it."""
    text, _, seal = card.removesuffix("\n").rpartition("\n")
    return seal + "\n" == _SEAL.format(digest=_digest(text + "\n"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _method(config: ModelConfig) -> _Method | None:
    from clzoo.methods import METHODS  # which loads torch

    if (known := METHODS.get(config.method)) is None:
        return _OTHERS.get(config.method)
    return _Method(known.title, known.arxiv, known.labels, known.implementation)


def _data_name(config: ModelConfig, metrics: dict[str, Any]) -> str:
    """What the weights were trained on: as the run recorded it, with counts; of others' weights by the entry's name."""
    training = metrics.get("training") or {}
    if "data" in training:
        images = f" ({training['images']:,} images)" if "images" in training else ""
        return f"{training['data']}{images}"
    return dict([_IN100, *((known.id, known.title) for known in KNOWN.values())]).get(config.data, config.data)


def _hub_data_set(config: ModelConfig, metrics: dict[str, Any]) -> str | None:
    """The Hub's id of what the weights were trained on: of a run where its images were recognised, and else by name."""
    training = metrics.get("training") or {}
    if "images" in training:
        found: str | None = training.get("dataset_id")
        return found
    return KNOWN[config.data].hub_id if config.data in KNOWN else None


def _no_labels(metrics: dict[str, Any]) -> bool:
    """Whether an entry says that nothing was measured with labels; of most nothing is said."""
    return (metrics.get("evaluation") or {}).get("labels") is False


def _timm_loads_it(config: ModelConfig) -> bool:
    return config.timm_builds_it and config.weights_sha256 is not None


# -- front matter ----------------------------------------------------------------------------------------------------


def _front_matter(config: ModelConfig, metrics: dict[str, Any]) -> str:
    method = _method(config)
    tags = ["clzoo"]
    if config.method != UNKNOWN:
        if method is not None:  # of another library's, nobody said what taught it
            tags.append("contrastive-learning")
            tags += [] if method.labels else ["self-supervised"]
        tags.append(config.method.replace("_", "-"))
    if _timm_loads_it(config):
        tags.append("timm")
    labelled = [] if _no_labels(metrics) else headlines(metrics.get("results", []))
    results = [_eval_result(row) for row in labelled if row["of"] == THIS_MODEL]
    dataset = _hub_data_set(config, metrics)
    data = ModelCardData(
        **_license_fields(config.license),
        library_name="clzoo",
        pipeline_tag="image-feature-extraction",
        tags=tags,
        datasets=[dataset] if dataset else None,
        model_name=config.name if results else None,
        eval_results=results or None,
    )
    return data.to_yaml()


def _license_fields(license: str) -> dict[str, Any]:
    """The Hub's convention: one of its identifiers; "unknown" where nobody stated one; else "other" and a name."""
    if license == "not stated":
        return {"license": "unknown"}
    if license.lower() in _HUB_LICENSES:
        return {"license": license.lower()}
    return {"license": "other", "license_name": _slug(license)}


def _eval_result(row: dict[str, Any]) -> EvalResult:
    return EvalResult(
        task_type="image-feature-extraction",
        dataset_type=_slug(row["dataset"]),
        dataset_name=row["dataset"],
        dataset_split=row["split"],
        metric_type="accuracy" if row["metric"] == "top-1" else _slug(row["metric"]),
        metric_name=f"{row['metric']}, {row['protocol']}",
        metric_value=row["value"],
    )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


# -- what clzoo/templates/card.md shows --------------------------------------------------------------------------------


def _values(config: ModelConfig, metrics: dict[str, Any], address: str) -> dict[str, Any]:
    method, source = _method(config), config.source
    return {
        "front_matter": _front_matter(config, metrics),
        "config": config,
        "unknown": config.method == UNKNOWN,
        "is_recipe": source is None and config.weights_sha256 is None,
        "method": method,
        "method_link": f"[{method.title}](https://arxiv.org/abs/{method.arxiv})" if method else config.method,
        "data_name": _data_name(config, metrics),
        "repo_url": _repo_url(source.repo) if source else "",
        "training_command": training_command(config),
        "address": _quoted(address),
        "export_command": clzoo_command("export", address, "--to", "onnx", "--out", "model.onnx", "--preprocess"),
        "timm_address": _quoted(_timm_address(address)) if _timm_loads_it(config) else "",
        "folder": _quoted(_timm_address(address).partition(":")[2]),  # or repository, as transformers is given it
        "mean": _numbers(config.preprocessing.mean),
        "std": _numbers(config.preprocessing.std),
        "measured": [_measured(row, metrics) for row in headlines(metrics.get("results", []))],
        "no_labels": _no_labels(metrics),
        "adaptation": metrics.get("adaptation"),
        "published": _published(config),
        "training": [[key.replace("_", " "), _fact(value)] for key, value in (metrics.get("training") or {}).items()],
        "was_continued": "continued from" in (metrics.get("training") or {}),
        "license_note": f" {config.license_note}" if config.license_note else "",
        "provenance": _provenance(config),
    }


def _quoted(text: str) -> str:
    """As a text of Python's, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def _timm_address(address: str) -> str:
    if address.startswith(HUB_PREFIX):
        return address
    return f"local-dir:{address}" if "/" in address else f"local-dir:hub/{address}"


def _images(row: dict[str, Any], metrics: dict[str, Any]) -> int | None:
    """How many images a row was measured on: as it says, or as the evaluation that it is of says of its split."""
    data = (metrics.get("evaluation") or {}).get("data") or {}
    of_split = data.get(row["split"]) if row["dataset"] == data.get("title") else None
    found = row.get("images", of_split.get("images") if isinstance(of_split, dict) else None)
    return found if isinstance(found, int) else None


def _measured(row: dict[str, Any], metrics: dict[str, Any]) -> list[str]:
    spread = f" ± {row['std']:g}" if row.get("std") is not None else ""
    seeds = ", ".join(map(str, row["seeds"])) if row.get("seeds") else "-"
    of = f"**{THIS_MODEL}**" if row["of"] == THIS_MODEL else row["of"]
    images = _images(row, metrics)
    place = f"{row['dataset']}, {row['split']}" + (f", {images:,} images" if images is not None else "")
    return [of, row["protocol"], place, row["metric"], f"{row['value']:g}{spread}", seeds]


def _published(config: ModelConfig) -> list[list[str]]:
    repo = f"[{config.source.repo}]({_repo_url(config.source.repo)})" if config.source else "the paper"
    source = config.published_source or repo
    return [[evaluation, f"{value:g}", source] for evaluation, value in (config.published or {}).items()]


def _provenance(config: ModelConfig) -> list[list[str]]:
    rows: list[list[str]] = []
    if source := config.source:
        revision = f"`{source.revision}`" if source.revision else "not pinned yet: resolved at the first download"
        sha256 = f"`{source.sha256}`" if source.sha256 else "not recorded: checked against the Hub's own record"
        rows += [
            ["repository", f"[{source.repo}]({_repo_url(source.repo)})"],
            ["revision", revision],
            ["file", f"`{source.file}`" + (f", {source.size:,} bytes" if source.size else "")],
            ["sha256 of the file", sha256],
        ]
    if config.weights_sha256:
        rows.append(["hash of the tensors", f"`{config.weights_sha256}`"])
    if config.recipe:
        rows.append(["recipe", f"`{config.recipe}`"])
    return rows


# -- text ------------------------------------------------------------------------------------------------------------


def _repo_url(repo: str) -> str:
    return f"https://huggingface.co/{repo}"


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_fact(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_fact, value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
