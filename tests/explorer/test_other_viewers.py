"""A store as other viewers read it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_models import small_encoder
from written_stores import write_store

import clzoo
from clzoo import open_store
from clzoo.cli import main
from clzoo.explorer import projection
from clzoo.explorer.elsewhere import export_atlas, export_projector
from clzoo.explorer.graph import neighbor_graph
from clzoo.images import MAX_PIXELS


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("elsewhere")
    (place / "images" / "a\tb").mkdir(parents=True)
    for number in range(12):
        Image.new("RGB", (20, 10), (20 * number, 99, 0)).save(place / "images" / "a\tb" / f"{number:02}.png")
    clzoo.embed_folder(place / "images", small_encoder(), out=place / "store", labels=True)
    return place / "store"


def test_embedding_atlas_gets_a_map_and_neighbors_by_row(store, tmp_path, monkeypatch):
    monkeypatch.setattr(projection, "has_umap", lambda: False)  # the map itself: test_projection.py
    main(["store", "export", str(store), "--for", "embedding-atlas", "--out", str(tmp_path / "x.parquet"), "--quiet"])
    table = pq.read_table(tmp_path / "x.parquet")
    opened = open_store(store)
    vectors = opened.embeddings() / np.linalg.norm(opened.embeddings(), axis=1, keepdims=True)
    assert table["path"].to_pylist() == list(opened.paths)
    assert {"projection_x", "projection_y"} < set(table.column_names)
    places = projection.project(opened, np.arange(12), neighbor_graph(opened, np.arange(12)))[0]
    np.testing.assert_array_equal(np.stack([table["projection_x"], table["projection_y"]], axis=1), places)
    for row, near in enumerate(table["neighbors"].to_pylist()):
        assert row not in near["ids"]
        assert len(near["ids"]) == len(near["distances"]) == 11
        cosines = vectors[near["ids"]] @ vectors[row]
        assert np.allclose(1 - cosines, near["distances"], atol=1e-3)
        assert near["distances"] == sorted(near["distances"])


def test_the_projector_gets_vectors_names_and_tiles_in_row_order(store, tmp_path):
    main(["store", "export", str(store), "--for", "tensorboard", "--out", str(tmp_path / "p"), "--quiet"])
    opened = open_store(store)
    assert np.allclose(np.loadtxt(tmp_path / "p" / "tensors.tsv"), opened.embeddings(), atol=1e-6)
    lines = (tmp_path / "p" / "metadata.tsv").read_text().splitlines()
    assert lines[0] == "path\tlabel"
    assert [line.count("\t") for line in lines] == [1] * 13  # a tab in a name does not shift the columns
    with Image.open(tmp_path / "p" / "sprite.png") as sprite:
        assert sprite.size == (256, 256)
        for row in range(12):
            red = sprite.getpixel((row % 4 * 64 + 5, row // 4 * 64 + 5))[0]
            assert red == 20 * int(Path(opened.paths[row]).stem)
    assert "single_image_dim: 64 single_image_dim: 64" in (tmp_path / "p" / "projector_config.pbtxt").read_text()


def test_pictures_that_cannot_be_read_are_counted_and_the_option_that_allows_large_ones_is_taken(
    store, tmp_path, capsys
):
    export = ["store", "export", str(store), "--for", "tensorboard", "--out", str(tmp_path / "p")]
    try:
        main([*export, "--max-pixels", "199"])
        said = capsys.readouterr().err
        assert "warning: 12 of 12 pictures of " in said
        assert "cannot be read and are white tiles; the first is a\\tb/00.png: 20x10 pixels, the limit is 199" in said
        main([*export, "--max-pixels", "200"])
        assert "warning" not in capsys.readouterr().err
    finally:
        clzoo.set_max_pixels(MAX_PIXELS)


def test_neither_format_nor_viewer_or_two_that_disagree_are_wrong_usage(store):
    for arguments in ([], ["--for", "tensorboard", "--format", "csv"], ["--for", "embedding-atlas", "--format", "npz"]):
        with pytest.raises(SystemExit, match="2"):
            main(["store", "export", str(store), *arguments])


def test_the_projector_goes_into_no_folder_of_something_else(store, tmp_path, capsys):
    before = sorted(path.name for path in store.iterdir())
    (tmp_path / "file").write_text("mine")
    for place in (store, tmp_path / "file"):
        with pytest.raises(SystemExit, match="1"):
            main(["store", "export", str(store), "--for", "tensorboard", "--out", str(place), "--quiet"])
        assert "is there and no folder of a projector" in capsys.readouterr().err
    assert sorted(path.name for path in store.iterdir()) == before
    (tmp_path / "new").mkdir()
    for _ in range(2):  # an empty folder, and a projector's own
        main(["store", "export", str(store), "--for", "tensorboard", "--out", str(tmp_path / "new"), "--quiet"])


def test_a_projector_that_a_kill_left_half_written_is_written_over(store, tmp_path):
    folder, opened = tmp_path / "p", open_store(store)
    if (child := os.fork()) == 0:
        try:
            write = Path.write_bytes
            Path.write_bytes = lambda path, content: (
                os.kill(os.getpid(), signal.SIGKILL) if path.name == "sprite.png" else write(path, content)
            )
            export_projector(opened, folder)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert {path.name for path in folder.iterdir() if path.is_file()} == {"tensors.tsv", "metadata.tsv"}
    export_projector(opened, folder)
    export_projector(opened, tmp_path / "straight")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in (tmp_path / "straight").iterdir()
    )


def test_neither_viewer_gets_vectors_that_are_not_finite(tmp_path):
    vectors = np.ones((5, 4), np.float32)
    vectors[2, 1] = np.nan
    broken = write_store(tmp_path / "broken", vectors)
    for export in (export_atlas, export_projector):
        with pytest.raises(clzoo.ClzooError, match="not finite"):
            export(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()
