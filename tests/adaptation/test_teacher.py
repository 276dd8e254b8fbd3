"""A store as a teacher: what is wrong with vectors or images is said before anything is trained."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from labelled_pictures import make_splits
from small_models import small_encoder
from written_stores import write_store

from clzoo.adaptation import distil
from clzoo.adaptation.teacher import parameters_of, teacher_of
from clzoo.embed import embed_folder, open_store
from clzoo.errors import ClzooError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """60 pictures of two classes, and their store."""
    root = tmp_path_factory.mktemp("teacher")
    folder = make_splits(root, train=30, test=1, classes=("ant", "bee")) / "train"
    embed_folder(folder, small_encoder(), out=root / "store", labels=True)
    return root


@pytest.fixture
def place(made, tmp_path):
    """A copy of both that a test may spoil; the store speaks of the copy's pictures."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    edit(tmp_path, root=str(tmp_path / "train"), source=str(tmp_path / "train"))
    return tmp_path


def edit(place: Path, **values) -> None:
    path = place / "store" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def spoil(place: Path, change) -> None:
    (file,) = (place / "store").glob("embeddings-*.npy")
    vectors = np.load(file)
    change(vectors)
    np.save(file, vectors)


def looked_at(place: Path, images: Path | None = None):
    return teacher_of(open_store(place / "store", images=images), moved=images is not None)


def test_vectors_and_labels_are_those_of_the_images_that_are_there(place):
    whole = looked_at(place)
    assert (len(whole.images), whole.images.classes, whole.limits) == (60, ("ant", "bee"), ())
    gone = ["ant/03.png", "bee/20.png"]
    for name in gone:
        (place / "train" / name).unlink()
    teacher = looked_at(place)
    assert teacher.limits == ("2 of 60 images of the store cannot be read and are left out, the first: ant/03.png",)
    store, names = teacher.store, [teacher.images.images.name(row) for row in range(58)]
    assert set(names) == set(store.paths) - set(gone)
    by_name = dict(zip(store.paths, store.embeddings(), strict=True))
    rows = np.array([0, 5, 40, 57])
    assert np.array_equal(teacher.vectors(rows).numpy(), np.stack([by_name[names[row]] for row in rows]))
    features = teacher.features(rows)
    assert [features.classes[label] for label in features.labels] == [names[row].split("/")[0] for row in rows]


def test_images_that_were_moved_are_found_where_they_lie_now(place):
    (place / "train").rename(place / "elsewhere")
    with pytest.raises(ClzooError, match=r"none of the 60 images .* in .*train, the first: ant/00.png.*--images DIR"):
        looked_at(place)
    for path in (place / "elsewhere").rglob("*.png"):
        os.utime(path, (1, 1))  # a copy has a time of its own
    assert len(looked_at(place, place / "elsewhere").images) == 60
    with pytest.raises(ClzooError, match=r"is no folder.*--images DIR"):
        looked_at(place, place / "nowhere")


def test_images_that_were_changed_are_refused_with_what_renews_their_vectors(place):
    path = place / "train" / "bee" / "07.png"
    os.utime(path, (1, 1))
    with pytest.raises(ClzooError, match=r"1 of 60 images .* the first: bee/07.png\. Renew .*clzoo embed .*--images"):
        looked_at(place)
    assert len(looked_at(place, place / "train").images) == 60  # told that they are the same
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ClzooError, match=r"1 of 60 images .* were changed"):
        looked_at(place, place / "train")


def test_an_archive_that_was_changed_is_refused(place):
    with zipfile.ZipFile(place / "all.zip", "w") as archive:
        for path in sorted((place / "train").rglob("*.png")):
            archive.write(path, path.relative_to(place / "train"))
    shutil.rmtree(place / "store")
    embed_folder(place / "all.zip", small_encoder(), out=place / "store", labels=True)
    assert len(looked_at(place).images) == 60
    os.utime(place / "all.zip", (1, 1))
    with pytest.raises(ClzooError, match=r"60 of 60 images .* were changed since they were embedded"):
        looked_at(place)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0])
