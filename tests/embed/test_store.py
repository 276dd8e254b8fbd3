"""open_store: one whole generation, whatever a writer does meanwhile; damage is named."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pictures import by_path
from small_models import small_encoder
from written_stores import write_store

from clzoo import ClzooError, Encoder, embed_folder, open_store
from clzoo.data.listing import Failure
from clzoo.embed import Store, export_store
from clzoo.embed.compact import known_errors
from clzoo.embed.manifest import MANIFEST, Manifest
from clzoo.embed.store import ERRORS, errors_stamp
from clzoo.embed.writer import StoreWriter


@pytest.fixture
def store(images: Path, encoder: Encoder, tmp_path: Path) -> Store:
    embed_folder(images, encoder, tmp_path / "store", progress=False, labels=True)
    return open_store(tmp_path / "store")


def test_batches_give_every_row_once_and_in_order(store: Store) -> None:
    for rows in (1, 7, 24, 100):
        parts = list(store.batches(rows))
        assert max(len(ids) for ids, _ in parts) == min(rows, 24)
        assert (np.concatenate([ids for ids, _ in parts]) == store.ids).all()
        assert (np.concatenate([vectors for _, vectors in parts]) == store.embeddings()).all()
        assert {vectors.dtype for _, vectors in parts} == {np.dtype(np.float32)}


def test_rows_can_be_taken_in_any_order(store: Store) -> None:
    positions = np.array([5, 0, 23, 5])
    assert (store.raw_rows(positions) == store.embeddings()[positions].astype(np.float16)).all()


def test_the_files_can_be_read_without_clzoo(store: Store) -> None:
    (segment,) = json.loads((store.path / MANIFEST).read_text())["segments"]
    vectors = np.load(store.path / segment["embeddings"])
    items = pq.read_table(store.path / segment["items"]).to_pydict()
    assert list(items) == ["row", "id", "path", "size", "mtime_ns", "label"]
    assert items["path"] == store.paths
    assert (vectors[items["row"]].astype(np.float32) == store.embeddings()).all()
    assert pq.read_table(store.path / "errors.parquet").column_names == ["path", "size", "mtime_ns", "reason"]


def test_the_model_that_made_the_store_is_told_from_another(store: Store, encoder: Encoder) -> None:
    store.check_model(encoder)
    with pytest.raises(ClzooError, match="weights"):
        store.check_model(small_encoder(seed=1))


def test_an_encoder_that_was_trained_on_since_adds_nothing_to_the_store(images: Path, tmp_path: Path) -> None:
    encoder = small_encoder()
    embed_folder(images, encoder, tmp_path / "store", progress=False)
    before = encoder.weights_sha256
    optimizer = torch.optim.SGD(encoder.module.parameters(), lr=0.1)
    encoder.module(torch.ones(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    assert encoder.weights_sha256 != before
    with pytest.raises(ClzooError, match="weights"):
        embed_folder(images, encoder, tmp_path / "store", progress=False)
    encoder.module.load_state_dict(small_encoder().module.state_dict())
    assert encoder.weights_sha256 == before


_WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
import pyarrow as pa
from clzoo.data.listing import Failure, item_ids
from clzoo.embed import open_store
from clzoo.embed.compact import known_errors
from clzoo.embed.store import ITEMS_SCHEMA
from clzoo.embed.writer import StoreWriter, VectorFile, store_lock

folder = Path(sys.argv[1])
paths = [f"{i}.jpg" for i in range(50)]
with store_lock(folder):
    store = open_store(folder)
    writer = StoreWriter(folder, store.manifest, known_errors(store))
    print("writing", flush=True)
    while True:
        number = writer._next
        vectors = VectorFile(folder, store.dim, "float16")
        vectors.append(np.full((50, store.dim), number % 1000, np.float16))
        columns = [range(50), item_ids(paths), paths, [number % 1000] * 50, [0] * 50, [None] * 50]
        segment = writer.add_segment(vectors, pa.table(dict(zip(ITEMS_SCHEMA.names, columns)), schema=ITEMS_SCHEMA))
        writer.commit((segment,), [Failure("x", number % 1000, 0, "reason")], complete=True)
"""


