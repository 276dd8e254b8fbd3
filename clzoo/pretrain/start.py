"""What a run leaves for the next one beside its encoder, and starting from it (`--init`)."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from clzoo.data.classes import places_by_name, some
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.files import atomic_path, parse_json
from clzoo.pretrain.checkpoint import has_checkpoint
from clzoo.pretrain.recipe import Recipe, Start
from clzoo.pretrain.recipe_files import load_recipe
from clzoo.pretrain.run_folder import is_encoder_alone, read_data
from clzoo.wording import cut
from clzoo.zoo.entries import PRETRAINING_STATE, is_local, is_run, whole_name
from clzoo.zoo.locating import locate, pretraining_state, read_encoder

_NAMES = "class_names"  # in the file's metadata, as JSON
_NOT_STATED = Start.model_fields["license"].default
_TABLE = "filter.label_embedding.weight"  # (C, width): a row of each class

log = logging.getLogger("clzoo")


@dataclass(frozen=True)
class Begun:
    """An encoder to start from, all other state that its entry or run kept, and the names of its classes."""

    place: str  # as it was named
    encoder: Encoder
    state: dict[str, torch.Tensor]
    names: tuple[str, ...] | None


def open_start(name_or_path: str) -> Begun:
    """Load an encoder to start from: a zoo name, a folder, a run, or another name that `clzoo.load` takes."""
    has_heads = is_run(name_or_path) and not is_encoder_alone(Path(name_or_path).expanduser())
    found = _run(name_or_path) if has_heads else _entry(name_or_path)
    return Begun(name_or_path, *found)


def with_start(recipe: Recipe, init: str | None, out: Path) -> tuple[Recipe, Begun | None]:
    """The recipe that says what its run starts from, and that encoder; None where nothing is to be loaded.

    What `--init` names is recorded in the recipe, with its hash and its license, so that it stays with the run and with
    whatever is made of it. A run that goes on in `out` does so by its own record, and its start may be gone by then.

    Raises:
        ClzooError: a start that cannot be loaded; two starts; another license in the recipe than the encoder has.
    """
    if recipe.start is not None and init is not None and whole_name(init) != whole_name(recipe.start.name):
        raise ClzooError(f"the recipe starts from {recipe.start.name}, found --init {init}. Leave out one of them.")
    place = init if recipe.start is None else recipe.start.name
    goes_on = has_checkpoint(out) and (out / "recipe.yaml").is_file()
    kept = load_recipe(out / "recipe.yaml").start if goes_on else None
    if (
        kept is not None
        and (place is None or whole_name(place) == whole_name(kept.name))
        and (recipe.start is None or _agree(recipe.start, kept))
    ):
        return recipe.model_copy(update={"start": kept}), None
    if place is None:
        return recipe, None
    begun = open_start(place)
    start = _completed(recipe.start, begun.encoder) if recipe.start else start_of(begun.encoder, whole_name(place))
    return recipe.model_copy(update={"start": start}), None if goes_on else begun


def start_of(encoder: Encoder, place: str) -> Start:
    """What a recipe records of an encoder that `place` names; also where it was published and what it derives from."""
    config = encoder.config
    model = config.name if is_local(place) else place
    model += f" ({config.source.repo})" if config.source and config.source.repo not in model else ""
    model += f", itself derived from {config.derived_from}" if config.derived_from else ""
    return Start(
        name=place,
        weights_sha256=encoder.weights_sha256,
        model=cut(model, 900),
        license=config.license,
        license_note=config.license_note,
    )


def _agree(given: Start, kept: Start) -> bool:
    """Whether a run that recorded `kept` was begun by a recipe that says `given`, the rest of it left out."""
    said = {key: value for key, value in given if value != Start.model_fields[key].default}
    found = {key: getattr(kept, key) for key in said}
    return {**said, "name": whole_name(given.name)} == {**found, "name": whole_name(kept.name)}


def _completed(given: Start, encoder: Encoder) -> Start:
    """With what the recipe does not say of its start taken from the encoder.

    Raises:
        ClzooError: the recipe states terms that are not the encoder's. Those of Apache 2.0 allow others.
    """
    found = start_of(encoder, given.name)
    if given.license not in (found.license, _NOT_STATED) and found.license.lower() != "apache-2.0":
        raise ClzooError(
            f"the recipe says start.license={given.license}, but the license of {given.name} is "
            f"{'not stated' if found.license == _NOT_STATED else found.license}, and stays with what is made of it. "
            f"Type: --set start.license={json.dumps(found.license)}"
        )
    said = {key: value for key, value in given if value != Start.model_fields[key].default}
    rest = {key: value for key, value in found if key not in said and key != "weights_sha256"}
    return given.model_copy(update=rest)


def start_from(
    method: Any, name_or_path: str | Begun, classes: Sequence[str] | None, weights_sha256: str | None = None
) -> None:
    """Load an encoder into `method.backbone`, strictly, and what its entry or run kept into the rest.

    Heads, queue and momentum encoder come from the entry's `pretrain.safetensors` where it lies beside the weights and
    fits this method tensor by tensor; else they start fresh (a momentum backbone then starts as the backbone), and it
    is said which. Gates are given to the classes by name; gates of other classes do not fit.

    Args:
        classes: names of the classes of the images, in the order of their numbers; None without labels.
        weights_sha256: what the encoder's weights must hash to; None: any.

    Raises:
        ClzooError: other weights; the encoder's architecture is not the recipe's; or the entry's pretrain.safetensors
            is not the one that its config records.
    """
    begun = name_or_path if isinstance(name_or_path, Begun) else open_start(name_or_path)
    name_or_path, encoder, state, names = begun.place, begun.encoder, begun.state, begun.names
    if weights_sha256 not in (None, encoder.weights_sha256):
        raise ClzooError(
            f"{name_or_path} has weights {encoder.weights_sha256}, the recipe starts from {weights_sha256}. Give the "
            f"recipe the encoder that it was made for: --set start.name=NAME"
        )
    found, expected = encoder.module.state_dict(), method.backbone.state_dict()
    differing = [
        k for k in {*found, *expected} if k not in found or k not in expected or found[k].shape != expected[k].shape
    ]
    if differing:
        raise ClzooError(
            f"--init {name_or_path}, a {encoder.config.architecture} {encoder.config.model_args or ''}, does not fit "
            f"the recipe's backbone: {len(differing)} tensors differ, e.g. {sorted(differing)[0]}. "
            "Choose the recipe's backbone to match: --set backbone.architecture=..."
        )
    method.backbone.load_state_dict(found)
    rest = _beside_backbone(method)
    kept = _with_gates_by_name(state, names, classes)
    if kept.keys() == rest.keys() and all(kept[k].shape == rest[k].shape for k in rest):
        method.load_state_dict({**kept, **{f"backbone.{k}": v for k, v in found.items()}})
        log.info("started from %s with its heads and all other state of the pretraining", name_or_path)
        return
    if hasattr(method, "momentum_backbone"):
        method.momentum_backbone.load_state_dict(found)
    log.info(
        "started from the encoder of %s; heads%s are new",
        name_or_path,
        " and queue" if hasattr(method, "queue") else "",
    )


def _run(folder: str) -> tuple[Encoder, dict[str, torch.Tensor], tuple[str, ...] | None]:
    """Encoder, all other state and class names of a run's newest checkpoint."""
    from clzoo.pretrain.trained import load_run

    run = Path(folder).expanduser()
    encoder, _, method = load_run(run, "cpu")
    return encoder, _beside_backbone(method), read_data(run)[1]