def test_vectors_that_are_no_directions_are_refused_and_named(place, value):
    spoil(place, lambda vectors: vectors.__setitem__([31, 40], value))
    with pytest.raises(ClzooError, match=r"2 of 60 vectors .* zero or not finite, the first that of bee/01.png"):
        looked_at(place)


def test_vectors_that_are_all_the_same_are_refused(place):
    spoil(place, lambda vectors: vectors.__setitem__(slice(None), vectors[0]))
    with pytest.raises(ClzooError, match=r"all 60 vectors .* are the same: nothing can be learnt of them"):
        looked_at(place)


def test_a_store_that_is_not_finished_is_refused_with_what_goes_on(place):
    edit(place, complete=False)
    with pytest.raises(ClzooError, match=r"not finished: .* Go on with it: clzoo embed .*train .*--labels"):
        looked_at(place)


@pytest.mark.parametrize("count", [0, 1, 49])
def test_a_store_of_few_rows_is_refused(tmp_path, count):
    write_store(tmp_path / "store", np.ones((count, 4)), root=tmp_path)
    with pytest.raises(ClzooError, match=rf"holds {count} different images; distilling takes at least 50.*clzoo embed"):
        distil(tmp_path / "store", student="resnet10_w16", out=tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["images", "nothing", "half_precision"])
def test_what_is_no_store_is_refused_and_half_precision_is_one(place, what):
    if what == "half_precision":
        assert open_store(place / "store").manifest.dtype == "float16"
        assert looked_at(place).vectors(np.arange(3)).dtype.itemsize == 4
    else:
        with pytest.raises(ClzooError, match="is not an embedding store"):
            distil(place / {"images": "train", "nothing": "none"}[what], out=place / "out", device="cpu")


def test_labels_that_give_no_verdict_are_said(place):
    edit(place, labels=False)
    for kept, why in ((0, "the store has no labels"), (30, "30 rows of the store have no label")):
        shutil.rmtree(place / "store")
        names = sorted(path.relative_to(place / "train").as_posix() for path in (place / "train").rglob("*.png"))
        labels = [name.split("/")[0] if row < kept else None for row, name in enumerate(names)]
        written(place, names, labels)
        teacher = looked_at(place, place / "train")
        assert teacher.images.labels is None
        assert teacher.why_unjudged is not None
        assert teacher.why_unjudged.startswith(why)
        assert teacher.why_unjudged.endswith("--labels")
    shutil.rmtree(place / "store")
    written(place, names, ["ant"] * 60)
    assert looked_at(place, place / "train").why_unjudged == "all images are of the class ant, and a verdict needs two"


def written(place: Path, names: list[str], labels: list[str | None]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = np.random.default_rng(0).normal(size=(len(names), 8))
    write_store(place / "store", vectors, paths=names, labels=labels, root=place / "train")
    (items,) = (place / "store").glob("items-*.parquet")
    table = pq.read_table(items)
    sizes = pa.array([(place / "train" / name).stat().st_size for name in names])
    pq.write_table(table.set_column(table.column_names.index("size"), "size", sizes), items)


def test_the_size_of_a_teacher_is_known_where_its_config_is_here(place, tmp_path):
    store = open_store(place / "store")
    for named, known in (
        ("timm:test_resnet.r160_in1k", True),
        ("supcon-resnet10_w32-tiny", True),
        (str(small_encoder().save_pretrained(tmp_path / "model")), True),
        ("timm:nothing", False),
        (str(tmp_path / "gone"), False),
        ("hf-hub:somebody/something", False),
    ):
        edit(place, load=named)
        found = parameters_of(open_store(place / "store"))
        assert (found is not None and found > 1000) is known, named
    assert store.dim == 96
