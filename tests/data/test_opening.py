"""One door for every source: what lies behind a URL, in an archive or in a folder is the same collection."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from picture_folders import encoded, make_folder, make_shard, picture
from web_server import WebServer

from clzoo.data import storage
from clzoo.data.content import digests
from clzoo.data.opening import open_labelled, open_source, open_split, splits_of
from clzoo.data.packing import pack
from clzoo.data.training import open_training_set
from clzoo.errors import ClzooError
from clzoo.evaluation.opening import open_splits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """train and val of two classes."""
    make_folder(tmp_path / "set" / "train", {"ant": 3, "bee": 2})
    make_folder(tmp_path / "set" / "val", {"ant": 1, "bee": 1})
    return tmp_path / "set"


def put(memory: MemoryFileSystem, folder: Path) -> str:
    for path in folder.rglob("*.*"):
        memory.pipe(f"/{folder.name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return f"memory://{folder.name}"


def names(collection) -> list[str]:
    return [collection.images.name(row) for row in range(len(collection))]


def test_splits_and_classes_behind_a_url_are_those_of_the_folder(memory: MemoryFileSystem, folder: Path) -> None:
    url = put(memory, folder)
    assert splits_of(url) == splits_of(folder) == ["train", "test"]
    for split in ("train", "test", "pretrain"):
        ours, theirs = open_source(url, split), open_source(folder, split)
        assert (names(ours), ours.classes, ours.labels.tolist()) == (
            names(theirs),
            theirs.classes,
            theirs.labels.tolist(),
        )
        rows = np.arange(len(ours))
        assert (digests(ours.images, rows) == digests(theirs.images, rows)).all()
    assert open_source(url, "test").origin == "memory://set/val"
    train, test = open_splits({"train": f"{url}/train", "test": f"{url}/val"})
    assert (len(train.images), len(test.images)) == (5, 2)
    ours = open_training_set("cifar10", url, 16)
    assert (ours.pixels == open_training_set("cifar10", folder, 16).pixels).all()


def test_a_pack_of_a_url_is_the_pack_of_the_folder(memory: MemoryFileSystem, folder: Path, tmp_path: Path) -> None:
    ours, theirs = pack(put(memory, folder), 16, tmp_path / "a"), pack(folder, 16, tmp_path / "b")
    assert [part["sha256"] for part in ours] == [part["sha256"] for part in theirs]
    assert [part["source"]["sha256"] for part in ours] == [part["source"]["sha256"] for part in theirs]


def test_a_folder_behind_a_url_that_can_be_read_in_two_ways_is_an_error_that_names_both(
    memory: MemoryFileSystem, tmp_path: Path
) -> None:
    make_folder(tmp_path / "set" / "train", {"steam": 2})
    make_folder(tmp_path / "set", {"bus": 2})
    with pytest.raises(ClzooError, match=r"memory://set can be read in two ways.*memory://set/train"):
        open_source(put(memory, tmp_path / "set"), "train")


def test_shards_with_words_and_class_numbers_behind_a_url(memory: MemoryFileSystem, tmp_path: Path) -> None:
    for word, count in (("train", 4), ("val", 2)):
        members = {f"{n}.png": encoded(picture(n % 2, n)) for n in range(count)}
        members |= {f"{n}.cls": str(n % 2).encode() for n in range(count)}
        make_shard(tmp_path / "set" / f"x-{word}-0.tar", members)
        with zipfile.ZipFile(tmp_path / "set" / f"y-{word}-0.zip", "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    url = put(memory, tmp_path / "set")
    assert splits_of(url) == splits_of(tmp_path / "set") == ["train", "test"]
    for source in (url, tmp_path / "set"):
        assert open_split(source, "train").labels.tolist() == [0, 1] * 4
        assert open_split(source, "test").labels.tolist() == [0, 1] * 2


def test_a_zip_archive_on_a_web_server_is_read_in_parts(web: WebServer, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for n in range(6):
            archive.writestr(f"{'ant' if n % 2 else 'bee'}/{n}.png", encoded(picture(0, n)))
        archive.writestr("rest.bin", np.random.default_rng(0).bytes(20 << 20))
    web.files["/a.zip"] = (tmp_path / "a.zip").read_bytes()
    ours, local = open_source(f"{web.url}/a.zip"), open_source(tmp_path / "a.zip")
    assert [item.path for item in ours.listing.items] == [item.path for item in local.listing.items]
    assert [item.read() for item in ours.listing.items] == [item.read() for item in local.listing.items]
    assert web.sent < 13 << 20  # blocks of 4 MiB, of more than 20
    assert open_labelled(f"{web.url}/a.zip", "test").classes == ("ant", "bee")
    web.ranges = False
    with pytest.raises(ClzooError, match="does not send parts of files"):
        open_source(f"{web.url}/a.zip")


def test_a_url_never_gets_advice_for_another_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PAUSES", (0.0, 0.0))
    with pytest.raises(ClzooError) as error:
        open_training_set("cifar10", "s3://bucket/prefix", 32)
    assert str(error.value).startswith("s3://bucket/prefix c")
    assert "torchvision" not in str(error.value)
    archive = make_shard(tmp_path / "cifar.tar", {"ant/1.png": encoded(picture(0, 1))})
    assert len(open_training_set("cifar10", archive, 32)) == 1
