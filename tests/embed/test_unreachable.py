"""What cannot be reached is not deleted: its rows stay, it is named, and a store never empties itself."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pictures import by_path, make_images

from clzoo import ClzooError, Encoder, embed_folder, open_store
from clzoo.cli import main
from clzoo.embed import Summary, merge_stores
from clzoo.embed.shares import Share

needs_links = pytest.mark.skipif(os.name == "nt", reason="links as on POSIX")


def embed(source: str | Path, encoder: Encoder, out: Path, **options: Any) -> Summary:
    return embed_folder(source, encoder, out, progress=False, **options)


def reasons(out: Path) -> dict[str, str]:
    return {error["path"]: error["reason"] for error in open_store(out).errors()}


def failing(monkeypatch: pytest.MonkeyPatch, function: str, place: str, code: int) -> None:
    """`os.FUNCTION` of any path that ends with `place` raises this error, as a disk or a server that fails does."""
    real: Callable[..., Any] = getattr(os, function)

    def fails(path: Any, *arguments: Any, **options: Any) -> Any:
        if str(path).endswith(place):
            raise OSError(code, os.strerror(code), str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, function, fails)


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.EACCES, errno.ENOENT, errno.ETIMEDOUT])
@pytest.mark.parametrize("function", ["scandir", "stat"])
def test_rows_below_a_folder_that_cannot_be_listed_are_kept(
    images: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, code: int
) -> None:
    embed(images, encoder, tmp_path / "store")
    before = by_path(open_store(tmp_path / "store"))
    with monkeypatch.context() as patch:
        failing(patch, function, "images/dogs", code)
        summary = embed(images, encoder, tmp_path / "store")
    assert (summary.unchanged, summary.kept, summary.dropped, summary.failed) == (12, 12, 0, 1)
    assert reasons(tmp_path / "store") == {"dogs": os.strerror(code)}
    assert sorted(by_path(open_store(tmp_path / "store"))) == sorted(before)
    again = embed(images, encoder, tmp_path / "store")
    assert (again.embedded, again.unchanged, again.kept) == (0, 24, 0)
    assert reasons(tmp_path / "store") == {}


@needs_links
@pytest.mark.parametrize("name", ["b", "b.d", "b.tar", "b.png"])
def test_rows_below_a_link_that_leads_nowhere_are_kept_whatever_its_name_is(
    images: Path, encoder: Encoder, tmp_path: Path, name: str
) -> None:
    disk = make_images(tmp_path / "disk", 6, seed=1)
    (images / name).symlink_to(disk)
    embed(images, encoder, tmp_path / "store")
    disk.rename(tmp_path / "away")
    summary = embed(images, encoder, tmp_path / "store")
    assert (summary.rows, summary.kept, summary.failed) == (30, 6, 1)
    assert reasons(tmp_path / "store") == {name: "No such file or directory"}
    (images / name).unlink()  # now the images are gone on purpose
    with pytest.raises(ClzooError, match="--allow-removals"):
        embed(images, encoder, tmp_path / "store")
    assert embed(images, encoder, tmp_path / "store", allow_removals=True).dropped == 6


def test_a_listed_image_that_is_not_there_keeps_its_row_until_its_line_is_gone(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    names = sorted(path.relative_to(tmp_path).as_posix() for path in images.rglob("*.*"))
    (tmp_path / "list.txt").write_text("\n".join(names))
    embed(tmp_path / "list.txt", encoder, tmp_path / "store")
    (images / "cats" / "000.jpg").unlink()
    summary = embed(tmp_path / "list.txt", encoder, tmp_path / "store")
    assert (summary.rows, summary.kept, summary.dropped) == (24, 1, 0)
    assert reasons(tmp_path / "store") == {"images/cats/000.jpg": "No such file or directory"}
    (tmp_path / "list.txt").write_text("\n".join(name for name in names if "000.jpg" not in name))
    assert embed(tmp_path / "list.txt", encoder, tmp_path / "store").dropped == 1


def test_a_list_whose_disk_is_away_is_exit_code_1_and_the_store_stays(
    images: Path, encoder: Encoder, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(path.relative_to(tmp_path).as_posix() for path in images.rglob("*.*"))
    (tmp_path / "list.txt").write_text("\n".join(names))
    command = ["embed", str(tmp_path / "list.txt"), "--model", str(model_folder), "--out", str(tmp_path / "store")]
    main(command)
    before = by_path(open_store(tmp_path / "store"))
    images.rename(tmp_path / "away")
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 1
    assert "none of the 24 images could be embedded" in capsys.readouterr().err
    assert sorted(by_path(open_store(tmp_path / "store"))) == sorted(before)
    with pytest.raises(SystemExit):
        main([*command[:-1], str(tmp_path / "fresh")])
    assert len(open_store(tmp_path / "fresh").errors()) == 24


@pytest.mark.skipif(sys.platform == "win32", reason="errors as on POSIX")
@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES])
def test_rows_of_a_shard_that_cannot_be_read_are_kept(
    images: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a.tar", "b.tar"):
        with tarfile.open(source / name, "w") as archive:
            archive.add(images, arcname=".")
    embed(source, encoder, tmp_path / "store")
    with monkeypatch.context() as patch:
        failing(patch, "stat", "b.tar", code)
        summary = embed(source, encoder, tmp_path / "store")
    assert (summary.rows, summary.kept, summary.dropped) == (48, 24, 0)
    assert os.strerror(code) in reasons(tmp_path / "store")["b.tar"]


def test_every_share_keeps_its_rows_below_a_folder_that_cannot_be_listed_and_so_does_their_merge(
    images: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = [Share(number, 3) for number in (1, 2, 3)]
    folders = [embed(images, encoder, tmp_path / "store", share=share).store for share in shares]
    merge_stores(tmp_path / "whole", folders)
    failing(monkeypatch, "scandir", "images/dogs", errno.ESTALE)
    summaries = [embed(images, encoder, tmp_path / "store", share=share) for share in shares]
    assert sum(summary.kept for summary in summaries) == 12
    assert len(merge_stores(tmp_path / "whole", folders)) == 24
    assert reasons(tmp_path / "whole") == {"dogs": "Stale file handle"}


def test_a_run_that_would_drop_more_than_a_tenth_asks_first_and_changes_nothing(
    images: Path, encoder: Encoder, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["embed", str(images), "--model", str(model_folder), "--out", str(tmp_path / "store")]
    main(command)
    before = (tmp_path / "store" / "manifest.json").read_bytes()
    for number in range(0, 6, 2):  # an eighth
        (images / "cats" / f"{number:03d}.jpg").unlink()
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 1
    assert "3 of its 24 images are no longer in the source" in capsys.readouterr().err
    assert (tmp_path / "store" / "manifest.json").read_bytes() == before
    main([*command, "--allow-removals"])
    assert len(open_store(tmp_path / "store")) == 21


def test_a_tenth_is_dropped_without_a_question(encoder: Encoder, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", 10)
    embed(images, encoder, tmp_path / "store")
    (images / "cats" / "000.jpg").unlink()
    assert embed(images, encoder, tmp_path / "store").dropped == 1


def test_a_merge_that_would_lose_more_than_a_tenth_asks_first(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    shares = [Share(number, 2) for number in (1, 2)]
    folders = [embed(images, encoder, tmp_path / "store", share=share).store for share in shares]
    generation = merge_stores(tmp_path / "whole", folders).generation
    shutil.rmtree(images / "dogs")
    for share in shares:
        embed(images, encoder, tmp_path / "store", share=share, allow_removals=True)
    with pytest.raises(ClzooError, match=r"12 of its 24 images.*--allow-removals"):
        merge_stores(tmp_path / "whole", folders)
    assert open_store(tmp_path / "whole").generation == generation
    assert len(merge_stores(tmp_path / "whole", folders, allow_removals=True)) == 12


def test_a_remote_source_of_which_a_part_is_missing_asks_first(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    url = images.as_uri()
    embed(url, encoder, tmp_path / "store")
    (images / "dogs").rename(tmp_path / "away")
    with pytest.raises(ClzooError, match=r"12 of its 24 images.*--allow-removals"):
        embed(url, encoder, tmp_path / "store")
    assert len(open_store(tmp_path / "store")) == 24


@needs_links
def test_a_link_below_a_url_that_leads_nowhere_is_named_and_its_rows_are_kept(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    url = images.as_uri()
    embed(url, encoder, tmp_path / "store")
    (images / "dogs").rename(tmp_path / "away")
    (images / "dogs").symlink_to(tmp_path / "nowhere")
    summary = embed(url, encoder, tmp_path / "store")
    assert (summary.kept, summary.dropped) == (12, 0)
    assert list(reasons(tmp_path / "store")) == ["dogs"]


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100])
def test_rows_of_a_damaged_tar_are_kept(images: Path, encoder: Encoder, tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "shards"
    source.mkdir()
    for name in ("cats", "dogs"):
        with tarfile.open(source / f"{name}.tar", "w") as shard:
            shard.add(images / name, name)
    embed(source, encoder, tmp_path / "store")
    (source / "dogs.tar").write_bytes(content)
    summary = embed(source, encoder, tmp_path / "store")
    assert (summary.unchanged, summary.kept, summary.dropped, summary.failed) == (12, 12, 0, 1)
