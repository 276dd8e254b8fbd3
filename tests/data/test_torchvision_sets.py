"""Data sets in the published binary layouts, made small; torchvision is told the checksums of these files."""

import hashlib
import pickle

import numpy as np
import pytest
from picture_folders import make_folder, noise
from torchvision import datasets

from clzoo.data.opening import open_source, read_stored
from clzoo.data.training import open_training_set
from clzoo.errors import ClzooError
from clzoo.images import decode_image


def md5(path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_pickle(path, value) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value))
    return md5(path)


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    images, labels = noise(60, 32, seed=1), np.arange(60) % 10
    flat = images.transpose(0, 3, 1, 2).reshape(60, -1)
    names = [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]
    sums = []
    for n, name in enumerate(names):
        part = slice(10 * n, 10 * n + 10)
        sums.append([name, write_pickle(folder / name, {"data": flat[part], "labels": labels[part].tolist()})])
    classes = [f"class {n}" for n in range(10)]
    meta = {**datasets.CIFAR10.meta, "md5": write_pickle(folder / "batches.meta", {"label_names": classes})}
    monkeypatch.setattr(datasets.CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", sums[5:])
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    return tmp_path, images, labels


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-100-python"
    images, labels = noise(200, 32, seed=2), np.arange(200) % 100
    flat = images.transpose(0, 3, 1, 2).reshape(200, -1)
    coarse = [0] * 100
    sums = [
        [name, write_pickle(folder / name, {"data": flat[part], "fine_labels": labels[part], "coarse_labels": coarse})]
        for name, part in (("train", slice(0, 100)), ("test", slice(100, 200)))
    ]
    names = {"fine_label_names": [f"fine {n}" for n in range(100)]}
    monkeypatch.setattr(datasets.CIFAR100, "train_list", sums[:1])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", sums[1:])
    monkeypatch.setattr(
        datasets.CIFAR100, "meta", {**datasets.CIFAR100.meta, "md5": write_pickle(folder / "meta", names)}
    )
    return tmp_path, images, labels


@pytest.fixture
def stl10(tmp_path, monkeypatch):
    """Files of STL-10: images as (3, columns, rows), class numbers from 1."""
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    images = {"train": noise(6, 96, seed=3), "test": noise(4, 96, seed=4), "unlabeled": noise(9, 96, seed=5)}
    for split, pixels in images.items():
        (folder / f"{split}_X.bin").write_bytes(pixels.transpose(0, 3, 2, 1).tobytes())
    (folder / "train_y.bin").write_bytes(bytes([1, 2, 10, 1, 2, 3]))
    (folder / "test_y.bin").write_bytes(bytes([4, 3, 2, 1]))
    (folder / "class_names.txt").write_text("\n".join(f"class {n}" for n in range(10)))
    for listing in ("train_list", "test_list"):
        sums = [[name, md5(folder / name)] for name, _ in getattr(datasets.STL10, listing)]
        monkeypatch.setattr(datasets.STL10, listing, sums)
    return tmp_path, images


def test_cifar10_is_read_as_published(cifar10):
    root, images, labels = cifar10
    train = open_training_set("cifar10", root, 32)
    assert np.array_equal(train.pixels, images[:50])
    assert train.labels.tolist() == labels[:50].tolist()
    assert train.classes == tuple(f"class {n}" for n in range(10))
    test = open_training_set("cifar10", root, 32, split="test")
    assert np.array_equal(test.pixels, images[50:])


def test_cifar100_has_its_fine_labels(cifar100):
    root, images, labels = cifar100
    train = open_training_set("cifar100", root, 32)
    assert np.array_equal(train.pixels, images[:100])
    assert train.labels.tolist() == labels[:100].tolist()
    assert train.classes[7] == "fine 7"


def test_the_name_tells_which_of_two_sets_in_one_folder_is_meant(cifar10, cifar100):
    root = cifar10[0]
    assert root == cifar100[0]
    assert len(open_training_set("cifar10", root, 32)) == 50
    assert len(open_training_set("cifar100", root, 32)) == 100


def test_stl10_is_pretrained_on_its_labelled_and_unlabelled_images_and_probed_on_the_labelled(stl10):
    root, images = stl10
    pretrain = open_training_set("stl10", root, 96)
    assert np.array_equal(pretrain.pixels, np.concatenate([images["train"], images["unlabeled"]]))
    assert pretrain.labels is None
    train = open_training_set("stl10", root, 96, split="train")
    assert np.array_equal(train.pixels, images["train"])
    assert train.labels.tolist() == [0, 1, 9, 0, 1, 2]
    test = open_training_set("stl10", root, 96, split="test")
    assert np.array_equal(test.pixels, images["test"])
    assert test.labels.tolist() == [3, 2, 1, 0]


def test_another_size_is_resized_once(cifar10):
    opened = open_training_set("cifar10", cifar10[0], 16)
    assert opened.pixels.shape == (50, 16, 16, 3)


def test_arrays_can_be_streamed_too(cifar10):
    root, images, _ = cifar10
    streamed = open_training_set("cifar10", root, 32, budget=0)
    assert streamed.pixels is None
    assert np.array_equal(np.asarray(streamed.image(7)), images[7])


def test_a_subset_of_cifar10_is_taken_in_the_published_order(cifar10):
    root, _, labels = cifar10
    opened = open_training_set("cifar10", root, 32, subset="linear")
    assert np.bincount(opened.labels).tolist() == [n * 5 // 10 for n in range(1, 11)]
    of_nine = np.flatnonzero(labels[:50] == 9)
    assert opened.rows[opened.labels == 9].tolist() == of_nine.tolist()


@pytest.mark.parametrize(("name", "kind"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100"), ("stl10", "STL10")])
def test_missing_files_are_an_error_with_the_command_that_gets_them(tmp_path, name, kind):
    with pytest.raises(ClzooError, match=r"is missing\. Download them: python -c") as caught:
        open_training_set(name, tmp_path / "data", 32)
    code = str(caught.value).split('python -c "')[1].rstrip('"')
    compile(code, "command", "exec")
    assert f"{kind}('{tmp_path / 'data'}', download=True)" in code


def test_a_damaged_file_is_refused_before_it_is_unpickled(cifar10):
    root, *_ = cifar10
    victim = root / "cifar-10-batches-py" / "data_batch_2"

    class Bomb:
        def __reduce__(self):
            return (victim.with_name("executed").touch, ())

    victim.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ClzooError, match=r"damaged or incomplete\. Download them"):
        open_training_set("cifar10", root, 32)
    assert not victim.with_name("executed").exists()


def test_an_image_folder_of_the_same_name_is_taken_where_the_published_files_are_not(tmp_path):
    from picture_folders import make_folder

    make_folder(tmp_path / "train", {"ant": 2, "bee": 2})
    assert open_training_set("cifar10", tmp_path, 32).classes == ("ant", "bee")


def test_as_a_whole_every_image_has_a_path_a_label_and_its_pixels(cifar10, stl10):
    root, images, labels = cifar10  # whose folder holds both sets
    whole = open_source(root)
    assert whole.passed_over == {"data set stl10": 1}
    assert [item.path for item in whole.listing.items][:2] == ["test/000000", "test/000001"]
    assert [item.label for item in whole.listing.items] == [f"class {n}" for n in [*labels[50:], *labels[:50]]]
    assert (whole.images.content(12) == images[2]).all()
    assert (np.asarray(whole.images.read(12)) == images[2]).all()
    assert (np.asarray(decode_image(read_stored(whole.root, "train/000002"))) == images[2]).all()
    assert len({item.mtime_ns for item in whole.listing.items}) == 1
    assert {item.size for item in whole.listing.items} == {32 * 32 * 3}


def test_of_stl10_the_unlabelled_images_are_part_of_the_whole(stl10):
    listing = open_source(stl10[0]).listing
    assert len(listing.items) == 6 + 9 + 4
    assert listing.items[0].path == "pretrain/000000"
    assert [item.label is None for item in listing.items] == [True] * 15 + [False] * 4


def test_files_of_a_known_set_are_found_by_a_name_of_your_own_and_not_by_that_of_another(cifar10):
    root, _, labels = cifar10
    assert np.array_equal(open_source(root, "train", name="my-pictures").labels, labels[:50])
    with pytest.raises(ClzooError, match=r"no readable image|holds no images"):
        open_source(root, "train", name="stl10")
    for name in ("ant", "bee"):
        make_folder(root / "train", {name: 2})
    assert open_source(root, "train", name="my-pictures").classes == ("ant", "bee")  # what is there comes first
