"""Did it help? The rule by which two sets of outcomes on the same held-out images are judged: pure, on numbers alone.

It was fixed before any run, and docs/adapt.md says it in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from clzoo.errors import ClzooError

Word = Literal["helped", "no evidence", "harmed"]

LEAST = 1.0
"""Points that a gain must have to be called one, as in the studies' protocol."""

FEWEST_IMAGES = 40
"""Held-out images below which nothing is said: a fifth of 200."""

FEWEST_CHANGES = 10
"""Held-out images on which the two must differ, on average of the seeds. A bootstrap of fewer is too sure of itself:
four images gained and none lost have an interval above 0, and a sign test's p of 0.125."""

DRAWS = 10_000
"""Of the bootstrap."""

RULE = f"verdict:v1(95%,least={LEAST:g},images>={FEWEST_IMAGES},changes>={FEWEST_CHANGES},draws={DRAWS},seed=0)"
"""Id of the rule with every number in it, as protocols have one."""


@dataclass(frozen=True)
class Gain:
    """What the second has over the first, in points (100 times the mean difference of the outcomes).

    Attributes:
        low, high: 95 % interval of the paired bootstrap over images, and over seeds where there are several.
        by_seed: each run's own.
        images: held-out images.
        changes: images with another outcome, on average of the seeds.
    """

    value: float
    low: float
    high: float
    by_seed: tuple[float, ...]
    images: int
    changes: float

    def __str__(self) -> str:
        return f"{self.value:+.1f} [{self.low:.1f}, {self.high:.1f}]"

    def to_json(self) -> dict[str, Any]:
        """For verdict.json."""
        return {key: _rounded(value) for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Verdict:
    """The word, the gain that it rests on, and in words why it is no better.

    Attributes:
        measure: what the gain is in, such as "k-NN".
        over_batchnorm: gain over the start encoder whose BatchNorm statistics were estimated anew; None without any.
        because: empty where it helped or harmed and nothing more is to be said.
    """

    word: Word
    measure: str
    gain: Gain
    over_batchnorm: Gain | None
    because: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.word} ({self.gain} {self.measure})"

    def to_json(self) -> dict[str, Any]:
        """For verdict.json."""
        return {
            "rule": RULE,
            "verdict": self.word,
            "measure": self.measure,
            "gain": self.gain.to_json(),
            "over_batchnorm": None if self.over_batchnorm is None else self.over_batchnorm.to_json(),
            "because": list(self.because),
        }


def gain_of(before: np.ndarray, after: np.ndarray) -> Gain:
    """The gain with its interval.

    In each of 10,000 draws the N images are drawn with replacement, the same ones for both sides, and so are the S
    runs. Images with equal differences are drawn as one: how often each kind comes is a multinomial draw.

    Args:
        before: (N,) outcome of each image, from 0 to 1: whether it is got right, or a share.
        after: (S, N) the same of each run.

    Raises:
        ClzooError: other images on the two sides, or no image.
    """
    if before.ndim != 1 or after.ndim != 2 or after.shape[1] != len(before) or after.size == 0:
        raise ClzooError(
            f"outcomes before and after must be of the same images, found {before.shape} and {after.shape}; expected "
            "(N,) and (seeds, N)."
        )
    difference = after.astype(np.float64) - before.astype(np.float64)  # (S, N)
    kinds, counts = np.unique(difference.T, axis=0, return_counts=True)  # (K, S), (K,)
    generator = np.random.default_rng(0)
    images, runs = len(before), len(after)
    shares = generator.multinomial(images, counts / images, size=DRAWS) / images  # (DRAWS, K)
    drawn_runs = generator.multinomial(runs, np.full(runs, 1 / runs), size=DRAWS) / runs  # (DRAWS, S)
    drawn = ((shares @ kinds) * drawn_runs).sum(axis=1)  # (DRAWS,)
    low, high = 100 * np.percentile(drawn, [2.5, 97.5])
    by_seed = 100 * difference.mean(axis=1)
    changes = float((difference != 0).sum(axis=1).mean())
    return Gain(float(by_seed.mean()), float(low), float(high), tuple(by_seed.tolist()), images, changes)


def judge(
    measure: str,
    start: np.ndarray,
    after: np.ndarray,
    *,
    batchnorm: np.ndarray | None = None,
    beside: dict[str, Gain] | None = None,
) -> Verdict:
    """The verdict on S runs by one measure; see docs/adapt.md.

    Args:
        start: (N,) outcomes of the start encoder on the held-out images.
        after: (S, N) outcomes of each run.
        batchnorm: (N,) outcomes of the start encoder with its BatchNorm statistics estimated anew on the training
            images; None where it has no BatchNorm.
        beside: gains by other measures. One that lies wholly below 0 takes "helped" back.
    """
    gain = gain_of(start, after)
    over = None if batchnorm is None else gain_of(batchnorm, after)
    if unfounded := _too_little(gain):
        return Verdict("no evidence", measure, gain, over, tuple(unfounded))
    if gain.high < 0 and max(gain.by_seed) < 0:
        return Verdict("harmed", measure, gain, over)
    against = _against_help(gain, over, beside or {})
    return Verdict("no evidence" if against else "helped", measure, gain, over, tuple(against))


def undecided(measure: str, start: np.ndarray, after: np.ndarray, because: str) -> Verdict:
    """A verdict where the measure itself is not known to say anything: no evidence, whatever the numbers."""
    return Verdict("no evidence", measure, gain_of(start, after), None, (because,))


def kept_elsewhere(gain: Gain) -> str:
    """What a gain on another set means: "lost", "gained" or "no evidence of a loss"."""
    if _too_little(gain):
        return "no evidence of a loss"
    return "lost" if gain.high < 0 else "gained" if gain.low > 0 else "no evidence of a loss"


def _too_little(gain: Gain) -> list[str]:
    """Why nothing can be said of so few images, or so few differences."""
    if gain.images < FEWEST_IMAGES:
        return [f"{gain.images} held-out images are fewer than {FEWEST_IMAGES}"]
    if gain.changes < FEWEST_CHANGES:
        return [f"the two differ on {gain.changes:.0f} held-out images, fewer than {FEWEST_CHANGES}"]
    return []


def _against_help(gain: Gain, over: Gain | None, beside: dict[str, Gain]) -> list[str]:
    found = []
    if gain.low <= 0:
        found.append("the interval reaches 0")
    if gain.value < LEAST:
        found.append(f"the gain is below {LEAST:g} point")
    if min(gain.by_seed) <= 0 < gain.value:
        found.append("a seed did not gain")
    if over is not None and over.low <= 0 < gain.low:
        found.append("BatchNorm statistics estimated anew do as well without training")
    found += [f"{name} says the opposite ({other})" for name, other in beside.items() if other.high < 0 < gain.low]
    return found


def _rounded(value: Any) -> Any:
    if isinstance(value, Sequence):
        return [_rounded(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value