def test_a_reader_never_sees_a_mixture_while_a_writer_swaps_generations(store: Store) -> None:
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(store.path)], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        seen, end = set(), time.monotonic() + 3
        while time.monotonic() < end:
            opened = open_store(store.path)
            if opened.manifest.segments[0].embeddings == store.manifest.segments[0].embeddings:
                continue  # the writer's first generation is not there yet
            number = opened.items["size"][0].as_py()
            assert (opened.items["size"].to_numpy() == number).all()
            assert (opened.embeddings() == number).all()
            (error,) = opened.errors()
            # Killed or caught between its two renames, errors.parquet may be one generation ahead; never behind.
            assert error["size"] - number in (0, 1)
            seen.add(number)
        assert writer.poll() is None
        assert len(seen) > 5
    finally:
        writer.kill()
        writer.communicate()


def test_errors_of_a_swap_that_was_cut_off_wait_for_nothing_and_are_set_right_by_the_next_run(
    images: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """errors.parquet is one generation ahead of the manifest, and stays so until something is written."""
    (images / "cats" / "empty.jpg").touch()
    folder = embed_folder(images, encoder, tmp_path / "store", progress=False).store
    before = open_store(folder)
    ahead = [Failure("cats/000.jpg", 1, 1, "of the coming generation"), *known_errors(before)]
    with monkeypatch.context() as cut:
        cut.setattr(Manifest, "save", lambda *_: pytest.fail("cut off"))
        with pytest.raises(pytest.fail.Exception):
            StoreWriter(folder, before.manifest, known_errors(before)).commit((), ahead, complete=True)
    assert pq.read_table(folder / ERRORS).num_rows == 2
    with monkeypatch.context() as still:
        still.setattr(time, "sleep", lambda _: pytest.fail("waited"))
        store = open_store(folder)
    assert store.manifest == before.manifest
    assert [error["path"] for error in store.errors()] == ["cats/empty.jpg"]  # the other one has a row
    (images / "cats" / "000.jpg").unlink()
    embed_folder(images, encoder, folder, progress=False)
    assert pq.read_table(folder / ERRORS).column("path").to_pylist() == ["cats/empty.jpg"]
    assert errors_stamp(folder) == open_store(folder).manifest.errors_generation


def test_an_open_snapshot_outlives_the_files(store: Store) -> None:
    before = store.embeddings()
    for path in store.path.glob("embeddings-*"):
        path.unlink()
    assert (store.embeddings() == before).all()


def test_a_folder_that_is_no_store_is_an_error_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ClzooError, match=r"no manifest\.json\. Make one: clzoo embed"):
        open_store(tmp_path)


def test_a_missing_segment_is_named(store: Store) -> None:
    name = store.manifest.segments[0].items
    (store.path / name).unlink()
    with pytest.raises(ClzooError, match=rf"{name} is missing though the manifest"):
        open_store(store.path)


@pytest.mark.parametrize("kind", ["embeddings", "items"])
def test_a_truncated_segment_is_named(store: Store, kind: str) -> None:
    path = store.path / getattr(store.manifest.segments[0], kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ClzooError, match=rf"{path.name} is damaged"):
        open_store(store.path)


def test_vectors_that_do_not_fit_the_items_are_refused(store: Store) -> None:
    path = store.path / store.manifest.segments[0].embeddings
    np.save(path, np.load(path)[:-1])
    with pytest.raises(ClzooError, match="does not fit"):
        open_store(store.path)
    np.save(path, np.zeros((24, store.dim + 1), np.float16))
    with pytest.raises(ClzooError, match="the manifest says"):
        open_store(store.path)


@pytest.mark.parametrize("change", [{"schema": 99}, {"format": "x"}, {"segments": [{"rows": 1}]}, {"schema": None}])
def test_a_manifest_of_another_kind_is_refused(store: Store, change: dict[str, object]) -> None:
    path = store.path / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ClzooError, match=r"manifest\.json"):
        open_store(store.path)


