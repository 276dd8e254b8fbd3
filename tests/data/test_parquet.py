"""Parquet files of images as table programs write them: what is taken for their labels."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clzoo.data.opening import open_source


def labels(folder: Path, column: pa.Array, **metadata: str) -> list[str | None]:
    """The labels of images beside a column `label`."""
    images = []
    for number in range(len(column)):
        file = io.BytesIO()
        Image.new("RGB", (4, 4), (number, 0, 0)).save(file, "PNG")
        images.append(file.getvalue())
    table = pa.table({"image": images, "label": column}).replace_schema_metadata(metadata)
    pq.write_table(table, folder / "images.parquet")
    listing = open_source(folder / "images.parquet").listing
    assert listing is not None
    return [item.label for item in listing.items]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["cat", "dog", None, "cat"]).dictionary_encode(), ["cat", "dog", None, "cat"]),
        (pa.array([3, 1, None, 3]).dictionary_encode(), ["3", "1", None, "3"]),
        (pa.array([0.0, 2.0, None, 10.0]), ["0", "2", None, "10"]),
        (pa.array([0.0, 2.0, float("nan"), -1.0]), ["0", "2", None, None]),
        (pa.array(np.array([4.0, 5.0], np.float32)), ["4", "5"]),
        (pa.array([4.5, 5.0]), [None, None]),
        (pa.array([[1], [2]]), [None, None]),
    ],
)
def test_values_that_are_classes_are_labels_whatever_type_they_are_kept_in(
    tmp_path: Path, column: pa.Array, expected: list[str | None]
) -> None:
    assert labels(tmp_path, column) == expected


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64()])
def test_declared_names_are_the_labels_where_some_rows_have_none(tmp_path: Path, kind: pa.DataType) -> None:
    features = {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    declared = json.dumps({"info": {"features": features}})
    assert labels(tmp_path, pa.array([1, None, 0, -1], kind), huggingface=declared) == ["dog", None, "cat", None]
