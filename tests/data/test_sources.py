"""list_images: everything in a source is an image, a failure with its reason, or counted as ignored."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clzoo.data import listing as listings
from clzoo.data.listing import HIDDEN, HIDDEN_FOLDERS, REPEATED, REPLACED, Listing, item_ids, label_of
from clzoo.data.sources import list_images, read_image
from clzoo.errors import ClzooError, UnreadableImageError

needs_links = pytest.mark.skipif(os.name == "nt", reason="links and pipes as on POSIX")


def png(colour: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (colour % 256, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write(path: Path, data: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png() if data is None else data)
    return path


def write_shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def paths(listing: Listing) -> list[str]:
    return [item.path for item in listing.items]


def reasons(listing: Listing) -> dict[str, str]:
    return {failure.path: failure.reason for failure in listing.failures}


def test_a_folder_is_searched_to_the_bottom_and_sorted_by_path(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.JPG", "a/b/c.webp", "a.png", "a-b.gif"):
        write(tmp_path / name)
    listing = list_images(tmp_path)
    assert paths(listing) == sorted(["b.png", "a/z.JPG", "a/b/c.webp", "a.png", "a-b.gif"])
    assert listing.items[0].size == len(png())
    assert listing.items[0].mtime_ns == (tmp_path / listing.items[0].path).stat().st_mtime_ns
    assert listing.root == tmp_path.resolve()


def test_files_that_do_not_look_like_images_are_counted_by_suffix(tmp_path: Path) -> None:
    for name in ("a.png", "x/notes.TXT", "notes.txt", "README", ".hidden"):
        write(tmp_path / name)
    listing = list_images(tmp_path)
    assert paths(listing) == ["a.png"]
    assert listing.ignored == {".txt": 2, "no suffix": 1, HIDDEN: 1}


def test_an_id_is_the_first_63_bits_of_the_paths_sha256(tmp_path: Path) -> None:
    write(tmp_path / "cats" / "größe.png")
    bits = int(hashlib.sha256("cats/größe.png".encode()).hexdigest(), 16) >> (256 - 63)
    assert list_images(tmp_path).ids.tolist() == [bits]


def test_two_paths_with_one_id_are_an_error_that_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "_item_id", lambda path: len(path))
    assert item_ids(["a", "bb"]).tolist() == [1, 2]
    with pytest.raises(ClzooError, match=r"a.png and b.png have the same id"):
        item_ids(["a.png", "longer.png", "b.png"])


def test_an_empty_folder_is_an_error_that_says_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(ClzooError, match="found nothing"):
        list_images(tmp_path)
    write(tmp_path / "notes.txt")
    with pytest.raises(ClzooError, match=r"found 1 \.txt; expected names that end in .*\.jpg"):
        list_images(tmp_path)


def test_a_missing_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ClzooError, match="does not exist"):
        list_images(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["a.png", "a.tar.gz", "a.7z"])
def test_a_source_of_another_kind_is_an_error_that_says_what_was_expected(tmp_path: Path, name: str) -> None:
    with pytest.raises(ClzooError, match=r"expected a folder|plain \.tar"):
        list_images(write(tmp_path / name))


@needs_links
def test_links_to_folders_are_followed_but_never_in_circles(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.png")
    write(tmp_path / "elsewhere" / "b.png")
    (tmp_path / "images" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "images")
    listing = list_images(tmp_path / "images")
    assert paths(listing) == ["a.png", "linked/b.png"]
    assert reasons(listing) == {"linked/back": "a symlink loop"}


@needs_links
def test_links_that_lead_nowhere_and_pipes_are_listed_with_their_reasons(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    listing = list_images(tmp_path)
    assert paths(listing) == ["a.png"]
    assert reasons(listing) == {
        "broken.png": "No such file or directory",
        "loop.png": "Too many levels of symbolic links",
        "pipe.png": "not a regular file",
    }


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_listed(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    write(tmp_path / "secret" / "b.png")
    (tmp_path / "secret").chmod(0)
    try:
        assert reasons(list_images(tmp_path)) == {"secret": "Permission denied"}
    finally:
        (tmp_path / "secret").chmod(0o700)


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="file names are Unicode there")
def test_a_name_that_is_not_utf8_is_listed_readably(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    write(tmp_path / os.fsdecode(b"caf\xe9.png"))
    assert reasons(list_images(tmp_path)) == {"caf\\xe9.png": "the file name is not UTF-8; rename it"}


def test_a_text_file_names_images_relative_to_its_own_folder(tmp_path: Path) -> None:
    inside = write(tmp_path / "lists" / "cats" / "a.png")
    outside = write(tmp_path / "b.dat")  # named by the user, so its suffix does not matter
    lines = ["cats/a.png", "", "  ./cats/../cats/a.png", str(outside), "missing.png", "cats"]
    text = write(tmp_path / "lists" / "mine.txt", "\n".join(lines).encode())
    listing = list_images(text)
    assert paths(listing) == sorted(["cats/a.png", outside.as_posix()])
    assert reasons(listing) == {
        "cats": "a folder; a text file names images",
        "missing.png": "No such file or directory",
    }
    assert listing.ignored == {REPEATED: 1}
    assert read_image(listing.root, "cats/a.png") == inside.read_bytes()
    assert read_image(listing.root, outside.as_posix()) == outside.read_bytes()


def test_a_text_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ClzooError, match="not UTF-8 text"):
        list_images(write(tmp_path / "list.txt", b"\xff\xfe\x00"))


def test_members_of_a_shard_are_items_with_the_shards_time(tmp_path: Path) -> None:
    members = {"cats/1.png": png(1), "./dogs/2.png": png(2), "cats/1.json": b"{}"}
    shard = write_shard(tmp_path / "train-000.tar", members)
    listing = list_images(shard)
    assert paths(listing) == ["train-000.tar/cats/1.png", "train-000.tar/dogs/2.png"]
    assert [item.read() for item in listing.items] == [png(1), png(2)]
    assert {item.mtime_ns for item in listing.items} == {shard.stat().st_mtime_ns}
    assert listing.ignored == {".json": 1}
    assert read_image(listing.root, "train-000.tar/cats/1.png") == png(1)


def test_a_folder_of_shards_and_loose_images_is_searched_as_one(tmp_path: Path) -> None:
    write_shard(tmp_path / "b.tar", {"1.png": png(1)})
    (tmp_path / "sub").mkdir()
    write_shard(tmp_path / "sub" / "c.tar", {"x/2.png": png(2)})
    write(tmp_path / "a.png")
    assert paths(list_images(tmp_path)) == ["a.png", "b.tar/1.png", "sub/c.tar/x/2.png"]


def test_of_members_with_one_name_the_last_counts(tmp_path: Path) -> None:
    shard = tmp_path / "a.tar"
    with tarfile.open(shard, "w") as archive:
        for data in (png(1), png(2)):
            info = tarfile.TarInfo("x.png")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    listing = list_images(shard)
    assert [item.read() for item in listing.items] == [png(2)]
    assert read_image(tmp_path, "a.tar/x.png") == png(2)


@pytest.mark.parametrize(
    ("blocks", "reason"), [(18, "damaged shard: unexpected end of data"), (20, "no end mark: the shard seems to")]
)
def test_a_truncated_shard_is_listed_and_its_whole_members_are_kept(tmp_path: Path, blocks: int, reason: str) -> None:
    shard = write_shard(tmp_path / "a.tar", {f"{i}.png": bytes(512 * 3) for i in range(8)})  # 4 blocks each
    shard.write_bytes(shard.read_bytes()[: 512 * blocks])
    listing = list_images(shard)
    assert paths(listing) == [f"a.tar/{i}.png" for i in range(5)]
    assert reasons(listing)["a.tar"].startswith(reason)


@pytest.mark.parametrize("padding", [0, 512, 70_000])
def test_archives_that_were_joined_by_cat_are_read_to_the_end(tmp_path: Path, padding: int) -> None:
    first = write_shard(tmp_path / "1.tar", {"a.png": png(1), "b.png": png(2)}).read_bytes()
    second = write_shard(tmp_path / "2.tar", {"b.png": png(3), "c.png": png(4)}).read_bytes()
    joined = write(tmp_path / "joined" / "all.tar", first + bytes(padding) + second)
    listing = list_images(joined)
    assert paths(listing) == ["all.tar/a.png", "all.tar/b.png", "all.tar/c.png"]
    assert [item.read() for item in listing.items] == [png(1), png(3), png(4)]  # as tar -xi leaves them
    assert listing.ignored == {REPLACED: 1}
    assert not listing.failures


def test_anything_else_behind_the_end_mark_is_named(tmp_path: Path) -> None:
    whole = write_shard(tmp_path / "1.tar", {"a.png": png(1)}).read_bytes()
    listing = list_images(write(tmp_path / "x" / "a.tar", whole + b"no archive" * 100))
    assert paths(listing) == ["a.tar/a.png"]
    expected = f"damaged shard: no header at byte {len(whole)}, where one has to be, behind an end mark"
    assert reasons(listing) == {"a.tar": expected}


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("a.tar.gz", "gunzip -k {}"),
        ("a.TGZ", "gunzip -k {}"),
        ("a.tar.bz2", "bunzip2 -k {}"),
        ("a.tar.xz", "unxz -k {}"),
        ("a.tar.zst", "zstd -d {}"),
        ("a b.rar", "unrar x {} {}-unpacked/"),
        ("a.7z", "7z x {} -o{}-unpacked"),
    ],
)
def test_a_compressed_archive_is_called_so_with_the_command_for_its_kind(
    tmp_path: Path, name: str, command: str
) -> None:
    archive = write(tmp_path / "in" / name, b"?")
    with pytest.raises(ClzooError, match="is compressed") as error:
        list_images(archive)
    assert str(error.value).endswith("Type: " + command.replace("{}", shlex.quote(str(archive))))
    with pytest.raises(ClzooError, match=r"Compressed archives are not read \(1, the first is") as error:
        list_images(tmp_path / "in")
    assert str(error.value).endswith("Type: " + command.replace("{}", shlex.quote(name)))


@pytest.mark.skipif(os.name == "nt", reason="shell commands as on POSIX")
@pytest.mark.parametrize(
    ("mode", "name"), [("w:gz", "a.tgz"), ("w:gz", "a.tar.gz"), ("w:bz2", "a.tar.bz2"), ("w:xz", "a.txz")]
)
def test_what_is_advised_for_a_compressed_shard_leaves_one_that_can_be_read(
    tmp_path: Path, mode: str, name: str
) -> None:
    plain = write_shard(tmp_path / "plain.tar", {"1.png": png(1)})
    with tarfile.open(tmp_path / name, mode) as archive:  # type: ignore[call-overload]
        archive.add(plain.parent / "plain.tar", "1.png")
    with pytest.raises(ClzooError, match="is compressed") as error:
        list_images(tmp_path / name)
    command = str(error.value).partition("Type: ")[2]
    if shutil.which(command.split()[0]) is None:
        pytest.skip(f"{command.split()[0]} is not installed")
    subprocess.run(command, shell=True, check=True)
    assert paths(list_images(tmp_path / "a.tar")) == ["a.tar/1.png"]


def test_a_compressed_file_that_is_called_tar_is_named_as_what_it_is(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.tar", gzip.compress(write_shard(tmp_path / "1.tar", {"1.png": png()}).read_bytes()))
    write(tmp_path / "in" / "b.tar", b"PK\x03\x04rest")
    assert reasons(list_images(tmp_path / "in")) == {
        "a.tar": "compressed by gzip; shards are plain .tar. Type: mv a.tar a.tar.gz && gunzip -k a.tar.gz",
        "b.tar": "compressed by zip; a zip archive is read under its own name. Type: mv b.tar b.zip",
    }


def test_names_that_begin_with_a_dot_are_counted_and_not_read(tmp_path: Path) -> None:
    for name in ("a.png", "._a.png", ".ipynb_checkpoints/a.png", "sub/.thumbnails/b/c.png", "__MACOSX/._a.png"):
        write(tmp_path / ".photos" / name)
    write_shard(tmp_path / ".photos" / "._s.tar", {"1.png": png()})
    listing = list_images(tmp_path / ".photos")  # which the user named
    assert paths(listing) == ["a.png"]
    assert listing.ignored == {HIDDEN: 2, HIDDEN_FOLDERS: 3}
    assert not listing.failures


def test_members_whose_names_begin_with_a_dot_are_counted_and_not_read(tmp_path: Path) -> None:
    names = ("./1.png", "./._1.png", "._1.cls", "1.cls", ".cache/2.png", "__MACOSX/1.png", "a/../b/3.png")
    listing = list_images(write_shard(tmp_path / "s.tar", {name: png() for name in names}))
    assert paths(listing) == ["s.tar/1.png", "s.tar/b/3.png"]
    assert [item.path for item in listing.class_files] == ["s.tar/1.cls"]
    assert listing.ignored == {HIDDEN: 4, ".cls": 1}


def test_a_text_file_of_paths_may_name_hidden_files(tmp_path: Path) -> None:
    write(tmp_path / ".cache" / "a.png")
    assert paths(list_images(write(tmp_path / "list.txt", b".cache/a.png"))) == [".cache/a.png"]


def test_a_shard_member_that_is_a_link_is_listed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("link.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    assert reasons(list_images(tmp_path / "a.tar")) == {"a.tar/link.png": "not a regular member of the shard"}


def test_an_image_that_is_gone_is_an_unreadable_one(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", {"1.png": png()})
    for path in ("gone.png", "a.tar/gone.png", "gone.tar/1.png"):
        with pytest.raises(UnreadableImageError):
            read_image(tmp_path, path)


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("cats/tabby/1.jpg", "cats"),
        ("1.jpg", None),
        ("train-000.tar/cats/1.jpg", "cats"),
        ("shards/train-000.tar/cats/1.jpg", "cats"),
        ("train-000.tar/1.jpg", None),
        ("/abs/cats/1.jpg", None),
    ],
)
def test_a_label_is_the_first_sub_folder(path: str, label: str | None) -> None:
    assert label_of(path) == label


def test_ids_of_many_paths_are_all_different_and_positive() -> None:
    ids = item_ids([f"{i}.jpg" for i in range(100_000)])
    assert len(np.unique(ids)) == 100_000
    assert (ids >= 0).all()
