"""What is judged: an encoder and, where they were kept, the recipe, the projector and the gates of its pretraining."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import nn

from clzoo.device import resolve_device
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.methods.hydra import FeatureFilter, classes_in, gates_of, read_filter
from clzoo.metrics import read_metrics
from clzoo.zoo.entries import is_local, is_run, list_models

if TYPE_CHECKING:
    from clzoo.pretrain.recipe import Recipe

log = logging.getLogger("clzoo")


@dataclass(frozen=True)
class Subject:
    """An encoder and what is known of its pretraining.

    Attributes:
        title: how reports call it.
        recipe: None of converted weights.
        projector: (N, D) -> (N, d), in eval mode, on the encoder's device.
        filter: Hydra's gates, of a method of ours.
        aside: what else a checkpoint held, by name: in it the gates of converted weights may lie.
        images: how many images it was pretrained on; None if not recorded. skipped: how many more could not be read.
        classes: names of the classes it was pretrained on, in the order of their gates; None if not recorded.
        learned_labels: whether its method used them.
    """

    encoder: Encoder
    title: str
    recipe: Recipe | None = None
    projector: nn.Module | None = None
    filter: FeatureFilter | None = None
    aside: dict[str, torch.Tensor] = field(default_factory=dict)
    images: int | None = None
    skipped: int = 0
    classes: tuple[str, ...] | None = None
    learned_labels: bool = False

    def gates(self) -> FeatureFilter | None:
        """Hydra's gates, if it has any.

        Raises:
            ClzooError: gates of a layout that is not known.
        """
        return self.filter or read_filter(self.aside)


def find_subject(model: Encoder | Subject | str | Path, device: str = "auto") -> Subject:
    """An Encoder or Subject as it is; a run folder with its newest checkpoint; or anything that `clzoo.load` takes.

    Of a finished run whose checkpoints were deleted it is the encoder that is left.

    Raises:
        ClzooError: what `clzoo.load` raises; a run folder with neither.
    """
    if isinstance(model, Subject):
        return model
    if isinstance(model, Encoder):
        return Subject(model, model.config.name)
    if is_run(Path(model)) and model not in list_models():  # ./mine may be typed as mine here
        return _of_run(Path(model), device)
    return _of_entry(model, device)


def _of_run(run: Path, device: str) -> Subject:
    from clzoo.pretrain.run_folder import is_encoder_alone, read_data
    from clzoo.pretrain.trained import load_run

    data, classes = read_data(run)
    if is_encoder_alone(run):
        log.warning("%s has no checkpoint any more: its encoder is taken, without the heads of its pretraining", run)
        return replace(_of_entry(run, device), title=str(run))
    encoder, recipe, method = load_run(run, device)
    found = with_heads(encoder, str(run), recipe, method, images=data["images"], classes=classes)
    return replace(found, skipped=data.get("skipped", 0))


def _of_entry(model: str | Path, device: str) -> Subject:
    from clzoo.pretrain.recipe_files import load_recipe
    from clzoo.pretrain.run_folder import read_data
    from clzoo.pretrain.start import class_names
    from clzoo.zoo.locating import locate, pretraining_state, read_encoder

    found = locate(model)
    encoder = read_encoder(found, resolve_device(device))
    beside = found.weights.parent
    recipe = load_recipe(beside / "recipe.yaml") if (beside / "recipe.yaml").is_file() else None
    kept = pretraining_state(found)
    tensors, classes = (load_file(kept), class_names(kept)) if kept else ({}, None)
    if recipe is not None and tensors:
        method = _rebuilt(recipe, encoder, tensors, beside)
        return with_heads(encoder, encoder.config.name, recipe, method, _images_of(beside), classes)
    subject = Subject(encoder, encoder.config.name, recipe, aside=tensors, classes=classes)
    if recipe is None or not (isinstance(model, Path) or is_local(model)):  # of the zoo's it is known what they saw
        return subject
    from clzoo.methods import METHODS

    subject = replace(subject, learned_labels=METHODS[recipe.method.name].needs_of(recipe.method).labels)
    if not is_run(beside):
        return subject
    data, names = read_data(beside)
    return replace(subject, images=data["images"], skipped=data.get("skipped", 0), classes=names)


def _images_of(entry: Path) -> int | None:
    """How many images an entry was pretrained on, as it was published; None where that does not say."""
    images = (read_metrics(entry).get("training") or {}).get("images")
    return images if isinstance(images, int) else None


def _rebuilt(recipe: Recipe, encoder: Encoder, tensors: dict[str, torch.Tensor], folder: Path) -> Any:
    """The method that an entry was trained by, with all its state."""
    from clzoo.pretrain.build import build_method

    # Without gates no tensor depends on the number of classes: any number builds a method that uses labels.
    method = build_method(recipe, classes_in(tensors) or 2)
    weights = {f"backbone.{name}": tensor for name, tensor in encoder.module.state_dict().items()}
    try:
        method.load_state_dict({**tensors, **weights})
    except RuntimeError as error:
        raise ClzooError(
            f"{folder}: pretrain.safetensors does not fit recipe.yaml: {str(error).splitlines()[1].strip()}. "
            "Publish the run anew: clzoo publish RUN NAME --data DIR"
        ) from error
    return method


def with_heads(
    encoder: Encoder,
    title: str,
    recipe: Recipe,
    method: Any,
    images: int | None = None,
    classes: tuple[str, ...] | None = None,
) -> Subject:
    """The subject of a method of clzoo.methods that `encoder` is the backbone of; puts it into eval mode."""
    method.eval()
    return Subject(
        encoder,
        title,
        recipe,
        projector=method.projector.to(encoder.device),
        filter=gates_of(method),
        images=images,
        classes=classes,
        learned_labels=method.needs.labels,
    )
