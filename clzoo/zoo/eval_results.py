"""Results in the Hub's own format, `.eval_results/<data set>.yaml`, beside the older model-index of the card."""

from __future__ import annotations

from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from clzoo.zoo.cards import THIS_MODEL, headlines

FOLDER = ".eval_results"


def eval_results(metrics: dict[str, Any]) -> dict[str, str]:
    """File name in an entry -> YAML, one file a data set.

    Only the model's own results on data that the Hub knows by an id (`dataset_id` of a row) are among them; a task is a
    protocol's id and a metric, and what the data really were is in the notes.
    """
    by_data: dict[str, list[EvalResultEntry]] = {}
    for row in headlines(metrics.get("results", [])):
        if row["of"] == THIS_MODEL and "dataset_id" in row:
            by_data.setdefault(row["dataset_id"], []).append(_entry(row, metrics.get("evaluation", {}).get("date")))
    return {
        f"{FOLDER}/{dataset.replace('/', '--')}.yaml": yaml.safe_dump(
            eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True
        )
        for dataset, entries in by_data.items()
    }


def _entry(row: dict[str, Any], date: str | None) -> EvalResultEntry:
    spread = f"; mean of {len(row['seeds'])} seeds, std {row['std']:g}" if "std" in row else ""
    return EvalResultEntry(
        dataset_id=row["dataset_id"],
        task_id=f"{row['protocol']} {row['metric']}",
        value=row["value"],
        date=date,
        notes=f"{row['dataset']}, {row['split']} split{spread}; measured by clzoo",
    )
