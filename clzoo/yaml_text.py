"""YAML that people write: recipes and the values of `--set`. The one loader of the package, and its bounds.

A recipe is a few kilobytes, nested a few levels deep. An alias can make a text of one kilobyte a value of gigabytes,
so there are none: a value is written where it belongs.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from clzoo.errors import ClzooError

LONGEST = 1 << 16
"""Bytes of a recipe; PyYAML takes about two seconds for so many."""

DEEPEST = 20
"""Levels of tables and lists inside each other."""


class Yaml(yaml.SafeLoader):
    """Safe, without aliases, with an end to depth, each key once; 1e-4 is a number (YAML 1.1 takes it for a word)."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refusal(f"the alias *{event.anchor}: aliases are not read, write the value out", event.start_mark)
        if self._depth >= DEEPEST:
            raise _refusal(f"more than {DEEPEST} levels inside each other", event.start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.value in names if isinstance(key, yaml.ScalarNode) else False:
                raise _refusal(f"the key {key.value!r} for the second time", key.start_mark)
            names.update([key.value] if isinstance(key, yaml.ScalarNode) else ())
        return super().construct_mapping(node, deep=deep)


Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text; `where` is named in errors.

    Raises:
        ClzooError: too long or too deep, an alias, a key twice, a tag that wants more than data, or no YAML.
    """
    if len(text) > LONGEST:
        raise ClzooError(f"{where} has {len(text):,} characters; expected YAML of at most {LONGEST:,}.")
    try:
        return yaml.load(text, Loader=Yaml)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        raise ClzooError(f"{where} is not valid YAML: {error.problem}{place}.") from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        # PyYAML's own failures at `!!int x`, `!!bool x`, `!!timestamp x` or the date 2026-02-31.
        raise ClzooError(f"{where} is not valid YAML: {type(error).__name__}: {error}.") from error


def _refusal(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
