"""The page as one file: its policy, its size, and what it says where it cannot be."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from looking import random_vectors
from written_stores import write_store

from clzoo import ClzooError, explore
from clzoo.cli.explore import command
from clzoo.explorer import exploring, page
from clzoo.explorer.payload import _is_listable, _values, column, payload


def test_the_policy_allows_this_script_and_this_style_and_no_request(file):
    text = file.read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text).group(1)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    for content, directive in ((script, "script-src"), (style, "style-src")):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in policy.replace("&#39;", "'")
    assert "unsafe" not in policy
    assert "default-src &#39;none&#39;" in policy
    assert "connect-src" not in policy
    assert not re.search(r'(src|href)="(?!data:,)', text)


def test_names_of_others_end_no_element(tmp_path):
    evil = "a</script><script>alert(1)</script><!--\u2028.png"
    store = write_store(tmp_path / "store", random_vectors(3), paths=[evil, "b.png", "c.png"], labels=[evil, "b", "b"])
    text = explore(store, flags=[], projection="pca").write_page(tmp_path / "map.html").read_text()
    assert text.count("</script>") == 3  # the collection, its sheet, the script
    assert "<!--" not in text
    (inside,) = re.findall(r'id="collection">(.*?)</script>', text, re.DOTALL)
    assert json.loads(inside)["paths"][0] == evil


def test_the_file_is_made_of_the_collection_alone_and_nothing_in_it_is_changed(place, file):
    assert file.stat().st_size < 300_000
    assert (
        sorted(path.name for path in place.iterdir()) == ["list.csv", "map.html", "pictures", "store"]
        or (place / "other").exists()
    )


def test_too_many_images_are_told_how_to_be_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_IMAGES", 20)
    view = explore(write_store(tmp_path / "store", random_vectors(30)), flags=[], projection="pca")
    with pytest.raises(ClzooError, match=r"has 30 images; one file holds 20. Take a sample: .* --sample 20 --html"):
        view.write_page(tmp_path / "map.html")
    assert not (tmp_path / "map.html").exists()
    monkeypatch.setattr(exploring, "_seen", lambda *_: pytest.fail("the command says so before the work"))
    error = CliRunner().invoke(command, [str(tmp_path / "store"), "--html", str(tmp_path / "map.html")]).exception
    assert isinstance(error, ClzooError)
    assert "has 30 images; one file holds 20" in str(error)


def test_a_file_that_would_be_too_large_is_refused(tmp_path, monkeypatch, view):
    monkeypatch.setattr(page, "MOST_BYTES", 60_000)
    with pytest.raises(ClzooError, match="--sample 18"):
        view.write_page(tmp_path / "map.html")


def test_files_outside_of_shards_alone_can_be_listed(tmp_path):
    folder, vectors = tmp_path / "photos.zip", random_vectors(2)
    folder.mkdir()
    store = write_store(tmp_path / "a", vectors, paths=["a.jpg", "train.tar/0.jpg"], root=folder)
    assert [_is_listable(store, path) for path in store.paths] == [True, False]
    store.manifest = replace(store.manifest, source="images by id (2 images)")
    assert not any(_is_listable(store, path) for path in store.paths)


def test_columns_of_the_list_are_names_or_numbers(view):
    columns = {each["name"]: each for each in json.loads(payload(view))["columns"]}
    assert list(columns) == ["label", "camera", "exposure", "file size", "label quality", "outlier distance"]
    assert columns["camera"]["values"] == ["mirrorless", "phone"]
    assert sorted(numbers(columns["exposure"]))[:2] == [0.5, 1.5]


def test_numbers_of_the_list_are_kept_to_the_last_digit():
    seconds = [1_700_000_000 + i for i in range(30)]  # float32 has one value for all of them
    assert numbers(column("taken", seconds)).tolist() == seconds


@pytest.mark.parametrize("kind", [pa.timestamp("ns"), pa.timestamp("us"), pa.duration("ns"), pa.time64("ns")])
def test_times_that_python_has_none_of_are_shown_as_they_are(kind):
    largest = 2**62 if kind == pa.timestamp("us") else 12_345_678_901  # beyond the year 9999; of nanoseconds
    texts = _values(pa.chunked_array([pa.array([largest, None], pa.int64()).cast(kind)]))
    assert texts[1] is None
    assert isinstance(texts[0], str)


def numbers(column):
    return np.frombuffer(base64.b64decode(column["values"]), column["type"])


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([str(i) for i in range(30)], "number"),
        ([i / 2 for i in range(29)] + [None], "number"),
        ([i / 2 for i in range(29)] + [float("nan")], "number"),  # how polars leaves a cell empty
        ([f"-{i}.50e-2" for i in range(30)], "number"),
        ([f"{i:05}" for i in range(30)], "category"),  # numbers of patients: 00007 is not 7
        ([f"12_{i}" for i in range(30)], "category"),
        ([str(4_006_381_333_931_000_000 + i) for i in range(30)], "category"),  # beyond what a float64 tells apart
        ([4_006_381_333_931_000_000 + i for i in range(30)], "category"),
        ([str(i % 3) for i in range(30)], "category"),
        ([*map(str, range(30)), "unknown"], "category"),
        ([float("nan")] * 30, "category"),
        ([True, False] * 15, "category"),
        ([None] * 30, "category"),
    ],
)
def test_numbers_that_are_few_or_not_all_numbers_are_names(values, kind):
    assert column("x", values)["kind"] == kind


def test_an_empty_cell_is_no_name():
    assert column("x", ["a", "", None, float("nan"), "b"])["values"] == ["a", "b"]
