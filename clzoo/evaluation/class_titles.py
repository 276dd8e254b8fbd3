"""What people call classes that data sets call by WordNet ids: n01443537 is a goldfish."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

_WORDNET = re.compile(r"n\d{8}")
_SHIPPED = Path(__file__).parent / "taxonomies" / "tiny.csv"
_WORDS = "words.txt"  # as ImageNet and Tiny-ImageNet carry it: id, tab, names


def class_titles(classes: Sequence[str], origin: str | Path) -> dict[str, str]:
    """Titles of the WordNet ids among the classes, where they are known; {} where there are none.

    From words.txt in the split's folder or the one above it, else from the shipped Tiny-ImageNet list. Of several names
    the first stands, with the id behind it where two classes have the same.
    """
    ids = [name for name in classes if _WORDNET.fullmatch(name)]
    if not ids:
        return {}
    known = {**_shipped(), **_read_words(Path(origin))}
    titles = {name: known[name] for name in ids if name in known}
    often = Counter(titles.values())
    return {name: title if often[title] == 1 else f"{title} ({name})" for name, title in titles.items()}


@cache
def _shipped() -> dict[str, str]:
    lines = [line for line in _SHIPPED.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return {
        row["class"]: row["name"].replace("_", " ") for row in csv.DictReader(lines) if _WORDNET.match(row["class"])
    }


def _read_words(split: Path) -> dict[str, str]:
    for folder in (split, split.parent):
        try:
            text = (folder / _WORDS).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        lines = [line.split("\t", 1) for line in text.splitlines() if "\t" in line]
        return {name: names.split(",")[0].strip() for name, names in lines}
    return {}
