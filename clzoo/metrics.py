"""metrics.json: what a model's numbers look like, and which of them are shown."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from clzoo.errors import ClzooError
from clzoo.files import read_json

METRICS = "metrics.json"

THIS_MODEL = "this model"
"""Value of a result's "of" for the model itself; every other value names a control."""


def read_metrics(folder: Path) -> dict[str, Any]:
    """The content of the metrics.json in a folder; nothing where there is none."""
    path = folder / METRICS
    found: dict[str, Any] = read_json(path) if path.is_file() else {}
    return found


def check_metrics(metrics: dict[str, Any]) -> None:
    """Raise ClzooError, naming the key, if a metrics.json cannot be shown as a table."""
    if not isinstance(metrics, dict) or not isinstance(metrics.get("results", []), list):
        raise ClzooError('metrics.json must be {"results": [...], "training": {...}}.')
    for position, row in enumerate(metrics.get("results", [])):
        for key in ("protocol", "dataset", "split", "metric", "value", "of"):
            if not isinstance(row, dict) or key not in row:
                raise ClzooError(f"metrics.json: results[{position}] has no {key!r}.")
        value = row["value"]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ClzooError(f"metrics.json: results[{position}].value must be a finite number, found {value!r}.")


def headlines(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that a card and the Hub show: of parts of the classes only metrics.json tells."""
    return [row for row in results if not row["metric"].endswith("-shot")]


def measured(folder: Path | None) -> dict[str, Any]:
    """Accuracies of a model from the metrics.json in its folder, and the data with the number of test images."""
    metrics = {} if folder is None else read_metrics(folder)
    found: dict[str, Any] = {"linear": None, "knn": None, "measured_on": None}
    for line in metrics.get("results", []):
        protocol = line["protocol"].partition(":v1(")[0]
        if line["of"] == THIS_MODEL and line["metric"] == "top-1" and found.get(protocol, 0) is None:
            images = line.get("images") or metrics.get("evaluation", {}).get("data", {}).get("test", {}).get("images")
            found[protocol] = line["value"]
            found["measured_on"] = line["dataset"] + (f", {images:,} images" if images else "")
    return found
