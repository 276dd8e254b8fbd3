"""A store as other viewers read it: Parquet for Embedding Atlas, a folder for TensorBoard's projector."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from clzoo.curation.pictures import Pictures
from clzoo.embed.checks import require_finite, require_images
from clzoo.embed.export import parquet_metadata, refuse_source
from clzoo.embed.store import Store
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.explorer.graph import neighbor_graph
from clzoo.explorer.projection import project
from clzoo.files import output_path
from clzoo.temporary import temporary_folder, was_left

log = logging.getLogger("clzoo")

_SPRITE, _TILE = 8192, 64  # pixels: of a side that browsers take, and of a picture at most
_LAST = "projector_config.pbtxt"
_WRITING = "a folder for TensorBoard's projector"
_CONFIG = """embeddings {{
  tensor_path: "tensors.tsv"
  metadata_path: "metadata.tsv"
  sprite {{ image_path: "sprite.png" single_image_dim: {side} single_image_dim: {side} }}
}}
"""


def export_atlas(store: Store, path: str | Path) -> Path:
    """Write path, label, projection_x, projection_y, neighbors ({ids, distances}, ids are rows) and the embedding.

    The map is that of `clzoo explore`: UMAP where it is installed, else PCA. Distances are 1 - cosine.

    Raises:
        ClzooError: an empty store, vectors that are not finite.
    """
    path = Path(path)
    refuse_source(store, path)
    _check(store)
    rows = np.arange(len(store))
    graph = neighbor_graph(store, rows)
    places, _ = project(store, rows, graph)
    neighbors = [
        {"ids": ids, "distances": distances}
        for ids, distances in zip(graph.rows.tolist(), (1 - graph.similarity).tolist(), strict=True)
    ]
    kind = pa.struct({"ids": pa.list_(pa.int64()), "distances": pa.list_(pa.float64())})
    table = pa.table(
        {
            "path": store.items["path"],
            "label": store.items["label"],
            "projection_x": places[:, 0],
            "projection_y": places[:, 1],
            "neighbors": pa.array(neighbors, kind),
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(store.embeddings().reshape(-1).astype(np.float32)), store.dim
            ),
        }
    ).replace_schema_metadata(parquet_metadata(store))
    with output_path(path) as temporary:
        pq.write_table(table, temporary)
    return path


def export_projector(store: Store, folder: str | Path) -> Path:
    """Write tensors.tsv, metadata.tsv, sprite.png and projector_config.pbtxt into a folder, the last one at the end.

    A picture that cannot be read is a white tile, and a warning counts them.

    Raises:
        ClzooError: an empty store, vectors that are not finite, more images than a sprite holds; a file is there, or a
            folder of something else.
    """
    folder = Path(folder)
    _check(store)
    if folder.exists() and not _is_ours(folder):
        raise ClzooError(f"{folder} is there and no folder of a projector. Name another: --out {folder}-projector")
    across = int(np.ceil(len(store) ** 0.5))
    side = min(_TILE, _SPRITE // across)
    if side < 8:
        raise ClzooError(f"{len(store):,} pictures do not fit into a sprite of {_SPRITE} pixels. Export fewer rows.")
    sprite, pictures = Image.new("RGB", (across * side, across * side), "white"), Pictures(store)
    missing: list[str] = []
    for row in range(len(store)):
        try:
            picture = pictures.image(row)
        except UnreadableImageError as error:
            missing.append(f"{store.paths[row]}: {error}")
            continue
        picture.thumbnail((side, side))
        sprite.paste(picture, (row % across * side, row // across * side))
    if missing:
        what = "%d of %d pictures of %s cannot be read and are white tiles; the first is %s"
        log.warning(what, len(missing), len(store), store.manifest.root, missing[0])
    buffer = io.BytesIO()
    sprite.save(buffer, "PNG")
    vectors = "".join("\t".join(map(str, vector)) + "\n" for _, part in store.batches() for vector in part)
    named = zip(store.paths, store.labels, strict=True)
    metadata = "path\tlabel\n" + "".join(f"{_plain(path)}\t{_plain(label or '')}\n" for path, label in named)
    files = {"tensors.tsv": vectors.encode(), "metadata.tsv": metadata.encode(errors="backslashreplace")}
    files |= {"sprite.png": buffer.getvalue(), _LAST: _CONFIG.format(side=side).encode()}
    with temporary_folder(folder, _WRITING):  # while this is there, the files are known to be ours
        for name, content in files.items():
            with output_path(folder / name) as temporary:
                temporary.write_bytes(content)
    return folder


def _is_ours(folder: Path) -> bool:
    """Whether a folder of a projector may be written there: it is empty, holds one, or was left half written."""
    if not folder.is_dir():
        return False
    is_empty = next(folder.iterdir(), None) is None
    return is_empty or (folder / _LAST).is_file() or was_left(folder, _WRITING)


def _plain(name: str) -> str:
    """Without what ends a cell or a line."""
    return " ".join(name.replace("\t", " ").split("\n")).replace("\r", " ")


def _check(store: Store) -> None:
    require_images(store)
    require_finite(store)
