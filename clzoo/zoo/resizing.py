"""An encoder for images of another size than it was made for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from clzoo.backbones import skeleton_of
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError


def at_size(encoder: Encoder, size: int) -> Encoder:
    """The encoder with an input of `size` x `size` pixels; itself, where that is its own.

    Convolutions take any size. Position embeddings are resampled by timm (`set_input_size`), in float32 and in place;
    the weights are then others than the published ones, and so is their hash. crop_pct stays.

    Raises:
        ClzooError: the network does not take such images.
    """
    config = encoder.config
    if type(size) is not int or size < 1:
        raise ClzooError(f"size is the side of the input in pixels, a whole number above 0; found {size!r}.")
    if size == config.preprocessing.size:
        return encoder
    encoder.require_weights()
    module: Any = encoder.module
    embedded = hasattr(module, "set_input_size")  # it has something that belongs to places of the image
    model_args = {**config.model_args, "img_size": size} if embedded else config.model_args
    resized = replace(config, preprocessing=replace(config.preprocessing, size=size), model_args=model_args)
    try:
        skeleton_of(resized)
        if embedded:
            module.set_input_size(img_size=size)
    except Exception as error:  # of whatever kind the network's own code raises
        raise ClzooError(f"{config.name} cannot take images of {size} px: {error}") from error
    unproven = replace(resized, weights_sha256=None, probe=None, published={}, published_source="")  # of the own size
    return Encoder(module, unproven, encoder.device)
