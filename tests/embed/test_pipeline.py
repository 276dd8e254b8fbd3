"""embed_folder: what a run does to a store, the first time and every time after."""

from __future__ import annotations

import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from pictures import assert_same_rows, by_path, files_of, make_image, make_images
from small_models import small_encoder

import clzoo
from clzoo import ClzooError, Encoder, embed_folder, open_store
from clzoo.device import has_native_bf16
from clzoo.embed import run as run_module
from clzoo.embed.manifest import Manifest
from clzoo.embed.writer import LOCK


def embed(source: Path, encoder: Encoder, out: Path, **options: object) -> clzoo.embed.Summary:
    return embed_folder(source, encoder, out, progress=False, **options)  # type: ignore[arg-type]


def test_every_image_gets_the_vector_that_encoder_embed_gives(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    summary = embed(images, encoder, tmp_path / "store")
    store = open_store(tmp_path / "store")
    assert (summary.embedded, summary.unchanged, summary.dropped, summary.failed) == (24, 0, 0, 0)
    assert store.paths == sorted(path.relative_to(images).as_posix() for path in images.rglob("*.*"))
    expected = encoder.embed([images / path for path in store.paths])
    np.testing.assert_allclose(store.embeddings(), expected, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(store.embeddings(), axis=1), 1, atol=2e-3)


def test_a_fresh_run_ends_with_one_segment_in_path_order(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    summary = embed(images, encoder, tmp_path / "store", batch_size=5)
    store = open_store(tmp_path / "store")
    names = {f"embeddings-{summary.generation}.npy", f"items-{summary.generation}.parquet"}
    assert files_of(tmp_path / "store") == {"manifest.json", "errors.parquet", *names}
    assert store.complete
    assert store.paths == sorted(store.paths)
    assert np.load(tmp_path / "store" / f"embeddings-{summary.generation}.npy").dtype == np.float16


def test_a_fresh_run_of_many_flushes_ends_the_same(
    images: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(images, encoder, tmp_path / "once", batch_size=4)
    monkeypatch.setattr(run_module, "FLUSH_ROWS", 4)
    summary = embed(images, encoder, tmp_path / "often", batch_size=4)
    once, often = open_store(tmp_path / "once"), open_store(tmp_path / "often")
    assert often.generation > once.generation
    assert [segment.embeddings for segment in often.manifest.segments] == [f"embeddings-{summary.generation}.npy"]
    assert often.items.equals(once.items)
    assert (often.embeddings() == once.embeddings()).all()


def test_run_again_nothing_is_embedded_and_the_generation_stays(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    first = embed(images, encoder, tmp_path / "store")
    (images / "broken.jpg").write_bytes(b"")
    second = embed(images, encoder, tmp_path / "store")
    third = embed(images, encoder, tmp_path / "store")
    assert second.generation > first.generation  # a failure is news
    assert (third.embedded, third.unchanged, third.failed) == (0, 24, 1)
    assert third.generation == second.generation


def test_only_new_and_changed_files_are_embedded_and_deleted_ones_dropped(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    embed(images, encoder, tmp_path / "store")
    rng = np.random.default_rng(5)
    make_image(images / "cats" / "000.jpg", rng)  # changed
    make_image(images / "birds" / "new.png", rng)
    (images / "dogs" / "001.png").unlink()
    (images / "dogs" / "003.png").unlink()
    summary = embed(images, encoder, tmp_path / "store")
    assert (summary.embedded, summary.unchanged, summary.dropped, summary.rows) == (2, 21, 2, 23)
    embed(images, encoder, tmp_path / "anew")
    store, anew = open_store(tmp_path / "store"), open_store(tmp_path / "anew")
    assert store.items.equals(anew.items)
    assert_same_rows(store, by_path(anew))


def test_a_file_touched_without_a_change_is_embedded_again(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    embed(images, encoder, tmp_path / "store")
    os.utime(images / "cats" / "000.jpg", ns=(1, 1))
    assert embed(images, encoder, tmp_path / "store").embedded == 1


def test_a_large_store_keeps_its_segments_and_dropped_rows_until_it_is_compacted(
    images: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "CHEAP_MERGE", 0)
    embed(images, encoder, tmp_path / "store")
    (images / "dogs" / "001.png").unlink()
    make_image(images / "birds" / "new.png", np.random.default_rng(5))
    embed(images, encoder, tmp_path / "store")
    store = open_store(tmp_path / "store")
    assert len(store.manifest.segments) == 2
    assert (len(store), store.stored_vectors) == (24, 25)
    embed(images, encoder, tmp_path / "anew")
    assert_same_rows(store, by_path(open_store(tmp_path / "anew")))

    compacted = clzoo.embed.compact_store(tmp_path / "store")
    assert compacted.generation > store.generation
    assert (len(compacted.manifest.segments), compacted.stored_vectors) == (1, 24)
    assert compacted.paths == sorted(compacted.paths)
    assert_same_rows(compacted, by_path(store))  # the old snapshot still reads what it has opened
    assert clzoo.embed.compact_store(tmp_path / "store").generation == compacted.generation


def test_segments_that_a_killed_compaction_left_go_with_the_next_one_though_it_has_nothing_to_do(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    embed(images, encoder, tmp_path / "store")
    before = files_of(tmp_path / "store")
    shutil.copy2(tmp_path / "store" / open_store(tmp_path / "store").manifest.segments[0].items, tmp_path / "copy")
    (tmp_path / "copy").rename(tmp_path / "store" / "items-1.parquet")  # of the generation before
    clzoo.embed.compact_store(tmp_path / "store")
    assert files_of(tmp_path / "store") == before


def test_images_that_fail_are_named_with_reasons_and_tried_again(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    good = (images / "cats" / "000.jpg").read_bytes()
    (images / "cats" / "000.jpg").write_bytes(good[: len(good) // 2])
    (images / "empty.png").touch()
    (images / "text.gif").write_text("not a picture")
    summary = embed(images, encoder, tmp_path / "store", batch_size=4)
    store = open_store(tmp_path / "store")
    reasons = {error["path"]: error["reason"] for error in store.errors()}
    assert set(reasons) == {"cats/000.jpg", "empty.png", "text.gif"}
    assert reasons["empty.png"] == "empty file (zero bytes)"
    assert "truncated" in reasons["cats/000.jpg"].lower()
    assert (summary.embedded, summary.failed, summary.images, len(store)) == (23, 3, 26, 23)

    (images / "cats" / "000.jpg").write_bytes(good)
    again = embed(images, encoder, tmp_path / "store")
    assert (again.embedded, again.failed) == (1, 2)
    assert "cats/000.jpg" in open_store(tmp_path / "store").paths


def test_a_batch_in_which_everything_fails_is_no_trouble(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    for number in range(5):
        (images / f"{number}.jpg").write_bytes(b"x")
    summary = embed(images, encoder, tmp_path / "store", batch_size=2)
    assert (summary.rows, summary.failed) == (24, 5)


def test_a_source_of_which_nothing_can_be_embedded_is_an_error_after_all_were_named(
    encoder: Encoder, tmp_path: Path
) -> None:
    for number in range(5):
        (tmp_path / f"{number}.jpg").write_bytes(b"x")
    with pytest.raises(ClzooError, match="none of the 5 images could be embedded"):
        embed(tmp_path, encoder, tmp_path / "store", batch_size=2)
    store = open_store(tmp_path / "store")
    assert store.embeddings().shape == (0, encoder.dim)
    assert len(store.errors()) == 5


def test_strict_raises_after_everything_else_is_stored(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    (images / "empty.png").touch()
    with pytest.raises(ClzooError, match=r"1 of 25 images failed"):
        embed(images, encoder, tmp_path / "store", strict=True)
    assert len(open_store(tmp_path / "store")) == 24


def test_a_feature_that_is_not_finite_is_a_failure(images: Path, tmp_path: Path) -> None:
    encoder = small_encoder()
    encoder.module.register_forward_hook(lambda module, inputs, output: output * 1e9)
    with pytest.raises(ClzooError, match="none of the 24 images"):
        embed(images, encoder, tmp_path / "store", normalize=False)
    assert len(open_store(tmp_path / "store").errors()) == 24
    assert "--store-dtype fp32" in open_store(tmp_path / "store").errors()[0]["reason"]
    assert embed(images, encoder, tmp_path / "fp32", normalize=False, store_dtype="fp32").rows == 24


def test_labels_are_the_first_sub_folder_and_can_be_added_later(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    make_image(images / "top.png", np.random.default_rng(5))
    embed(images, encoder, tmp_path / "store")
    assert set(open_store(tmp_path / "store").labels) == {None}
    summary = embed(images, encoder, tmp_path / "store", labels=True)
    store = open_store(tmp_path / "store")
    assert summary.embedded == 0
    assert store.labels == [path.split("/")[0] if "/" in path else None for path in store.paths]
    make_image(images / "birds" / "new.png", np.random.default_rng(6))
    embed(images, encoder, tmp_path / "store")
    assert "birds" in open_store(tmp_path / "store").labels
    embed(images, encoder, tmp_path / "store", labels=False)
    assert set(open_store(tmp_path / "store").labels) == {None}


def test_labels_that_are_splits_are_said_to_be(images: Path, encoder: Encoder, tmp_path: Path, caplog) -> None:
    embed(images, encoder, tmp_path / "classes", labels=True)
    assert "which are splits" not in caplog.text
    for split in ("train", "test"):
        shutil.copytree(images, tmp_path / "data" / split)
    embed(tmp_path / "data", encoder, tmp_path / "store", labels=True)
    assert "the labels are test and train: the first sub-folders, which are splits" in caplog.text
    assert f"clzoo embed {tmp_path / 'data' / 'test'} --labels" in caplog.text


def test_shards_and_lists_give_the_same_vectors_as_the_folder(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        archive.add(images, arcname=".")
    names = sorted(path.relative_to(tmp_path).as_posix() for path in images.rglob("*.*"))
    (tmp_path / "list.txt").write_text("\n".join(names))
    embed(images, encoder, tmp_path / "a")
    embed(tmp_path / "shard.tar", encoder, tmp_path / "b", labels=True)
    embed(tmp_path / "list.txt", encoder, tmp_path / "c")
    folder, shard, listed = (open_store(tmp_path / name) for name in "abc")
    assert shard.paths == [f"shard.tar/{path}" for path in folder.paths]
    assert listed.paths == [f"images/{path}" for path in folder.paths]
    assert set(shard.labels) == {"cats", "dogs"}
    for store in (shard, listed):
        np.testing.assert_allclose(store.embeddings(), folder.embeddings(), atol=1e-3)
        assert store.image_bytes(3) == folder.image_bytes(3)


def test_a_store_of_other_weights_is_refused(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    embed(images, encoder, tmp_path / "store")
    with pytest.raises(ClzooError, match=r"weights .*give another --out"):
        embed(images, small_encoder(seed=1), tmp_path / "store")
    assert len(open_store(tmp_path / "store")) == 24


def test_a_store_of_another_preprocessing_is_refused(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    embed(images, encoder, tmp_path / "store")
    cropped = replace(encoder.config.preprocessing, crop_pct=0.875)
    other = Encoder(encoder.module, replace(encoder.config, preprocessing=cropped))
    with pytest.raises(ClzooError, match=r"crop_pct 1\.0\).*crop_pct 0\.875\)"):
        embed(images, other, tmp_path / "store")


@pytest.mark.parametrize(
    ("options", "flag"), [({"normalize": False}, "--normalize"), ({"store_dtype": "fp32"}, "--store-dtype fp16")]
)
def test_a_store_of_another_kind_is_refused_with_what_to_type(
    images: Path, encoder: Encoder, tmp_path: Path, options: dict[str, object], flag: str
) -> None:
    embed(images, encoder, tmp_path / "store")
    with pytest.raises(ClzooError, match=flag):
        embed(images, encoder, tmp_path / "store", **options)


def test_a_store_of_another_folder_is_refused_but_a_moved_folder_is_not(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    embed(images, encoder, tmp_path / "store")
    other = make_images(tmp_path / "other", 4, seed=1)
    with pytest.raises(ClzooError, match=r"holds the images of .*images"):
        embed(other, encoder, tmp_path / "store")
    moved = images.rename(tmp_path / "moved")
    assert embed(moved, encoder, tmp_path / "store").unchanged == 24
    assert open_store(tmp_path / "store").root == moved.resolve()


def test_an_output_that_is_something_else_is_refused(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter-1.tex").touch()
    with pytest.raises(ClzooError, match=r"not empty \(it holds chapter-1.tex\)"):
        embed(images, encoder, tmp_path / "thesis")
    assert files_of(tmp_path / "thesis") == {"chapter-1.tex"}


def test_files_that_only_look_like_those_of_a_store_are_refused_and_left(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    for name in ("embeddings-1.npy", "items-1.parquet", "errors.parquet", ".tmp-1-embeddings-0.npy"):
        place = tmp_path / f"mine-{name}"
        place.mkdir()
        (place / name).write_bytes(b"mine")
        with pytest.raises(ClzooError, match="not empty"):
            embed(images, encoder, place)
        assert [path.name for path in place.iterdir()] == [name]
    embed(images, encoder, tmp_path / "store")
    (tmp_path / "store" / ".tmp-notes-embeddings-3.npy").write_bytes(b"mine")
    make_image(images / "new.png", np.random.default_rng(5))
    embed(images, encoder, tmp_path / "store")
    assert (tmp_path / "store" / ".tmp-notes-embeddings-3.npy").read_bytes() == b"mine"


def test_an_emptied_source_is_an_error_and_the_store_stays(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    embed(images, encoder, tmp_path / "store")
    shutil.rmtree(images)
    images.mkdir()
    with pytest.raises(ClzooError, match="holds no images"):
        embed(images, encoder, tmp_path / "store")
    assert len(open_store(tmp_path / "store")) == 24


def test_a_second_run_on_the_same_store_is_refused_while_the_first_writes(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    embed(images, encoder, tmp_path / "store")
    with FileLock(tmp_path / "store" / LOCK), pytest.raises(ClzooError, match="another clzoo process"):
        embed(images, encoder, tmp_path / "store")
    embed(images, encoder, tmp_path / "store")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("an error of the GPU")])
def test_ctrl_c_or_an_error_keeps_what_was_done_and_the_next_run_continues(
    images: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    real, calls = Encoder.encode, []

    def interrupted(self: Encoder, pixels: torch.Tensor, **options: str) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            raise error
        return real(self, pixels, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Encoder, "encode", interrupted)
    with pytest.raises(type(error)):
        embed(images, encoder, tmp_path / "store", batch_size=4, workers=1)
    monkeypatch.undo()
    cut_off = open_store(tmp_path / "store")
    assert len(cut_off) == 12
    assert not cut_off.complete
    summary = embed(images, encoder, tmp_path / "store", batch_size=4)
    assert (summary.embedded, summary.unchanged) == (12, 12)
    embed(images, encoder, tmp_path / "anew")
    assert_same_rows(open_store(tmp_path / "store"), by_path(open_store(tmp_path / "anew")))


def test_a_run_leaves_torchs_thread_count_as_it_was(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        embed(images, encoder, tmp_path / "store", workers=2)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("options", [{"store_dtype": "int8"}, {"batch_size": 0}, {"workers": 0}, {"dtype": "fp16"}])
def test_a_setting_that_makes_no_sense_is_an_error_before_anything_is_written(
    images: Path, encoder: Encoder, tmp_path: Path, options: dict[str, object]
) -> None:
    with pytest.raises(ClzooError):
        embed(images, encoder, tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()


@pytest.mark.skipif(not has_native_bf16(), reason="this CPU only emulates bf16")
def test_a_cpu_that_computes_in_bf16_gives_nearly_the_same_vectors(images: Path, encoder: Encoder, tmp_path: Path):
    exact = open_store(embed(images, encoder, tmp_path / "fp32").store)
    coarse = open_store(embed(images, encoder, tmp_path / "bf16", dtype="bf16").store)
    assert coarse.manifest.compute == ("bf16",)
    cosines = (exact.embeddings().astype(np.float32) * coarse.embeddings().astype(np.float32)).sum(axis=1)
    assert cosines.min() > 0.999
    assert not np.array_equal(exact.embeddings(), coarse.embeddings())


def test_a_cpu_that_emulates_bf16_refuses_it(
    images: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clzoo.encoder.has_native_bf16", lambda: False)
    with pytest.raises(ClzooError, match=r"bf16 is emulated by this CPU.*--dtype fp32"):
        embed(images, encoder, tmp_path / "store", dtype="bf16")


def test_the_manifest_names_model_weights_preprocessing_and_counts(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    (images / "empty.png").touch()
    embed(images, encoder, tmp_path / "store")
    manifest = Manifest.load_from(tmp_path / "store")
    assert manifest.model == manifest.load == encoder.config.name
    assert manifest.weights_sha256 == encoder.weights_sha256
    assert manifest.preprocessing["size"] == 32
    assert (manifest.dim, manifest.dtype, manifest.normalized) == (encoder.dim, "float16", True)
    assert (manifest.rows, manifest.errors, manifest.compute) == (24, 1, ("fp32",))
    assert manifest.root == manifest.source == str(images.resolve())
