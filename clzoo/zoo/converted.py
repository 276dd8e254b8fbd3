"""What was converted on this machine: one folder per model, moved into place whole.

<cache>/models/<key>/    model.safetensors, provenance.json, pretrain.safetensors where there is one,
                         config.json of a model that is no zoo entry (clzoo.zoo.timm_models)
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clzoo.cache import MODELS, root
from clzoo.config import ModelConfig, Source
from clzoo.errors import ClzooError
from clzoo.files import atomic_path, filled_folder, read_json, sha256_of, write_json
from clzoo.temporary import TEMPORARY, sweep, temporary_folder
from clzoo.wording import clzoo_command

if TYPE_CHECKING:
    import torch

_SHOWN, _HASH = 40, 32  # characters of a revision (a whole commit), and of the hash behind it


@dataclass(frozen=True)
class Provenance:
    """Where a converted model came from; `provenance.json`."""

    name: str
    repo: str
    file: str
    revision: str  # commit
    sha256: str  # of the published file
    pinned: bool  # whether the zoo entry records that hash; otherwise it is what the Hub stated
    weights_sha256: str  # clzoo.proof, of the converted tensors
    pretrain_sha256: str | None = None  # of the file pretrain.safetensors beside them; None: there is none
    pinned_here: str | None = None  # day on which this machine pinned it, where no zoo entry does


@dataclass(frozen=True)
class CachedModel:
    """One whole folder of the cache."""

    folder: Path
    provenance: Provenance

    @property
    def weights(self) -> Path:
        """The converted tensors."""
        return self.folder / "model.safetensors"

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"folder": str(self.folder), "bytes": self.size, **asdict(self.provenance)}


def key(name: str, source: Source, revision: str | None) -> str:
    """Name of a model's folder in the cache: NAME@REVISION-HASH, "unpinned" where the entry pins none.

    The hash is of all that says which content is meant: repository, file and the whole revision. What stands before it
    is for people, and may be cut.
    """
    wanted = revision or source.revision or "unpinned"
    identity = json.dumps([source.repo, source.file, wanted, source.layout])
    shown = _as_file_name(wanted[:_SHOWN])
    return f"{_as_file_name(name)}@{shown}-{hashlib.sha256(identity.encode()).hexdigest()[:_HASH]}"


def _as_file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)


def find(name: str, source: Source, revision: str | None, cache_dir: str | Path | None) -> CachedModel | None:
    """The converted model, if the cache holds it.

    Raises:
        ClzooError: its provenance is damaged, or it was converted from another published file than the entry records.
    """
    folder = root(cache_dir) / MODELS / key(name, source, revision)
    if not folder.is_dir():
        return None
    model = _read(folder)
    if revision in (None, source.revision) and source.sha256 not in (None, model.provenance.sha256):
        raise ClzooError(
            f"{folder} was converted from a file with SHA-256 {model.provenance.sha256}, the zoo entry records "
            f"{source.sha256}. {remove_command(name, cache_dir)}"
        )
    return model


def keep(
    name: str,
    source: Source,
    revision: str | None,
    cache_dir: str | Path | None,
    provenance: Provenance,
    tensors: Mapping[str, torch.Tensor],
    aside: Mapping[str, torch.Tensor],
    config: ModelConfig | None = None,
) -> CachedModel:
    """Write a converted model into the cache, and its config if no entry holds it; if another process was faster, take
    its.

    The folder is filled under a temporary name and renamed when everything in it is on disk, so that a process killed
    at any instant leaves nothing under the final name.
    """
    from safetensors.torch import save_file

    models = root(cache_dir) / MODELS
    final = models / key(name, source, revision)
    try:
        sweep(models)
        with filled_folder(final) as temporary:
            for file, content in (("model.safetensors", tensors), ("pretrain.safetensors", aside)):
                if content:
                    with atomic_path(temporary / file) as path:
                        save_file(dict(content), path, metadata={"format": "pt"})
            aside_file = temporary / "pretrain.safetensors"
            hashed = replace(provenance, pretrain_sha256=sha256_of(aside_file) if aside_file.is_file() else None)
            if config is not None:
                config.save(temporary)
            write_json(temporary / "provenance.json", asdict(hashed))
    except OSError as error:
        raise ClzooError(f"{models} cannot be written: {error}. Free the place, or set CLZOO_CACHE.") from error
    return _read(final)


def cached(cache_dir: str | Path | None = None) -> list[CachedModel]:
    """Everything that the cache holds, sorted by name."""
    models = root(cache_dir) / MODELS
    folders = sorted(models.iterdir()) if models.is_dir() else []
    return [_read(folder) for folder in folders if folder.is_dir() and not folder.name.startswith(TEMPORARY)]


def remove(name: str, cache_dir: str | Path | None = None) -> int:
    """Delete a model from the cache, all its revisions, or the one folder that is named; returns the bytes freed.

    Raises:
        ClzooError: the cache holds no such model.
    """
    models = root(cache_dir) / MODELS
    folders = sorted(models.iterdir()) if models.is_dir() else []
    known = (name, _as_file_name(name))
    chosen = [f for f in folders if (f.name in known or f.name.split("@")[0] in known) and _is_model(f)]
    if not chosen:
        held = ", ".join(folder.name for folder in folders if not folder.name.startswith(TEMPORARY)) or "nothing"
        raise ClzooError(f"{models} holds no {name}; it holds {held}. Type: clzoo cached")
    freed = 0
    for folder in chosen:
        freed += sum(path.stat().st_size for path in folder.iterdir())
        with temporary_folder(models, f"deleting {folder.name}") as doomed:
            folder.rename(doomed / "content")  # first, so that nobody finds half of it
    return freed


def _is_model(folder: Path) -> bool:
    """Whether a folder holds files of a converted model and nothing else: what `keep` makes."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return bool(names) and names <= {"model.safetensors", "pretrain.safetensors", "provenance.json", "config.json"}


def remove_command(name: str, cache_dir: str | Path | None) -> str:
    """What to type to have a model converted anew; ends an error message."""
    place = f"CLZOO_CACHE={shlex.quote(str(root(cache_dir)))} " if cache_dir else ""
    return f"Type: {place}{clzoo_command('cached', '--rm', name)}; then the same command again."


def _read(folder: Path) -> CachedModel:
    try:
        return CachedModel(folder, Provenance(**read_json(folder / "provenance.json")))
    except (TypeError, ClzooError) as error:
        remove = clzoo_command("cached", "--rm", folder.name)
        raise ClzooError(f"{folder}/provenance.json is damaged ({error}). Type: {remove}") from error
