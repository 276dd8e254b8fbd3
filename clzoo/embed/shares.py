"""One share of a source for each of several runs: `--share I/N`, and the ranks of torchrun.

An image belongs to share (id modulo N) + 1; its id is a hash of its path. So the shares are disjoint, about equal, the
same on every machine, and an image keeps its share when others are added or deleted.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clzoo.data.listing import Listing, item_ids
from clzoo.errors import ClzooError


class Share(NamedTuple):
    """Share `number` of `total`; numbers begin with 1."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    def folder(self, out: Path) -> Path:
        """Where the share of the store `out` lies: beside it, named OUT-shard-I-of-N.

        Always, even where the user names OUT: one folder for several shares would be emptied by each of them in turn.
        """
        out = with_own_name(out)
        return out.with_name(f"{out.name}-shard-{self.number}-of-{self.total}")

    def owns(self, path: str) -> bool:
        """Whether the image at this path belongs to the share."""
        return bool(item_ids([path])[0] % self.total == self.number - 1)

    def of(self, listing: Listing) -> Listing:
        """This share of the images and of the failures."""
        mine = np.flatnonzero(listing.ids % self.total == self.number - 1)
        return replace(
            listing,
            items=[listing.items[position] for position in mine],
            failures=[failure for failure in listing.failures if self.owns(failure.path)],
            ids=listing.ids[mine],
            metadata=None if listing.metadata is None else listing.metadata.take(mine),
        )


def with_own_name(folder: Path) -> Path:
    """The folder by a path that ends in its name, as `.` does not."""
    return folder.resolve() if folder.name in ("", "..") else folder


def folder_of_whole(share: Path) -> Path:
    """Where the whole store lies of which `share` is the folder of one (`Share.folder`); itself of any other."""
    folder = with_own_name(share)
    return folder.with_name(re.sub(r"-shard-\d+-of-\d+$", "", folder.name))


def parse_share(text: str) -> Share:
    """The value of `--share`: "1/4" is the first of four shares, "4/4" the last.

    Raises:
        ClzooError: something else.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ClzooError(f"share {text!r}: expected I/N with I from 1 to N, such as 1/4 (the first) or 4/4 (the last).")
    return Share(int(match[1]), int(match[2]))


def launched_processes() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this process speaks for all that torchrun started."""
    return int(os.environ.get("RANK", "0")) == 0
