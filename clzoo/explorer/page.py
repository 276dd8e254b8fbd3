"""The page of the explorer: one template, a script that its policy allows by hash, and a collection or a server."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from clzoo.curation.pictures import Pictures
from clzoo.embed.store import Store
from clzoo.errors import ClzooError
from clzoo.explorer.payload import payload
from clzoo.explorer.thumbnails import Sheets, make_sheets
from clzoo.files import output_path
from clzoo.page import stream
from clzoo.wording import clzoo_command

if TYPE_CHECKING:
    from clzoo.explorer.exploring import Exploration

log = logging.getLogger("clzoo")

MOST_IMAGES = 20_000
"""Of a page that is one file."""

MOST_BYTES = 60_000_000
"""Of such a file."""

WEB = Path(__file__).parent / "web"
"""What `make web` builds from `web/`."""


def write_page(view: Exploration, path: Path) -> Path:
    """Write the page as one file, atomically, and say its size."""
    require_few(view.store, len(view), path)
    rest = len(payload(view)) + sum(len(part) for part in document(None, None))
    sheets = make_sheets(
        Pictures(view.store),
        view.seen[0].rows,
        view.seen[0].places,
        lambda size: rest + 200 * len(view) + size * 4 // 3 <= MOST_BYTES,  # what the JSON says of each picture's place
    )
    if sheets is None:
        raise ClzooError(
            f"the page of {view.store.path} would be larger than {MOST_BYTES // 10**6} MB. Take fewer images: "
            f"{clzoo_command('explore', view.store.path, '--sample', len(view) // 2, '--html', path)}"
        )
    with (
        output_path(path) as temporary,
        # A name that is not valid Unicode is shown with its bytes spelt out.
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
    ):
        file.writelines(document(payload(view, sheets=sheets), sheets))
    log.info("%s: %.1f MB, with %d pictures", path, path.stat().st_size / 1e6, len(view) - len(sheets.missing))
    return path


def require_few(store: Store, count: int, path: Path) -> None:
    """Raise ClzooError where so many images of a store do not fit into one file."""
    if count > MOST_IMAGES:
        raise ClzooError(
            f"{store.path} has {count:,} images; one file holds {MOST_IMAGES:,}. Take a sample: "
            f"{clzoo_command('explore', store.path, '--sample', MOST_IMAGES, '--html', path)}; or look at all: "
            f"{clzoo_command('explore', store.path)}"
        )


def document(collection: str | None, sheets: Sheets | None) -> Iterator[str]:
    """The HTML; without a collection the page asks its server for one."""
    script, style = (built(f"explorer.{kind}") for kind in ("js", "css"))
    return stream(
        "explorer.html",
        policy=policy(script, style, server=collection is None),
        script=script,
        style=style,
        collection=collection,
        sheets=(base64.b64encode(sheet).decode() for sheet in (sheets.content if sheets else ())),
    )


def built(name: str) -> str:
    """A built file of the front end."""
    return (WEB / name).read_text(encoding="utf-8")


def policy(script: str, style: str, *, server: bool) -> str:
    """The Content-Security-Policy: this script and this style by their hashes, and no request but to the own server."""
    asked = "; connect-src 'self'" if server else ""
    return (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data: blob:{asked}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