def test_every_export_holds_every_row(store: Store, tmp_path: Path) -> None:
    expected = by_path(store)

    table = pq.read_table(export_store(store, tmp_path / "a.parquet"))
    assert table.column_names == ["id", "path", "size", "mtime_ns", "label", "embedding"]
    assert table["path"].to_pylist() == store.paths
    assert (np.stack(table["embedding"].to_numpy()) == store.embeddings()).all()

    arrays = np.load(export_store(store, tmp_path / "a.npz"))
    assert arrays["path"].tolist() == store.paths
    assert arrays["label"].tolist() == store.labels
    assert (arrays["id"] == store.ids).all()
    assert (arrays["embedding"] == store.embeddings()).all()

    with export_store(store, tmp_path / "a.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "label", *(f"embedding_{i}" for i in range(store.dim))]
    for path, label, *values in rows:
        assert label == path.split("/")[0]
        assert (np.array(values, np.float32) == expected[path]).all()
    assert len(rows) == 24


def test_a_parquet_file_says_where_its_vectors_come_from(store: Store, tmp_path: Path) -> None:
    told = pq.read_schema(export_store(store, tmp_path / "a.parquet")).metadata
    manifest = store.manifest
    assert told[b"clzoo.model"].decode() == manifest.model
    assert told[b"clzoo.weights_sha256"].decode() == manifest.weights_sha256
    assert json.loads(told[b"clzoo.preprocessing"]) == manifest.preprocessing
    assert told[b"clzoo.root"].decode() == manifest.root
    assert told[b"clzoo.load"].decode() == manifest.load
    assert told[b"clzoo.normalization"] == b"L2"
    assert told[b"clzoo.complete"] == b"true"
    table = pq.read_table(tmp_path / "a.parquet")  # with what a reader of tables sees
    assert table.schema.metadata == told
    assert (Path(told[b"clzoo.root"].decode()) / table["path"][0].as_py()).is_file()


def test_an_export_of_an_unknown_format_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ClzooError, match="expected one of csv, parquet, npz"):
        export_store(store, tmp_path / "a.xlsx")


@pytest.mark.parametrize("arguments", [["--format", "csv"], ["--format", "parquet"], ["--format", "npz"]])
def test_vectors_that_are_not_finite_are_not_exported_and_their_rows_are_named(tmp_path: Path, arguments, clzoo_says):
    vectors = np.ones((9, 4), np.float32)
    vectors[2, 1], vectors[5, 0] = np.nan, np.inf
    write_store(tmp_path / "store", vectors, normalized=False)
    code, _, err = clzoo_says("store", "export", tmp_path / "store", *arguments, "--out", tmp_path / "out")
    assert code == 1
    assert "holds 2 vectors that are not finite (row 2, 000002.jpg; row 5, 000005.jpg)" in err
    again = f"--model test-model --size 224 --out {tmp_path / 'store-again'} --no-normalize"
    assert f"Type: clzoo embed {tmp_path / 'store'} {again}" in err
    assert not (tmp_path / "out").exists()


def test_another_network_that_the_same_tensors_fit_is_refused(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    store = open_store(embed_folder(images, encoder, tmp_path / "store", progress=False).store)
    other = replace(encoder.config, model_args={**encoder.config.model_args, "num_heads": 2})
    twin = Encoder(encoder.module, other)
    assert twin.weights_sha256 == encoder.weights_sha256
    with pytest.raises(ClzooError, match=r"model_args .*this is .*model_args .*'num_heads': 2"):
        store.check_model(twin)
    older = replace(store.manifest, network=None)  # of a store that did not record it
    older.check_model(twin, store.path)


@pytest.mark.parametrize("content", [b"", b"not a file of a store"])
@pytest.mark.parametrize("pattern", ["embeddings-*.npy", "items-*.parquet", "errors.parquet"])
def test_a_damaged_file_of_a_store_is_named(store: Store, pattern: str, content: bytes) -> None:
    (path,) = store.path.glob(pattern)
    path.write_bytes(content)
    with pytest.raises(ClzooError, match=f"{path.name} is damaged"):
        open_store(store.path)


@pytest.mark.skipif(os.name == "nt", reason="names of bytes")
def test_a_folder_whose_name_is_not_utf_8_is_refused_before_anything_is_written(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    images.rename(odd)
    with pytest.raises(ClzooError, match=r"caf\\xe9: the name is not UTF-8"):
        embed_folder(odd, encoder, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_store_that_cannot_be_made_is_an_error_of_its_place(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ClzooError, match=r"file.store cannot be written: Not a directory"):
        embed_folder(images, encoder, tmp_path / "file" / "store", progress=False)


def test_a_source_with_a_hash_in_its_name_may_be_moved(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    first = images.rename(tmp_path / "photos #1")
    embed_folder(first, encoder, tmp_path / "out", progress=False)
    again = embed_folder(first.rename(tmp_path / "photos #2"), encoder, tmp_path / "out", progress=False)
    assert (again.embedded, again.unchanged) == (0, 24)
