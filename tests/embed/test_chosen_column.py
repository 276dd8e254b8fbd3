"""Parquet files with several columns of images: the one that was embedded is the one that is shown and hashed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from web_server import WebServer

from clzoo import Encoder, embed_folder, open_store
from clzoo.curation import find_outliers
from clzoo.data.opening import column_of
from clzoo.errors import UnreadableImageError


@pytest.fixture
def scans(images: Path, tmp_path: Path) -> tuple[Path, list[bytes]]:
    """A file with the columns `image` and `mask`, and the masks."""
    data = [path.read_bytes() for path in sorted(images.rglob("*.*"))]
    pictures, masks = data[:8], data[8:16]
    path = tmp_path / "scans.parquet"
    pq.write_table(pa.table({"image": pictures, "mask": masks}), path)
    return path, masks


def test_a_store_of_a_chosen_column_reads_its_images_from_that_column(
    scans: tuple[Path, list[bytes]], tmp_path: Path, web: WebServer, encoder: Encoder
) -> None:
    path, masks = scans
    web.files["/scans.parquet"] = path.read_bytes()
    for place, source in (("here", path), ("remote", f"{web.url}/scans.parquet"), ("folder", tmp_path)):
        store = open_store(
            embed_folder(f"{source}#column=mask", encoder, tmp_path / f"of-{place}", progress=False).store
        )
        rows = [row for row, name in enumerate(store.paths) if name.startswith("scans.parquet")]
        assert [store.image_bytes(row) for row in rows] == masks, place


def test_a_page_shows_images_of_one_of_two_equal_columns(images: Path, tmp_path: Path, encoder: Encoder) -> None:
    data = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(images.rglob("*.*"))]
    pq.write_table(pa.table({"left": data[:12], "right": data[12:]}), tmp_path / "pairs.parquet")
    folder = embed_folder(f"{tmp_path}/pairs.parquet#column=right", encoder, tmp_path / "out", progress=False).store
    page = find_outliers(folder).write_page(tmp_path / "page.html").read_text()
    assert page.count("data:image/") == 12
    assert open_store(folder, images=tmp_path).image_bytes(0) == data[12]["bytes"]


def test_a_file_that_has_lost_the_column_is_unreadable(
    scans: tuple[Path, list[bytes]], tmp_path: Path, encoder: Encoder
) -> None:
    path, masks = scans
    store = open_store(embed_folder(f"{path}#column=mask", encoder, tmp_path / "out", progress=False).store)
    pq.write_table(pa.table({"image": masks}), path)
    with pytest.raises(UnreadableImageError, match="no column of images called mask"):
        store.image_bytes(0)


@pytest.mark.parametrize(
    ("origin", "column"),
    [
        ("/data/scans.parquet#column=mask", "mask"),
        ("/data#column=mask", "mask"),
        ("hf-hub:ORG/NAME#split=test&column=mask", "mask"),
        ("hf-hub:ORG/NAME#split=test", None),
        ("/data/list.csv#column=place", None),
        ("/data/list.parquet#column=place", None),
        ("/data/scans#2", None),
        ("/data/scans.parquet", None),
    ],
)
def test_the_column_of_images_is_what_the_end_of_the_source_chose(origin: str, column: str | None) -> None:
    assert column_of(origin, "scans.parquet/000000000") == column
