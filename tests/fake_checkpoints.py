"""Checkpoints as other people publish them, made of random weights: every layout, with everything that lies beside."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import torch

import clzoo
from clzoo import assets
from clzoo.config import ModelConfig, Preprocessing, Source
from clzoo.files import write_json
from clzoo.zoo.entries import entries
from clzoo.zoo.saving import save_entry
from clzoo.zoo.weights import network

Tensors = dict[str, torch.Tensor]

# The zoo as it ships, read before any test puts another one in its place.
SHIPPED = {config.name: config for config in entries()}

# timm's own test networks: one ResNet, one ViT with class token, each a second's work.
SMALL = {"avg": ("test_resnet", 96), "token": ("test_vit", 64)}


def shrunk(config: ModelConfig) -> ModelConfig:
    """A zoo entry with its layout and heads, but a small architecture of the same kind."""
    architecture, features = SMALL[config.global_pool]
    return dataclasses.replace(
        config,
        architecture=architecture,
        num_features=features,
        model_args={},
        preprocessing=Preprocessing(size=160),
    )


def small_config(kind: str = "avg", **changes: Any) -> ModelConfig:
    """A config of a small architecture without source."""
    base = shrunk(SHIPPED["mocov3-vit_small-in1k" if kind == "token" else "mocov3-resnet50-in1k"])
    return dataclasses.replace(base, **{"name": "fake", "source": None, **changes})


def random_backbone(config: ModelConfig, seed: int = 0) -> Tensors:
    """A state dict in which no two tensors are alike, BatchNorm statistics included."""
    generator = torch.Generator().manual_seed(seed)
    state = network(config, "test").state_dict()
    tensors = {}
    for name, tensor in state.items():
        around = 1.0 if tensor.ndim == 1 and name.endswith(("weight", "running_var")) else 0.0  # norms scale by about 1
        noise = 0.05 * torch.randn(tensor.shape, generator=generator)
        tensors[name] = around + noise if tensor.is_floating_point() else torch.full(tensor.shape, 7)
    return tensors


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    """The same tensors under a prefix."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def moco_style(layout: str, head: str, backbone: Tensors) -> dict[str, Any]:
    """A training checkpoint: backbone with its projector, momentum encoder, predictor, queue and optimiser state."""
    outer = "module." if layout.startswith("module.") else ""
    family = layout.removeprefix(outer)
    twin = {"base_encoder.": "momentum_encoder.", "encoder_q.": "encoder_k."}.get(family, "momentum_encoder.")
    projector = {f"{head}.0.weight": torch.ones(8, 4), f"{head}.1.running_mean": torch.ones(8)}
    other = {name: torch.full_like(tensor, 3) for name, tensor in backbone.items()}  # must not be taken by mistake
    state = {
        **prefixed(outer + twin, {**other, **projector}),
        **prefixed(layout, {**backbone, **projector}),
        f"{outer}predictor.0.weight": torch.ones(2, 2),
        f"{outer}queue": torch.ones(4, 4),
        f"{outer}queue_ptr": torch.zeros(1, dtype=torch.long),
    }
    optimizer = {"state": {0: {"step": 5, "exp_avg": torch.ones(8)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return {"epoch": 300, "arch": "some", "state_dict": state, "optimizer": optimizer, "scaler": {"scale": 2.0}}


def published_file(config: ModelConfig, path: Path, seed: int = 0) -> Tensors:
    """Write a zoo entry's file as its source describes it; returns the backbone that must come out."""
    source = config.source
    assert source is not None
    backbone = random_backbone(config, seed)
    if source.layout == "module.base_encoder.":
        content = moco_style(source.layout, source.drop[0], backbone)
    else:
        content = prefixed(source.layout, backbone)
        for head in source.drop:
            inside = source.layout if head == "head" else ""
            content[inside + head + ("" if head == "logit_scale" else ".0.weight")] = torch.rand(4, 4)
    torch.save(content, path)
    return backbone


class FakeZoo:
    """A zoo of one entry whose published file lies in a Hugging Face cache, as `hf download` would leave it."""

    def __init__(self, folder: Path, config: ModelConfig, *, pinned: bool = True, commit: str = "c" * 40) -> None:
        assert config.source is not None
        self.hub, self.cache, self.commit = folder / "zoo", folder / "cache", commit
        file = folder / "published.pth"
        self.backbone = published_file(config, file)
        self.sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        source = dataclasses.replace(
            config.source,
            revision=commit if pinned else None,
            sha256=self.sha256 if pinned else None,
            size=file.stat().st_size if pinned else None,
        )
        self.config = dataclasses.replace(config, source=source)
        self.config.save(self.hub / config.name)
        self.published = self._into_hub_cache(file, source)

    def _into_hub_cache(self, file: Path, source: Source) -> Path:
        repo = self.cache / "hub" / f"models--{source.repo.replace('/', '--')}"
        blob = repo / "blobs" / self.sha256
        pointer = repo / "snapshots" / self.commit / source.file
        for folder in (blob.parent, pointer.parent, repo / "refs"):
            folder.mkdir(parents=True)
        file.replace(blob)
        pointer.symlink_to(blob)
        (repo / "refs" / "main").write_text(self.commit)
        return blob

    def use(self, monkeypatch: Any) -> FakeZoo:
        """Make it the zoo of this process."""
        monkeypatch.setattr(assets, "HUB", self.hub)
        return self


def write_local(folder: Path, config: ModelConfig, tensors: Tensors) -> Path:
    """A local model folder without hash and probe, written by hand rather than by clzoo."""
    from safetensors.torch import save_file

    config.save(folder)
    save_file(tensors, folder / "model.safetensors")
    write_json(folder / "metrics.json", {"results": []})
    return folder


def saved_folder(parent: Path) -> Path:
    """A local model folder "mine", with hash and probe."""
    config = small_config(name="mine")
    folder = write_local(parent / "mine", config, random_backbone(config))
    save_entry(clzoo.load(folder, "cpu"), folder)
    return folder
