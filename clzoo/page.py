"""Pages and cards from `clzoo/templates`. A page is one file: no script, nothing fetched, light and dark, any width."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).resolve().parent / "templates"


def render(template: str, **values: Any) -> str:
    """A template filled in. In `.html` every value is escaped; one that a template lacks is an error."""
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

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["html", "svg"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


_STYLE = """
:root { color-scheme: light dark; --page: #f5f5f3; --ink: #1d1d1f; --soft: #6d6d72; --line: #e3e3df;
  --accent: #2f6fde; }
@media (prefers-color-scheme: dark) { :root { --page: #151517; --ink: #ececee; --soft: #9b9ba3;
  --line: #34343a; --accent: #7aa7ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1280px; padding: 2.5rem clamp(1rem, 4vw, 3rem) 4rem; background: var(--page);
  color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.7rem; font-weight: 650; letter-spacing: -.02em; }
header p { margin: .35rem 0 2.25rem; color: var(--soft); }
"""

# The policy forbids every request and every script, whatever a file name or a label smuggles into the page.
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1><p>{facts}</p></header>
"""

TAIL = "</body>\n</html>\n"


def head(title: str, facts: list[str], style: str) -> str:
    """Everything before the page's own content; `style` is its own CSS. Title and facts are plain text."""
    return _HEAD.format(title=escape(title), style=_STYLE + style, facts=" &middot; ".join(map(escape, facts)))
