"""Writing a hub entry: the folder that `clzoo.load` reads and `clzoo.push` uploads."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from clzoo import assets
from clzoo.backbones import with_fixed_size
from clzoo.config import ModelConfig
from clzoo.data.known_sets import KNOWN
from clzoo.errors import ClzooError
from clzoo.files import atomic_path, read_json, sha256_of, write_json, write_text
from clzoo.metrics import check_metrics
from clzoo.proof import weights_sha256
from clzoo.zoo.cards import UNKNOWN, write_card
from clzoo.zoo.entries import PRETRAINING_STATE, WEIGHTS, is_run
from clzoo.zoo.sentence_files import SENTENCE_FILES, sentence_files
from clzoo.zoo.swapping import settle, swapped_folder
from clzoo.zoo.weights import build_encoder

if TYPE_CHECKING:
    from clzoo.encoder import Encoder

EVAL_RESULTS = ".eval_results"

OUR_RESULTS = {f"{known.hub_id.replace('/', '--')}.yaml" for known in KNOWN.values() if known.hub_id}
"""What earlier versions wrote there, against the Hub's rules: they want registered benchmarks and their tasks."""

PARTS = (
    *("config.json", "model.safetensors", "README.md", "metrics.json", "recipe.yaml", "pretrain.safetensors"),
    *("model.onnx", EVAL_RESULTS, *SENTENCE_FILES),
)
"""What an entry consists of; anything else in its folder is the user's."""

_STORED = {"fp32": torch.float32, "fp16": torch.float16}


def save_entry(
    encoder: Encoder,
    folder: Path,
    *,
    metrics: dict[str, Any] | None = None,
    recipe: str | None = None,
    dtype: str = "fp32",
    add: Callable[[Path], object] | None = None,
) -> Path:
    """Write `folder` as a hub entry: model.safetensors, metrics.json, recipe.yaml, card, config.json, and what
    sentence-transformers needs (clzoo.zoo.sentence_files).

    config.json is the encoder's config with the hash and the probe of the weights as stored, and the hash of the
    pretrain.safetensors that belongs to them. The entry is made beside
    `folder` and takes its place as a whole (`clzoo.zoo.swapping`), so a process killed at any instant leaves the old
    entry or the new one.

    Args:
        encoder: on any device; its weights are not changed.
        folder: made if missing. If it holds an entry already, that entry is replaced; without `metrics` or `recipe`
            the old file stays if the weights are the same, and goes if it speaks of other weights; so do
            model.onnx and pretrain.safetensors. With another preprocessing metrics.json and model.onnx go too. A
            README.md that a person wrote or edited is kept (see `clzoo.zoo.cards.write_card`), and so is every file
            that is no part of an entry.
        metrics: content of metrics.json; see `clzoo.zoo.cards.render_card`.
        recipe: text of the YAML recipe that trained the weights. Without it, weights that were changed after they
            were loaded are said to be so: what their config said of their origin is left out.
        dtype: of the stored floating tensors, "fp32" or "fp16"; the hash and the probe are then of the rounded ones.
        add: is given the new folder before its config.json is written, to add what belongs to it.

    Returns:
        `folder`.

    Raises:
        ClzooError: weights that are not finite or do not fit the config, invalid metrics, another kind of config.json
            in the folder, a run, files of such names that belong to no entry, or a folder that cannot be written.
    """
    encoder.require_weights()
    settle(folder, PARTS)
    old = _entry_in(folder)
    tensors = _stored_tensors(encoder.module, dtype)
    is_own = recipe is not None or encoder.is_as_loaded
    config = _with_proof(encoder.config if is_own else _of_changed(encoder.config), tensors)
    same_weights = old is not None and old.weights_sha256 == config.weights_sha256
    same_features = old is not None and same_weights and _reads_alike(old, config)
    if metrics is None:
        kept = folder / "metrics.json"
        metrics = read_json(kept) if same_features and kept.exists() else {"results": [], "training": {}}
    check_metrics(metrics)
    address = config.name if folder.resolve() == (assets.HUB / config.name).resolve() else f"./{folder.resolve().name}"
    try:
        with swapped_folder(folder, PARTS) as new:
            _keep(folder, new, same_weights, same_features)
            _write_weights(tensors, new)
            write_json(new / "metrics.json", metrics)
            for name, value in sentence_files(config).items():
                write_json(new / name, value)
            if recipe is not None:
                write_text(new / "recipe.yaml", recipe)
            write_card(new, config, metrics, address=address)
            if add is not None:
                add(new)
            dataclasses.replace(config, pretrain_sha256=_hash_of(new / PRETRAINING_STATE)).save(new)
    except (OSError, SafetensorError) as error:
        raise ClzooError(f"{folder} cannot be written: {error}. Free the place or name another folder.") from error
    return folder


