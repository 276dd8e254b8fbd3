"""The recipe of an adaptation, made from the start encoder, the images and the machine, each choice with its reason."""

from __future__ import annotations

import json
import math
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from clzoo.adaptation.survey import Survey
from clzoo.backbones import skeleton_of
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.methods import METHODS
from clzoo.pretrain.backbone_names import backbone_name
from clzoo.pretrain.data_names import as_id
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.recipe_files import find_recipe, load_recipe
from clzoo.pretrain.start import start_of
from clzoo.wording import plain

SMALL = 96
"""Side of the input in pixels below which a method's settings are those of its recipe for CIFAR-10."""

MOST_BATCH, FEWEST_BATCH = 256, 16
EPOCHS = 20
"""Without a time; and at most MOST_EPOCHS with one: a few images are not seen for ever (our choice)."""
MOST_EPOCHS = 100

BASE_LR = {"sgd": 0.03, "adamw": 1e-4}  # per 256 images

_WIDTH = 118  # characters of a line for the terminal

Reasons = dict[str, str]


def method_of(encoder: Encoder, asked: str | None) -> tuple[str, str]:
    """The method, and why.

    Raises:
        ClzooError: one that does not exist.
    """
    if asked is not None:
        if asked not in METHODS:
            raise ClzooError(f"--method {asked} is none of {', '.join(METHODS)}.")
        return asked, "as asked for"
    own = METHODS.get(encoder.config.method)
    if own is not None and not own.labels:
        return own.name, f"the one that {encoder.config.name} was trained by"
    return "simclr", f"that of {encoder.config.name} needs labels or is not known here; SimCLR needs none"


