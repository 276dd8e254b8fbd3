"""Sources behind URLs and stores in remote storage, through fsspec: `memory://`, `file://`, and storage that fails."""

from __future__ import annotations

import contextlib
import json
import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from picture_folders import make_shard
from pictures import by_path, files_of, make_image
from web_server import WebServer

from clzoo import ClzooError, Encoder, embed_folder, open_store
from clzoo.cli import main
from clzoo.data import storage
from clzoo.data.remote import list_remote
from clzoo.data.storage import is_remote, stamp_of
from clzoo.embed import merge_stores
from clzoo.embed.copying import copy_store
from clzoo.embed.manifest import MANIFEST
from clzoo.embed.options import EmbedOptions
from clzoo.embed.pipeline import default_out
from clzoo.embed.processes import embed_with_processes
from clzoo.embed.shares import Share
from clzoo.embed.store import ERRORS


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PAUSES", (0.0, 0.0))


@pytest.fixture
def bucket(memory: MemoryFileSystem, images: Path) -> str:
    """The 24 pictures as memory://bucket/photos/..."""
    for path in images.rglob("*.*"):
        memory.pipe(f"/bucket/photos/{path.relative_to(images).as_posix()}", path.read_bytes())
    return "memory://bucket/photos"


def embed(source: str | Path, encoder: Encoder, out: Path, **options: Any) -> Any:
    return embed_folder(source, encoder, out, progress=False, **options)


# Sources --------------------------------------------------------------------------------------------------------------


def test_a_bucket_gives_the_store_of_the_folder(images: Path, bucket: str, encoder: Encoder, tmp_path: Path) -> None:
    embed(images, encoder, tmp_path / "local", labels=True)
    embed(bucket + "/", encoder, tmp_path / "remote", labels=True)
    local, store = open_store(tmp_path / "local"), open_store(tmp_path / "remote")
    assert store.paths == local.paths
    assert store.labels == local.labels
    assert (store.ids == local.ids).all()
    assert (store.embeddings() == local.embeddings()).all()
    assert store.manifest.root == store.manifest.source == bucket
    assert store.image_bytes(3) == local.image_bytes(3)


@pytest.fixture
def shards(images: Path) -> Path:
    """The pictures and a broken one in two shards."""
    (images / "cats" / "broken.jpg").touch()
    for number, name in enumerate(("a", "b")):
        members = {p.relative_to(images).as_posix(): p.read_bytes() for p in sorted(images.rglob("*.*"))[number::2]}
        make_shard(images.parent / "shards" / f"{name}.tar", members)
    return images.parent / "shards"


@pytest.mark.parametrize("kind", ["memory", "web"])
def test_shards_behind_a_url_give_the_store_of_local_shards_in_shares_too(
    memory: MemoryFileSystem, web: WebServer, shards: Path, encoder: Encoder, tmp_path: Path, kind: str
) -> None:
    for path in shards.iterdir():
        memory.pipe(f"/shards/{path.name}", path.read_bytes())
        web.files[f"/shards/{path.name}"] = path.read_bytes()
    url = "memory://shards" if kind == "memory" else f"{web.url}/shards/"
    embed(shards, encoder, tmp_path / "local", labels=True)
    embed(url, encoder, tmp_path / "remote", labels=True)
    shares = [embed(url, encoder, tmp_path / "parts", labels=True, share=Share(n, 3)).store for n in (1, 2, 3)]
    local, store = open_store(tmp_path / "local"), open_store(tmp_path / "remote")
    assert (store.paths, store.labels) == (local.paths, local.labels)
    assert len(store) == 24
    assert (store.ids == local.ids).all()
    assert (store.embeddings() == local.embeddings()).all()
    assert [(e["path"], e["reason"]) for e in store.errors()] == [(e["path"], e["reason"]) for e in local.errors()]
    assert store.image_bytes(3) == local.image_bytes(3)
    merged = merge_stores(tmp_path / "merged", shares)
    assert merged.items.equals(store.items)
    assert merged.errors() == store.errors()
    assert embed(url, encoder, tmp_path / "remote").unchanged == 24


