"""A run folder: recipe.yaml, data.json, state.json, log.jsonl, checkpoints. One recipe, one data set, one run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clzoo.config import HUB_PREFIX
from clzoo.data.opening import place_of
from clzoo.data.storage import is_remote
from clzoo.data.training import TrainingSet
from clzoo.errors import ClzooError
from clzoo.files import read_bytes, read_json, write_json, write_text
from clzoo.hardware import describe_hardware, describe_versions
from clzoo.locking import held
from clzoo.methods import encoder_forwards
from clzoo.pretrain.checkpoint import delete_uncounted, has_checkpoint
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.recipe_files import load_recipe
from clzoo.temporary import is_temporary, temporary_folder, was_left
from clzoo.wording import shown
from clzoo.yaml_text import LONGEST, parse_yaml
from clzoo.zoo.entries import has_encoder, is_run
from clzoo.zoo.saving import delete_encoder

log = logging.getLogger("clzoo")

LOCK = ".lock"

ADAPTATION = "adaptation"
"""Folder in a run folder, with what `clzoo adapt` knew before the run: its plan, its pilots, further seeds."""

VERDICT = "verdict.json"
"""In the run folder of an adaptation: whether it helped, and by which numbers."""

_NAMES, _SOURCE = "class_names", "source"
_TOLD = 3  # keys that differ between two recipes, in a message
_CLAIMING = "the beginning of a run"


def claim(
    out: Path, recipe: Recipe, images: TrainingSet, source: str | Path | None = None, *, init: str | None = None
) -> None:
    """Make `out` the folder of this run, or check that it already is; the caller holds `train_alone`.

    A folder whose run has no checkpoint yet holds nothing to lose: a start that failed, or was killed, is taken over,
    by the same command or a corrected one.

    Args:
        source: what the user named as the images, to find them again; see `read_source`.
        init: what `--init` names: recorded now if the run was begun by a version that did not record its start.

    Raises:
        ClzooError: the folder belongs to another recipe or other data, or is no run folder, or a finished run whose
            checkpoints were deleted.
    """
    fingerprint = images.fingerprint()
    has_steps = has_checkpoint(out)
    if has_steps and (out / "recipe.yaml").is_file():
        read_data(out)  # of a damaged one it is told what is damaged, not that there is no run
    if has_steps and _is_run(out):
        kept = load_recipe(out / "recipe.yaml")  # as recipes: a key that is newer than the run has its default
        unsaid = (
            init is not None and kept == recipe.model_copy(update={"start": None}) != recipe and _says_no_start(out)
        )
        if kept != recipe and not unsaid:
            raise ClzooError(
                f"{out} is the run of another recipe: {_differences(kept, recipe)}. Choose another --out, or type what "
                f"{out / 'recipe.yaml'} says."
            )
        require_same_data(out, fingerprint, "Choose another --out.")
        if unsaid:
            log.warning("%s did not record what it started from; its recipe now names %s", out, init)
            write_text(out / "recipe.yaml", recipe.to_yaml())
        _note_source(out, source)
        delete_uncounted(out)
        return
    if is_encoder_alone(out):
        raise ClzooError(
            f"{out} is a finished run whose checkpoints were deleted: to train there would delete its model too. "
            "Choose another --out, or delete the folder first."
        )
    foreign = [path for path in out.iterdir() if path.name not in (LOCK, ADAPTATION) and not is_temporary(path)]
    if foreign and not _is_run(out) and not was_left(out, _CLAIMING):
        raise ClzooError(f"{out} is not empty and is no run folder (it holds {foreign[0].name}). Choose another --out.")
    names = {} if images.labels is None else {_NAMES: list(images.classes)}
    with temporary_folder(out, _CLAIMING):  # while this is there, the files are known to be ours
        _clear(out)
        place = {} if source is None else {_SOURCE: _address_of(source)}
        write_json(out / "data.json", {**fingerprint, **names, **place})
        write_text(out / "recipe.yaml", recipe.to_yaml())  # last: it makes the folder a run folder
    delete_uncounted(out)


def _says_no_start(out: Path) -> bool:
    """Whether a run was begun by a version that did not record its start: later ones write null for random weights."""
    path = out / "recipe.yaml"
    return "start" not in parse_yaml(read_bytes(path, LONGEST).decode("utf-8"), str(path))


def _differences(kept: Recipe, recipe: Recipe) -> str:
    """Which keys of two recipes differ, and how, for a message; the first few."""
    there, here = (dict(_leaves(each.model_dump(mode="json"))) for each in (kept, recipe))
    keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    told = [f"{key} is {shown(there.get(key))} there and {shown(here.get(key))} here" for key in keys[:_TOLD]]
    return ", ".join(told) + (f", and {len(keys) - _TOLD} more" if len(keys) > _TOLD else "")


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """("schedule.epochs", 200) and so on of nested tables; a list is a value."""
    if not isinstance(value, dict):
        yield key, value
        return
    for name, inner in value.items():
        yield from _leaves(inner, f"{key}.{name}" if key else name)


def move_end(out: Path, recipe: Recipe) -> None:
    """Give a run, if it is there, its recipe with a nearer end. What else differs is for `claim` to refuse."""
    path = out / "recipe.yaml"
    if not path.is_file():
        return
    found = load_recipe(path)
    schedule = found.schedule.model_copy(update={"shortened": recipe.schedule.shortened})
    if found != recipe and found.model_copy(update={"schedule": schedule}) == recipe:
        write_text(path, recipe.to_yaml())


def release(out: Path) -> None:
    """Take away what `claim` and an empty log left in a folder, if nothing was trained there: no step is on record."""
    log = out / "log.jsonl"
    if not has_checkpoint(out) and (not log.is_file() or log.stat().st_size == 0):
        _clear(out)
        (out / "data.json").unlink(missing_ok=True)


def _clear(out: Path) -> None:
    delete_encoder(out)
    for name in ("recipe.yaml", "log.jsonl", "state.json", "curves.png"):
        (out / name).unlink(missing_ok=True)
    for events in (out / "tensorboard").glob("events.out.tfevents.*"):
        events.unlink()
    with suppress(OSError):  # not there, or it holds something else too
        (out / "tensorboard").rmdir()


def _is_run(out: Path) -> bool:
    """Whether `claim` came to its end there: a recipe alone may be somebody's own."""
    try:
        return (out / "recipe.yaml").is_file() and "sha256" in read_data(out)[0]
    except ClzooError:
        return False


