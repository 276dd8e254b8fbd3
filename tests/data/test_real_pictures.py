"""The real data sets of CLZOO_TEST_DATA."""

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from clzoo.augment.views import ViewPolicy
from clzoo.data.stream import stream_crops
from clzoo.data.training import open_training_set


def archive(name: str) -> Path:
    folder = os.environ.get("CLZOO_TEST_DATA")
    if not folder or not (Path(folder) / name).is_file():
        pytest.skip(f"CLZOO_TEST_DATA is not set to a folder that holds {name}")
    return Path(folder) / name


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    root = tmp_path_factory.mktemp("cifar10")
    with tarfile.open(archive("cifar10-jpeg.tar.xz")) as packed:
        packed.extractall(root, filter="data")
    return root if (root / "train").is_dir() else next(path.parent for path in root.rglob("train"))


@pytest.mark.slow
def test_the_imbalanced_subsets_of_cifar10_have_the_published_sizes(cifar10):
    sizes = {"linear": 27_500, "exponential": 7_904, "longtail-10": 20_431, "longtail-50": 13_996}
    for subset, total in sizes.items():
        opened = open_training_set("cifar10", cifar10, 32, subset=subset, budget=0)
        assert len(opened) == total
    counts = np.bincount(open_training_set("cifar10", cifar10, 32, subset="exponential", budget=0).labels)
    assert counts.tolist() == [0, 1, 4, 12, 33, 91, 248, 676, 1839, 5000][: len(counts)]
    assert len(open_training_set("cifar10", cifar10, 32, split="test", budget=0)) == 10_000


@pytest.mark.slow
def test_the_exponential_subset_of_cifar10_is_held_in_memory_undistorted(cifar10):
    opened = open_training_set("cifar10", cifar10, 32, subset="exponential")
    streamed = open_training_set("cifar10", cifar10, 32, subset="exponential", budget=0)
    assert opened.pixels.shape == (7_904, 32, 32, 3)
    assert opened.skipped == ()
    for sample in (0, 1, 100, 7_903):
        assert np.array_equal(opened.pixels[sample], np.asarray(streamed.image(sample)))


def test_photographs_in_a_shard_are_streamed_in_any_order():
    photographs = open_training_set("samples", archive("imagenet-samples.tar"), 224, budget=0)
    assert len(photographs) == 120
    order = torch.tensor([119, 0, 60, 60])
    batches = [(0, order), (1, order)]
    policies = (ViewPolicy(size=64), ViewPolicy(size=64))
    first, second = stream_crops(photographs, batches, policies, seed=0, device=torch.device("cpu"))
    assert photographs.skipped == ()
    assert torch.equal(first[0][2], first[0][3])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], second[0])
