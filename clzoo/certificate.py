"""The certificate of leaks: written by `clzoo curate leaks`, read by `clzoo evaluate --leaks`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clzoo.errors import ClzooError
from clzoo.files import LONGEST_JSON, parse_json, read_bytes
from clzoo.wording import clzoo_command

FORMAT, VERSION = "clzoo-leaks", 1


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """The content with what tells it from any other, and with its own hash."""
    content = {"format": FORMAT, "version": VERSION, **content}
    return {**content, "sha256": _sha256_of(content)}


def read_certificate(path: str | Path) -> dict[str, Any]:
    """The content of a certificate.

    Raises:
        ClzooError: no certificate, one of a newer clzoo, or one that was changed after it was written.
    """
    make = clzoo_command("curate", "leaks", "TRAIN", "TEST", "--out", path)
    content = read_bytes(Path(path), LONGEST_JSON)
    found = parse_json(content, str(path), f"Make one: {make}")
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ClzooError(f"{path} is no certificate of leaks. Make one: {make}")
    if found.get("version") != VERSION:
        raise ClzooError(
            f"{path} is of version {found.get('version')!r}, this clzoo reads {VERSION}. Type: pip install --upgrade "
            f"clzoo; or make it again: {make}"
        )
    inside = {key: value for key, value in found.items() if key != "sha256"}
    if found.get("sha256") != _sha256_of(inside):
        raise ClzooError(
            f"{path} was changed after it was written: its content has another hash than it says. Make it again: {make}"
        )
    if not _is_whole(inside):
        raise ClzooError(
            f"{path} lacks what a certificate of leaks says of its stores and images. Make it again: {make}"
        )
    return inside


def _is_whole(content: dict[str, Any]) -> bool:
    """Whether everything is there that readers look at, in its type; its hash says nothing of that."""
    stores = [content.get(name) for name in ("train", "test")]
    leaks = content.get("leaks")
    return (
        all(isinstance(content.get(name), str) for name in ("model", "weights_sha256"))
        and isinstance(content.get("threshold"), int | float)
        and all(
            isinstance(store, dict)
            and all(isinstance(store.get(key), str) for key in ("store", "source", "sha256", "files_sha256"))
            and isinstance(store.get("images"), int)
            for store in stores
        )
        and isinstance(leaks, list)
        and all(
            isinstance(leak, dict)
            and all(isinstance(leak.get(key), str) for key in ("test", "train"))
            and isinstance(leak.get("test_sha256"), str | None)
            for leak in leaks
        )
    )


def hash_of_set(sha256: Iterable[str]) -> str:
    """One hash of the hashes of many files, whatever their order."""
    return hashlib.sha256("\n".join(sorted(sha256)).encode()).hexdigest()


def _sha256_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
