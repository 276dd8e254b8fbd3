"""Images inside shards: which members of an archive are images, and under which paths."""

from __future__ import annotations

import posixpath
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import PurePosixPath

from clzoo.data.archives import Member, reason_of
from clzoo.data.listing import HIDDEN, REPLACED, Failure, Item, Listing, add_unreachable, is_hidden, is_image, printable


def add_members(listing: Listing, shard: Item, members: Iterable[Member]) -> None:
    """Add the image members of a shard; of members with one name the last counts, as tar unpacks them.

    Args:
        shard: the shard's path, size, mtime_ns and file; its members become items of the same class.
        members: as `read_headers` or `read_zip_members` gives them; the error that they may end with becomes a failure
            of the shard. What lies behind it nobody knows: it could not be reached.
    """
    images: dict[str, Item] = {}
    try:
        for member in members:
            _add_member(listing, images, member, shard)
    except tarfile.TarError as error:
        add_unreachable(listing, shard.path, reason_of(str(error), shard.path), shard.size, shard.mtime_ns)
    except zipfile.BadZipFile as error:
        add_unreachable(listing, shard.path, f"damaged zip archive: {error}", shard.size, shard.mtime_ns)
    finally:  # where the disk fails midway too
        listing.items.extend(images.values())


def _add_member(listing: Listing, images: dict[str, Item], member: Member, shard: Item) -> None:
    if member.kind == "folder":
        return
    inside = posixpath.normpath(member.name).lstrip("/")  # as tar unpacks it
    if any(map(is_hidden, inside.split("/"))):
        listing.ignored[HIDDEN] += 1
        return
    path = f"{shard.path}/{inside}"
    item = shard._replace(path=path, size=member.size, offset=member.offset, how=member.how)
    if not is_image(member.name):
        listing.ignored[printable(PurePosixPath(inside).suffix.lower()) or "no suffix"] += 1
        if inside.lower().endswith(".cls") and member.kind == "file":
            listing.class_files.append(item)
    elif member.kind != "file":
        reason = "not a regular member of the shard" if member.kind == "other" else member.kind
        listing.failures.append(Failure(printable(path), None, shard.mtime_ns, reason))
    elif printable(path) != path:
        reason = "the member's name is not UTF-8; rename it"
        listing.failures.append(Failure(printable(path), None, shard.mtime_ns, reason))
    else:
        listing.ignored.update([REPLACED] if path in images else [])
        images[path] = item
