"""Probable label errors: images whose label the others of a collection contradict.

Probabilities of each image come from the images of other folds (clzoo.curation.folds). The ranking is that of confident
learning (Northcutt et al. 2021, arXiv 1911.00068): by *normalized margin*, the probability of the given label less that
of the best other one, or by *self-confidence*, the probability of the given label. A candidate is a label that
another class beats. Where cleanlab is installed (extra `[curate]`) the scores are its own, and else those of the same
formula here; the report says which.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clzoo.curation.folds import FOLDS, METHODS, Labelled, out_of_fold
from clzoo.curation.page import Section, Tile, write_page
from clzoo.curation.pairs import unit_vectors
from clzoo.embed.checks import how_to_label, require_images
from clzoo.embed.store import Store, open_store
from clzoo.errors import ClzooError

RANKINGS = ("self_confidence", "normalized_margin")
CLEANLAB, OURS = "cleanlab", "our formula (cleanlab is not installed)"


@dataclass(frozen=True)
class LabelError:
    """A labelled image, and what the others say of it. `score` is lower for what is more probably wrong, 0 to 1."""

    row: int
    path: str
    label: str
    suggested: str
    score: float
    probability: float  # of the suggested label
    is_candidate: bool


@dataclass(frozen=True)
class LabelErrors:
    """What `find_label_errors` found.

    Attributes:
        scored_by: CLEANLAB or OURS.
        ranked: all labelled images, the most probably wrong first.
        accuracy: percent of labels that the out-of-fold prediction agrees with.
    """

    store: Store
    method: str
    ranking: str
    scored_by: str
    classes: tuple[str, ...]
    ranked: list[LabelError]
    accuracy: float

    @property
    def errors(self) -> list[LabelError]:
        """The candidates: labels that the other images contradict."""
        return [error for error in self.ranked if error.is_candidate]

    def summary(self, shown: int = 20) -> list[str]:
        """What was found, a sentence each."""
        errors = self.errors
        return [
            f"{len(errors):,} of {len(self.ranked):,} labels ({len(errors) / len(self.ranked):.2%}), of "
            f"{len(self.classes)} classes, are contradicted by the other images. Look at them in their order.",
            f"Probabilities by {self.method}, {FOLDS} folds: {self.accuracy:.2f} % agree with the labels, so up to "
            f"{100 - self.accuracy:.2f} % may be contradicted because the encoder cannot tell.",
            f"Ranked by {self.ranking.replace('_', ' ')}, scores by {self.scored_by}.",
            *(f"{e.score:.4f}  {e.path}: {e.label}, or rather {e.suggested}" for e in errors[:shown]),
        ]

    def as_json(self) -> dict[str, Any]:
        """What `clzoo curate labels --json` prints: the probable errors, and how they were told."""
        return {
            **self.store.identity(),
            "method": self.method,
            "ranking": self.ranking,
            "scored_by": self.scored_by,
            "folds": FOLDS,
            "labelled": len(self.ranked),
            "accuracy": round(self.accuracy, 4),
            "errors": [
                {
                    "path": error.path,
                    "label": error.label,
                    "suggested": error.suggested,
                    "score": round(error.score, 5),
                    "probability": round(error.probability, 5),
                }
                for error in self.errors
            ],
        }

    def write_page(self, path: str | Path) -> Path:
        """Write the probable errors as a page of pictures, by given label; returns its path."""
        by_pair: dict[tuple[str, str], list[LabelError]] = {}
        for error in self.errors:
            by_pair.setdefault((error.label, error.suggested), []).append(error)
        sections = [
            Section(
                f"labelled {label}, probably {suggested}: {len(errors)}",
                [Tile(self.store, error.row, f"score {error.score:.3f}", "bad") for error in errors],
            )
            for (label, suggested), errors in sorted(by_pair.items(), key=lambda item: -len(item[1]))
        ]
        return write_page(
            path,
            title=f"Probable label errors in {self.store.path.name}",
            facts=[f"{len(self.ranked):,} labelled images", self.store.manifest.model],
            notes=self.summary(shown=0),
            sections=sections,
        )


def find_label_errors(
    store: Store | str | Path, *, method: str = "linear", ranking: str = "self_confidence"
) -> LabelErrors:
    """Rank the labels of a store by how probably they are wrong. Nothing is changed.

    Args:
        store: embedded with labels; open or its folder.
        method: "linear" or "knn", see `clzoo.curation.folds`; the first found more, the second is faster.
        ranking: "self_confidence" or "normalized_margin".

    Raises:
        ClzooError: fewer than two classes, a class with one image, vectors that are not finite.
    """
    if method not in METHODS or ranking not in RANKINGS:
        raise ClzooError(
            f"method is one of {', '.join(METHODS)} and ranking one of {', '.join(RANKINGS)}; found {method!r} and "
            f"{ranking!r}."
        )
    store = store if isinstance(store, Store) else open_store(store)
    require_images(store)
    known = Labelled.of(store.labels, str(store.path), how_to_label(store))
    counts = np.bincount(known.labels)
    if counts.min() < 2:
        name = known.classes[int(counts.argmin())]
        raise ClzooError(
            f"class {name!r} of {store.path} has one image: nothing else says what it looks like. Add images of it, or "
            "take it out."
        )
    vectors = unit_vectors(store)[known.rows]
    found = out_of_fold(vectors, known, method)
    scores, scored_by = scores_of(found, known.labels, ranking)
    predicted = found.argmax(axis=1)
    best = best_other(found, known.labels)
    order = np.argsort(scores, kind="stable")
    paths = store.paths
    ranked = [
        LabelError(
            int(known.rows[i]),
            paths[known.rows[i]],
            known.classes[known.labels[i]],
            known.classes[best[i]],
            float(scores[i]),
            float(found[i, best[i]]),
            bool(predicted[i] != known.labels[i]),
        )
        for i in order.tolist()
    ]
    accuracy = 100 * float((predicted == known.labels).mean())
    return LabelErrors(store, method, ranking, scored_by, known.classes, ranked, accuracy)


def scores_of(probabilities: np.ndarray, labels: np.ndarray, ranking: str) -> tuple[np.ndarray, str]:
    """Scores (M,) by cleanlab where it is installed, else by `quality`; and which."""
    if importlib.util.find_spec("cleanlab") is None:
        return quality(probabilities, labels, ranking), OURS
    from cleanlab.rank import get_label_quality_scores

    return np.asarray(get_label_quality_scores(labels, probabilities, method=ranking)), CLEANLAB


def quality(probabilities: np.ndarray, labels: np.ndarray, ranking: str) -> np.ndarray:
    """Scores (M,) from 0 to 1 of labels by probabilities (M, C); the lowest are the most probably wrong."""
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    if ranking == "self_confidence":
        return own
    others = probabilities[np.arange(len(labels)), best_other(probabilities, labels)]
    return (own - others + 1) / 2


def best_other(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The most probable class (M,) but for the given one."""
    others = probabilities.copy()
    others[np.arange(len(labels)), labels] = -1
    return others.argmax(axis=1)
