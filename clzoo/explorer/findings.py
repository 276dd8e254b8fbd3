"""What the jobs of `clzoo.curation` say of each image: flags to filter by, and scores to sort by."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clzoo.certificate import read_certificate
from clzoo.curation.duplicates import find_duplicates
from clzoo.curation.labels import find_label_errors
from clzoo.curation.leaks import content_sha256
from clzoo.curation.outliers import NEIGHBOR
from clzoo.embed.store import Store
from clzoo.errors import ClzooError
from clzoo.explorer.graph import Graph
from clzoo.wording import clzoo_command

if TYPE_CHECKING:
    from clzoo.encoder import Encoder

log = logging.getLogger("clzoo")

FLAGS = ("duplicates", "labels", "outliers")

_OUTLIERS = 0.01  # share of the images that are flagged, the farthest


@dataclass(frozen=True, eq=False)
class Flag:
    """Images that a job has marked: `rows` (n,) of the store, and what it means in a sentence."""

    name: str
    meaning: str
    rows: np.ndarray


@dataclass(frozen=True, eq=False)
class Score:
    """A number for each image, float32 (rows of the store,), NaN where there is none."""

    name: str
    meaning: str
    values: np.ndarray


@dataclass(frozen=True)
class Findings:
    """What was found, and in `notes` what could not be looked for, with the reason."""

    flags: list[Flag]
    scores: list[Score]
    notes: list[str]


def check_flags(wanted: Sequence[str]) -> None:
    """Raise ClzooError where one is none of FLAGS."""
    if unknown := [name for name in wanted if name not in FLAGS]:
        raise ClzooError(
            f"there are no flags {', '.join(unknown)}; expected some of {', '.join(FLAGS)} (or in the command: none)."
        )


def find_all(
    store: Store,
    rows: np.ndarray,
    graph: Graph,
    *,
    wanted: Sequence[str] = FLAGS,
    leaks: Flag | None = None,
    encoder: Encoder | str | Path | None = None,
) -> Findings:
    """Run the jobs on a store.

    A job that cannot be done here (a class of one image, pictures that are not there, a model that has moved) is noted
    and warned about, and the others go on. Of a store without labels none is looked at.

    Args:
        rows: those of the map, with their `graph`: outliers are told among them.
        wanted: of FLAGS, as `check_flags` wants them.
        leaks: what `leaks_of` found.
    """
    found = Findings([] if leaks is None else [leaks], [], [])
    jobs = {"duplicates": _duplicates, "labels": _label_errors}
    for name, job in jobs.items():
        if name in wanted and len(store):
            try:
                job(store, found, encoder)
            except ClzooError as error:
                found.notes.append(f"Not looked for: {name}. {error}")
                log.warning("%s are not looked for: %s", name, error)
    if "outliers" in wanted and graph.k:
        _outliers(store, rows, graph, found)
    return found


def _duplicates(store: Store, found: Findings, encoder: Encoder | str | Path | None) -> None:
    duplicates = find_duplicates(store, encoder=encoder)
    members = [member.row for group in duplicates.groups for member in group]
    found.flags.append(Flag("duplicate", duplicates.summary()[0], np.array(members, np.int64)))


def _label_errors(store: Store, found: Findings, _: Encoder | str | Path | None) -> None:
    if not any(store.labels):
        return  # nothing that could be wrong
    errors = find_label_errors(store)
    quality = np.full(len(store), np.nan, np.float32)
    for error in errors.ranked:
        quality[error.row] = error.score
    meaning = f"the probability that the other images give to the label ({errors.method}, out of fold)"
    found.scores.append(Score("label quality", meaning, quality))
    rows = np.array([error.row for error in errors.errors], np.int64)
    found.flags.append(Flag("probable label error", errors.summary(shown=0)[0], rows))


def _outliers(store: Store, rows: np.ndarray, graph: Graph, found: Findings) -> None:
    k = min(NEIGHBOR, graph.k)
    distances = np.sqrt((2 - 2 * graph.similarity[:, k - 1].astype(np.float64)).clip(min=0))
    values = np.full(len(store), np.nan, np.float32)
    values[rows] = distances
    meaning = f"the distance to neighbor {k} (0 to 2)"
    found.scores.append(Score("outlier distance", meaning, values))
    count = int(np.ceil(_OUTLIERS * len(rows)))
    farthest = rows[np.argsort(-distances, kind="stable")[:count]]
    found.flags.append(Flag("outlier", f"The 1 % with the largest outlier distance: {count:,}.", farthest))


def leaks_of(store: Store, path: str | Path) -> Flag:
    """The images of a store that a certificate names.

    Raises:
        ClzooError: no certificate, or one of other stores.
    """
    certificate = read_certificate(path)
    own = content_sha256(store)
    role = next((role for role in ("test", "train") if certificate[role]["sha256"] == own), None)
    again = f"Make one: {clzoo_command('curate', 'leaks', 'TRAIN', store.path, '--out', path)}"
    if role is None:
        raise ClzooError(
            f"{path} is of {certificate['train']['store']} and {certificate['test']['store']}, and {store.path} is "
            f"neither, or has changed. {again}"
        )
    row_of = {name: row for row, name in enumerate(store.paths)}
    named = {leak[role] for leak in certificate["leaks"]}
    if unknown := sorted(named - row_of.keys()):
        raise ClzooError(
            f"{path} names {len(unknown)} images that are not in {store.path}, of whose content it is: clzoo did not "
            f"write it. {again}",
            unknown,
        )
    rows = sorted(row_of[name] for name in named)
    other = certificate["train" if role == "test" else "test"]["store"]
    return Flag("leak", f"Images that are in {Path(other).name} too.", np.array(rows, np.int64))
