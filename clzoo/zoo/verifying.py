"""Proof that the weights on this machine are the ones that were meant: hash and probe (docs/proof.md)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clzoo.proof import PROBE_ATOL, PROBE_RTOL
from clzoo.zoo.locating import locate, read_encoder


@dataclass(frozen=True)
class Verification:
    """The outcome of `verify`; the hashes have been checked when it exists."""

    name: str
    weights: str  # path of the file
    weights_sha256: str | None  # as recorded, and found in the file; None: recorded nowhere
    recorded_in_entry: bool  # False: the hash is this machine's own, from the first conversion
    probe: list[float]  # found
    recorded_probe: list[float] | None
    pinned_here: str | None = None  # day on which this machine recorded hash and probe, where no zoo entry does

    @property
    def largest_difference(self) -> float | None:
        """Of the 16 probe values, absolute; None without a recorded probe."""
        if self.recorded_probe is None:
            return None
        return float(np.abs(np.subtract(self.probe, self.recorded_probe)).max())

    @property
    def verified(self) -> bool:
        """Whether hash and probe are recorded in the model's config and both hold."""
        return self.recorded_in_entry and self.problem is None

    @property
    def problem(self) -> str | None:
        """What is missing or wrong, in words; None if nothing is."""
        if self.recorded_probe is None:
            return (
                f"{self.name}: no probe is recorded, because nobody has verified the published file yet. "
                f"The features of the probe image here: {', '.join(f'{value:.6g}' for value in self.probe)}"
            )
        if not np.allclose(self.probe, self.recorded_probe, rtol=PROBE_RTOL, atol=PROBE_ATOL):
            return (
                f"{self.name}: the probe differs by up to {self.largest_difference:.3g} (allowed: {PROBE_ATOL:g} + "
                f"{PROBE_RTOL:g} of the value). The weights are the recorded ones, so the network or the preprocessing "
                "is another: compare `clzoo info` with config.json, and the versions of torch and timm."
            )
        if not self.recorded_in_entry:
            return f"{self.name}: its config.json records no weights_sha256, so only the probe was compared."
        return None

    def facts(self) -> list[tuple[str, object]]:
        """As (label, value) pairs."""
        hash_from = "as recorded in its config" if self.recorded_in_entry else "as recorded here when it was converted"
        if self.pinned_here:
            hash_from = f"pinned here on {self.pinned_here}, not by the zoo"
        difference = self.largest_difference
        return [
            ("name", self.name),
            ("weights", self.weights),
            ("hash", f"{self.weights_sha256}, {hash_from}" if self.weights_sha256 else None),
            ("probe", None if difference is None else f"differs by at most {difference:.3g} from the recorded one"),
            ("verified", "yes" if self.verified else "NO"),
        ]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            **asdict(self),
            "largest_difference": self.largest_difference,
            "verified": self.verified,
            "problem": self.problem,
        }


def verify(
    name_or_path: str | Path,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    offline: bool = False,
) -> Verification:
    """Load a model on the CPU, checking its hashes, and compare its probe with the recorded one.

    Arguments are those of `clzoo.load`.

    Raises:
        ClzooError: everything that `load` raises, a wrong hash among it. A missing or wrong probe is no exception:
            look at `verified` and `problem`.
    """
    found = locate(name_or_path, revision=revision, cache_dir=cache_dir, offline=offline)
    encoder = read_encoder(found, torch.device("cpu"))
    recorded = found.config.probe
    return Verification(
        name=found.config.name,
        weights=str(found.weights),
        weights_sha256=found.weights_sha256,
        recorded_in_entry=found.config.weights_sha256 is not None,
        probe=encoder.probe(),
        recorded_probe=None if recorded is None else list(recorded),
        pinned_here=found.pinned_here,
    )
