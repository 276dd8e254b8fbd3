"""Naming the images of any source by a classifier that was kept: no store is needed, and none is made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from clzoo.curation.few_shot import SURE, Classified, Classifier, text_of
from clzoo.data.listing import Item
from clzoo.data.opening import encoded_image, open_source
from clzoo.embed.manifest import preprocessing_of
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError


@dataclass(frozen=True, eq=False)
class SourceImages:
    """The images of a source, by row, where a job that needs no vectors takes them for those of a store.

    Attributes:
        origin: the source: an absolute path, a URL, or hf-hub:ORG/NAME.
        items: one a row, in path order.
        failed: path and reason of what could not be read.
    """

    origin: str
    items: list[Item]
    failed: list[tuple[str, str]]

    @cached_property
    def paths(self) -> list[str]:
        """As a store of the source has them."""
        return [item.path for item in self.items]

    def image_bytes(self, row: int) -> bytes:
        """The encoded image of a row.

        Raises:
            UnreadableImageError: it is not there any more; the reason alone.
        """
        return encoded_image(self.items[row])


class _Content:
    """An item as a file object that is read when its turn comes."""

    def __init__(self, item: Item) -> None:
        self._item = item

    def read(self) -> bytes:
        return encoded_image(self._item)

    def seekable(self) -> bool:
        return False


def classify_images(
    source: str | Path, saved: str | Path, *, encoder: Encoder | str | Path | None = None, sure: float = SURE
) -> Classified:
    """Name every image of a source by a classifier that was kept. Nothing is changed, and no store is made.

    Args:
        source: whatever `clzoo embed` takes (docs/data.md).
        saved: what `clzoo curate classify --onnx` wrote (the encoder is in it), or `--save` (.npz, which remembers what
            its encoder is called).
        encoder: of an .npz file: the one that its features are of, where it has moved.
        sure: the confidence from which a name is called sure.

    Raises:
        ClzooError: no such source, or not one image of it that can be read; a file that is no classifier; another
            encoder, or one that cannot be loaded.
    """
    if not 0 <= sure <= 1:
        raise ClzooError(f"sure is a confidence from 0 to 1, found {sure}.")
    classifier = Classifier.load(saved)
    if str(saved).lower().endswith(".onnx"):
        if encoder is not None:
            raise ClzooError(f"{saved} holds its encoder; leave out --model.")
        from clzoo.lite.encoder import LiteEncoder

        run: Any = LiteEncoder(Path(saved)).probabilities
    else:
        fitting = _encoder_of(classifier, saved, encoder)

        def run(contents: list[_Content], **options: Any) -> tuple[np.ndarray, list[Any]]:
            vectors, skipped = fitting.embed(contents, **options)  # type: ignore[arg-type]
            return classifier.probabilities(vectors), skipped

    opened = open_source(source)
    listing = opened.listing
    assert listing is not None  # of a whole source
    failed = [(failure.path, failure.reason) for failure in listing.failures]
    found, skipped = np.empty((0, len(classifier.classes))), []
    if listing.items:
        found, skipped = run([_Content(item) for item in listing.items], on_error="skip", progress=True)
    failed += [(listing.items[each.position].path, each.reason) for each in skipped]
    if len(found) == 0:
        raise ClzooError(f"none of the {len(failed)} images of {source} could be read. {failed[0][0]}: {failed[0][1]}")
    out = {each.position for each in skipped}
    rows = [row for row in range(len(listing.items)) if row not in out]
    return Classified.of(SourceImages(opened.origin, listing.items, failed), classifier, rows, found, sure=sure)


def _encoder_of(classifier: Classifier, saved: str | Path, encoder: Encoder | str | Path | None) -> Encoder:
    """The encoder whose features a classifier was fitted to."""
    from clzoo.loading import load

    if not isinstance(encoder, Encoder):
        if not (encoder or classifier.model):
            raise ClzooError(
                f"{saved} does not say what its encoder is called (weights {classifier.weights_sha256[:12]}); an "
                "earlier version wrote it. Name it: --model NAME"
            )
        try:
            encoder = load(encoder or classifier.model, size=classifier.size)
        except ClzooError as error:
            if encoder:
                raise
            raise ClzooError(
                f"{saved} remembers its encoder as {classifier.model}, and that cannot be loaded: {error} "
                "If it has moved, say where it is: --model PLACE"
            ) from error
    require_own(classifier, encoder)
    return encoder


def require_own(classifier: Classifier, encoder: Encoder) -> None:
    """Refuse an encoder that a classifier was not fitted to.

    Raises:
        ClzooError: other weights, or another preprocessing.
    """
    name, ours = encoder.config.name, text_of(preprocessing_of(encoder))
    if encoder.weights_sha256 != classifier.weights_sha256:
        raise ClzooError(
            f"the classifier was fitted to features of the weights {classifier.weights_sha256[:12]}, {name} has "
            f"{encoder.weights_sha256[:12]}. Name its encoder: --model NAME"
        )
    if ours != classifier.preprocessing:
        raise ClzooError(
            f"the classifier was fitted to features of the preprocessing {classifier.preprocessing}; {name} has "
            f"another preprocessing, {ours}. Name its encoder: --model NAME, in Python "
            f"clzoo.load(NAME, size={classifier.size})"
        )
