"""From a run folder, finished or not, to what was trained in it."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch

from clzoo.device import resolve_device
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.files import read_json
from clzoo.pretrain.build import build_method, model_config
from clzoo.pretrain.checkpoint import load_checkpoint
from clzoo.pretrain.data_names import trained_on
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.recipe_files import load_recipe
from clzoo.pretrain.run_folder import read_data

log = logging.getLogger("clzoo")


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
    encoder = encoder_of(method, recipe, "", device)
    images = trained_on(run, recipe)
    name = f"{recipe.method.name}-{recipe.backbone.name}-{images.id}"
    encoder.config = dataclasses.replace(encoder.config, name=name, data=images.id)
    return encoder, recipe, method


def load_method(run: Path, recipe: Recipe, classes: int | None) -> Any:
    """The method of a run's newest checkpoint.

    Raises:
        ClzooError: the folder holds none.
    """
    state = load_checkpoint(run)
    if state is None:
        raise ClzooError(f"{run} holds no checkpoint; is it a run folder?")
    method = build_method(recipe, classes)
    method.load_state_dict(state["method"])
    return method


def encoder_of(method: Any, recipe: Recipe, name: str, device: str | torch.device = "auto") -> Encoder:
    """A method's backbone with the preprocessing that its recipe implies."""
    config = dataclasses.replace(model_config(recipe), name=name)
    return Encoder(method.backbone, config, resolve_device(device))
