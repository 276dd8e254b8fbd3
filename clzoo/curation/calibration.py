"""Which similarity says that two images are one, and which kinds of copies an encoder sees there.

`clzoo.curation.distinct` tells how many pairs of distinct images are expected beyond a similarity. The threshold is the
lowest at which

    distinct pairs expected / pairs found <= the share of false flags

which is the rule of Benjamini and Hochberg (1995) for the share of false ones among what is reported. That holds on
average; of one collection by chance more can be false. So the number expected must also be so small that, counted as
Poisson does, not more than that share are false with 95 % confidence. A collection without copies has nothing that
stands out, and nothing is reported.

Of images that the fit has not seen, copies are planted and embedded by the store's own encoder. They tell which kinds
are found at that threshold, and how many of the pairs that they bring are false.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import gammaincinv

from clzoo.curation.distinct import FEWEST, Distinct, fit_distinct
from clzoo.curation.indexed_pairs import all_pairs
from clzoo.curation.pairs import Pairs, cosines, pairs_above, similarity_of
from clzoo.curation.pictures import Pictures, encoder_of
from clzoo.curation.planting import KINDS
from clzoo.errors import ClzooError, UnreadableImageError

if TYPE_CHECKING:
    from clzoo.encoder import Encoder

FALSE_FLAGS = 0.001
"""Default share of false flags among the pairs that are reported."""

PLANTED = 200
"""Images whose copies are planted, at most; a third of a small collection."""

CONFIDENCE = 0.95
"""With which the share of false flags is kept, and not only on average."""

MILD = "JPEG, quality 75"
HIGHEST = 0.9999
"""Largest threshold that is chosen where nothing tells how alike distinct images are."""

_SAMPLE = 2000  # rows whose distances to all others tell the dimension
_AT_ONCE = 8  # pictures in memory, and a copy of each: one of 12 megapixels takes 36 MB
_NEAREST = 1 - 1e-6
"""Cosine of equal vectors at least, as products in float32 give it."""

SEEN, HALF_SEEN = 0.95, 0.5


@dataclass(frozen=True)
class Kind:
    """One kind of copy: how many of those planted were found at the threshold.

    `lowest` is the cosine that 95 % of them reach, `median` the one that half of them do.
    """

    name: str
    planted: int
    found: float  # share
    lowest: float
    median: float

    @property
    def verdict(self) -> str:
        """In words."""
        return "seen" if self.found >= SEEN else "seen in part" if self.found >= HALF_SEEN else "mostly not seen"


@dataclass(frozen=True)
class Calibration:
    """Where a threshold comes from and what it does.

    Attributes:
        threshold: cosine from which two images are reported.
        rule: how it was chosen, in words.
        false_flags: the share that was asked for; None where the threshold was given.
        expected_false: pairs of distinct images that are expected beyond it, in the whole collection; None where there
            are too few images to tell, or the threshold is lower than the fit reaches (`Distinct.expected`).
        dimension: d of the fit, or None.
        kinds: what became of the planted copies; empty where none were planted.
        planted_images: whose copies they were.
        planted_false: share of false ones among the pairs that the planted copies bring; None without.
        recall: share of the candidate pairs that the index found where it compared them; None where all were computed.
    """

    threshold: float
    rule: str
    false_flags: float | None
    expected_false: float | None
    dimension: float | None
    kinds: tuple[Kind, ...] = ()
    planted_images: int = 0
    planted_false: float | None = None
    recall: float | None = None

    def as_json(self) -> dict[str, Any]:
        """All of it, with verdicts."""
        kinds = [{**asdict(kind), "verdict": kind.verdict} for kind in self.kinds]
        return {**asdict(self), "kinds": kinds}


def choose_threshold(similarity: np.ndarray, distinct: Distinct, false_flags: float) -> tuple[float, int]:
    """The lowest cosine at which the share of false ones among pairs of these cosines (P,) is small enough.

    It may lie close to 1, where an encoder tells images hardly apart: any lower, and distinct ones would be reported.

    Returns:
        the cosine, and how many of the pairs reach it; with none it is where a single one would.
    """
    ordered = np.sort(similarity.astype(np.float64))[::-1]
    allowed = expected_at_most(false_flags, np.arange(1, len(ordered) + 1))
    passed = np.flatnonzero(distinct.beyond(ordered) <= allowed)
    count = int(passed[-1]) + 1 if len(passed) else 0
    single = float(expected_at_most(false_flags, np.array([max(count, 1)]))[0])
    threshold = distinct.similarity_of(single)
    return threshold, int((ordered >= threshold).sum())


def expected_at_most(false_flags: float, counts: np.ndarray) -> np.ndarray:
    """How many distinct pairs may be expected where so many (P,) are reported: by the average and by CONFIDENCE.

    The second is the mean of a Poisson law that stays within the share, rounded down, with that confidence.
    """
    whole = np.floor(false_flags * counts + 1e-9)
    return np.minimum(false_flags * counts, gammaincinv(whole + 1, 1 - CONFIDENCE))


def draw_samples(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose copies are planted and rows that the fit sees, drawn with seed 0, none in both."""
    rows = np.random.default_rng(0).permutation(count)
    planted = min(PLANTED, count // 3) if count >= FEWEST else count
    return np.sort(rows[:planted]), np.sort(rows[planted : planted + _SAMPLE])


def plant(pictures: Pictures, rows: np.ndarray, encoder: Encoder) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Copies of the images of some rows, embedded.

    Returns:
        the rows (P,) whose picture can be read, and unit vectors (P, D) by kind.
    """
    kept: list[int] = []
    vectors: dict[str, list[np.ndarray]] = {name: [] for name in KINDS}
    for first in range(0, len(rows), _AT_ONCE):
        images = []
        for row in rows[first : first + _AT_ONCE].tolist():
            try:
                images.append(pictures.image(row))
                kept.append(row)
            except UnreadableImageError:
                continue
        if images:
            for name, copy in KINDS.items():
                vectors[name].append(encoder.embed([copy(image) for image in images]))
    if not kept:
        raise pictures.missing()
    return np.array(kept), {name: np.concatenate(parts) for name, parts in vectors.items()}


def kinds_found(planted: dict[str, np.ndarray], originals: np.ndarray, threshold: float) -> tuple[Kind, ...]:
    """What became of copies (P, D) of each kind beside their originals (P, D)."""
    kinds = []
    for name, copies in planted.items():
        similarity = cosines(copies, originals)
        lowest, median = np.quantile(similarity, (1 - SEEN, 0.5))
        kinds.append(Kind(name, len(copies), float((similarity >= threshold).mean()), float(lowest), float(median)))
    return tuple(kinds)


def planted_false(
    planted: dict[str, np.ndarray], rows: np.ndarray, vectors: np.ndarray, bank: np.ndarray, threshold: float
) -> float | None:
    """Share of false pairs among those of planted copies with the rows of `bank`; None where there are none.

    A pair with another row than the original is false, unless the original itself is as near to that row.
    """
    true = false = 0
    own = pairs_above(vectors[rows], threshold, bank, what="planted")
    known = set(zip(own.first.tolist(), own.second.tolist(), strict=True))
    for copies in planted.values():
        found = pairs_above(copies.astype(np.float32), threshold, bank, what="planted")
        is_known = [pair in known for pair in zip(found.first.tolist(), found.second.tolist(), strict=True)]
        true += sum(is_known)
        false += len(found) - sum(is_known)
    return false / (true + false) if true + false else None


def in_words(calibration: Calibration) -> Sequence[str]:
    """What a reader of a report has to know, a sentence each."""
    lines = [calibration.rule]
    if calibration.recall is not None:
        lines.append(
            f"Pairs were looked for through an index, which found {calibration.recall:.1%} of a sample of them."
        )
    if calibration.expected_false is not None:
        lines.append(f"{calibration.expected_false:.2g} pairs of distinct images are expected beyond it.")
    elif calibration.dimension is not None:
        lines.append("How many pairs of distinct images lie beyond it is not known: it is too low for an estimate.")
    for verdict in ("seen", "seen in part", "mostly not seen"):
        names = [f"{kind.name} ({kind.found:.1%})" for kind in calibration.kinds if kind.verdict == verdict]
        if names:
            lines.append(f"Copies that are {verdict} by this encoder at this threshold: {', '.join(names)}.")
    if calibration.planted_false is not None:
        lines.append(
            f"Of the pairs that copies of {calibration.planted_images} held-out images brought "
            f"{calibration.planted_false:.2%} were false."
        )
    return lines


def check_settings(false_flags: float, threshold: float | None) -> None:
    """Raise ClzooError unless they are a share and a cosine."""
    if not 0 < false_flags < 1:
        raise ClzooError(f"false_flags is a share of the pairs reported, above 0 and below 1; found {false_flags}.")
    if threshold is not None and not 0 < threshold <= 1:
        raise ClzooError(f"a threshold is a cosine above 0 and at most 1, found {threshold}.")


def calibrate(
    pictures: Pictures,
    vectors: np.ndarray,
    rows: np.ndarray,
    false_flags: float,
    threshold: float | None,
    model: Encoder | str | Path | None,
    queries: np.ndarray | None = None,
) -> tuple[Calibration, Pairs]:
    """Choose the threshold, find the pairs beyond it, and measure what it does to planted copies.

    Args:
        pictures: of the store of `vectors`.
        vectors: unit vectors (N, D).
        rows: (R,) of them that are looked at: of identical images one.
        threshold: where the user gave one.
        queries: unit vectors (M, D) of another collection to be compared with the rows, instead of them with each
            other.

    Returns:
        what was chosen and measured, and the pairs: rows of `queries`, or else of `vectors`, and rows of `vectors`.
    """
    bank = vectors[rows]
    held_out, sample = draw_samples(len(rows))
    if queries is None:
        distinct = fit_distinct(bank, sample)
    else:
        distinct = fit_distinct(queries, draw_samples(len(queries))[1], bank)
    shown, planted = plant(pictures, rows[held_out], encoder_of(pictures.store, model))
    pairs: Pairs | None = None
    recall: float | None = None
    asked = None if threshold is not None or distinct is None else false_flags
    if threshold is not None:
        rule = f"Pairs from a cosine of {threshold} are reported, as given."
        threshold = min(threshold, _NEAREST)
    elif distinct is not None:
        threshold, rule, pairs, recall = _stands_out(bank, queries, distinct, false_flags)
    else:
        threshold = _mild(planted[MILD], vectors[shown])
        rule = (
            "There are too few images, or they are too much alike, to tell how alike different ones are: the "
            f"threshold {threshold:.4f} is what {SEEN:.0%} of the copies '{MILD}' reach, and the share of false flags "
            "is not known."
        )
    if pairs is None:
        first, second = (bank, None) if queries is None else (queries, bank)
        pairs, recall = all_pairs(first, threshold, second)
    calibration = Calibration(
        threshold=threshold,
        rule=rule,
        false_flags=asked,
        expected_false=None if distinct is None else distinct.expected(threshold),
        dimension=None if distinct is None else distinct.dimension,
        kinds=kinds_found(planted, vectors[shown], threshold),
        planted_images=len(shown),
        planted_false=planted_false(planted, shown, vectors, bank, threshold),
        recall=recall,
    )
    firsts = rows[pairs.first] if queries is None else pairs.first
    return calibration, Pairs(firsts, rows[pairs.second], pairs.similarity)


def _stands_out(
    bank: np.ndarray, queries: np.ndarray | None, distinct: Distinct, false_flags: float
) -> tuple[float, str, Pairs, float | None]:
    """The threshold by the share of false flags, the rule in words, the pairs beyond it, and the recall of an index."""
    first = bank if queries is None else queries
    floor = distinct.similarity_of(min(float(len(first)), distinct.pairs))
    candidates, recall = all_pairs(first, floor, None if queries is None else bank)
    exact = similarity_of(candidates, first, bank)
    threshold, count = choose_threshold(exact, distinct, false_flags)
    rule = (
        f"Pairs from a cosine of {_in_digits(threshold)} are reported: at most {false_flags:.2%} of them are "
        f"expected to be false, on average and with {CONFIDENCE:.0%} confidence."
        if count
        else f"No pair stands out from those of distinct images at a share of false flags of {false_flags:.2%}: the "
        f"threshold is {_in_digits(threshold)}."
    )
    return threshold, rule, candidates.where(exact >= threshold), recall


def _in_digits(threshold: float) -> str:
    """Four decimals, and more of one that they would round to 1."""
    return f"{threshold:.4f}" if threshold <= HIGHEST else f"{threshold:.8f}"


def _mild(copies: np.ndarray, originals: np.ndarray) -> float:
    """The cosine that most of the mildest copies reach."""
    return float(min(np.quantile(cosines(copies, originals), 1 - SEEN), HIGHEST))
