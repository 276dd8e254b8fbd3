"""Data sets in the Hub's layout on the local disk. They need the package `datasets` (clzoo[data])."""

import io
import sys
import zipfile

import numpy as np
import pytest
from picture_folders import encoded, picture
from PIL import Image

from clzoo.data import content
from clzoo.data.content import digests
from clzoo.data.opening import open_source, open_split, splits_of
from clzoo.data.packing import pack
from clzoo.data.training import open_training_set
from clzoo.errors import ClzooError
from clzoo.evaluation.opening import open_splits


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ClzooError, match=r'needs the package datasets. Type: pip install "clzoo\[data\]"'):
        open_training_set("cifar10", "hf-hub:someone/pictures", 32)


@pytest.fixture
def datasets(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    module = pytest.importorskip("datasets", reason="the package datasets is not installed: pip install clzoo[data]")
    monkeypatch.setattr(module.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(module.config, "HF_HUB_OFFLINE", True)
    module.disable_progress_bars()
    return module


def write(datasets, folder, *, split="train", labels="label", numbers=range(6), broken=()):
    """A Parquet file of one split: six pictures of two classes."""
    pictures = [
        {"bytes": b"broken" if n in broken else encoded(picture(n % 2, n // 2)), "path": f"{n}.png"} for n in numbers
    ]
    features = {"image": datasets.Image()}
    columns = {"image": pictures}
    if labels:
        features[labels] = datasets.ClassLabel(names=["ant", "bee"])
        columns[labels] = [n % 2 for n in numbers]
    (folder / "data").mkdir(parents=True, exist_ok=True)
    made = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    made.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    return f"hf-hub:{folder}"


@pytest.mark.parametrize("budget", [0, 1 << 30])
@pytest.mark.parametrize("labels", ["label", "fine_label", "kind"])
def test_a_hub_set_is_read_with_its_classes(datasets, tmp_path, budget, labels):
    opened = open_training_set("toy", write(datasets, tmp_path / "toy", labels=labels), 16, budget=budget)
    assert opened.labels.tolist() == [0, 1] * 3
    assert opened.classes == ("ant", "bee")
    found = [opened.image(n).resize((1, 1)).getpixel((0, 0)) for n in (5, 0, 2)]
    assert found == [picture(n % 2, n // 2).getpixel((0, 0)) for n in (5, 0, 2)]


def test_validation_is_taken_where_there_is_no_test_split(datasets, tmp_path):
    write(datasets, tmp_path / "toy")
    name = write(datasets, tmp_path / "toy", split="validation", numbers=range(2))
    assert len(open_training_set("toy", name, 16, split="test")) == 2
    assert splits_of(name) == ["train", "test"]


def test_a_missing_split_is_an_error_with_those_that_are_there(datasets, tmp_path):
    with pytest.raises(ClzooError, match="has the splits train; expected test or val or validation"):
        open_training_set("toy", write(datasets, tmp_path / "toy"), 16, split="test")


def test_a_set_without_class_column_has_no_labels(datasets, tmp_path):
    assert open_training_set("toy", write(datasets, tmp_path / "toy", labels=None), 16).labels is None


def write_plain(datasets, folder, kind, values, *, split="train", column="label"):
    """A split whose column is not declared to hold classes."""
    pictures = [{"bytes": encoded(picture(0, n)), "path": f"{n}.png"} for n in range(len(values))]
    feature = kind if not isinstance(kind, str) else datasets.Value(kind)
    features = datasets.Features({"image": datasets.Image(), column: feature, "caption": datasets.Value("string")})
    columns = {"image": pictures, column: values, "caption": ["x"] * len(values)}
    (folder / "data").mkdir(parents=True, exist_ok=True)
    made = datasets.Dataset.from_dict(columns, features=features)
    made.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    return f"hf-hub:{folder}"


@pytest.mark.parametrize(
    ("kind", "values", "classes"),
    [
        ("int64", [10, 2, 10, 0], ("0", "2", "10")),
        ("uint8", [1, 0, 1, 0], ("0", "1")),
        ("string", ["b", "a", "b", "10"], ("10", "a", "b")),
        ("large_string", ["b", "a", "b", "a"], ("a", "b")),
        ("bool", [True, False, True, True], ("False", "True")),
    ],
)
@pytest.mark.parametrize("column", ["label", "category"])
def test_plain_values_are_classes_sorted_by_what_they_are(datasets, tmp_path, kind, values, classes, column):
    opened = open_source(write_plain(datasets, tmp_path / "toy", kind, values, column=column), "train")
    assert opened.classes == classes
    assert [opened.classes[label] for label in opened.labels] == [str(value) for value in values]
    assert opened.passed_over == {"column caption": 1}


def test_splits_of_plain_values_meet_by_name(datasets, tmp_path):
    write_plain(datasets, tmp_path / "toy", "int64", [2, 10, 0, 2])
    name = write_plain(datasets, tmp_path / "toy", "string", ["2", "0", "10", "2"], split="test")
    (tmp_path / "other" / "data").mkdir(parents=True)
    (tmp_path / "toy" / "data" / "test-00000-of-00001.parquet").rename(
        tmp_path / "other" / "data" / "test-00000-of-00001.parquet"
    )
    train, test = open_splits({"train": name, "test": f"hf-hub:{tmp_path / 'other'}"})
    assert train.classes == test.classes == ("0", "2", "10")
    assert test.labels.tolist() == [1, 0, 2, 1]


@pytest.mark.parametrize("kind", ["float32", "list"])
def test_a_column_of_another_type_is_an_error_that_says_how_to_cast_it(datasets, tmp_path, kind):
    values = [1.0, 2.0] if kind == "float32" else [[1, 2], [3]]
    name = write_plain(
        datasets, tmp_path / "toy", kind if kind == "float32" else datasets.List(datasets.Value("int64")), values
    )
    with pytest.raises(
        ClzooError, match=r"\(split train\) has no labels. The column label is .*cast_column\(\"label\""
    ):
        open_split(name, "train")


def test_a_labelled_validation_is_taken_before_a_test_split_without_labels(datasets, tmp_path, caplog):
    write_plain(datasets, tmp_path / "toy", "int64", [0, 1])
    write_plain(datasets, tmp_path / "toy", "int64", [-1, -1, -1], split="test")
    name = write_plain(datasets, tmp_path / "toy", "int64", [1, 0], split="validation")
    opened = open_split(name, "test")
    assert opened.origin == f"{name} (split validation)"
    assert opened.labels.tolist() == [1, 0]
    assert "(split test) has none" in caplog.text


def test_a_damaged_image_is_named_by_its_path(datasets, tmp_path):
    streamed = open_training_set("toy", write(datasets, tmp_path / "toy", broken=(2,)), 16, budget=0)
    assert streamed.image(2).tobytes() == streamed.image(4).tobytes()
    assert streamed.skipped == ("2.png: not an image that Pillow can read",)


def test_the_digest_tells_other_images_of_the_same_number(datasets, tmp_path):
    one = open_source(write(datasets, tmp_path / "one"), "train").images
    same = open_source(write(datasets, tmp_path / "same"), "train").images
    other = open_source(write(datasets, tmp_path / "other", broken=(3,)), "train").images
    rows = np.arange(6)
    found = [digests(images, rows) for images in (one, same, other)]
    assert np.array_equal(found[0], found[1])
    assert (found[0] != found[2]).any(axis=1).tolist() == [n == 3 for n in range(6)]


def test_another_set_of_the_same_sizes_is_another(datasets, tmp_path):
    """Only the pixels differ: the encoded images of both are of one size."""
    found = {}
    for name, blue in (("one", 1), ("same", 1), ("other", 2)):
        images = [{"bytes": encoded(Image.new("RGB", (8, 8), (n, 0, blue)), "BMP"), "path": f"{n}"} for n in range(4)]
        made = datasets.Dataset.from_dict({"image": images}, features=datasets.Features({"image": datasets.Image()}))
        (tmp_path / name / "data").mkdir(parents=True)
        made.to_parquet(str(tmp_path / name / "data" / "train-00000-of-00001.parquet"))
        found[name] = open_training_set("toy", f"hf-hub:{tmp_path / name}", 8, budget=0).fingerprint()["sha256"]
    assert found["one"] == found["same"] != found["other"]


def test_images_of_a_hub_set_are_remembered_by_the_file_they_lie_in(datasets, tmp_path, monkeypatch):
    monkeypatch.setattr(content, "_SETTLED_NS", -1)
    images = open_source(write(datasets, tmp_path / "toy"), "train").images
    first = digests(images, np.arange(6), tmp_path / "remembered")
    again, is_known = content.remembered(images, np.arange(6), tmp_path / "remembered")
    assert is_known.all()
    assert np.array_equal(again, first)


def test_a_set_that_cannot_be_had_is_an_error(datasets, tmp_path):
    with pytest.raises(ClzooError, match="hf-hub:/no/such/folder cannot be loaded"):
        open_training_set("toy", "hf-hub:/no/such/folder", 16)


def test_a_hub_set_can_be_packed(datasets, tmp_path):
    made = pack(write(datasets, tmp_path / "toy"), 16, tmp_path / "packed")
    assert [summary["images"] for summary in made] == [6]
    assert open_training_set("toy", tmp_path / "packed", 16).labels.tolist() == [0, 1] * 3


def test_a_split_and_a_column_are_chosen(datasets, tmp_path):
    write(datasets, tmp_path / "toy")
    name = write(datasets, tmp_path / "toy", split="extra", numbers=range(2))
    chosen = open_source(f"{name}#split=extra", "train")
    assert (len(chosen), chosen.origin) == (2, f"{name} (split extra)")
    assert splits_of(f"{name}#split=extra") == []
    with pytest.raises(ClzooError, match=r"has the splits .*; expected other"):
        open_source(f"{name}#split=other", "train")
    assert len(open_source(f"{name}#split=extra&column=image", "train")) == 2
    with pytest.raises(ClzooError, match=r"expected images in left\. Type: .*#column=NAME"):
        open_source(f"{name}#column=left", "train")


def test_a_split_of_several_words_is_chosen_by_all_of_them(tmp_path):
    (tmp_path / "set" / "data").mkdir(parents=True)
    for split in ("train_sft", "test_sft", "train"):
        (tmp_path / "set" / "data" / f"{split}-00000-of-00001.zip").write_bytes(zip_of(f"{split}.png"))
    for split in ("train_sft", "test-sft"):
        (item,) = open_source(f"hf-hub:{tmp_path / 'set'}#split={split}").listing.items
        assert item.path.endswith(f"/{split.replace('-', '_')}.png")
    with pytest.raises(ClzooError, match="no file is of the split sft_train"):
        open_source(f"hf-hub:{tmp_path / 'set'}#split=sft_train")


def zip_of(name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, encoded(picture(0, 0)))
    return buffer.getvalue()


def test_a_set_on_this_machine_is_embedded_without_the_package(datasets, tmp_path, monkeypatch):
    write(datasets, tmp_path / "toy")
    name = write(datasets, tmp_path / "toy", split="test", numbers=range(2))
    monkeypatch.setitem(sys.modules, "datasets", None)
    whole = open_source(name)
    assert len(whole) == 8
    assert [item.label for item in whole.listing.items] == ["ant", "bee"] * 4
    assert len(open_source(f"{name}#split=test")) == 2
    assert whole.images.read(0).getpixel((0, 0)) == picture(0, 0).getpixel((0, 0))
