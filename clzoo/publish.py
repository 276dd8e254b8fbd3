"""From a finished run to a hub entry: weights, config, recipe, measurements, card."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from clzoo.data.training import open_training_set
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.evaluation.controls import measure_controls
from clzoo.evaluation.knn import KNN_V1
from clzoo.evaluation.run import evaluate, open_splits
from clzoo.evaluation.subject import with_heads
from clzoo.files import read_json
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.recipe_files import load_recipe
from clzoo.pretrain.run_folder import read_data, require_same_data
from clzoo.pretrain.start import save_pretraining_state
from clzoo.pretrain.trained import encoder_of, load_method
from clzoo.zoo.cards import THIS_MODEL, hub_id_of
from clzoo.zoo.saving import round_weights, save_entry
from clzoo.zoo.swapping import settle

log = logging.getLogger("clzoo")

CONTROL_SEEDS = (0, 1, 2)


def publish(
    run: Path,
    name: str,
    data: str | Path,
    out: Path,
    *,
    protocols: str = "knn,linear",
    seeds: int = 1,
    measured: Path | None = None,
    device: str = "auto",
    title: str | None = None,
    dtype: str = "fp32",
    overwrite: bool = False,
) -> Path:
    """Make the hub entry `out` of a finished run, and measure it, its k-NN accuracy beside two controls.

    Args:
        name: zoo name, <method>-<backbone>-<data>.
        data: the folder the run trained on, with `train` and `test` (or `val`).
        protocols, seeds: what to measure; see `clzoo.evaluate`.
        measured: metrics.json of an earlier `clzoo evaluate` of this run, to be taken instead of measuring again.
        title: what the card calls the data, where it differs from the recipe's title ("CIFAR-10 (JPEG copy)").
        dtype: fp16 stores half the bytes; the weights are rounded before they are measured.
        overwrite: replace the entry that `out` holds, as a whole; files that are no part of it stay.

    Raises:
        ClzooError: an unfinished run, other data than the run's, a name that does not fit the recipe, no test split,
            `measured` of other weights; `out` holds an entry and `overwrite` is not set.
    """
    settle(out)
    if not overwrite and (out / "config.json").is_file():
        raise ClzooError(f"{out} holds an entry already. To replace it add --overwrite, or give another --out.")
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
    require_same_data(run, trained_on.fingerprint(), "Name the images it trained on by --data.")
    _, names = read_data(run)
    classes = None if trained_on.labels is None else names or trained_on.classes
    method = load_method(run, recipe, None if classes is None else len(classes))
    round_weights(method.backbone, dtype)
    encoder = encoder_of(method, recipe, name, device)
    title = title or recipe.data.title
    if measured is not None:
        evaluation = _read_measured(measured, encoder)
    else:
        subject = with_heads(encoder, name, recipe, method, images=len(trained_on), classes=classes)
        evaluation = evaluate(subject, data, protocols, seeds=seeds, title=title).metrics
    metrics = {
        "results": _with_hub_id(
            [*evaluation["results"], *_controls(encoder, evaluation, data, title)],
            recipe,
            evaluation["data"]["title"],
        ),
        "training": _training(recipe, state, title),
        "evaluation": _published(evaluation, name),
    }

    def add_state(folder: Path) -> None:
        save_pretraining_state(method, folder, classes)

    return save_entry(encoder, out, metrics=metrics, recipe=recipe.to_yaml(), dtype=dtype, add=add_state)


def _training(recipe: Recipe, state: dict[str, Any], title: str) -> dict[str, Any]:
    return {
        "recipe": "recipe.yaml",
        "data": title,
        "seed": recipe.seed,
        "epochs": recipe.schedule.epochs,
        **{key: state[key] for key in ("images_seen", "encoder_forwards", "minutes", "hardware", "versions")},
    }


def _published(evaluation: dict[str, Any], name: str) -> dict[str, Any]:
    """What is published of an evaluation beside its results: everything but where files lay on this machine."""
    data = {
        key: {k: v for k, v in value.items() if k != "origin"} if isinstance(value, dict) else value
        for key, value in evaluation["data"].items()
    }
    rest = {key: value for key, value in evaluation.items() if key != "results"}
    return {**rest, "data": data, "model": {**evaluation["model"], "name": name}}


def _with_hub_id(rows: list[dict[str, Any]], recipe: Recipe, title: str) -> list[dict[str, Any]]:
    """Rows of the model itself on the recipe's data, called `title`, say which data set of the Hub that is."""
    hub_id = hub_id_of(recipe.data.name)
    own = [hub_id and row["of"] == THIS_MODEL and row["dataset"] == title for row in rows]
    return [{**row, "dataset_id": hub_id} if is_own else row for row, is_own in zip(rows, own, strict=True)]


def _read_measured(path: Path, encoder: Encoder) -> dict[str, Any]:
    evaluation: dict[str, Any] = read_json(path)
    found = evaluation.get("model", {}).get("weights_sha256")
    if found != encoder.weights_sha256:
        raise ClzooError(
            f"{path} was measured on weights {found}, the run's are {encoder.weights_sha256}. "
            "Leave out --metrics to measure again."
        )
    return evaluation


def _controls(encoder: Encoder, evaluation: dict[str, Any], data: str | Path, title: str) -> list[dict[str, Any]]:
    """k-NN of the untrained network and of the pixels, to be held against the model's, unless they are measured."""
    if any(row["of"] != THIS_MODEL and row["protocol"] == KNN_V1.id for row in evaluation["results"]):
        return []
    log.info("measuring %s of three untrained networks, and of raw pixels", KNN_V1.id)
    found = measure_controls(encoder, *open_splits(data), ["knn"], seeds=CONTROL_SEEDS)
    return [result.to_json(title, of) for of, result in found]
