"""A run folder: recipe.yaml, data.json, state.json, log.jsonl, checkpoints. One recipe, one data set, one run."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from clzoo.data.training import TrainingSet
from clzoo.errors import ClzooError
from clzoo.files import held, read_json, write_json, write_text
from clzoo.hardware import describe_hardware, describe_versions
from clzoo.methods import encoder_forwards
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.recipe_files import load_recipe

_NAMES = "class_names"


def claim(out: Path, recipe: Recipe, images: TrainingSet) -> None:
    """Make `out` the folder of this run, or check that it already is.

    Raises:
        ClzooError: the folder belongs to another recipe or other data, or is no run folder.
    """
    fingerprint = images.fingerprint()
    if (out / "recipe.yaml").is_file():
        if load_recipe(out / "recipe.yaml") != recipe:  # as recipes: a key that is newer than the run has its default
            raise ClzooError(f"{out} is the run of another recipe (see {out / 'recipe.yaml'}). Choose another --out.")
        if (found := read_data(out)[0]) != fingerprint:
            raise ClzooError(f"{out} was trained on other data: {found}, now {fingerprint}. Choose another --out.")
        return
    if out.exists() and any(out.iterdir()):
        raise ClzooError(f"{out} is not empty and is no run folder. Choose another --out.")
    names = {} if images.labels is None else {_NAMES: list(images.classes)}
    write_json(out / "data.json", {**fingerprint, **names})
    write_text(out / "recipe.yaml", recipe.to_yaml())  # last: it makes the folder a run folder


def train_alone(out: Path) -> AbstractContextManager[None]:
    """Keep other processes from training in this folder.

    Raises:
        ClzooError: another process trains there.
    """
    return held(
        out / ".lock",
        f"another process trains in {out}, and two would overwrite each other's checkpoints. "
        "Wait until it has ended and type the same command again, or choose another --out.",
    )


def read_data(run: Path) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """What data.json of a run says: the fingerprint of its images, and the names of their classes.

    None stands for the names where the images have no labels, and in runs from before names were recorded. They are no
    part of the fingerprint: images and labels are the same under other names.
    """
    fingerprint = read_json(run / "data.json")
    names = fingerprint.pop(_NAMES, None)
    return fingerprint, None if names is None else tuple(names)


def write_state(out: Path, recipe: Recipe, step: int, total_steps: int, seconds: float, device: str) -> None:
    """How far the run is, for people and for `clzoo publish`."""
    images_seen = step * recipe.schedule.batch_size
    write_json(
        out / "state.json",
        {
            "step": step,
            "steps": total_steps,
            "finished": step == total_steps,
            "minutes": round(seconds / 60, 2),
            "images_seen": images_seen,
            "encoder_forwards": images_seen * encoder_forwards(recipe.method, len(recipe.view_policies())),
            "hardware": describe_hardware(device),
            "versions": describe_versions(),
        },
    )
