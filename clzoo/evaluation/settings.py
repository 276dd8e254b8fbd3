"""What `--set` changes of protocols: linear_sgd.*, finetune.*, imbalanced.subsets, lowshot.images, transfer.sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clzoo.data.imbalance import check_subset
from clzoo.errors import ClzooError
from clzoo.evaluation.opening import DataSource, title_of
from clzoo.overrides import apply_overrides


def tables_of(overrides: Sequence[str], names: list[str]) -> dict[str, dict[str, Any]]:
    """The overrides as tables by protocol; those of a protocol that does not run are refused."""
    changes: dict[str, Any] = {}
    apply_overrides(changes, overrides)
    for table, values in changes.items():
        protocol = table.replace("_", ":")
        known = ("linear:sgd", "finetune", "imbalanced", "lowshot", "transfer")
        if protocol not in known or not isinstance(values, dict):
            raise ClzooError(
                f"--set {table}: expected linear_sgd.KEY=VALUE, finetune.KEY=VALUE, imbalanced.subsets=[NAME, ...], "
                "lowshot.images=[N, ...] or transfer.sets=[DIR, ...]."
            )
        if protocol not in names:
            raise ClzooError(f"--set {table}.{next(iter(values), 'KEY')} is of {protocol}, which is not asked for.")
    return changes


def subsets_of(values: dict[str, Any]) -> dict[str, Any]:
    """The one setting of "imbalanced", as a keyword argument; none for the protocol's own subsets."""
    if not values:
        return {}
    subsets = values.get("subsets")
    if set(values) != {"subsets"} or not isinstance(subsets, list) or not subsets:
        raise ClzooError(f"--set imbalanced: found {values}; expected imbalanced.subsets=[linear, longtail-50].")
    return {"subsets": tuple(check_subset(str(name)) for name in subsets)}


def one_setting(changes: dict[str, dict[str, Any]], table: str, key: str, kind: type) -> list[Any] | None:
    """A protocol's one setting, a list of values of a kind; None where it is not set."""
    if table not in changes:
        return None
    found = changes[table].get(key)
    if set(changes[table]) != {key} or not isinstance(found, list) or not found or {type(v) for v in found} != {kind}:
        raise ClzooError(f"--set {table}: found {changes[table]}; expected {table}.{key}=[{kind.__name__}, ...].")
    return found


def further_sets(changes: dict[str, dict[str, Any]]) -> list[tuple[str, DataSource]]:
    """The sets of "transfer" beside the evaluation's own."""
    return [(title_of(source), source) for source in one_setting(changes, "transfer", "sets", str) or []]
