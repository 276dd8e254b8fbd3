"""Zip archives: read in place by the rules of tar shards; whatever is hostile in one is named."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path

import pytest
from picture_folders import encoded, make_folder, picture

from clzoo.data import zips
from clzoo.data.listing import HIDDEN, REPLACED, Listing
from clzoo.data.opening import open_labelled, open_source, splits_of
from clzoo.data.sources import list_images, read_image
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.images import max_pixels, set_max_pixels

PNG = encoded(picture(1, 1))


def write_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def paths(listing: Listing) -> list[str]:
    return [item.path for item in listing.items]


def reasons(listing: Listing) -> dict[str, str]:
    return {failure.path: failure.reason for failure in listing.failures}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_items_with_the_archives_time(tmp_path: Path, method: int) -> None:
    members = {f"cats/{n}.png": encoded(picture(0, n)) for n in (2, 1)} | {"notes.txt": b"x", "cats/._1.png": b"Mac"}
    archive = write_zip(tmp_path / "in" / "a.zip", members | {"__MACOSX/x.png": b"", "inner.zip": b""}, method)
    for source in (archive, archive.parent):
        listing = list_images(source)
        assert paths(listing) == ["a.zip/cats/1.png", "a.zip/cats/2.png"]
        assert [item.read() for item in listing.items] == [members["cats/1.png"], members["cats/2.png"]]
        assert [item.size for item in listing.items] == [len(members[f"cats/{n}.png"]) for n in (1, 2)]
        assert {item.mtime_ns for item in listing.items} == {archive.stat().st_mtime_ns}
        assert listing.ignored == {".txt": 1, HIDDEN: 2, ".zip": 1}
        assert not listing.failures
    assert read_image(archive.parent, "a.zip/cats/2.png") == members["cats/2.png"]
    assert open_source(archive, "train").classes == ("cats",)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_that_leave_their_folder_are_read_in_place_and_the_last_of_a_name_counts(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in (("../../x.png", b"1"), ("/y.png", b"2"), ("y.png", PNG), ("a/../z.png", b"4")):
            archive.writestr(name, data)
        archive.writestr("z.png", b"5")
        archive.writestr("z.png", b"6")
    listing = list_images(tmp_path / "a.zip")
    assert paths(listing) == ["a.zip/../../x.png", "a.zip/y.png", "a.zip/z.png"]
    assert [item.read() for item in listing.items] == [b"1", PNG, b"6"]
    assert listing.ignored == {REPLACED: 3}
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_links_encrypted_members_and_other_compression_are_named(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        opened.writestr(link, "/etc/passwd")
        opened.writestr("bz.png", PNG, zipfile.ZIP_BZIP2)
        opened.writestr("locked.png", PNG)
        opened.writestr("good.png", PNG)
    content = bytearray(archive.read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"locked.png"))
    content[entry + 8] |= 1  # the flag of the central directory
    archive.write_bytes(content)
    listing = list_images(archive)
    assert paths(listing) == ["a.zip/good.png"]
    assert reasons(listing) == {
        "a.zip/bz.png": "compressed by method 12; expected stored or deflated members. Type: zip -r",
        "a.zip/link.png": "not a regular member of the shard",
        "a.zip/locked.png": "encrypted; unpack it with its password and name the folder",
    }


def test_a_member_that_states_more_than_an_image_can_take_is_not_inflated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zips, "_BESIDE_PIXELS", 0)
    before = max_pixels()
    archive = write_zip(tmp_path / "a.zip", {"bomb.png": bytes(1 << 20), "good.png": PNG})
    try:
        set_max_pixels(10_000)
        listing = list_images(archive)
        assert paths(listing) == ["a.zip/good.png"]
        assert "it unpacks into 1,048,576 bytes, more than an image of 10,000 pixels can take" in str(reasons(listing))
        set_max_pixels(1 << 20)
        assert len(list_images(archive).items) == 2
    finally:
        set_max_pixels(before)


def test_a_member_that_is_larger_than_it_states_is_inflated_no_further_and_named(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"bomb.png": bytes(1 << 20)})
    content = archive.read_bytes().replace((1 << 20).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    archive.write_bytes(content)
    (item,) = list_images(archive).items
    assert item.size == 1000
    with pytest.raises(UnreadableImageError, match="CRC-32"):
        item.read()


def test_members_inside_each_other_are_named(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("kernel.png", PNG)
    outer = bytearray(write_zip(tmp_path / "a.zip", {"big.png": inner.getvalue()}, zipfile.ZIP_STORED).read_bytes())
    offset = outer.index(b"PK\x03\x04", 4)
    directory = outer.index(b"PK\x01\x02", outer.rindex(b"big.png") - 60)
    second = bytearray(inner.getvalue()[inner.getvalue().index(b"PK\x01\x02") : inner.getvalue().rindex(b"PK\x05\x06")])
    second[42:46] = offset.to_bytes(4, "little")
    end = outer.rindex(b"PK\x05\x06")
    both = outer[directory:end] + second
    tail = bytearray(outer[end:])
    tail[8:10] = tail[10:12] = (2).to_bytes(2, "little")
    tail[12:16] = len(both).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(outer[:directory] + both + tail)
    listing = list_images(tmp_path / "a.zip")
    assert not listing.items
    assert set(reasons(listing)) == {"a.zip/big.png", "a.zip/kernel.png"}
    assert all("it lies inside another member" in reason for reason in reasons(listing).values())


@pytest.mark.parametrize("keep", [0, 10, -1, -30])
def test_an_archive_that_was_cut_off_is_one_that_could_not_be_reached(tmp_path: Path, keep: int) -> None:
    archive = write_zip(tmp_path / "a.zip", {"1.png": PNG, "2.png": PNG})
    archive.write_bytes(archive.read_bytes()[: keep or None] if keep else b"")
    listing = list_images(archive)
    assert not listing.items
    assert reasons(listing)["a.zip"].startswith("damaged zip archive: ")
    assert listing.unreachable == {"a.zip"}


def test_one_flipped_byte_is_noticed_whatever_the_decoder_would_say(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"1.png": PNG}, zipfile.ZIP_STORED)
    content = bytearray(archive.read_bytes())
    content[content.index(PNG[-40:]) + 3] ^= 1
    archive.write_bytes(content)
    with pytest.raises(UnreadableImageError, match="CRC-32"):
        list_images(archive).items[0].read()


@pytest.mark.parametrize("around", ["", "photos/", "a/b/"])
def test_a_packed_data_set_has_the_splits_and_classes_of_its_folder(tmp_path: Path, around: str) -> None:
    make_folder(tmp_path / "set" / "train", {"ant": 3, "bee": 2})
    make_folder(tmp_path / "set" / "val", {"ant": 1, "bee": 1})
    files = {f"{around}{path.relative_to(tmp_path / 'set')}": path.read_bytes() for path in tmp_path.rglob("*.png")}
    archive = write_zip(tmp_path / "set.zip", files)
    assert splits_of(archive) == ["train", "test"]
    for split in ("train", "test"):
        ours, folder = open_source(archive, split), open_source(tmp_path / "set", split)
        assert (ours.classes, ours.labels.tolist()) == (folder.classes, folder.labels.tolist())
        assert [ours.images.name(n) for n in range(len(ours))] == [folder.images.name(n) for n in range(len(folder))]
    assert len(open_labelled(archive, "test")) == 2
    whole = write_zip(tmp_path / "whole.zip", {f"{around}{c}/{n}.png": PNG for c in "ab" for n in range(2)})
    assert open_labelled(whole, "test").classes == ("a", "b")
    with pytest.raises(ClzooError, match="no splits; for the test split expected"):
        open_source(whole, "test")
