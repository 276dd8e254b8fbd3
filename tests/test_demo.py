"""What `make demo` promises: the default model finds pictures of the same kind."""

import importlib.util
import statistics
from pathlib import Path

import numpy as np
import pytest

import clzoo
from clzoo.embed import DEFAULT_MODEL
from clzoo.neighbors import nearest_others, precision

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
EARLIER_DEFAULT = "cacr-resnet18_w16-cifar10"


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("demo", EXAMPLES / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["photographs/*/*.webp", "pictures/*/*.jpg"], ids=["photographs", "drawings"])
def pictures(request):
    return sorted(EXAMPLES.glob(request.param))


def share_of_the_same_group(demo, name, pictures):
    vectors = clzoo.load(name, device="cpu", offline=True).embed(pictures)
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -1)
    groups = [picture.parent.name for picture in pictures]
    nearest = np.argsort(-similarity, axis=1)[:, : demo.NEIGHBORS]
    share = np.mean([[groups[other] == group for other in row] for group, row in zip(groups, nearest, strict=True)])
    assert precision(groups, nearest_others(vectors, demo.NEIGHBORS)) == share  # what the demo and the study print
    return share


def test_the_default_finds_the_same_group_15_points_more_often_than_random_weights_and_more_than_the_earlier_default(
    demo, pictures
):
    encoder = clzoo.load(DEFAULT_MODEL, device="cpu", offline=True)
    groups = [picture.parent.name for picture in pictures]
    random = statistics.mean(demo.random_precision(encoder, pictures, groups, seed) for seed in range(3))
    found = share_of_the_same_group(demo, DEFAULT_MODEL, pictures)
    assert found >= random + 0.15
    assert found > share_of_the_same_group(demo, EARLIER_DEFAULT, pictures)


def test_the_demo_finds_copies_that_it_put_among_the_photographs_and_takes_no_two_others_for_one(demo, tmp_path):
    before = {path: path.read_bytes() for path in demo.PICTURES.rglob("*.webp")}
    found = demo.find_planted(clzoo.load(DEFAULT_MODEL, device="cpu", offline=True), tmp_path)
    planted = {path.stem for path in (tmp_path / "photographs-with-copies").rglob("copy_of_*")}
    groups = [{Path(member.path).stem for member in group} for group in found.groups]
    assert len(planted) == 9
    assert all(any(f"copy_of_{name}" in group for name in group) for group in groups)
    assert len(groups) >= 6, "every same file, and most that were saved again"
    assert {path: path.read_bytes() for path in demo.PICTURES.rglob("*.webp")} == before
    assert "<img" in found.write_page(tmp_path / "duplicates.html").read_text()
