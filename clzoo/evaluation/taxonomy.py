"""Which classes belong together, from a file: superclasses that class relations are scored against.

A taxonomy is a mapping from a name to its parent's. Parents may have parents: then the names that are nobody's parent
are the classes, and two classes share as many groups as they have ancestors in common.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from clzoo.errors import ClzooError
from clzoo.files import read_bytes

_LONGEST = 16 << 20  # bytes of a file: far more than WordNet's
_HIGHEST = 100  # ancestors of a class
_FOLDER = Path(__file__).parent / "taxonomies"

SHIPPED = tuple(sorted(path.stem for path in _FOLDER.glob("*.csv")))
"""Names that `read_taxonomy` knows: cifar10, cifar100, tiny (Tiny-ImageNet); each file states its source."""


def read_taxonomy(name_or_path: str | Path) -> dict[str, str]:
    """Name -> parent, of a shipped taxonomy or of a CSV file with the columns `class` and `parent`.

    Lines that start with # are comments; other columns are passed over.

    Raises:
        ClzooError: no such file or name, a column or value is missing, a name twice, or a name above itself.
    """
    shipped = str(name_or_path) in SHIPPED
    path = _FOLDER / f"{name_or_path}.csv" if shipped else Path(name_or_path)
    if not path.is_file():
        raise ClzooError(
            f"there is no taxonomy {str(name_or_path)!r}. Name one of {', '.join(SHIPPED)}, "
            "or a CSV file that begins with the line class,parent."
        )
    try:
        lines = read_bytes(path, _LONGEST).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ClzooError(f"{path} is not readable as text: {error}. Expected a CSV file with class,parent.") from error
    try:
        table = list(csv.reader(line for line in lines if line.strip() and not line.lstrip().startswith("#")))
    except csv.Error as error:  # a NUL, or a value of over 131,072 characters
        raise ClzooError(f"{path} is not a CSV file: {error}. Expected lines NAME,PARENT.") from error
    header = [column.strip() for column in table[0]] if table else []
    if not {"class", "parent"} <= set(header):
        found = ",".join(header) or "nothing"
        raise ClzooError(f"{path} begins with {found!r}; expected a header with the columns class,parent.")
    columns = header.index("class"), header.index("parent")
    taxonomy: dict[str, str] = {}
    for row in table[1:]:
        name, parent = (row[column].strip() if column < len(row) else "" for column in columns)
        if not (name and parent):
            raise ClzooError(f"{path}: the line {name + ',' + parent!r} lacks a value; expected NAME,PARENT.")
        if name in taxonomy:
            raise ClzooError(f"{path} lists {name!r} twice, under {taxonomy[name]!r} and {parent!r}; expected once.")
        taxonomy[name] = parent
    if not taxonomy:
        raise ClzooError(f"{path} lists no class; expected lines NAME,PARENT below the header.")
    for name in taxonomy:
        ancestors(name, taxonomy, origin=str(path))
    return taxonomy


def ancestors(name: str, taxonomy: dict[str, str], *, origin: str = "the taxonomy") -> tuple[str, ...]:
    """Parent, grandparent, ... of a name; ends at one without a parent.

    Raises:
        ClzooError: the name is above itself, or has more than 100 ancestors.
    """
    found: dict[str, None] = {}  # in order
    while name in taxonomy:
        name = taxonomy[name]
        if name in found:
            raise ClzooError(f"{origin}: {name!r} stands above itself; expected parents that end at a topmost one.")
        if len(found) == _HIGHEST:
            raise ClzooError(f"{origin}: {name!r} has over {_HIGHEST} levels below it; expected at most {_HIGHEST}.")
        found[name] = None
    return tuple(found)


def find_taxonomy(classes: Sequence[str]) -> str | None:
    """The shipped taxonomy whose classes are exactly these, in any order; None if there is none."""
    return next((name for name in SHIPPED if _classes_of(name) == set(classes)), None)


@cache
def _classes_of(name: str) -> frozenset[str]:
    taxonomy = read_taxonomy(name)
    return frozenset(taxonomy) - frozenset(taxonomy.values())
