"""A picture of the views of one sample, as a run of a recipe would make them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from clzoo.data.stream import stream_views
from clzoo.data.training import TrainingSet
from clzoo.device import resolve_device
from clzoo.errors import ClzooError
from clzoo.files import output_path
from clzoo.pretrain.feed import images_of
from clzoo.pretrain.recipe import Recipe

_TILE = 192  # pixels of the sheet that the largest view takes at least
_MARGIN, _CAPTION = 8, 18
_CPU = torch.device("cpu")


def draw_views(recipe: Recipe, data: str | Path, out: Path, *, sample: int, epoch: int) -> None:
    """Write a PNG: the stored image of a sample, and every view of it in that epoch before normalisation.

    Pixels are enlarged by a whole factor, never smoothed.

    Args:
        data: what `clzoo pretrain --data` takes; the images are opened as a run opens them, so numbers agree.

    Raises:
        ClzooError: no such sample, or the data cannot be opened.
    """
    images = images_of(recipe, data)
    if not 0 <= sample < len(images):
        raise ClzooError(f"--sample {sample}: {images.origin} has {len(images)} images, numbered from 0")
    stored = images.image(sample)
    tiles = [(f"stored, {stored.width} x {stored.height}", stored)]
    for view, picture in enumerate(_views_of(images, recipe, sample, epoch)):
        tiles.append((f"view {view}, {picture.width} px", picture))
    sheet = _sheet(f"{recipe.name}, seed {recipe.seed}, epoch {epoch}, sample {sample}", tiles)
    with output_path(out) as path:
        sheet.save(path, format="PNG")


def _views_of(images: TrainingSet, recipe: Recipe, sample: int, epoch: int) -> list[Image.Image]:
    """By the road that a run on this machine's default device takes."""
    only, policies, seed = [(epoch, torch.tensor([sample]))], recipe.view_policies(), recipe.seed
    with closing(
        stream_views(images, only, policies, _levels, seed=seed, device=_CPU, road_of=resolve_device("auto"))
    ) as views:
        _, made = next(views)
    return [Image.fromarray(view[0].numpy()) for view in made]


def _levels(view: torch.Tensor) -> torch.Tensor:
    """(B, S, S, 3) in [0, 255] -> uint8."""
    return view.round().to(torch.uint8, memory_format=torch.contiguous_format)


def _sheet(title: str, tiles: list[tuple[str, Image.Image]]) -> Image.Image:
    """Pictures side by side, each with its caption below."""
    factor = max(1, _TILE // max(picture.width for _, picture in tiles[1:]))
    enlarged = [
        (caption, picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST))
        for caption, picture in tiles
    ]
    font = ImageFont.load_default()
    width = [max(picture.width, round(font.getlength(caption))) + _MARGIN for caption, picture in enlarged]
    height = max(picture.height for _, picture in enlarged)
    across = max(sum(width), round(font.getlength(title)) + _MARGIN) + _MARGIN
    sheet = Image.new("RGB", (across, height + 2 * _CAPTION + 2 * _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), title, "black", font)
    left = _MARGIN
    for (caption, picture), step in zip(enlarged, width, strict=True):
        sheet.paste(picture, (left, _MARGIN + _CAPTION))
        draw.text((left, _MARGIN + _CAPTION + picture.height + 2), caption, "black", font)
        left += step
    return sheet
