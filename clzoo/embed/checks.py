"""What a store must be to be worked on: not empty, and of finite vectors. `clzoo embed` writes no others."""

from __future__ import annotations

import numpy as np

from clzoo.embed.shares import with_own_name
from clzoo.embed.store import Store
from clzoo.errors import ClzooError
from clzoo.wording import clzoo_command

_SHOWN = 5  # rows that the message itself names


def require_images(store: Store) -> None:
    """Raise ClzooError, with the command that fills it, if a store is empty."""
    if not len(store):
        fill = clzoo_command("embed", "IMAGES", "--out", store.path)
        raise ClzooError(f"{store.path} is empty. Embed images into it: {fill}")


def require_finite(store: Store) -> None:
    """Look through all vectors of a store, a part at a time.

    Raises:
        ClzooError: some are not finite: which rows.
    """
    if any(not np.isfinite(vectors).all() for _, vectors in store.batches()):
        raise not_finite(store)


def how_to_label(store: Store) -> str:
    """What to do where a store's images have no labels, or of one class alone."""
    if store.manifest.labels:
        return (
            "Its source has no sub-folders of several names, and states no labels. A table with path,label does: "
            "clzoo embed LIST.csv --labels"
        )
    return f"The first sub-folder can be the label. Type: {store.manifest.command(store.path, '--labels')}"


def not_finite(store: Store) -> ClzooError:
    """What to raise of a store with such vectors: it names their rows, and the command that makes a whole store."""
    lengths = [np.einsum("nd,nd->n", vectors, vectors) for _, vectors in store.batches()]  # of large values infinite
    rows = np.flatnonzero(~np.isfinite(np.concatenate(lengths))).tolist()
    named = [f"row {row}, {store.paths[row]}" for row in rows]
    folder = with_own_name(store.path)
    again = store.manifest.command(folder.with_name(f"{folder.name}-again"))
    shown = "; ".join(named[:_SHOWN]) + ("; ..." if len(named) > _SHOWN else "")
    return ClzooError(
        f"{store.path} holds {len(rows):,} vectors that are not finite ({shown}). clzoo embed writes none: it was "
        f"damaged, or written by something else. Type: {again}",
        named,
    )
