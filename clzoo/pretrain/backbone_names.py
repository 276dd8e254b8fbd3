"""The backbone's part of a zoo name: a preset's, or derived from the architecture and arguments. Never a free label."""

from __future__ import annotations

import difflib
import hashlib
import json
from typing import Any

from clzoo.config import SMALL_ALEXNET
from clzoo.timm_import import timm

_NARROW = {"stem_type": "deep", "stem_width": 8}

PRESETS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> timm's architecture, its arguments
    "resnet10_w16": ("resnet18", {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128], **_NARROW}),
    "resnet10_w32": ("resnet18", {"layers": [1, 1, 1, 1], "channels": [16, 32, 96, 256], **_NARROW}),
    "resnet10_w48": (
        "resnet18",
        {"layers": [1, 1, 1, 1], "channels": [32, 64, 160, 384], "stem_type": "deep", "stem_width": 16},
    ),
    "resnet18_w16": ("resnet18", {"channels": [16, 32, 64, 128], **_NARROW}),
    "resnet18d": ("resnet18", {"stem_type": "deep", "stem_width": 64, "output_stride": 8}),
    "vit_small": ("vit_small_patch16_224", {"num_heads": 12}),
    "vit_base": ("vit_base_patch16_224", {"num_heads": 12}),
    "small_alexnet": (SMALL_ALEXNET, {"img_size": 32}),
}


def backbone_name(architecture: str, model_args: dict[str, Any]) -> str:
    """The one name of these: the preset's, the architecture's own, or that with a hash of the arguments."""
    for name, (preset, arguments) in PRESETS.items():
        if architecture == preset and model_args == arguments:
            return name
    if not model_args:
        return architecture
    digest = hashlib.sha256(json.dumps(model_args, sort_keys=True, default=str).encode()).hexdigest()
    return f"{architecture}_{digest[:6]}"


def with_preset(backbone: Any) -> Any:
    """A recipe's table `backbone`, with what its name sets and it does not say, and with a name where it has none."""
    if not isinstance(backbone, dict):
        return backbone
    name, architecture, model_args = (backbone.get(key) for key in ("name", "architecture", "model_args"))
    if isinstance(name, str) and architecture is None and name in PRESETS:
        architecture, preset_args = PRESETS[name]
        return {
            **backbone,
            "architecture": architecture,
            "model_args": preset_args if model_args is None else model_args,
        }
    if isinstance(name, str) and architecture is None:
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, (*PRESETS, *timm.list_models()), n=3)
            nearest = f"; near it: {', '.join(near)}" if near else ""
            raise ValueError(f"name {name!r} is neither a preset ({', '.join(PRESETS)}) nor an architecture{nearest}")
        return {**backbone, "architecture": name}
    if name is None and isinstance(architecture, str) and isinstance(model_args or {}, dict):
        return {**backbone, "name": backbone_name(architecture, model_args or {})}
    return backbone


def contradiction(name: str, architecture: str, model_args: dict[str, Any]) -> str | None:
    """What is wrong with a name, in words; None if it is the right one."""
    right = backbone_name(architecture, model_args)
    if name == right:
        return None
    if name in PRESETS:
        preset, arguments = PRESETS[name]
        found = f"{architecture} with model_args {model_args}" if model_args else architecture
        return (
            f"name {name} stands for {preset} with model_args {arguments}, found {found}. Leave out architecture and "
            f"model_args; or name it {right}, or nothing"
        )
    return f"name {name!r} is not what architecture and model_args are called, which is {right}. Write that, or no name"
