"""`--set section.key=value`: YAML values put into a table of settings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from clzoo.errors import ClzooError


class Yaml(yaml.SafeLoader):
    """YAML 1.1 takes 1e-4 for a word; people mean the number."""


Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Change `values` in place; an override is "section.key=value", its value written as YAML.

    Raises:
        ClzooError: not of that form, or nothing lies at that place.
    """
    for override in overrides:
        _override(values, override)


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ClzooError(f"--set {override!r}: expected section.key=value, for example --set schedule.epochs=10")
    *sections, last = key.split(".")
    table: Any = values
    for section in sections:
        table = _entry(table, section, override)
    if isinstance(table, list):
        _entry(table, last, override)  # refuses what is no position
        table[int(last)] = yaml.load(text, Loader=Yaml)
    elif isinstance(table, dict):
        table[last] = yaml.load(text, Loader=Yaml)
    else:
        raise ClzooError(f"--set {override!r}: {'.'.join(sections)} is no table of the recipe.")


def _entry(table: Any, key: str, override: str) -> Any:
    """What lies under a key of a table, or at a position of a list (views.0.size)."""
    if isinstance(table, list):
        if not key.isdigit() or int(key) >= len(table):
            raise ClzooError(f"--set {override!r}: {key!r} is no position of a list of {len(table)}; count from 0.")
        return table[int(key)]
    if not isinstance(table, dict):
        raise ClzooError(f"--set {override!r}: nothing lies under {key!r}.")
    return table.setdefault(key, {})