def _entry(name_or_path: str) -> tuple[Encoder, dict[str, torch.Tensor], tuple[str, ...] | None]:
    """The same of an entry; no state and no names where it kept none."""
    files = locate(name_or_path)
    encoder = read_encoder(files, torch.device("cpu"))
    path = pretraining_state(files)
    return (encoder, load_file(path), class_names(path)) if path else (encoder, {}, None)


def _beside_backbone(method: Any) -> dict[str, torch.Tensor]:
    return {k: v for k, v in method.state_dict().items() if not k.startswith("backbone.")}


def _with_gates_by_name(
    kept: dict[str, torch.Tensor], names: Sequence[str] | None, classes: Sequence[str] | None
) -> dict[str, torch.Tensor]:
    """The kept state with the rows of Hydra's table in the order of `classes`; empty if it has other ones."""
    table = next((name for name in kept if name.endswith(_TABLE)), None)
    if table is None or names is None or classes is None:
        return kept
    place = places_by_name(classes, names)
    if place is None:
        differ = sorted(set(names) ^ set(classes))
        log.warning("the kept gates are of other classes (%s), so they are not taken over", some(differ))
        return {}
    return {**kept, table: kept[table][torch.from_numpy(place)]}


def save_pretraining_state(method: Any, folder: Path, classes: Sequence[str] | None) -> Path:
    """Write all of a method's state but the backbone to `folder/pretrain.safetensors`, atomically.

    Args:
        classes: names of the classes of the images, in the order of their numbers; None without labels.
    """
    metadata = {"format": "pt"} | ({} if classes is None else {_NAMES: json.dumps(list(classes))})
    rest = {k: v.detach().cpu().contiguous() for k, v in _beside_backbone(method).items()}
    with atomic_path(folder / PRETRAINING_STATE) as temporary:
        save_file(rest, temporary, metadata=metadata)
    return folder / PRETRAINING_STATE


def class_names(state: Path) -> tuple[str, ...] | None:
    """The names of classes in a pretrain.safetensors; None where none were recorded."""
    with safe_open(state, framework="pt") as file:
        names = (file.metadata() or {}).get(_NAMES)
    return None if names is None else tuple(parse_json(names, str(state), "Publish the run again."))
