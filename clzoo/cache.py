"""The cache: where what was computed or converted once on this machine lies.

    <root>/models/<key>/        converted models (clzoo.zoo.converted)
    <root>/onnx/<key>.onnx      graphs of the backend "onnx" (clzoo.export.backend)
    <root>/features/<key>/      features of evaluated data sets (clzoo.evaluation.features)
    <root>/content/<key>.npy    hashes of their images (clzoo.data.content)
    <root>/shards/<key>.parquet members of remote shards (clzoo.data.remote_shards)
    <root>/hub/                 the Hugging Face client's files, where the root was named by the user

The root is the argument `cache_dir`, or else $CLZOO_CACHE; both also keep the client's downloads. Without them it is
`clzoo` in $XDG_CACHE_HOME or ~/.cache, and downloads lie in the client's own cache. Published files stay there after
their conversion: other tools share that cache, and `hf cache ls` and `hf cache rm` manage it.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

MODELS = "models"
GRAPHS = "onnx"
FEATURES = "features"
CONTENT = "content"
SHARDS = "shards"

REMOVABLE = {FEATURES: "clzoo evaluate", GRAPHS: "the backend onnx", SHARDS: "shards behind URLs"}
"""The parts beside the models that `clzoo cached` shows and can delete, and what they are from. All are made again."""


def root(cache_dir: str | Path | None = None) -> Path:
    """The folder of clzoo's cache; see the module."""
    if named := cache_dir or os.environ.get("CLZOO_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "clzoo"


def hub_cache(cache_dir: str | Path | None = None) -> Path | None:
    """The folder of the Hugging Face client's files; None is the client's default."""
    return root(cache_dir) / "hub" if cache_dir or os.environ.get("CLZOO_CACHE") else None


def size_of(part: str, cache_dir: str | Path | None = None) -> int:
    """Bytes of a part that `REMOVABLE` names; features count with the hashes of the images they are of."""
    inside = [path for folder in _folders(part, cache_dir) for path in folder.iterdir()]
    return sum(path.stat().st_size for path in (*inside, *_files(part, cache_dir)))


def remove_all(part: str, cache_dir: str | Path | None = None) -> int:
    """Delete all that `size_of` counts; returns the bytes freed."""
    from clzoo.temporary import sweep, temporary_folder  # needs filelock, which `clzoo.lite` does without

    freed = size_of(part, cache_dir)
    for folder in _folders(part, cache_dir):
        with temporary_folder(folder.parent, f"deleting {folder.name}") as doomed:
            folder.rename(doomed / "content")
    for path in _files(part, cache_dir):
        path.unlink()
    for name in (part, CONTENT) if part == FEATURES else (part,):
        sweep(root(cache_dir) / name)
        with suppress(OSError):  # not empty: it holds something else too; or not there
            (root(cache_dir) / name).rmdir()
    return freed


def _folders(part: str, cache_dir: str | Path | None) -> list[Path]:
    """Of features: the folders that have the name and the arrays which `clzoo.evaluation.features` writes."""
    folders = (root(cache_dir) / FEATURES).glob("*/features.npy") if part == FEATURES else ()
    return [path.parent for path in folders if re.fullmatch(r"[0-9a-f]{32}(-\d+-[0-9a-f]{32})?", path.parent.name)]


def _files(part: str, cache_dir: str | Path | None) -> list[Path]:
    """The files of a part that lie in no folder, by the names which clzoo gives: of features, the hashes of images."""
    folder, suffix = {FEATURES: (CONTENT, "npy"), GRAPHS: (GRAPHS, "onnx"), SHARDS: (SHARDS, "parquet")}[part]
    files = (root(cache_dir) / folder).glob(f"*.{suffix}")
    return [path for path in files if re.fullmatch(r"[0-9a-f]{32}", path.stem)]