def save_encoder(encoder: Encoder, folder: Path) -> None:
    """Write model.safetensors and then config.json, with hash and probe, into a folder that holds other things too.

    An older config.json goes first, so a process killed at any instant leaves none or the one of these weights.

    Raises:
        ClzooError: weights that are not finite or do not fit the config, or a folder that cannot be written.
    """
    tensors = _stored_tensors(encoder.module, "fp32")
    config = _with_proof(encoder.config, tensors)
    try:
        delete_encoder(folder)
        _write_weights(tensors, folder)
        config.save(folder)
    except (OSError, SafetensorError) as error:
        raise ClzooError(f"{folder} cannot be written: {error}. Free the place and type the same again.") from error


def delete_encoder(folder: Path) -> None:
    """Take away what `save_encoder` wrote, config.json first; nothing else of the folder."""
    for name in ("config.json", WEIGHTS):
        (folder / name).unlink(missing_ok=True)


def _write_weights(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    with atomic_path(folder / WEIGHTS) as temporary:  # which gives it the usual permissions
        save_file(tensors, temporary, metadata={"format": "pt"})


def _hash_of(path: Path) -> str | None:
    return sha256_of(path) if path.is_file() else None


def _keep(old: Path, new: Path, same_weights: bool, same_features: bool) -> None:
    """Copy what stays of the old entry: its card, others' results, and what speaks of the same weights and features.

    `OUR_RESULTS` go.
    """
    names = ["README.md"]
    names += ["recipe.yaml", "pretrain.safetensors"] if same_weights else []
    names += ["model.onnx"] if same_features else []
    for name in names:
        if (old / name).is_file():
            shutil.copy2(old / name, new / name)
    if not (old / EVAL_RESULTS).is_dir():
        return
    for path in (old / EVAL_RESULTS).iterdir():
        if path.is_file() and path.name not in OUR_RESULTS:
            (new / EVAL_RESULTS).mkdir(exist_ok=True)
            shutil.copy2(path, new / EVAL_RESULTS / path.name)


def round_weights(module: torch.nn.Module, dtype: str) -> None:
    """Give a module, in place, the values that it has once stored in `dtype`."""
    module.load_state_dict(_stored_tensors(module, dtype))


def _stored_tensors(module: torch.nn.Module, dtype: str) -> dict[str, torch.Tensor]:
    """The module's tensors as the file will hold them: on the CPU, contiguous, floating ones in `dtype`."""
    if dtype not in _STORED:
        raise ClzooError(f"dtype must be fp32 or fp16, found {dtype!r}.")
    tensors = {}
    for name, tensor in module.state_dict().items():
        stored = tensor.detach().to("cpu", _STORED[dtype]) if tensor.is_floating_point() else tensor.detach().cpu()
        if not torch.isfinite(stored).all():
            raise ClzooError(
                f"tensor {name} holds values that are not finite in {dtype}. "
                f"{'Save with fp32.' if torch.isfinite(tensor).all() else 'The training diverged: nothing is saved.'}"
            )
        # channels_last is a layout of memory; safetensors stores the plain one.
        tensors[name] = stored.contiguous()
    return tensors


def _with_proof(config: ModelConfig, tensors: dict[str, torch.Tensor]) -> ModelConfig:
    """The config with hash and probe of `tensors`, as the network that the config itself builds gives it on the CPU."""
    rebuilt = build_encoder(
        config,
        tensors,
        torch.device("cpu"),
        where=f"the encoder {config.name}",
        next_step="Give it the config of the network that it holds.",
    )
    parameters = sum(parameter.numel() for parameter in rebuilt.module.parameters())
    proven = dataclasses.replace(
        config, weights_sha256=weights_sha256(tensors), probe=tuple(rebuilt.probe()), parameters=parameters
    )
    return with_fixed_size(proven)


def _entry_in(folder: Path) -> ModelConfig | None:
    """The config of the entry that lies in `folder`, whose files may be replaced; None where there is none.

    Raises:
        ClzooError: a run, or files that are called as an entry's are and belong to none.
    """
    if is_run(folder):
        raise ClzooError(f"{folder} is a run, whose files an entry would replace. Name another folder.")
    path = folder / "config.json"
    if path.exists():
        return ModelConfig.load(path)
    if own := [name for name in PARTS if name not in ("README.md", EVAL_RESULTS) and (folder / name).exists()]:
        raise ClzooError(
            f"{folder} holds {', '.join(own)} and no config.json: files that an entry would replace, and of none. Move "
            "them, or name another folder."
        )
    return None


def _reads_alike(old: ModelConfig, new: ModelConfig) -> bool:
    """Whether the same weights give the same features of an image."""
    return old.preprocessing == new.preprocessing and old.network == new.network


def _of_changed(config: ModelConfig) -> ModelConfig:
    """The config of weights that were changed after they were loaded: what was known of them holds no longer."""
    return dataclasses.replace(
        config,
        method=UNKNOWN,
        data=UNKNOWN,
        source=None,
        recipe=None,
        published={},
        published_source="",
        derived_from=config.derived_from or config.name,
    )
