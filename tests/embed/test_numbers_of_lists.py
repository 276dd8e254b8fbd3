"""Columns of numbers with empty cells: the same list again leaves a store, and the merge of shares, as they are."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clzoo import Encoder, embed_folder, open_store
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
