"""Checkpoints of a run: written atomically, with a checksum, the last two kept."""

from __future__ import annotations

import logging
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from clzoo.errors import ClzooError
from clzoo.files import atomic_path, read_json, sha256_of, write_json
from clzoo.temporary import sweep
from clzoo.wording import clzoo_command, first_line

log = logging.getLogger("clzoo")

KEEP = 2

_NAME = re.compile(r"checkpoint-\d{8,}")


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write `checkpoint-<step>.pt`, then the `.json` with its checksum that makes it count; drop older ones."""
    path = folder / f"checkpoint-{step:08d}.pt"
    try:
        with atomic_path(path) as temporary:
            torch.save(state, temporary)
        write_json(path.with_suffix(".json"), {"step": step, "sha256": sha256_of(path)})
    except (OSError, RuntimeError) as error:  # torch wraps a short write into a RuntimeError
        path.unlink(missing_ok=True)
        raise ClzooError(
            f"the checkpoint of step {step} cannot be written to {folder}: {error}. The one before is whole: make room "
            "on the disk and run the same command again."
        ) from error
    for old in _records(folder)[:-KEEP]:
        old.unlink()
    delete_uncounted(folder)


def delete_uncounted(folder: Path) -> None:
    """Delete the checkpoints without a record (older ones, those that a kill cut off), and half-written files."""
    counted = {record.with_suffix(".pt") for record in _records(folder)}
    for path in folder.glob("checkpoint-*.pt"):
        if _NAME.fullmatch(path.stem) and path not in counted:
            path.unlink()
    sweep(folder)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """State of the newest whole checkpoint, or None where there is none. A damaged one is named and passed over.

    Raises:
        ClzooError: there are checkpoints, but none is whole.
    """
    records = _records(folder)
    for record in reversed(records):
        path = record.with_suffix(".pt")
        if path.is_file() and sha256_of(path) == _recorded(record):
            try:
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
                return state
            except (pickle.UnpicklingError, RuntimeError) as error:
                log.warning("%s cannot be read (%s)", path, error)
                continue
        log.warning("%s is damaged (%s has another checksum, or none); trying the one before", path, record.name)
    if records:
        raise ClzooError(f"{folder} has {len(records)} checkpoints and none is whole. Start anew with another --out.")
    return None


def load_checkpoint_file(path: Path) -> dict[str, Any]:
    """State of one checkpoint, compared with the checksum beside it where that lies there.

    Raises:
        ClzooError: it is damaged, or no checkpoint of a run.
    """
    record = path.with_suffix(".json")
    if record.is_file() and sha256_of(path) != _recorded(record):
        raise ClzooError(f"{path} is damaged: its checksum differs from {record.name}. Take another checkpoint.")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ClzooError(f"{path} cannot be read ({first_line(error)}). Take another checkpoint.") from error
    if not isinstance(state, dict) or not isinstance(state.get("method"), dict):
        raise ClzooError(
            f"{path} is no checkpoint of a clzoo run. Type: "
            f"{clzoo_command('convert', path, '--arch', 'ARCHITECTURE', '--out', 'DIR')}"
        )
    return state


def has_checkpoint(folder: Path) -> bool:
    """Whether any checkpoint of a folder counts, damaged or not."""
    return bool(_records(folder))


def _recorded(record: Path) -> str | None:
    """The checksum in a record; None if it is damaged."""
    try:
        found = read_json(record)
    except ClzooError:
        return None
    return found.get("sha256") if isinstance(found, dict) else None


def _records(folder: Path) -> list[Path]:
    """Sorted by step."""
    return sorted(path for path in folder.glob("checkpoint-*.json") if _NAME.fullmatch(path.stem))
