"""Run by test_shard_weights.py under two Gloo processes: a run with whole weights and one with shares, compared."""

from __future__ import annotations

import sys
from pathlib import Path

import torch.distributed as dist
from small_recipes import small_recipe

from clzoo.pretrain.loop import pretrain

NAME = "mocov2_in1k"
VIT = (
    "backbone.architecture=vit_tiny_patch16_224",
    "backbone.model_args={img_size: 32, patch_size: 16, embed_dim: 24, depth: 2, num_heads: 2}",
    "backbone.stem_stride=null", "backbone.zero_init_last=null", "backbone.global_pool=token",
    "optimizer.name=adamw", "optimizer.base_lr=0.01", "optimizer.clip_grad=1.0", "views.0.size=32", "data.size=32",
    "monitor.every_steps=4", "monitor.knn_every_epochs=1",
)  # fmt: skip


def recipe_of(shard: bool, *changes: str):
    return small_recipe(NAME, *VIT, f"shard_weights={str(shard).lower()}", *changes)


def main(pictures: str, out: str, kind: str) -> None:
    dist.init_process_group("gloo")
    changes = ("schedule.accumulate=2",) if kind == "more" else ()
    frugal = ("gradient_checkpointing=true",) if kind == "more" else ()
    pretrain(recipe_of(False, *changes), pictures, Path(out) / "whole", device="cpu")
    shared = recipe_of(True, *changes, *frugal)
    if kind == "more":  # and in pieces
        pretrain(shared, pictures, Path(out) / "shares", device="cpu", max_minutes=0)
    pretrain(shared, pictures, Path(out) / "shares", device="cpu")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
