"""Files from the Hugging Face Hub, with every failure turned into an error that says what to do."""

from __future__ import annotations

import errno
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of httpx, under whichever name this version of the client ships it
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import tqdm

import clzoo
from clzoo.config import Source
from clzoo.errors import ClzooError
from clzoo.files import sha256_of
from clzoo.wording import type_and_first_line

log = logging.getLogger("clzoo")

_FAILURES = (OSError, HTTPError, HFValidationError, EntryNotFoundError, RuntimeError)  # RuntimeError: Xet's
_SHA256 = re.compile("[0-9a-f]{64}")


class _NoBar(tqdm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


@dataclass(frozen=True)
class Published:
    """A published file that was fetched and checked."""

    path: Path
    commit: str
    sha256: str
    pinned: bool  # whether the hash is the entry's own; otherwise it is what the Hub states for its file


def fetch_source(source: Source, *, revision: str | None, hub_cache: Path | None, offline: bool) -> Published:
    """Fetch a zoo entry's published file, or find it in the Hugging Face cache, and check it.

    At the pinned revision the file must have the recorded SHA-256. Where none is recorded, or another revision is
    asked for, the commit is the one the Hub resolves and the SHA-256 the one the Hub itself states (its LFS oid).

    Args:
        source: of the entry.
        revision: asked for by the user; None is the entry's own.
        hub_cache: folder of the Hugging Face cache; None is its default.
        offline: use no network.

    Raises:
        ClzooError: not there, no network, cut, or another size or hash than recorded.
    """
    pinned = source.sha256 is not None and revision in (None, source.revision)
    wanted = revision or source.revision or "main"
    stated: str | None = None
    commit = wanted
    if not pinned and not is_offline(offline):
        commit, stated = _ask_hub(source, wanted, hub_cache)
    path = fetch_file(source.repo, source.file, commit, hub_cache=hub_cache, offline=offline)
    if not pinned and stated is None:  # offline: the cache names its blobs by the hash that the Hub stated
        stated = path.resolve().name
        if not _SHA256.fullmatch(stated):
            raise ClzooError(
                f"{path}: nothing here records the SHA-256 that the Hub states for it, so it cannot be checked "
                "offline. Load it once with a network."
            )
    expected = source.sha256 if pinned else stated
    assert expected is not None
    _check(path, expected, source.size if pinned else None, source.repo, hub_cache)
    return Published(path, commit_of(path, source.file), expected, pinned)


def fetch_file(repo: str, file: str, revision: str | None, *, hub_cache: Path | None, offline: bool) -> Path:
    """One file of a Hub repository, from the Hugging Face cache or the network.

    Raises:
        ClzooError: see the module.
    """
    offline = is_offline(offline)
    try:
        path = hf_hub_download(
            repo,
            file,
            revision=revision,
            cache_dir=hub_cache,
            local_files_only=offline,
            tqdm_class=_NoBar if log.level > logging.INFO else None,  # --quiet; the client draws bars on terminals only
            library_name="clzoo",
            library_version=clzoo.__version__,
        )
    except _FAILURES as error:
        raise _explain(error, repo, file, revision, hub_cache, offline) from error
    return Path(path)


def has_file(repo: str, file: str, revision: str) -> bool:
    """Whether the Hub has a file in a repository; False too where that cannot be found out."""
    try:
        get_hf_file_metadata(hf_hub_url(repo, file, revision=revision), library_name="clzoo")
    except _FAILURES:
        return False
    return True


def commit_of(path: Path, file: str) -> str:
    """The commit that a path in the Hugging Face cache belongs to: .../snapshots/COMMIT/FILE."""
    return path.parents[len(Path(file).parts) - 1].name


def is_offline(offline: bool) -> bool:
    """Whether the network must not be used: asked for, or HF_HUB_OFFLINE=1."""
    return offline or constants.HF_HUB_OFFLINE


def _ask_hub(source: Source, revision: str, hub_cache: Path | None) -> tuple[str, str]:
    """(commit, SHA-256) that the Hub states for a file."""
    try:
        url = hf_hub_url(source.repo, source.file, revision=revision)
        metadata = get_hf_file_metadata(url, library_name="clzoo", library_version=clzoo.__version__)
    except _FAILURES as error:
        raise _explain(error, source.repo, source.file, revision, hub_cache, offline=False) from error
    if metadata.commit_hash is None or not _SHA256.fullmatch(metadata.etag or ""):
        raise ClzooError(
            f"the Hub states no commit or no SHA-256 for {source.file} of {source.repo} "
            f"(commit {metadata.commit_hash}, etag {metadata.etag}), so the file cannot be checked and is not used."
        )
    assert metadata.etag is not None
    return metadata.commit_hash, metadata.etag


def _check(path: Path, sha256: str, size: int | None, repo: str, hub_cache: Path | None) -> None:
    where = f" --cache-dir {hub_cache}" if hub_cache else ""
    again = f"Type: hf cache rm model/{repo}{where}; then the same command again."
    found_size = path.stat().st_size
    if size is not None and found_size != size:
        raise ClzooError(
            f"{path} has {found_size:,} bytes, expected {size:,}: it is truncated or not that file. {again}"
        )
    found = sha256_of(path)
    if found != sha256:
        raise ClzooError(f"{path} has SHA-256 {found}, expected {sha256}: it is damaged or not that file. {again}")


def _explain(
    error: Exception, repo: str, file: str, revision: str | None, hub_cache: Path | None, offline: bool
) -> ClzooError:
    at = f"{repo} at revision {revision or 'main'}"
    cache = Path(hub_cache or constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    into = f" --cache-dir {hub_cache}" if hub_cache else ""
    prepare = f"hf download {repo} {file} --revision {revision or 'main'}{into}"
    if isinstance(error, LocalEntryNotFoundError):
        why = (
            "and the network may not be used (offline=True or HF_HUB_OFFLINE=1). Where there is one, type"
            if offline
            else f"and {constants.ENDPOINT} cannot be reached. Check the network; or, on a machine that has one, type"
        )
        return ClzooError(f"{file} of {at} was looked for in {cache} and is not there, {why}: {prepare}")
    if isinstance(error, GatedRepoError):
        return ClzooError(f"{repo} is gated. Ask for access at {constants.ENDPOINT}/{repo}, then type: hf auth login")
    if isinstance(error, RepositoryNotFoundError):
        return ClzooError(
            f"{constants.ENDPOINT} has no repository {repo}, or it is private. Check the name, or type: hf auth login"
        )
    if isinstance(error, RevisionNotFoundError):
        return ClzooError(f"{repo} has no revision {revision!r}. Look at {constants.ENDPOINT}/{repo}/commits/main")
    if isinstance(error, EntryNotFoundError):
        return ClzooError(f"{at} has no file {file}. Look at {constants.ENDPOINT}/{repo}/tree/{revision or 'main'}")
    if isinstance(error, HFValidationError):
        return ClzooError(f"{repo!r} is not the name of a Hub repository; expected ORG/NAME.")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM):
        return ClzooError(
            f"{file} of {at} cannot be kept in {cache}: {error}. Free the place, or set another cache_dir."
        )
    if isinstance(error, HfHubHTTPError) and error.response is not None and error.response.status_code == 401:
        return ClzooError(f"{constants.ENDPOINT} refuses your token for {repo}. Type: hf auth login")
    return ClzooError(
        f"{file} of {at} could not be fetched from {constants.ENDPOINT}: {type_and_first_line(error)}. "
        f"Nothing half-fetched is used. Type the same command again; or: {prepare}. Where {cache} has it already, "
        "put HF_HUB_OFFLINE=1 before the command"
    )
