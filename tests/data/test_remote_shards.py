"""Tar shards behind URLs: the listing and the bytes of local ones, each part of a shard fetched once."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from picture_folders import encoded, make_shard, picture
from web_server import WebServer

from clzoo import cache
from clzoo.data import ranges, remote_shards, storage
from clzoo.data.listing import Listing
from clzoo.data.ranges import BlockCache
from clzoo.data.remote import RemoteItem, list_remote, read_remote
from clzoo.data.sources import list_images
from clzoo.errors import ClzooError, UnreadableImageError


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(storage, "PAUSES", (0.0, 0.0))
    monkeypatch.setenv("CLZOO_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards, one in a sub-folder: images, class numbers, a text, and an image beside them."""
    for label, name in enumerate(("train-0.tar", "more/train-1.tar")):
        members = {f"cats/{n:02}.png": encoded(picture(label, n)) for n in range(12)}
        members |= {f"cats/{n:02}.cls": b"3" for n in range(12)} | {"notes.txt": b"x", "./dogs/a.jpg": b"no image"}
        make_shard(tmp_path / "shards" / name, members | {"cats/._00.png": b"Mac", ".trash/1.png": b"gone"})
    joined = [make_shard(tmp_path / f"{n}.tar", {f"{n}.png": encoded(picture(0, n))}).read_bytes() for n in range(2)]
    (tmp_path / "shards" / "joined.tar").write_bytes(b"".join(joined))
    (tmp_path / "shards" / "packed.tar").write_bytes(b"PK\x03\x04")
    picture(2, 2).save(tmp_path / "shards" / "alone.png")
    (tmp_path / "shards" / ".thumbnails").mkdir()
    for name in (".thumbnails/1.png", "._alone.png", "more.7z"):
        (tmp_path / "shards" / name).write_bytes(b"no data")
    return tmp_path / "shards"


