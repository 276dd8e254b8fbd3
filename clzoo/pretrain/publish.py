"""From a finished run to a hub entry: weights, config, recipe, measurements, card."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from clzoo.data.training import TrainingSet, open_training_set
from clzoo.device import resolve_device
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.evaluation.controls import model_knn, pixel_knn, random_knn
from clzoo.evaluation.knn import PROTOCOL
from clzoo.files import read_json
from clzoo.pretrain.build import build_method
from clzoo.pretrain.checkpoint import load_checkpoint
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.recipe_files import load_recipe
from clzoo.pretrain.start import save_pretraining_state
from clzoo.zoo.saving import save_entry

log = logging.getLogger("clzoo")

CONTROL_SEEDS = (0, 1, 2)


def publish(
    run: Path, name: str, data: str | Path, out: Path, *, device: str = "auto", title: str | None = None
) -> Path:
    """Make the hub entry `out` of a finished run, and measure it beside its controls.

    Args:
        name: zoo name, <method>-<backbone>-<data>.
        data: the folder the run trained on, with `train` and `test` (or `val`): the k-NN uses both.
        title: what the card calls the data, where it differs from the recipe's title ("CIFAR-10 (JPEG copy)").

    Raises:
        ClzooError: an unfinished run, other data than the run's, a name that does not fit the recipe, no test split.
    """
    recipe = load_recipe(run / "recipe.yaml")
    state = read_json(run / "state.json")
    if not state["finished"]:
        raise ClzooError(
            f"{run} stopped at step {state['step']} of {state['steps']}. Finish it first: "
            f"clzoo pretrain {run / 'recipe.yaml'} --data {data} --out {run}"
        )
    if name.count("-") != 2 or not name.startswith(f"{recipe.method.name}-"):
        raise ClzooError(
            f"{name!r} does not fit the run; zoo names are <method>-<backbone>-<data>, "
            f"here for example {recipe.method.name}-{recipe.backbone.name}-{recipe.data.name}."
        )
    trained_on = open_training_set(recipe.data.name, data, recipe.data.size, subset=recipe.data.subset)
    if (found := trained_on.fingerprint()) != (expected := read_json(run / "data.json")):
        raise ClzooError(f"{data} is not what {run} trained on: {expected}, found {found}.")
    train = open_training_set(recipe.data.name, data, recipe.data.size, split="train")
    test = open_training_set(recipe.data.name, data, recipe.data.size, split="test")

    method = load_method(run, recipe, None if trained_on.labels is None else len(trained_on.classes))
    encoder = encoder_of(method, recipe, name, device)
    metrics = {
        "results": _measure(encoder, train, test, title or recipe.data.title),
        "training": {
            "recipe": "recipe.yaml",
            "data": title or recipe.data.title,
            "seed": recipe.seed,
            "epochs": recipe.schedule.epochs,
            "images_seen": state["images_seen"],
            "encoder_forwards": state["encoder_forwards"],
            "minutes": state["minutes"],
            "hardware": state["hardware"],
            "versions": state["versions"],
        },
    }
    save_entry(encoder, out, metrics=metrics, recipe=recipe.to_yaml())
    save_pretraining_state(method, out)
    return out


def load_method(run: Path, recipe: Recipe, classes: int | None) -> Any:
    """The method of a run's newest checkpoint."""
    state = load_checkpoint(run)
    if state is None:
        raise ClzooError(f"{run} holds no checkpoint; is it a run folder?")
    method = build_method(recipe, classes)
    method.load_state_dict(state["method"])
    return method


def encoder_of(method: Any, recipe: Recipe, name: str, device: str = "auto") -> Encoder:
    """A method's backbone with the preprocessing that its recipe implies."""
    config = dataclasses.replace(recipe.model_config_of(method.backbone.num_features), name=name)
    return Encoder(method.backbone, config, resolve_device(device))


def _measure(encoder: Encoder, train: TrainingSet, test: TrainingSet, title: str) -> list[dict[str, Any]]:
    if train.classes != test.classes:
        raise ClzooError(f"train and test differ in their classes: {sorted(set(train.classes) ^ set(test.classes))}.")
    common = {"protocol": PROTOCOL, "dataset": title, "split": "test", "metric": "top-1"}
    log.info("measuring %s of the model, of three untrained networks, and of raw pixels", PROTOCOL)
    random_mean, random_std = random_knn(encoder.config, train, test, CONTROL_SEEDS)
    rows = [
        {**common, "of": "this model", "value": round(model_knn(encoder, train, test), 2)},
        {
            **common,
            "of": "random initialisation",
            "value": round(random_mean, 2),
            "std": round(random_std, 2),
            "seeds": list(CONTROL_SEEDS),
        },
    ]
    if train.pixels is not None and test.pixels is not None:
        rows.append({**common, "of": "raw pixels", "value": round(pixel_knn(train, test), 2)})
    return rows
