"""Writing a store's rows to one file in another format."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import clzoo
from clzoo.data.opening import place_of
from clzoo.data.storage import is_remote
from clzoo.embed.checks import require_finite
from clzoo.embed.store import Store
from clzoo.errors import ClzooError
from clzoo.files import output_path

FORMATS = ("csv", "parquet", "npz")
"""csv: path, label, embedding_0 ...; parquet: the items and a fixed-size list of floats; npz: arrays, at once."""

_ROWS = 8192  # at a time


def export_store(store: Store, path: str | Path, format: str | None = None) -> Path:
    """Write the rows of a store, in row order, to one file; float32 whatever the store's own type.

    Args:
        store: an open store.
        path: the file to write; it appears whole or not at all.
        format: "csv" (columns path, label, embedding_0 ... embedding_<dim-1>), "parquet" (id, path, size, mtime_ns,
            label, embedding as FixedSizeList<float>; where it comes from in the schema's metadata, see
            `parquet_metadata`), or "npz" (arrays id, path, label, embedding, model, weights_sha256, preprocessing;
            needs the memory for all vectors); None: by the file's suffix.

    Returns:
        The file written.

    Raises:
        ClzooError: an unknown format; a file that the store was made of; vectors that are not finite, which many
            readers take in silence.
    """
    path = Path(path)
    format = format or path.suffix.removeprefix(".").lower()
    if format not in FORMATS:
        raise ClzooError(f"{path}: the format is {format!r}, expected one of {', '.join(FORMATS)}.")
    refuse_source(store, path)
    require_finite(store)
    write = {"csv": _write_csv, "parquet": _write_parquet, "npz": _write_npz}[format]
    with output_path(path) as temporary:
        write(store, temporary)
    return path


def refuse_source(store: Store, path: Path) -> None:
    """Raise ClzooError where a file is the list or the shard that a store was made of, or one of its images."""
    if not path.exists():
        return
    places, root = {path.resolve(), path.absolute()}, store.root.resolve()
    names = {place.as_posix() for place in places}
    names |= {place.relative_to(root).as_posix() for place in places if place.is_relative_to(root)}
    below = tuple(f"{name}/" for name in names)
    made_of = "" if is_remote(store.manifest.source) else place_of(store.manifest.source)
    if Path(made_of).resolve() in places or any(name in names or name.startswith(below) for name in store.paths):
        raise ClzooError(f"{path} is what {store.path} was made of, and would be replaced. Name another: --out FILE")


def is_export(path: Path) -> bool:
    """Whether a file is an earlier export: CSV, Parquet or NumPy."""
    try:
        if path.suffix.lower() == ".parquet":
            return b"clzoo.model" in (pq.read_schema(path).metadata or {})
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {"embedding", "weights_sha256"} <= set(arrays.files)
        with path.open("rb") as file:
            return file.read(64).startswith(b"path,label,embedding_0")
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, pa.ArrowInvalid):
        return False  # damaged, or of something else


def _write_csv(store: Store, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", *(f"embedding_{i}" for i in range(store.dim))])
        row = 0
        for _, vectors in store.batches(_ROWS):
            for vector in vectors:
                # repr of a float32 is the shortest text that reads back to the same value.
                writer.writerow([store.paths[row], store.labels[row] or "", *map(str, vector)])
                row += 1


def _write_parquet(store: Store, path: Path) -> None:
    kind = pa.list_(pa.float32(), store.dim)
    items = store.items.drop_columns(["row"])
    schema = items.schema.append(pa.field("embedding", kind)).with_metadata(parquet_metadata(store))
    with pq.ParquetWriter(path, schema) as writer:
        row = 0
        for ids, vectors in store.batches(_ROWS):
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=kind)
            writer.write_table(items.slice(row, len(ids)).append_column("embedding", column))
            row += len(ids)


def parquet_metadata(store: Store) -> dict[str, bytes]:
    """Where the vectors come from, for the schema of a Parquet file: the keys that an exported graph has, and the root.

    `clzoo.model` (its name), `clzoo.load` (what `clzoo.load` takes), `clzoo.weights_sha256`, `clzoo.preprocessing`
    (JSON), `clzoo.normalization` ("L2" or "none"), `clzoo.root` (absolute; the paths start from it), `clzoo.source`,
    `clzoo.compute` (compute types), `clzoo.complete` ("true", or "false" after a run that was cut off),
    `clzoo.version`.
    """
    m = store.manifest
    values = {
        "model": m.model,
        "load": m.load,
        "weights_sha256": m.weights_sha256,
        "preprocessing": json.dumps(m.preprocessing),
        "normalization": "L2" if m.normalized else "none",
        "root": m.root,
        "source": m.source,
        "compute": ",".join(m.compute),
        "complete": json.dumps(m.complete),
        "version": clzoo.__version__,
    }
    return {f"clzoo.{key}": value.encode("utf-8", "surrogateescape") for key, value in values.items()}


def _write_npz(store: Store, path: Path) -> None:
    labels = [label or "" for label in store.labels]
    with path.open("wb") as file:  # given a name, numpy would add a suffix of its own
        np.savez(
            file,
            id=store.ids,
            path=np.array(store.paths, dtype=np.str_),
            label=np.array(labels, dtype=np.str_),
            embedding=store.embeddings(),
            model=np.array(store.manifest.model),
            weights_sha256=np.array(store.manifest.weights_sha256),
            preprocessing=np.array(json.dumps(store.manifest.preprocessing)),
        )