def put(memory: MemoryFileSystem, folder: Path) -> str:
    for path in folder.rglob("*.*"):
        if path.is_file():
            memory.pipe(f"/bucket/{folder.name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return f"memory://bucket/{folder.name}"


def serve(web: WebServer, folder: Path) -> str:
    for path in folder.rglob("*.*"):
        if path.is_file():
            web.files[f"/{folder.name}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    return f"{web.url}/{folder.name}/"


def assert_same(listing: Listing, local: Listing) -> None:
    """Everything but where the files are, and their times."""
    assert [(item.path, item.size, item.offset) for item in listing.items] == [
        (item.path, item.size, item.offset) for item in local.items
    ]
    for item, there in zip(listing.items, local.items, strict=True):
        if len(content := there.read()) == there.size:
            assert item.read() == content
        else:  # of a shard that was cut off; the decoder would find it out too
            with pytest.raises(UnreadableImageError, match="bytes came"):
                item.read()
    assert [(f.path, f.size, f.reason) for f in listing.failures] == [
        (f.path, f.size, f.reason) for f in local.failures
    ]
    assert (listing.ids == local.ids).all()
    assert listing.ignored == local.ignored
    assert listing.compressed == local.compressed
    assert {item.path for item in listing.class_files} == {item.path for item in local.class_files}
    assert all(type(item) is RemoteItem for item in (*listing.items, *listing.class_files))


def count(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Every part that is fetched from now on, as (start, stop)."""
    fetched: list[tuple[int, int]] = []
    real = ranges.fetch

    def fetch(url: str, start: int, stop: int) -> bytes:
        fetched.append((start, stop))
        return real(url, start, stop)

    monkeypatch.setattr(ranges, "fetch", fetch)
    monkeypatch.setattr(remote_shards, "fetch", fetch)
    return fetched


# As local shards ------------------------------------------------------------------------------------------------------


def test_a_bucket_with_shards_is_the_folder_with_shards(memory: MemoryFileSystem, shards: Path) -> None:
    assert_same(list_remote(put(memory, shards)), list_images(shards))


def test_a_web_server_with_shards_is_the_folder_with_shards(web: WebServer, shards: Path) -> None:
    assert_same(list_remote(serve(web, shards)), list_images(shards))


def test_a_url_may_name_one_shard(memory: MemoryFileSystem, web: WebServer, shards: Path) -> None:
    put(memory, shards)
    local = list_images(shards / "train-0.tar")
    for url in ("memory://bucket/shards/train-0.tar", serve(web, shards) + "train-0.tar"):
        listing = list_remote(url)
        assert_same(listing, local)
        assert read_remote(url, listing.items[3].path) == local.items[3].read()
    memory.pipe("/top.tar", (shards / "train-0.tar").read_bytes())
    assert read_remote("memory://top.tar", "top.tar/cats/03.png") == encoded(picture(0, 3))


def test_an_image_is_found_again_by_its_path(memory: MemoryFileSystem, web: WebServer, shards: Path) -> None:
    for url in (put(memory, shards), serve(web, shards)):
        assert read_remote(url, "more/train-1.tar/cats/05.png") == encoded(picture(1, 5))
        assert read_remote(url, "alone.png") == (shards / "alone.png").read_bytes()
        with pytest.raises(UnreadableImageError, match=r"not in .*train-1\.tar \(any more\)"):
            read_remote(url, "more/train-1.tar/cats/99.png")
        with pytest.raises(UnreadableImageError, match="cannot be fetched: FileNotFoundError"):
            read_remote(url, "train-9.tar/cats/05.png")


def hostile(path: Path) -> None:
    """Members that leave their folder, that are no files, that come twice, and one whose name is not UTF-8."""
    with tarfile.open(path, "w") as archive:
        for name in ("../../a.png", "/b.png", "c.png", "c.png", "x/../d.png"):
            info = tarfile.TarInfo(name)
            info.size = 5
            archive.addfile(info, io.BytesIO(name.encode()[-5:]))
        for name, kind in (("link.png", tarfile.SYMTYPE), ("pipe.png", tarfile.FIFOTYPE), ("folder", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo(b"b\xff.png".decode(errors="surrogateescape")))


def damaged(path: Path, kind: str) -> None:
    whole = make_shard(path, {f"{n}.png": bytes(1000) for n in range(8)}).read_bytes()  # 3 blocks each
    cut = {"in a member": 512 * 13, "before the end mark": 512 * 12, "inside a header": 512 * 12 + 100}
    if kind in cut:
        path.write_bytes(whole[: cut[kind]])
    elif kind == "a header overwritten":
        path.write_bytes(whole[: 512 * 12] + b"\x7f" * 512 + whole[512 * 13 :])
    else:
        path.write_bytes({"empty": b"", "no tar": b"<html>" * 500}[kind])


@pytest.mark.parametrize(
    "kind",
    ["hostile", "in a member", "before the end mark", "inside a header", "a header overwritten", "empty", "no tar"],
)
@pytest.mark.parametrize("block", [700, 4 << 20])
def test_what_is_wrong_with_a_shard_is_named_as_in_a_local_one(
    memory: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, block: int
) -> None:
    monkeypatch.setattr(remote_shards, "BLOCK", block)
    (tmp_path / "shards").mkdir()
    (hostile if kind == "hostile" else damaged)(tmp_path / "shards" / "a.tar", *([] if kind == "hostile" else [kind]))
    url = put(memory, tmp_path / "shards")
    local = list_images(tmp_path / "shards")
    assert local.failures
    for _ in range(2):  # read, then from the cache
        assert_same(list_remote(url), local)


# What is fetched ------------------------------------------------------------------------------------------------------


def test_headers_are_read_once_until_the_shard_changes(
    memory: MemoryFileSystem, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = put(memory, shards)
    fetched = count(monkeypatch)
    before = list_remote(url)
    assert len(fetched) == 4  # a block each, and the head of what is no tar
    again = list_remote(url)
    assert len(fetched) == 4
    assert again.items == before.items
    assert again.ignored == before.ignored
    make_shard(shards / "train-0.tar", {"cats/new.png": encoded(picture(9, 9))})
    put(memory, shards)
    assert_same(list_remote(url), list_images(shards))


def test_a_shard_without_a_version_is_not_kept(
    memory: MemoryFileSystem, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = put(memory, shards)
    real = MemoryFileSystem.ls
    monkeypatch.setattr(
        MemoryFileSystem,
        "ls",
        lambda self, path, **options: [{**info, "created": None} for info in real(self, path, **options)],
    )
    list_remote(url)
    assert not (cache.root() / cache.SHARDS).exists()


def test_a_damaged_index_is_named_and_made_anew(
    memory: MemoryFileSystem, shards: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = put(memory, shards)
    list_remote(url)
    for path in (cache.root() / cache.SHARDS).iterdir():
        path.write_bytes(b"PAR1 no more")
    assert_same(list_remote(url), list_images(shards))
    assert "is damaged" in caplog.text
    caplog.clear()
    list_remote(url)
    assert "is damaged" not in caplog.text


def test_members_larger_than_a_block_are_leapt_over(memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_shards, "BLOCK", 4096)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number in range(5):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = 1_000_000
            archive.addfile(info, io.BytesIO(bytes(1_000_000)))
    memory.pipe("/big/a.tar", file.getvalue())
    fetched = count(monkeypatch)
    assert len(list_remote("memory://big").items) == 5
    assert sum(stop - start for start, stop in fetched) < 50_000


def test_a_shard_that_is_read_in_its_order_is_fetched_once(
    memory: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "BLOCK", 1 << 14)
    monkeypatch.setattr(ranges, "KEPT", 4)
    content = {f"{n:03}.png": np.random.default_rng(n).bytes(3000) for n in range(200)}
    url = put(memory, make_shard(tmp_path / "shards" / "a.tar", content).parent)
    items = list_remote(url).items
    fetched = count(monkeypatch)
    assert [item.read() for item in items] == list(content.values())
    assert len(fetched) == len(set(fetched)) == -(-(items[-1].offset + 3000) // (1 << 14))  # type: ignore[operator]


@pytest.mark.parametrize("seed", [0, 1])
def test_members_in_another_order_are_soon_asked_for_one_by_one(
    memory: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(ranges, "BLOCK", 1 << 14)
    monkeypatch.setattr(ranges, "KEPT", 4)
    order = np.random.default_rng(seed).permutation(400)
    content = {f"{n:03}.png": np.random.default_rng(n).bytes(1000) for n in order}
    url = put(memory, make_shard(tmp_path / "shards" / "a.tar", content).parent)
    items = list_remote(url).items
    fetched = count(monkeypatch)
    assert [item.read() for item in items] == [content[f"{n:03}.png"] for n in range(400)]
    assert sum(stop - start for start, stop in fetched) < 400 * 1000 + 40 * (1 << 14)  # with blocks alone: 400 blocks


def test_threads_that_want_one_block_fetch_it_once(memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor
    from threading import Event

    memory.pipe("/a.bin", bytes(range(250)) * 40)
    first, fetched = Event(), []

    def fetch(url: str, start: int, stop: int) -> bytes:
        fetched.append(start)
        assert first.wait(10)
        return memory.cat_file("/a.bin", start, stop)

    monkeypatch.setattr(ranges, "fetch", fetch)
    blocks = BlockCache()
    with ThreadPoolExecutor(8) as pool:
        parts = [pool.submit(blocks.read, "memory://a.bin", 1, 10 * n, 10) for n in range(8)]
        first.set()
        assert [part.result()[0] for part in parts] == [10 * n for n in range(8)]
    assert fetched == [0]
    assert blocks.read("memory://a.bin", 2, 0, 3) == b"\0\1\2"  # another version is another file
    assert fetched == [0, 0]


# Storage that fails ---------------------------------------------------------------------------------------------------


def test_a_server_without_ranges_is_refused_before_it_sends_everything(web: WebServer, tmp_path: Path) -> None:
    make_shard(tmp_path / "shards" / "a.tar", {"a.png": bytes(20_000_000)})
    url = serve(web, tmp_path / "shards")
    web.ranges = False
    with pytest.raises(ClzooError, match=r"a\.tar: this server does not send parts of files .* Type: curl -LO http"):
        list_remote(url)
    assert web.sent < 10_000_000


def test_a_member_that_fails_twice_is_read_and_one_that_fails_always_is_named(
    web: WebServer, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = list_remote(serve(web, shards))
    item = next(item for item in listing.items if item.path == "train-0.tar/cats/04.png")
    web.fail = 2
    assert item.read() == encoded(picture(0, 4))
    web.fail = 99
    ranges.BLOCKS.clear()
    with pytest.raises(UnreadableImageError, match="cannot be fetched: ClientResponseError: 500"):
        item.read()
    web.fail = 0
    assert item.read() == encoded(picture(0, 4))


def test_a_shard_cut_short_after_the_listing_gives_no_half_images(memory: MemoryFileSystem, shards: Path) -> None:
    listing = list_remote(put(memory, shards))
    item = next(item for item in listing.items if item.path == "train-0.tar/cats/04.png")
    memory.pipe("/bucket/shards/train-0.tar", (shards / "train-0.tar").read_bytes()[: (item.offset or 0) + 10])
    with pytest.raises(UnreadableImageError, match=f"10 bytes came, {item.size} were listed"):
        item.read()


def test_headers_that_cannot_be_read_end_the_listing_and_those_that_were_are_kept(
    memory: MemoryFileSystem, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = put(memory, shards)
    real = MemoryFileSystem.cat_file
    down = ["train-0.tar"]
    asked = []

    def cat_file(self: MemoryFileSystem, path: str, **options: Any) -> bytes:
        asked.append(path.rpartition("/")[2])
        if asked[-1] in down:
            raise ConnectionError("down")
        return real(self, path, **options)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    with pytest.raises(ClzooError, match="cannot be listed: ConnectionError: down"):
        list_remote(url)
    assert asked.count("train-0.tar") == 3
    down.clear()
    list_remote(url)
    assert asked.count("train-1.tar") == 1


def test_a_folder_on_a_web_server_needs_its_slash(web: WebServer, shards: Path) -> None:
    url = serve(web, shards)
    web.files["/shards"] = b"a page"
    with pytest.raises(ClzooError, match="ends with /"):
        list_remote(url.rstrip("/"))
