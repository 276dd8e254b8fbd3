"""What a method saw, as one self-contained page of contact sheets. No script."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clzoo.errors import ClzooError
from clzoo.files import output_path
from clzoo.losses.seen import View
from clzoo.methods import METHODS
from clzoo.page import data_uri, stream
from clzoo.pretrain.explanation import TOP, Explanation, Met, Query

_SIDE = 128  # pixels of a picture, at most


def write_explanation(found: Explanation, path: Path) -> Path:
    """Write the page atomically; returns its path."""
    draw = _Drawing(found)
    first, method = found.summary()[0], METHODS[found.recipe.method.name]
    page = stream(
        "explanation.html",
        title=f"What {method.title.partition(' (')[0]} saw",
        facts=[found.run.name, first],
        top=TOP,
        marks=not method.labels,  # one that learns from labels has its reasons for what it does with them
        found=found,
        picture_of_query=draw.query,
        picture=draw.met,
        gate=_gate,
    )
    with (
        output_path(path) as temporary,
        # A file name that is not valid Unicode is shown with its bytes spelt out.
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
    ):
        file.writelines(page)
    return path


class _Drawing:
    """Data URIs of what the network saw where it is a view of the batch, else of the stored image."""

    def __init__(self, found: Explanation) -> None:
        self._found = found
        self._mean, self._std = torch.tensor(found.recipe.data.mean), torch.tensor(found.recipe.data.std)

    def query(self, query: Query, view: View) -> str:
        pictures = self._found.batch.views[view] if isinstance(view, int) else view
        return self._of_view(pictures[query.place])

    def met(self, met: Met) -> str:
        """Empty where no picture is known."""
        if met.view is not None and met.place is not None:
            pictures = self._found.batch.views[met.view] if isinstance(met.view, int) else met.view
            return self._of_view(pictures[met.place])
        if met.sample is None:
            return ""
        try:
            return _uri(self._found.images.image(met.sample))
        except ClzooError:
            return ""

    def _of_view(self, normalized: torch.Tensor) -> str:  # (3, H, W)
        pixels = normalized.detach().float().cpu().permute(1, 2, 0) * self._std + self._mean
        return _uri(Image.fromarray(np.ascontiguousarray((pixels * 255).round().clamp(0, 255).to(torch.uint8).numpy())))


def _uri(image: Image.Image) -> str:
    image = image.convert("RGB")
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return data_uri(buffer.getvalue(), "jpeg")


def _gate(gate: torch.Tensor) -> str:
    """A strip of one pixel a dimension, the most open first: bright where open."""
    levels = (gate.sort(descending=True).values * 255).round().to(torch.uint8).numpy()
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(levels[None])).save(buffer, "PNG")
    return data_uri(buffer.getvalue(), "png")