def test_a_shard_that_was_rewritten_is_embedded_anew_and_the_others_are_not(
    memory: MemoryFileSystem, shards: Path, encoder: Encoder, tmp_path: Path
) -> None:
    for path in shards.iterdir():
        memory.pipe(f"/shards/{path.name}", path.read_bytes())
    first = embed("memory://shards", encoder, tmp_path / "store")
    new = {"x.png": make_image(tmp_path / "new.png", np.random.default_rng(5)).read_bytes()}
    memory.pipe("/shards/b.tar", make_shard(tmp_path / "b.tar", new).read_bytes())
    with pytest.raises(ClzooError, match="--allow-removals"):
        embed("memory://shards", encoder, tmp_path / "store")
    summary = embed("memory://shards", encoder, tmp_path / "store", allow_removals=True)
    in_b = sum(path.startswith("b.tar/") for path in open_store(tmp_path / "store").paths)
    assert (in_b, summary.embedded, summary.rows) == (1, 1, summary.unchanged + 1)
    assert summary.dropped == first.rows - summary.unchanged


def test_a_folder_as_a_url_gives_the_same_too(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    embed(images.as_uri(), encoder, tmp_path / "remote")
    embed(images, encoder, tmp_path / "local")
    assert by_path(open_store(tmp_path / "remote")).keys() == by_path(open_store(tmp_path / "local")).keys()
    assert embed(images.as_uri(), encoder, tmp_path / "remote").unchanged == 24


def test_only_what_changed_is_embedded_again(
    memory: MemoryFileSystem, bucket: str, encoder: Encoder, tmp_path: Path
) -> None:
    embed(bucket, encoder, tmp_path / "store")
    again = embed(bucket, encoder, tmp_path / "store")
    assert (again.embedded, again.unchanged) == (0, 24)
    content = make_image(tmp_path / "new.png", np.random.default_rng(5)).read_bytes()
    memory.pipe("/bucket/photos/cats/000.jpg", content)
    memory.pipe("/bucket/photos/birds/new.png", content)
    memory.rm("/bucket/photos/dogs/001.png")
    summary = embed(bucket, encoder, tmp_path / "store")
    assert (summary.embedded, summary.unchanged, summary.dropped) == (2, 22, 1)


def test_what_is_no_image_is_named_or_counted(memory: MemoryFileSystem, bucket: str) -> None:
    memory.pipe("/bucket/photos/notes.txt", b"x")
    memory.pipe("/bucket/photos/train.tar", b"x")
    memory.pipe("/bucket/photosynthesis/a.jpg", b"x")  # another prefix
    listing = list_remote(bucket)
    assert len(listing.items) == 24
    assert dict(listing.ignored) == {".txt": 1}
    assert [(failure.path, failure.reason) for failure in listing.failures] == [
        ("train.tar", "damaged shard: truncated header")
    ]


def test_a_source_that_cannot_be_used_is_refused(memory: MemoryFileSystem, bucket: str) -> None:
    memory.pipe("/other/readme.md", b"x")
    for url, message in (
        ("memory://other", r"holds no images: found 1 \.md"),
        ("memory://nowhere", "cannot be listed: FileNotFoundError"),
        (f"{bucket}/cats/000.jpg", "is one file"),
        ("nosuch://bucket", "Protocol not known"),
    ):
        with pytest.raises(ClzooError, match=message):
            list_remote(url)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", fail)
    with pytest.raises(ClzooError, match="pip install s3fs"):
        list_remote("s3://bucket/photos")


@pytest.mark.parametrize(
    ("source", "expected"),
    [("s3://b/p", True), ("hf://datasets/a/b", True), ("zip://x::s3://b", True), ("C:/images", False), ("a/b", False)],
)
def test_a_url_is_told_from_a_path(source: str, expected: bool) -> None:
    assert is_remote(source) is expected
    assert is_remote(Path(source)) is False


def test_the_default_output_is_named_after_the_last_part() -> None:
    assert default_out("s3://bucket/photos/") == Path("photos-embeddings")
    assert default_out("gs://bucket") == Path("bucket-embeddings")
    with pytest.raises(ClzooError, match="no name"):
        default_out("memory://")


def test_a_stamp_is_the_version_else_the_time_and_changes_with_it() -> None:
    assert stamp_of({"ETag": "a", "LastModified": 1.0}) == stamp_of({"ETag": "a", "LastModified": 2.0})
    assert stamp_of({"ETag": "a"}) != stamp_of({"ETag": "b"})
    assert 0 < stamp_of({"ETag": "a"}) < 2**63
    assert stamp_of({"mtime": 1.5, "created": 9.0}) == 1_500_000_000
    assert stamp_of({"LastModified": datetime(1970, 1, 1, 0, 0, 2, tzinfo=timezone.utc)}) == 2_000_000_000
    assert stamp_of({}) == 0


# Storage that fails ---------------------------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, method: str, path: str, times: int, error: Exception) -> list[str]:
    """Calls of this method of memory:// for this path fail so many times; returns the list of the calls."""
    real, calls = getattr(MemoryFileSystem, method), []

    def call(self: MemoryFileSystem, name: str, *arguments: Any, **options: Any) -> Any:
        if name.endswith(path):
            calls.append(name)
            if len(calls) <= times:
                raise error
        return real(self, name, *arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, method, call)
    return calls


def test_a_read_that_fails_twice_succeeds(
    bucket: str, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = failing(monkeypatch, "cat_file", "cats/002.jpg", 2, TimeoutError("slow"))
    assert embed(bucket, encoder, tmp_path / "store").failed == 0
    assert len(calls) == 3


def test_a_read_that_fails_always_is_named_and_tried_again_by_the_next_run(
    bucket: str, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "cat_file", "cats/002.jpg", 99, ConnectionError("reset by peer"))
    summary = embed(bucket, encoder, tmp_path / "store")
    assert (summary.embedded, summary.failed) == (23, 1)
    (error,) = open_store(tmp_path / "store").errors()
    assert error["reason"] == "cannot be fetched: ConnectionError: reset by peer"
    monkeypatch.undo()
    assert embed(bucket, encoder, tmp_path / "store").embedded == 1
    assert len(open_store(tmp_path / "store")) == 24


def test_half_an_image_is_not_taken_for_a_whole_one(
    bucket: str, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = MemoryFileSystem.cat_file
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda self, path, **options: real(self, path)[:200])
    with pytest.raises(ClzooError, match="none of the 24 images"):
        embed(bucket, encoder, tmp_path / "store")
    errors = open_store(tmp_path / "store").errors()
    assert len(errors) == 24
    assert "200 bytes came, " in errors[0]["reason"]


def test_a_listing_that_fails_anywhere_ends_the_run_and_the_store_stays(
    bucket: str, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = embed(bucket, encoder, tmp_path / "store").generation
    failing(monkeypatch, "ls", "/dogs", 99, ConnectionError("down"))
    with pytest.raises(ClzooError, match="cannot be listed: ConnectionError: down"):
        embed(bucket, encoder, tmp_path / "store")
    store = open_store(tmp_path / "store")
    assert (len(store), store.generation) == (24, generation)


# Stores in remote storage ---------------------------------------------------------------------------------------------

URL = "memory://bucket/store"


def remote_files(memory: MemoryFileSystem) -> set[str]:
    return {name.rpartition("/")[2] for name in memory.ls("/bucket/store", detail=False)}


def test_an_output_in_remote_storage_is_refused_with_what_to_type(images: Path, encoder: Encoder) -> None:
    with pytest.raises(ClzooError, match=r"clzoo store copy DIR s3://bucket/store"):
        embed_folder(images, encoder, "s3://bucket/store", progress=False)
    with pytest.raises(ClzooError, match="a store is written to a local folder"):
        embed_with_processes(images, "no-model", "s3://bucket/store", EmbedOptions(device="cpu"))


def test_a_store_goes_there_and_back(memory: MemoryFileSystem, images: Path, encoder: Encoder, tmp_path: Path) -> None:
    (images / "broken.jpg").touch()
    embed(images, encoder, tmp_path / "store")
    copy_store(str(tmp_path / "store"), URL)
    assert remote_files(memory) == files_of(tmp_path / "store")
    copy_store(URL, str(tmp_path / "back"))
    store, back = open_store(tmp_path / "store"), open_store(tmp_path / "back")
    assert back.manifest == store.manifest
    assert back.items.equals(store.items)
    assert back.errors() == store.errors()
    assert (back.embeddings() == store.embeddings()).all()
    assert embed(images, encoder, tmp_path / "back").unchanged == 24


def test_an_update_replaces_the_old_generation_and_its_files(
    memory: MemoryFileSystem, images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    embed(images, encoder, tmp_path / "store")
    copy_store(str(tmp_path / "store"), URL)
    make_image(images / "new.png", np.random.default_rng(5))
    embed(images, encoder, tmp_path / "store")
    copy_store(str(tmp_path / "store"), URL)
    assert remote_files(memory) == files_of(tmp_path / "store")
    copy_store(URL, str(tmp_path / "back"))
    assert len(open_store(tmp_path / "back")) == 25


def cut_off_before(cut: pytest.MonkeyPatch, step: int) -> None:
    """The action of this number (a file opened to be written, or deleted) fails."""
    actions = 0

    def counted(real: Any) -> Any:
        def action(self: MemoryFileSystem, path: str, mode: str = "", *rest: Any, **options: Any) -> Any:
            nonlocal actions
            if mode != "rb":
                actions += 1
                if actions == step:
                    raise OSError("cut off")
            return real(self, path, *([mode] if mode else []), *rest, **options)

        return action

    for method in ("open", "rm_file"):
        cut.setattr(MemoryFileSystem, method, counted(getattr(MemoryFileSystem, method)))


def test_cut_off_at_any_write_a_reader_finds_the_old_store_or_the_new_one(
    memory: MemoryFileSystem, images: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(images, encoder, tmp_path / "store")
    copy_store(str(tmp_path / "store"), URL)
    before = dict(memory.store)
    make_image(images / "new.png", np.random.default_rng(5))
    embed(images, encoder, tmp_path / "store")

    seen, step, finished = set(), 0, False
    while not finished:
        step += 1
        memory.store.clear()
        memory.store.update(before)
        with monkeypatch.context() as cut:
            cut_off_before(cut, step)
            try:
                copy_store(str(tmp_path / "store"), URL)
                finished = True
            except ClzooError as error:
                assert "cut off" in str(error)  # noqa: PT017
        back = tmp_path / f"back-{step}"
        copy_store(URL, str(back))
        seen.add(len(open_store(back)))
        copy_store(str(tmp_path / "store"), URL)  # the same command again
        assert remote_files(memory) == files_of(tmp_path / "store")
    assert step == 9  # announced, vectors, items, errors, manifest; two files and that deleted; all of it
    assert seen == {24, 25}


def test_a_first_copy_that_was_cut_off_is_taken_up_and_files_of_other_people_are_not(
    memory: MemoryFileSystem, images: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(images, encoder, tmp_path / "store")
    with monkeypatch.context() as cut:
        cut_off_before(cut, 4)
        with pytest.raises(ClzooError, match="cut off"):
            copy_store(str(tmp_path / "store"), URL)
    copy_store(str(tmp_path / "store"), URL)
    assert remote_files(memory) == files_of(tmp_path / "store")

    memory.store.clear()
    path = "/bucket/store"
    memory.pipe(f"{path}/embeddings-1.npy", b"mine")
    with pytest.raises(ClzooError, match=r"is not empty \(it holds embeddings-1.npy\)"):
        copy_store(str(tmp_path / "store"), URL)
    memory.store.clear()
    copy_store(str(tmp_path / "store"), URL)
    memory.pipe(f"{path}/embeddings-99.npy", b"mine")
    make_image(images / "new.png", np.random.default_rng(5))
    embed(images, encoder, tmp_path / "store")
    copy_store(str(tmp_path / "store"), URL)
    assert memory.cat_file(f"{path}/embeddings-99.npy") == b"mine"


def test_what_must_not_be_copied_or_replaced_is_refused(
    memory: MemoryFileSystem, images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    embed(images, encoder, tmp_path / "store")
    store = str(tmp_path / "store")
    with pytest.raises(ClzooError, match="expected a folder and a URL"):
        copy_store(store, str(tmp_path / "other"))
    with pytest.raises(ClzooError, match=r"no manifest\.json"):
        copy_store(URL, str(tmp_path / "other"))
    memory.pipe("/bucket/thesis/chapter.tex", b"x")
    with pytest.raises(ClzooError, match=r"not empty \(it holds chapter\.tex\)"):
        copy_store(store, "memory://bucket/thesis")
    copy_store(store, URL)
    with pytest.raises(ClzooError, match="exists"):
        copy_store(URL, store)
    other = shutil.copytree(images, tmp_path / "others")
    embed(other, encoder, tmp_path / "another")
    with pytest.raises(ClzooError, match="holds another store"):
        copy_store(str(tmp_path / "another"), URL)
    # Deleted and made anew: the same names with other content.
    shutil.rmtree(store)
    make_image(images / "cats" / "000.jpg", np.random.default_rng(5))
    embed(images, encoder, tmp_path / "store")
    with pytest.raises(ClzooError, match="is not an earlier state"):
        copy_store(store, URL)
    raw = json.loads((tmp_path / "store" / MANIFEST).read_text())
    (tmp_path / "store" / MANIFEST).write_text(json.dumps({**raw, "complete": False}))
    with pytest.raises(ClzooError, match="is not finished"):
        copy_store(store, URL)
    remote_manifest = json.loads(memory.cat_file("/bucket/store/manifest.json"))
    memory.pipe("/bucket/store/manifest.json", json.dumps({**remote_manifest, "generation": 99}).encode())
    (tmp_path / "store" / MANIFEST).write_text(json.dumps(raw))
    with pytest.raises(ClzooError, match="generation 99"):
        copy_store(store, URL)


def test_a_remote_manifest_that_leaves_its_folder_is_refused(
    memory: MemoryFileSystem, images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    embed(images, encoder, tmp_path / "store")
    copy_store(str(tmp_path / "store"), URL)
    manifest = json.loads(memory.cat_file("/bucket/store/manifest.json"))
    manifest["segments"][0]["items"] = "../../items-1.parquet"
    memory.pipe("/bucket/store/manifest.json", json.dumps(manifest).encode())
    with pytest.raises(ClzooError, match="which no store holds"):
        copy_store(URL, str(tmp_path / "back"))
    assert not (tmp_path / "back").exists()


def test_half_a_remote_store_leaves_no_folder(
    memory: MemoryFileSystem, images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    embed(images, encoder, tmp_path / "store")
    copy_store(str(tmp_path / "store"), URL)
    memory.rm_file(f"/bucket/store/{ERRORS}")
    with pytest.raises(ClzooError, match="could not be copied"):
        copy_store(URL, str(tmp_path / "back"))
    assert not (tmp_path / "back").exists()


def test_the_commands_take_urls(
    images: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ("embed", images.as_uri(), "--model", str(model_folder), "--quiet"),
        ("store", "copy", "images-embeddings", (tmp_path / "there").as_uri()),
        ("store", "copy", (tmp_path / "there").as_uri(), "back"),
    ):
        (tmp_path / "there").mkdir(exist_ok=True)
        main_code(arguments)
    assert len(open_store("back")) == 24


def main_code(arguments: tuple[str, ...]) -> None:
    with contextlib.suppress(SystemExit):  # of a command that ends well there may be none
        main(list(arguments))
