"""Columns of numbers in lists: empty cells change nothing the second time, and another type is said in a merge."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clzoo import ClzooError, Encoder, embed_folder, open_store
from clzoo.embed import merge_stores
from clzoo.embed.shares import Share

NAN = float("nan")


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_a_list_with_nan_embeds_nothing_anew_and_keeps_the_generation(
    images: Path, tmp_path: Path, encoder: Encoder, kind: pa.DataType
) -> None:
    paths = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.*"))[:6]

    def run(weights: list[float | None], **options: Share) -> tuple[int, Path]:
        pq.write_table(pa.table({"path": paths, "weight": pa.array(weights, kind)}), images / "list.parquet")
        done = embed_folder(images / "list.parquet", encoder, tmp_path / "out", progress=False, **options)
        return done.generation, done.store

    first, folder = run([NAN, 1.5, None, 0.0, 2.0, NAN])
    assert run([NAN, 1.5, None, 0.0, 2.0, NAN])[0] == first
    generations = [first]
    for changed in ([0.0, 1.5, None, 0.0, 2.0, NAN], [0.0, 1.5, NAN, 0.0, 2.0, NAN], [0.0, 1.5, NAN, 0.0, 2.5, NAN]):
        generations.append(run(changed)[0])
        assert str(open_store(folder).metadata["weight"].to_pylist()) == str(changed)
    assert generations == sorted(set(generations))
    shares = [run([NAN, 1.5, None, 0.0, 2.0, NAN], share=Share(number, 2))[1] for number in (1, 2)]
    merged = merge_stores(tmp_path / "merged", shares).generation
    assert merge_stores(tmp_path / "merged", shares).generation == merged


def test_shares_of_a_list_whose_column_changed_its_type_are_refused_until_the_older_one_is_embedded_anew(
    images: Path, tmp_path: Path, model_folder: Path, clzoo_says: Any
) -> None:
    paths = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.*"))[:6]
    shares = []
    for number, years in (
        (1, [1999, 2000, 2001, 2002, 2003, 2004]),
        (2, ["1999", "2000", "2001", "2002", "2003", "?"]),
    ):
        pq.write_table(pa.table({"path": paths, "year": years}), images / "list.parquet")
        done = embed_folder(images / "list.parquet", model_folder, tmp_path / "out", share=Share(number, 2))
        shares.append(done.store)
    with pytest.raises(ClzooError, match="its column year holds int64 in the one and string in the other") as refusal:
        merge_stores(tmp_path / "merged", shares)
    assert not (tmp_path / "merged").exists()
    older = str(refusal.value).split("anew: ")[1].split("; or")[0]
    assert clzoo_says(*shlex.split(older)[1:])[0] == 0
    assert merge_stores(tmp_path / "merged", shares).metadata["year"].to_pylist()[-1] == "?"