@contextmanager
def train_alone(out: Path) -> Iterator[None]:
    """Keep other processes from training in this folder, which is made if missing; one that stays empty goes again.

    Raises:
        ClzooError: another process trains there.
    """
    is_new, lock = not out.exists(), out / LOCK
    out.mkdir(parents=True, exist_ok=True)
    is_new_lock = not lock.exists()
    try:
        with held(
            lock,
            f"another process trains in {out}, and two would overwrite each other's checkpoints. "
            "Wait until it has ended and type the same command again, or choose another --out.",
        ):
            yield
    finally:
        if is_new_lock and not _is_run(out):
            lock.unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):  # only an empty one
                out.rmdir()


def read_data(run: Path) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """What data.json of a run says: the fingerprint of its images, and the names of their classes.

    None stands for the names where the images have no labels, and in runs from before names were recorded. They are no
    part of the fingerprint: images and labels are the same under other names.
    """
    fingerprint = _record(run)
    names = fingerprint.pop(_NAMES, None)
    fingerprint.pop(_SOURCE, None)
    return fingerprint, None if names is None else tuple(names)


def _record(run: Path) -> dict[str, Any]:
    """The table in data.json."""
    path = run / "data.json"
    found = read_json(path)
    if not isinstance(found, dict):
        raise ClzooError(f"{path} holds {shown(found)}; expected what the run wrote there. Restore it.")
    return found


def read_source(run: Path) -> str | None:
    """Where the images of a run were when it was last begun or continued: a path, a URL or hf-hub:ORG/NAME.

    None in runs from before this was recorded.
    """
    source = _record(run).get(_SOURCE)
    return source if isinstance(source, str) else None


def _note_source(run: Path, source: str | Path | None) -> None:
    if source is not None and read_source(run) != (place := _address_of(source)):
        write_json(run / "data.json", {**_record(run), _SOURCE: place})


def _address_of(source: str | Path) -> str:
    """The same from any working folder."""
    text = str(source)
    return text if text.startswith(HUB_PREFIX) or is_remote(text) else str(Path(text).resolve())


def require_same_data(run: Path, fingerprint: dict[str, Any], next_step: str) -> None:
    """Check that the images with this fingerprint are those that a run trained on.

    Raises:
        ClzooError: they are others; or the run records names and sizes alone, as earlier versions did of streamed sets.
    """
    found = read_data(run)[0]
    if found == fingerprint:
        return
    if "identity" in fingerprint and "identity" not in found and found.get("held") == fingerprint["held"]:
        raise ClzooError(
            f"{run / 'data.json'} was written by an earlier clzoo and records names and sizes of the images; whether "
            f"these are the same images cannot be told. Begin the run anew, or end it with that version. {next_step}"
        )
    raise ClzooError(f"{run} was trained on other data: {found}, now {fingerprint}. {next_step}")


def is_encoder_alone(run: Path) -> bool:
    """Whether of a finished run the encoder is left, and no checkpoint: people delete those when the disk is full."""
    return is_run(run) and has_encoder(run) and not has_checkpoint(run)


def is_gone(source: str) -> bool:
    """Whether a run's images were files of this machine, as `read_source` names them, and are not there any more."""
    place = Path(place_of(source))
    return place.is_absolute() and not place.exists()


def step_of_state(out: Path) -> int | None:
    """Of which step state.json tells; None where there is none."""
    path = out / "state.json"
    return read_json(path)["step"] if path.is_file() else None


def write_state(out: Path, recipe: Recipe, step: int, total_steps: int, seconds: float, device: str) -> None:
    """How far the run is, for people and for `clzoo publish`; an encoder that is of a later step goes first."""
    if step < total_steps:
        delete_encoder(out)
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
