"""Planted copies: how often an altered copy of an image finds that image among the others. Needs no labels.

An encoder that tells images apart and is not distracted by what happens to pictures on their way finds nearly all of
them. The number says nothing about classes: an untrained network finds many copies too, so it stands beside that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from clzoo.data.collection import Images
from clzoo.data.parallel import in_order, stacked
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.evaluation.features import Features
from clzoo.evaluation.results import Outcome, Result
from clzoo.images.altering import saved
from clzoo.losses.embeddings import unit
from clzoo.neighbors import nearest

QUERIES = 500
"""Images, evenly spaced over the set, whose copies are looked for (our choice: a share of 90 % is known to 1.3)."""

_BATCH = 100
_TIE = 1e-6  # of cosines: an image that the set holds twice is found as either


def _jpeg(image: Image.Image) -> Image.Image:
    return saved(image, "JPEG", quality=40)


def _half(image: Image.Image) -> Image.Image:
    return image.resize((max(1, image.width // 2), max(1, image.height // 2)), Image.Resampling.BICUBIC)


def _crop(image: Image.Image) -> Image.Image:
    """The lower right 90 % of both sides."""
    return image.crop((image.width // 10, image.height // 10, image.width, image.height))


def _bright(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(1.3)


KINDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg40": _jpeg,
    "half size": _half,
    "crop 90 %": _crop,
    "mirror": ImageOps.mirror,
    "brightness 1.3": _bright,
}
"""How copies are made of an image as it was decoded (our choice)."""

PROTOCOL = f"copies:v1(jpeg40,half,crop90,mirror,bright1.3,q={QUERIES},cos)"


def evaluate_copies(encoder: Encoder, bank: Features, images: Images, *, among_first: int | None = None) -> Outcome:
    """The share of copies, in percent, whose nearest image in `bank` by cosine similarity is the original.

    Args:
        bank: the encoder's features of the set, whose `rows` are numbers in `images`.
        images: where the originals are read from.
        among_first: copies are made of so many images at the beginning of the bank alone; None: of all of it.

    Returns:
        metrics "copies found", the mean over `KINDS`, and "copies found, KIND"; details {"images", "queries", "found"};
        arrays {"copies_found": float64 (Q,), the share of each image's copies that found it}.

    Raises:
        ClzooError: fewer than two images.
    """
    if len(bank) < 2 or bank.rows is None:
        raise ClzooError(f"copies are looked for among at least two images; {bank.origin} has {len(bank)}.")
    last = len(bank) if among_first is None else among_first
    chosen = np.unique(np.linspace(0, last - 1, min(last, QUERIES)).round().astype(np.int64))  # (Q,)
    own = unit(bank.x[torch.from_numpy(chosen)])  # (Q, D)
    found, shares = {}, np.zeros(len(chosen))
    for kind, change in KINDS.items():
        copies = torch.cat(list(_features_of(encoder, images, bank.rows[chosen], change)))  # (Q, D)
        best, _ = nearest(bank.x, copies, 1, device=encoder.device)  # (Q, 1)
        similarity = (own * unit(copies)).sum(dim=1)  # (Q,)
        is_found = (similarity >= best[:, 0] - _TIE).double()
        shares += is_found.numpy() / len(KINDS)
        found[kind] = 100 * is_found.mean().item()
    results = [Result(PROTOCOL, "copies found", sum(found.values()) / len(found))]
    results += [Result(PROTOCOL, f"copies found, {kind}", share) for kind, share in found.items()]
    details = {"images": len(bank), "queries": len(chosen), "found": found}
    return Outcome(results, details, {"copies_found": shares})


def _features_of(
    encoder: Encoder, images: Images, rows: np.ndarray, change: Callable[[Image.Image], Image.Image]
) -> Iterator[torch.Tensor]:
    """Features (B, D) of the changed images, batch after batch, on the CPU."""

    def pixels(position: int) -> np.ndarray:
        row = int(rows[position])
        try:
            return encoder.pixels(change(images.read(row)))
        except UnreadableImageError as error:
            raise ClzooError(f"{images.name(row)} could be read a moment ago: {error}") from error

    for batch in stacked(in_order(pixels, len(rows)), _BATCH):
        yield encoder.encode(torch.from_numpy(batch), dtype="fp32").cpu()
