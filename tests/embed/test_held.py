"""What a Python program holds is embedded like files: paths in a list, PIL images by id, a Dataset."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pictures import assert_same_rows, by_path
from PIL import ExifTags, Image

from clzoo.embed import embed_folder
from clzoo.embed.store import open_store
from clzoo.errors import ClzooError


class Feature:
    """Stands for `datasets.Image()` and `datasets.ClassLabel(names=...)`, which are known by their names."""

    def __init__(self, names: list[str] | None = None) -> None:
        if names is not None:
            self.names = names


Feature.__name__ = "Image"


class Dataset:
    """Behaves as a `datasets.Dataset` of two columns does, where that package is not installed."""

    def __init__(self, pictures: list[Any], labels: list[Any], fingerprint: str = "one") -> None:
        classes = type("ClassLabel", (), {"names": ["cats", "dogs"]})()
        self.features = {"picture": Feature(), "label": classes}
        self.column_names = list(self.features)
        self._columns = {"picture": pictures, "label": labels}
        self._fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self._columns["label"])

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            return self._columns[key]
        return {name: values[key] for name, values in self._columns.items()}


@pytest.fixture
def expected(images, encoder, tmp_path):
    """The vector of each file."""
    return by_path(open_store(embed_folder(images, encoder, tmp_path / "files", progress=False).store))


def test_a_list_of_paths_is_what_a_text_file_of_them_is(images, encoder, tmp_path, expected, monkeypatch):
    monkeypatch.chdir(images)
    paths = [path.relative_to(images) for path in sorted(images.rglob("*.*g"))]
    summary = embed_folder([*paths, str(paths[0])], encoder, tmp_path / "out", progress=False)
    assert (summary.embedded, summary.failed) == (24, 0)
    assert_same_rows(open_store(summary.store), expected)
    again = embed_folder(iter(paths), encoder, tmp_path / "out", progress=False)
    assert (again.embedded, again.unchanged) == (0, 24)
    fewer = embed_folder([*paths[1:], "missing.png"], encoder, tmp_path / "out", progress=False)
    assert (fewer.embedded, fewer.failed, fewer.rows) == (0, 1, 23)


def test_pil_images_have_the_vectors_of_their_files_and_an_update_takes_the_changed_ones(
    images, encoder, tmp_path, expected
):
    held = {path.relative_to(images).as_posix(): Image.open(path) for path in sorted(images.rglob("*.*g"))}
    summary = embed_folder(held, encoder, tmp_path / "out", progress=False)
    assert_same_rows(open_store(summary.store), expected)
    first, second = list(held)[:2]
    held[first] = held[second]
    again = embed_folder(held, encoder, tmp_path / "out", progress=False)
    assert (again.embedded, again.unchanged) == (1, 23)
    assert_same_rows(open_store(again.store), {**expected, first: expected[second]})


@pytest.mark.parametrize("decoded", [True, False])
def test_a_dataset_gives_numbers_for_paths_and_its_labels(images, encoder, tmp_path, expected, decoded):
    files = sorted(images.rglob("*.*g"))
    pictures = [Image.open(path) if decoded else {"bytes": path.read_bytes(), "path": None} for path in files]
    labels = [int(path.parent.name == "dogs") for path in files]
    out = tmp_path / "out"
    embed_folder(Dataset(pictures, labels), encoder, out, labels=True, progress=False)
    store = open_store(out)
    names = [path.relative_to(images).as_posix() for path in files]
    assert_same_rows(store, {f"{row:08}": expected[name] for row, name in enumerate(names)})
    assert dict(zip(store.paths, store.labels, strict=True))["00000000"] == "cats"
    assert embed_folder(Dataset(pictures, labels), encoder, out, progress=False).embedded == 0
    assert embed_folder(Dataset(pictures, labels, "another"), encoder, out, progress=False).embedded == 24


def test_images_of_a_dataset_that_are_not_labelled_have_no_label(images, encoder, tmp_path):
    pictures = [Image.open(path) for path in sorted(images.rglob("*.*g"))[:4]]
    summary = embed_folder(Dataset(pictures, [0, -1, 1, None]), encoder, tmp_path / "out", labels=True, progress=False)
    assert open_store(summary.store).labels == ["cats", None, "dogs", None]


def test_a_picture_that_cannot_be_read_is_named_with_its_reason(images, encoder, tmp_path):
    pictures = [{"bytes": path.read_bytes(), "path": None} for path in sorted(images.rglob("*.jpg"))]
    pictures[3] = {"bytes": b"not an image", "path": None}
    summary = embed_folder(Dataset(pictures, [0] * len(pictures)), encoder, tmp_path / "out", progress=False)
    assert (summary.embedded, summary.failed) == (11, 1)
    assert open_store(tmp_path / "out").errors()[0]["path"] == "00000003"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ([Image.new("RGB", (9, 9))], "without an id"),
        ([3], "element 0 is a int; expected a folder"),
        ({"a": "a.jpg"}, "'a' is a str; expected a PIL image"),
        ({7: Image.new("RGB", (9, 9))}, "the id of image 0 is 7"),
        ({}, "holds no images"),
        ([], "holds no images"),
        (7, "cannot embed the images of a int"),
        (b"bytes", "cannot embed the images of a bytes"),
    ],
)
def test_what_is_none_of_these_is_refused_with_what_is_expected(source, said, encoder, tmp_path):
    with pytest.raises(ClzooError, match=re.escape(said)):
        embed_folder(source, encoder, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_store_of_them_needs_a_place(encoder):
    with pytest.raises(ClzooError, match="a dict has no name to call the store by"):
        embed_folder({"a": Image.new("RGB", (9, 9))}, encoder, progress=False)


def test_a_picture_of_the_same_indices_and_another_palette_is_embedded_anew(encoder, tmp_path):
    picture = Image.linear_gradient("L").convert("P")
    embed_folder({"a": picture, "b": picture}, encoder, tmp_path / "out", progress=False)
    other = picture.copy()
    other.putpalette([255 - value for value in picture.getpalette()])
    again = embed_folder({"a": other, "b": picture}, encoder, tmp_path / "out", progress=False)
    assert (again.embedded, again.unchanged) == (1, 1)


def test_a_picture_that_was_turned_by_its_orientation_is_embedded_anew(encoder, tmp_path):
    picture = Image.linear_gradient("L")
    embed_folder({"a": picture}, encoder, tmp_path / "out", progress=False)
    picture.getexif()[ExifTags.Base.Orientation] = 6
    assert embed_folder({"a": picture}, encoder, tmp_path / "out", progress=False).embedded == 1
