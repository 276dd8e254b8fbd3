"""`--set section.key=value`: YAML values put into a table of settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clzoo.errors import ClzooError
from clzoo.wording import shown
from clzoo.yaml_text import DEEPEST, parse_yaml


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Change `values` in place; an override is "section.key=value", its value written as YAML.

    Raises:
        ClzooError: not of that form, or nothing lies at that place.
    """
    for override in overrides:
        _override(values, override)


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *sections, last = key.split(".")
    if not equals or not key or len(sections) >= DEEPEST:
        raise ClzooError(f"--set {shown(override)}: expected section.key=value, for example --set schedule.epochs=10")
    value = parse_yaml(text, f"--set {shown(key)}")
    table: Any = values
    for section in sections:
        table = _entry(table, section, override)
    if isinstance(table, list):
        _entry(table, last, override)  # refuses what is no position
        table[int(last)] = value
    elif isinstance(table, dict):
        table[last] = value
    else:
        raise ClzooError(f"--set {shown(override)}: {'.'.join(sections)} is no table of the recipe.")


def _entry(table: Any, key: str, override: str) -> Any:
    """What lies under a key of a table, or at a position of a list (views.0.size)."""
    if isinstance(table, list):
        if not key.isdecimal() or len(key) > 9 or int(key) >= len(table):
            raise ClzooError(
                f"--set {shown(override)}: {shown(key)} is no position of a list of {len(table)}; count from 0."
            )
        return table[int(key)]
    if not isinstance(table, dict):
        raise ClzooError(f"--set {shown(override)}: nothing lies under {shown(key)}.")
    return table.setdefault(key, {})
