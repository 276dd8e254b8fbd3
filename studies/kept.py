"""What a study keeps in git of its runs, studies/<study>/<run>.json, and how it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clzoo.files import read_json

KNN, LINEAR = ("knn:v1", "top-1"), ("linear:v1", "top-1")
"""A metric: how its protocol's id begins, and its name."""

Values = dict[str, float]  # of a metric by seed


def results_of(kept: Path, name: str) -> dict[str, Any]:
    """What was measured of a run, by seed; nothing of one that was not judged."""
    path = kept / f"{name}.json"
    seeds: dict[str, Any] = read_json(path)["seeds"] if path.exists() else {}
    return seeds


def values(seeds: dict[str, Any], metric: tuple[str, str]) -> Values:
    """One metric of the seeds that have it."""
    protocol, name = metric
    return {
        seed: row["value"]
        for seed, found in seeds.items()
        for row in found["results"]
        if row["protocol"].startswith(protocol) and row["metric"] == name
    }
