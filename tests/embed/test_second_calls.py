"""What a second command finds after something changed in between: nothing is taken back, replaced or taken for new."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import make_image, make_images
from PIL import Image
from written_stores import write_store

import clzoo
from clzoo import ClzooError, Encoder, embed_folder, open_store
from clzoo.curation import find_label_errors
from clzoo.embed import export_store, merge_stores
from clzoo.embed.shares import Share
from clzoo.index.building import build_index, open_index, refresh_index


def embed(source: Any, encoder: Any, out: Path, **options: Any) -> Any:
    return open_store(embed_folder(source, encoder, out, progress=False, **options).store)


def test_a_merge_does_not_take_back_what_a_merged_store_learnt_since(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "store"
    folders = [embed(images, encoder, out, share=Share(number, 2)).path for number in (1, 2)]
    merge_stores(out, folders)
    merge_stores(out, folders)
    make_image(images / "new.png", np.random.default_rng(5))
    assert len(embed(images, encoder, out)) == 25
    with pytest.raises(ClzooError, match="was continued after its shares were merged"):
        merge_stores(out, folders)
    assert len(open_store(out)) == 25
    make_image(images / "newer.png", np.random.default_rng(6))
    folders = [embed(images, encoder, out, share=Share(number, 2)).path for number in (1, 2)]
    assert len(merge_stores(out, folders)) == 26  # they know all of it, and more


def test_images_of_which_a_run_found_none_have_not_moved_there(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"images/{path.relative_to(images)}\n" for path in sorted(images.rglob("*.*g"))))
    before = embed(listed, encoder, tmp_path / "store").manifest
    (tmp_path / "lists").mkdir()
    moved = shutil.move(listed, tmp_path / "lists")  # and with it where its paths start from
    with pytest.raises(ClzooError, match="none of the 24 images could be embedded"):
        embed(moved, encoder, tmp_path / "store")
    after = open_store(tmp_path / "store").manifest
    assert (after.root, after.source) == (before.root, before.source)


def test_a_model_that_was_moved_is_remembered_at_its_new_place(
    images: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shutil.copytree(model_folder, tmp_path / "models" / "mine.v1")
    monkeypatch.chdir(first.parent)
    assert embed(images, "mine.v1", tmp_path / "store").manifest.load == str(first)
    moved = shutil.move(first, tmp_path / "moved")
    for encoder in (moved, clzoo.load(moved, device="cpu")):
        assert embed(images, encoder, tmp_path / "store").manifest.load == str(moved)
    picture = next(images.rglob("*.png"))
    assert clzoo.search(tmp_path / "store", picture, k=1)[0][0].path == picture.relative_to(images).as_posix()


def test_an_encoder_that_was_loaded_from_a_folder_is_found_again(
    images: Path, model_folder: Path, tmp_path: Path
) -> None:
    assert embed(images, clzoo.load(model_folder, device="cpu"), tmp_path / "store").manifest.load == str(model_folder)


def test_the_paths_of_a_linked_list_start_from_the_link(encoder: Encoder, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        make_images(tmp_path / name / "images", 4, seed=seed)
    (tmp_path / "a" / "list.txt").write_text("images/cats/000.jpg\nimages/dogs/001.png\n")
    (tmp_path / "b" / "list.txt").symlink_to(tmp_path / "a" / "list.txt")
    store = embed(tmp_path / "b" / "list.txt", encoder, tmp_path / "store")
    assert store.manifest.source == str(tmp_path / "b" / "list.txt")
    assert store.root == tmp_path / "b"
    with pytest.raises(ClzooError, match=r"holds the images of .*b/list\.txt, this run names .*a/list\.txt"):
        embed(tmp_path / "a" / "list.txt", encoder, tmp_path / "store")


def test_rows_that_a_labelled_list_does_not_reach_keep_the_label_that_it_gave(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    listed = tmp_path / "list.csv"
    listed.write_text("path,label\nimages/cats/000.jpg,A\nimages/dogs/001.png,B\nimages/cats/002.jpg,A\n")
    embed(listed, encoder, tmp_path / "store")
    (images / "dogs" / "001.png").rename(images / "elsewhere.png")
    store = embed(listed, encoder, tmp_path / "store", labels=True)
    assert dict(zip(store.paths, store.labels, strict=True)) == {
        "images/cats/000.jpg": "A", "images/dogs/001.png": "B", "images/cats/002.jpg": "A",
    }  # fmt: skip


def test_an_export_never_replaces_what_the_store_was_made_of(
    images: Path, encoder: Encoder, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clzoo_says: Any
) -> None:
    (tmp_path / "photos.csv").write_text("path,label\nimages/cats/000.jpg,A\nimages/dogs/001.png,B\n")
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        archive.add(images / "cats" / "000.jpg", "0.jpg")
    monkeypatch.chdir(tmp_path)
    store = embed(tmp_path / "photos.csv", encoder, tmp_path / "photos")
    of_shard = embed(tmp_path / "shard.tar", encoder, tmp_path / "shards")
    before = {path: path.read_bytes() for path in (tmp_path / "photos.csv", tmp_path / "shard.tar")}
    np.save(tmp_path / "array.npy", np.ones(3))
    (tmp_path / "array.npy").rename(tmp_path / "shards.npz")
    assert clzoo_says("store", "export", "shards", "--format", "npz")[0] == 1
    (tmp_path / "shards.npz").unlink()
    for of, path in ((store, "photos.csv"), (of_shard, "shard.tar"), (store, "images/cats/000.jpg")):
        with pytest.raises(ClzooError, match="was made of, and would be replaced"):
            export_store(of, tmp_path / path, "csv")
    assert clzoo_says("store", "export", "photos", "--format", "csv")[0] == 1
    (tmp_path / "shards.parquet").write_bytes(b"of my own")
    code, _, err = clzoo_says("store", "export", "shards", "--format", "parquet")
    assert (code, "is no export of a store. Say where it may go: --out FILE" in err) == (1, True)
    for kind in ("csv", "npz"):
        for _ in range(2):  # an earlier export is replaced
            assert clzoo_says("store", "export", "shards", "--format", kind)[0] == 0
    assert before == {path: path.read_bytes() for path in before}


def test_a_kind_of_index_that_the_rows_that_are_left_do_not_allow_gives_way(tmp_path: Path, caplog: Any) -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 8))
    build_index(write_store(tmp_path / "store", vectors), factory="IVF32,Flat")
    store = write_store(tmp_path / "store", vectors[:20])
    assert refresh_index(store).description["factory"] == "Flat"
    assert "faiss cannot build 'IVF32,Flat' from 20 vectors" in caplog.text
    assert len(open_index(store).store) == 20
    with pytest.raises(ClzooError, match=r"for example: clzoo store index .* --factory Flat\."):
        refresh_index(store, factory="IVF32,Flat")


def test_absolute_paths_are_not_looked_for_in_another_folder(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.txt").write_text(f"{images}/cats/000.jpg\n")
    store = embed(tmp_path / "lists" / "list.txt", encoder, tmp_path / "store")
    with pytest.raises(ClzooError, match="names images by absolute paths"):
        open_store(store.path, images=images)


def test_a_share_may_go_into_the_folder_that_one_is_in(
    images: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    shares = [embed(images, encoder, Path(), share=Share(number, 2)) for number in (1, 2)]
    assert [store.path.name for store in shares] == ["here-shard-1-of-2", "here-shard-2-of-2"]
    again = shares[0].manifest.command(shares[0].path)
    assert again.endswith(f"--out {tmp_path / 'here'} --share 1/2")


def test_what_a_program_held_is_embedded_again_by_a_call(model_folder: Path, tmp_path: Path) -> None:
    held = {"a/1": Image.new("RGB", (40, 40)), "b/1": Image.new("RGB", (40, 40), "red")}
    store = embed(held, model_folder, tmp_path / "store", normalize=False, store_dtype="fp32")
    with pytest.raises(ClzooError, match=r"The first sub-folder can be the label\. Type: ") as caught:
        find_label_errors(store)
    eval(str(caught.value).partition("Type: ")[2], {"clzoo": clzoo, "IMAGES": held})
    assert open_store(store.path).labels == ["a", "b"]