def recipe_values(
    encoder: Encoder, start: str, seen: Survey, trained_on: int, method: str, title: str, free_bytes: int
) -> tuple[dict[str, Any], Reasons]:
    """A recipe as a table, and the reason of each choice by its key. Length, rate and frozen parts come later.

    Args:
        start: what `clzoo.load` is given.
        trained_on: images that are not held out.
        free_bytes: of memory, for the activations of a batch.

    Raises:
        ClzooError: fewer images than the smallest batch has, or such a batch does not fit.
    """
    config = encoder.config
    p, small = config.preprocessing, config.preprocessing.size < SMALL
    base = load_recipe(find_recipe(f"{method}_{'cifar10' if small else 'in1k'}"))
    has_batchnorm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in encoder.module.modules())
    if trained_on < FEWEST_BATCH:
        raise ClzooError(
            f"{title}: {trained_on} images are left to train on, and the smallest batch has {FEWEST_BATCH}. Copies "
            "stay together, held out or not: too many are copies of one. Take copies away; to see which: clzoo curate "
            "duplicates STORE, of a store that clzoo embed made"
        )
    views, views_reason = _views(base, p.size, seen)
    count = sum(view["count"] for view in views)
    batch, batch_reason = _batch(encoder, trained_on, count, p.size, free_bytes)
    options = base.method.model_dump(mode="json")
    if "queue" in options:
        options["queue"] = max(1, min(options["queue"], trained_on // 2) // batch) * batch
    if options.get("group"):
        options["group"] = math.gcd(options["group"], batch)
    optimizer = "sgd" if has_batchnorm else "adamw"
    groups = base.backbone.batchnorm_groups if has_batchnorm and batch // base.backbone.batchnorm_groups >= 4 else 1
    values = {
        "method": options,
        "backbone": {
            "name": backbone_name(config.architecture, config.model_args),
            "architecture": config.architecture,
            "model_args": config.model_args,
            "global_pool": config.global_pool,
            "stem_stride": config.stem_stride,
            "stem_pool": config.stem_pool,
            "batchnorm_groups": groups,
            "frozen": [],
        },
        "data": {
            "name": as_id(title),
            "title": plain(title),
            "size": p.size if p.size < 224 else p.resize,
            "mean": list(p.mean),
            "std": list(p.std),
            "held_out": True,
            "preprocessing": {"size": p.size, "crop_pct": p.crop_pct, "interpolation": p.interpolation},
        },
        "views": views,
        "optimizer": {
            "name": optimizer,
            "base_lr": BASE_LR[optimizer],
            "weight_decay": 1e-4 if optimizer == "sgd" else 0.05,
            "decay_norms_and_biases": False,
        },
        "schedule": {"epochs": EPOCHS, "batch_size": batch, "warmup_epochs": 0, "decay": "cosine", "towards_start": 0},
        "monitor": {"every_steps": 0},
        "seed": 0,
        "start": start_of(encoder, start).model_dump(mode="json"),
    }
    statistics = (
        "BatchNorm counts each batch, also in frozen parts, and its running averages follow the new images"
        if has_batchnorm
        else "the network has no BatchNorm, so no statistics follow the images"
    )
    reasons = {
        "method": f"settings of the shipped recipe {base.name}; the queue, if any, holds half of the images at most",
        "backbone": f"that of {config.name}; {statistics}",
        "data": "preprocessing of the start encoder; held_out leaves a fifth for the verdict, a tenth for pilots",
        "views": views_reason,
        "optimizer.name": "SGD for networks with BatchNorm, AdamW for those without (our choice)",
        "schedule.batch_size": batch_reason,
        "start": "the weights that the run begins with, and their terms, which stay with the result",
        "monitor": "the verdict looks afterwards; looking on the way would cost time",
    }
    return values, reasons


def with_length(values: dict[str, Any], steps: int, trained_on: int) -> float:
    """Set epochs and warm-up for so many steps; returns the epochs."""
    per_epoch = trained_on // values["schedule"]["batch_size"]
    epochs = steps / per_epoch
    values["schedule"] |= {"epochs": epochs, "warmup_epochs": round(epochs / 10, 6)}
    return epochs


def lower_half(encoder: Encoder) -> list[str]:
    """Prefixes of the first half of a network's parts: the stem or embedding, and blocks.

    A part that holds more than half of all tensors (`features.` of some families) counts by what is in it.
    """
    names = [name for name, _ in skeleton_of(encoder.config).named_parameters()]

    def unit_of(name: str, deeper: int) -> str:
        parts = name.split(".")
        depth = deeper + (2 if len(parts) > 2 + deeper and parts[1 + deeper].isdigit() and parts[0] != "conv1" else 1)
        return name if len(parts) <= depth else ".".join(parts[:depth]) + "."

    deeper = [0] * len(names)
    while True:
        units = [unit_of(name, level) for name, level in zip(names, deeper, strict=True)]
        largest, count = Counter(units).most_common(1)[0]
        if 2 * count <= len(names) or largest in names:
            break
        deeper = [level + (unit == largest) for level, unit in zip(deeper, units, strict=True)]
    found = list(dict.fromkeys(units))
    return found[: len(found) // 2]


def in_brief(values: dict[str, Any], reasons: Reasons, head: str) -> list[str]:
    """The choices for a terminal, a line or two each, with the first of their reasons; `commented` says more."""
    backbone, optimizer, schedule = values["backbone"], values["optimizer"], values["schedule"]
    size, views = values["data"]["preprocessing"]["size"], sum(view["count"] for view in values["views"])
    chosen = [
        ("method", values["method"]["name"], "method"),
        ("views", f"{views} of {size} px", "views"),
        ("batch", f"{schedule['batch_size']} images", "schedule.batch_size"),
        ("length", f"{schedule['epochs']:.2f} epochs", "schedule.epochs"),
        ("warm-up", f"{schedule['warmup_epochs']:.2f} epochs", "schedule.warmup_epochs"),
        ("rate", f"{optimizer['base_lr']:g}", "optimizer.base_lr"),
        ("optimiser", optimizer["name"], "optimizer.name"),
        ("trained", "the upper half" if backbone["frozen"] else "the whole network", "backbone.frozen"),
        ("statistics", "", "backbone"),
        ("the end", f"{schedule['towards_start']:.0%} back towards the start", "schedule.towards_start"),
    ]
    if values["data"]["flatten"]:
        chosen.append(("drawing", "crowded places less often", "data.flatten"))
    lines = textwrap.wrap(plain(head), _WIDTH)
    for name, value, key in chosen:
        reason = reasons[key].split("; ")[1 if key == "backbone" else 0]
        text = plain(f"{name:<10}  {value}{': ' * bool(value)}{reason}")
        lines += textwrap.wrap(
            text, _WIDTH, initial_indent="  ", subsequent_indent=" " * 14, max_lines=2, placeholder=" ..."
        )
    return lines


def commented(values: dict[str, Any], reasons: Reasons, head: list[str]) -> str:
    """The recipe as YAML, each reason above its key."""
    lines = [f"# {plain(line)}".rstrip() for line in head]
    for section, value in values.items():
        lines += ["", *_comment(reasons.get(section), "")]
        if isinstance(value, dict):
            lines.append(f"{section}:")
            for key, each in value.items():
                lines += [*_comment(reasons.get(f"{section}.{key}"), "  "), f"  {key}: {_flow(each)}"]
        elif isinstance(value, list):
            lines += [f"{section}:", *(f"  - {_flow(each)}" for each in value)]
        else:
            lines.append(f"{section}: {_flow(value)}")
    return "\n".join(lines) + "\n"


def _comment(text: str | None, indent: str) -> list[str]:
    start = f"{indent}# "
    return [] if text is None else textwrap.wrap(plain(text), 100, initial_indent=start, subsequent_indent=start)


def _flow(value: Any) -> str:
    """One line of YAML; a text as JSON has it, whatever is in it."""
    if isinstance(value, str):
        return json.dumps(value)
    return yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).removesuffix("...\n").strip()


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device: of a CPU what the system calls available."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 4 << 30


def _views(base: Recipe, size: int, seen: Survey) -> tuple[list[dict[str, Any]], str]:
    """The method's groups of views at the encoder's size; those of smaller local crops are left out."""
    largest = max(group.size for group in base.views)
    groups = [group.model_dump(mode="json") for group in base.views if group.size == largest]
    for group in groups:
        group["size"] = size
        if seen.grey:
            group |= {"saturation": 0.0, "hue": 0.0, "grayscale": 0.0}
    grey = "; no image has colours, so views do not change them" if seen.grey else ""
    return groups, f"the method's own, at the {size} px that the encoder takes{grey}"


def _batch(encoder: Encoder, trained_on: int, views: int, size: int, free_bytes: int) -> tuple[int, str]:
    each = activation_bytes(encoder, size) * views
    fits = max(1, int(0.5 * free_bytes / each))
    largest = min(MOST_BATCH, trained_on // 4, fits)
    batch = 1 << max(0, largest.bit_length() - 1)
    if batch < FEWEST_BATCH and fits >= FEWEST_BATCH:
        batch = min(FEWEST_BATCH, trained_on)
    if batch < FEWEST_BATCH:
        raise ClzooError(
            f"a batch of {FEWEST_BATCH} images takes about {FEWEST_BATCH * each / 2**30:.1f} GiB for {views} views of "
            f"{size} px, and half of what is free is {free_bytes / 2**31:.1f} GiB. Choose a smaller one: --from NAME"
        )
    by = {MOST_BATCH: "more than 256 is seldom worth it", fits: "what half of the free memory holds"}.get(
        largest, "a quarter of the images: an epoch has at least four steps"
    )
    return batch, f"{by}; a view of one image takes {each / views / 2**20:.1f} MiB of activations"


def activation_bytes(encoder: Encoder, size: int) -> int:
    """Bytes that the outputs of all layers of one image take in float32, twice: forward and backward."""
    network, found = skeleton_of(encoder.config), [0]

    def count(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            found[0] += 8 * output.numel()

    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(count)
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, size, size, device="meta"))
    return max(1, found[0])
