"""Pages and cards from `clzoo/templates`. A page is one file: no script, nothing fetched, light and dark, any width."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).resolve().parent / "templates"


def render(template: str, **values: Any) -> str:
    """A template filled in. In `.html` every value is escaped; one that is missing is an error."""
    return _environment().get_template(template).render(values)


def stream(template: str, **values: Any) -> Iterator[str]:
    """`render` part by part, for pages of many pictures; values may be iterators."""
    return _environment().get_template(template).generate(values)


def data_uri(content: bytes, kind: str) -> str:
    """Bytes of an image as what an `img` shows; `kind` is "png" or "jpeg"."""
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _table_cell
    return environment


def _table_cell(text: object) -> str:
    """As a cell of a Markdown table."""
    return re.sub(r"\s*\n\s*", " ", str(text)).replace("|", r"\|")
