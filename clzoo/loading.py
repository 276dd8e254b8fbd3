"""`clzoo.load`: a name, a path, a repository of the Hub or a run becomes an Encoder. Never random weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clzoo.device import resolve_device
from clzoo.encoder import Encoder
from clzoo.zoo.entries import has_encoder, is_run, whole_name
from clzoo.zoo.locating import locate, read_encoder

if TYPE_CHECKING:
    import torch


def load(
    name_or_path: str | Path,
    device: str | torch.device = "auto",
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    offline: bool = False,
    backend: str = "torch",
    size: int | None = None,
    dtype: str = "auto",
) -> Encoder:
    """Load a pretrained encoder.

    Args:
        name_or_path: a name of `clzoo list`; "hf-hub:ORG/REPO", a repository of clzoo's or in timm's format;
            "timm:NAME.TAG", any model of timm with weights; a local folder that holds config.json and
            model.safetensors; a run folder of `clzoo pretrain`, of which the newest checkpoint is taken; or a
            .safetensors file with its config.json beside it. A path is what has a separator or a suffix: a plain word
            is always a zoo name ("./word" is the folder).
        device: "auto" takes a GPU where there is one, and logs which device it took.
        revision: branch, tag or commit on the Hub; None is the entry's pinned one, or main. Of a zoo model, a branch
            stays at the commit that it had at the first load (`clzoo cached --rm NAME` forgets it).
        cache_dir: for downloads and converted weights, instead of the default places (clzoo.cache).
        offline: use no network; HF_HUB_OFFLINE=1 does the same.
        backend: "torch", "onnx", or "auto" for the faster of them (torch for another `dtype` than fp32); see
            `clzoo.export.backend.with_backend`.
        size: side of the input in pixels, instead of the model's own; see `clzoo.zoo.resizing.at_size`.
        dtype: what its calls compute in if they do not say: "fp32", "bf16", "fp16", or "auto", as in `Encoder.encode`.

    Returns:
        The encoder in eval mode, its parameters in float32, its weights checked against every recorded hash.

    Raises:
        ClzooError: unknown name, recipe-only name, missing, damaged or truncated file, wrong hash, missing or
            unexpected tensors, wrong shapes, no network, unusable device. Random weights are never returned.
    """
    usable = resolve_device(device)  # before a long download
    if is_run(name_or_path) and revision is None and not has_encoder(Path(name_or_path).expanduser()):
        from clzoo.pretrain.trained import load_run

        encoder = load_run(Path(name_or_path).expanduser(), usable)[0]
    else:
        encoder = read_encoder(locate(name_or_path, revision=revision, cache_dir=cache_dir, offline=offline), usable)
    if size is not None:
        from clzoo.zoo.resizing import at_size

        encoder = at_size(encoder, size)
    if backend != "torch":
        from clzoo.export.backend import with_backend

        only_torch = backend == "auto" and dtype not in ("auto", "fp32")  # a graph computes in fp32
        encoder = with_backend(encoder, "torch" if only_torch else backend, cache_dir=cache_dir)
    encoder.dtype = encoder.compute_dtype(dtype) if dtype != "auto" else dtype
    if revision is None:
        encoder.place = whole_name(name_or_path)
    return encoder
