"""From a run folder, finished or not, to what was trained in it."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from clzoo.config import ModelConfig
from clzoo.device import resolve_device
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.files import read_json
from clzoo.pretrain.build import build_method, model_config
from clzoo.pretrain.checkpoint import load_checkpoint, load_checkpoint_file
from clzoo.pretrain.data_names import trained_on
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.recipe_files import load_recipe
from clzoo.pretrain.run_folder import is_encoder_alone, read_data
from clzoo.zoo.entries import is_run
from clzoo.zoo.saving import save_encoder, save_entry
from clzoo.zoo.weights import build_encoder

log = logging.getLogger("clzoo")

BACKBONE = "backbone."
"""How the names of the encoder's tensors begin in a method's state."""

_BESIDE = ("recipe.yaml", "data.json")


def load_run(run: Path, device: str | torch.device = "auto") -> tuple[Encoder, Recipe, Any]:
    """The encoder of a run's newest checkpoint, its recipe, and the method that the encoder is the backbone of.

    Raises:
        ClzooError: no checkpoint, or a damaged one.
    """
    recipe = load_recipe(run / "recipe.yaml")
    state = read_json(run / "state.json")
    if not state["finished"]:
        log.warning("%s stopped at step %d of %d; its newest checkpoint is taken", run, state["step"], state["steps"])
    data, _ = read_data(run)
    method = load_method(run, recipe, data["classes"] or None)
    return _encoder_of_run(run, recipe, method, device), recipe, method


def write_encoder(run: Path, recipe: Recipe, method: Any) -> None:
    """Make the folder of a finished run a model: config.json and model.safetensors, with hash and probe.

    Raises:
        ClzooError: weights that are not finite, or a folder that cannot be written.
    """
    save_encoder(_encoder_of_run(run, recipe, method, next(method.parameters()).device), run)


def _encoder_of_run(run: Path, recipe: Recipe, method: Any, device: str | torch.device) -> Encoder:
    """A method's backbone, named for the images that it really trained on."""
    encoder = encoder_of(method, recipe, "", device)
    encoder.config = _named_for_images(run, recipe, encoder.config)
    return encoder


def _named_for_images(run: Path, recipe: Recipe, config: ModelConfig) -> ModelConfig:
    images = trained_on(run, recipe)
    name = f"{recipe.method.name}-{recipe.backbone.name}-{images.id}"
    return dataclasses.replace(config, name=name, data=images.id)


def belongs_to_run(path: Path) -> bool:
    """Whether this is a run folder, or a checkpoint that lies in one."""
    return is_run(path) or (path.suffix == ".pt" and all((path.parent / name).is_file() for name in _BESIDE))


def convert_checkpoint(path: Path, out: Path, architecture: str | None = None) -> list[str]:
    """Make the model folder `out` of one checkpoint of a run, finished or not; its name becomes the model's.

    Args:
        path: a run folder, whose newest checkpoint is taken; or a checkpoint beside its recipe.yaml.
        architecture: what the user thinks it is; None asks the recipe.

    Returns:
        What was kept and left behind, in words.

    Raises:
        ClzooError: another architecture, no whole checkpoint, or `out` exists and is not an empty folder.
    """
    run = path if path.is_dir() else path.parent
    recipe = load_recipe(run / "recipe.yaml")
    if architecture not in (None, recipe.backbone.architecture):
        raise ClzooError(
            f"{path} is of {recipe.backbone.architecture}, not {architecture}. Leave out --arch, its recipe says."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ClzooError(f"{out} exists already and is not an empty folder. Name another one with --out.")
    state = load_checkpoint(run) if path.is_dir() else load_checkpoint_file(path)
    if state is None:
        raise without_checkpoint(run)
    encoder = encoder_of_state(run, recipe, state["method"], str(path))
    encoder.config = dataclasses.replace(encoder.config, name=out.resolve().name)
    save_checkpoint_entry(encoder, recipe, state["step"], out)
    left = Counter(name.partition(".")[0] for name in state["method"] if not name.startswith(BACKBONE))
    left.update(name for name in state if name != "method")
    return [
        f"kept:    {len(encoder.module.state_dict())} tensors of the encoder after step {state['step']:,}",
        f"dropped: {', '.join(f'{name} ({count} tensors)' if count > 1 else name for name, count in left.items())}",
    ]


def encoder_of_state(run: Path, recipe: Recipe, state: dict[str, torch.Tensor], where: str) -> Encoder:
    """The encoder, on the CPU, in a method's state; the rest of the state is not looked at, and may be missing.

    Raises:
        ClzooError: not the tensors of the recipe's backbone; names `where`.
    """
    config = _named_for_images(run, recipe, model_config(recipe))
    inside = {name.removeprefix(BACKBONE): tensor for name, tensor in state.items() if name.startswith(BACKBONE)}
    next_step = "Is it another run's? A checkpoint belongs into the folder of its run."
    return build_encoder(config, inside, torch.device("cpu"), where=where, next_step=next_step)


def save_checkpoint_entry(encoder: Encoder, recipe: Recipe, step: int, out: Path) -> Path:
    """The model folder of an encoder after `step` steps; nothing is measured, and the card says which step."""
    training = {"recipe": "recipe.yaml", **started_from(recipe), "seed": recipe.seed, "checkpoint of step": step}
    metrics = {"results": [], "training": training}
    return save_entry(encoder, out, metrics=metrics, recipe=recipe.for_others().to_yaml())


def started_from(recipe: Recipe) -> dict[str, str]:
    """What cards say of the encoder that a run started from; nothing of random weights."""
    start = recipe.for_others().start
    return {} if start is None else {"continued from": start.model or start.name}


def without_checkpoint(run: Path) -> ClzooError:
    """What to say of a folder without checkpoints to those who need one."""
    if is_encoder_alone(run):
        return ClzooError(
            f"the checkpoints of {run} were deleted, and with them what its training held beside the encoder. The "
            f"encoder is there: clzoo.load({str(run)!r}), clzoo evaluate, export and push take it."
        )
    return ClzooError(f"{run} holds no checkpoint; is it a run folder?")


def load_method(run: Path, recipe: Recipe, classes: int | None) -> Any:
    """The method of a run's newest checkpoint.

    Raises:
        ClzooError: the folder holds none.
    """
    state = load_checkpoint(run)
    if state is None:
        raise without_checkpoint(run)
    method = build_method(recipe, classes)
    method.load_state_dict(state["method"])
    return method


def encoder_of(method: Any, recipe: Recipe, name: str, device: str | torch.device = "auto") -> Encoder:
    """A method's backbone with the preprocessing that its recipe implies.

    It computes as it is, where training calls it compiled: a graph for other images would be one that training takes.
    """
    config = dataclasses.replace(model_config(recipe), name=name)
    backbone = copy.copy(method.backbone)  # the same tensors; what `compile()` put behind a call is not copied
    return Encoder(backbone, config, resolve_device(device))
