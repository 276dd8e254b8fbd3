"""Judging without the test images that are in the train set: `clzoo evaluate --leaks CERT`.

The certificate is what `clzoo curate leaks` wrote. It names images by the SHA-256 of their files, so it fits the same
images wherever they lie, and no others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clzoo.certificate import hash_of_set, read_certificate
from clzoo.data.collection import ChosenImages, Collection
from clzoo.data.content import digests
from clzoo.errors import ClzooError
from clzoo.evaluation.features import Features

WITHOUT = "test without leaked images"
"""Value of a result's "split" for what was measured so."""


def certificate_for(path: str | Path, weights_sha256: str) -> dict[str, Any]:
    """A certificate of this encoder.

    Raises:
        ClzooError: one of other weights; and what `read_certificate` refuses.
    """
    certificate = read_certificate(path)
    if certificate["weights_sha256"] != weights_sha256:
        raise ClzooError(
            f"{path} is of the weights {str(certificate['weights_sha256'])[:12]} ({certificate['model']}), this encoder"
            f" has {weights_sha256[:12]}. Make one with it: clzoo embed both splits, then clzoo curate leaks TRAIN TEST"
        )
    return certificate


def kept_rows(
    certificate: dict[str, Any],
    train: tuple[Collection, Features],
    test: tuple[Collection, Features],
    cache_dir: str | Path | None,
) -> np.ndarray:
    """Positions (M,) in the test features of the images that the certificate does not call leaked.

    Raises:
        ClzooError: the certificate is of other images than these splits hold, or all of them are leaked.
    """
    hashes = {}
    for name, (collection, features) in (("train", train), ("test", test)):
        rows = np.arange(len(collection.images)) if features.rows is None else features.rows
        hashes[name] = [digest.tobytes().hex() for digest in digests(collection.images, rows, cache_dir)]
        if hash_of_set(hashes[name]) != certificate[name]["files_sha256"]:
            raise ClzooError(
                f"the certificate is of {certificate[name]['images']} images of {certificate[name]['source']}, and "
                f"{collection.origin} ({len(rows)}) are not the same. Embed both splits as they are, then type: "
                "clzoo curate leaks TRAIN TEST --out CERT"
            )
    leaked = {str(leak["test_sha256"]) for leak in certificate["leaks"]}
    kept = np.flatnonzero([sha256 not in leaked for sha256 in hashes["test"]])
    if not len(kept):
        raise ClzooError(f"all images of {test[0].origin} are in the train set: nothing is left to judge on.")
    return kept


def chosen_images(collection: Collection, features: Features, kept: np.ndarray) -> tuple[Collection, Features]:
    """A split with only the images of some of its features, positions (M,)."""
    rows = np.arange(len(collection.images)) if features.rows is None else features.rows
    labels = None if collection.labels is None else collection.labels[rows[kept]]
    fewer = replace(collection, images=ChosenImages(collection.images, rows[kept]), labels=labels)
    place = torch.from_numpy(kept)
    fingerprint = {**features.fingerprint, "images": len(kept), "without_leaks": len(features) - len(kept)}
    return fewer, Features(
        features.x[place], features.labels[place], features.classes, features.origin, fingerprint, np.arange(len(kept))
    )


def details_of(certificate: dict[str, Any], removed: int, outcomes: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """What metrics.json tells of it."""
    return {
        "removed": removed,
        "threshold": certificate["threshold"],
        "details": {name: outcome.details for name, outcome in outcomes},
    }
