"""clzoo.evaluate and compare on labelled images that come without a test split."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from labelled_pictures import CLASSES, make_splits
from small_models import small_encoder

from clzoo.data.drawn import RULE
from clzoo.data.opening import has_test_split, is_whole
from clzoo.errors import ClzooError
from clzoo.evaluation import compare, evaluate
from clzoo.evaluation.opening import open_splits, splits_to_judge
from clzoo.evaluation.subject import Subject
from clzoo.pretrain.recipe_files import find_recipe, load_recipe

SPLIT = f"test, drawn by {RULE}"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of each class, without splits."""
    return make_splits(tmp_path_factory.mktemp("data")) / "train"


def test_a_folder_of_classes_is_judged_on_a_fifth_of_it_and_says_so(pictures: Path, tmp_path: Path) -> None:
    whole = shutil.copytree(pictures, tmp_path / "animals")
    found = evaluate(small_encoder(), whole, "knn,linear", controls=True, cache_dir=tmp_path / "cache")
    data = found.metrics["data"]
    assert data["split"] == {"rule": RULE, "seed": 0, "test_share": 0.2, "seen_in_pretraining": False}
    assert (data["train"]["images"], data["test"]["images"]) == (60, 12)
    assert data["train"]["origin"] == data["test"]["origin"] == str(whole)
    assert data["train"]["drawn"] == data["test"]["drawn"] == RULE
    assert data["train"]["sha256"] != data["test"]["sha256"]
    assert {row["split"] for row in found.results} == {SPLIT}
    assert {row["of"] for row in found.results} == {"this model", "random initialisation", "raw pixels"}
    page = (found.write(tmp_path / "report") / "report.html").read_text()
    assert RULE in page


def test_a_copy_elsewhere_is_split_alike_and_gives_the_same_numbers(pictures: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for path in sorted(pictures.rglob("*.png"), reverse=True):  # written in another order
        (copy / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy / path.parent.name / path.name)
    one, two = (
        evaluate(small_encoder(), source, "knn", cache_dir=tmp_path / name)
        for source, name in ((pictures, "here"), (copy, "there"))
    )
    for split in ("train", "test"):
        assert one.metrics["data"][split]["sha256"] == two.metrics["data"][split]["sha256"]
    assert one.value("knn") == two.value("knn")


def test_splits_that_the_source_has_are_taken_as_they_are(pictures: Path, tmp_path: Path) -> None:
    found = evaluate(small_encoder(), pictures.parent, "knn", cache_dir=tmp_path)
    assert "split" not in found.metrics["data"]
    assert {row["split"] for row in found.results} == {"test"}


def test_one_split_of_a_hub_data_set_is_never_train_and_test_at_once() -> None:
    assert is_whole("hf-hub:org/name#split=train")
    assert not has_test_split("hf-hub:org/name#split=train")
    with pytest.raises(ClzooError, match=r"is one split. Name both: --data train=hf-hub:org/name#split=train,test=SRC"):
        open_splits("hf-hub:org/name#split=train")


def test_a_class_that_is_called_like_a_split_is_asked_about(pictures: Path, tmp_path: Path) -> None:
    odd = shutil.copytree(pictures, tmp_path / "odd")
    (odd / "ant").rename(odd / "test")
    for source in (odd, Path(shutil.make_archive(str(tmp_path / "odd"), "zip", odd))):
        with pytest.raises(ClzooError, match=r"its class test is called like one.*--data train=DIR,test=DIR"):
            splits_to_judge(source, cache_dir=tmp_path / "cache")


def test_comparisons_and_further_sets_draw_by_the_same_rule(pictures: Path, tmp_path: Path) -> None:
    found = compare([small_encoder(), small_encoder()], pictures, "knn", cache_dir=tmp_path)
    _, test = splits_to_judge(pictures, cache_dir=tmp_path)
    assert [len(e.arrays["test_labels"]) for e in found.evaluations] == [len(test.images)] * 2
    rows = evaluate(
        small_encoder(), pictures.parent, "transfer", settings=[f"transfer.sets=[{pictures}]"], title="A",
        cache_dir=tmp_path,
    ).results  # fmt: skip
    assert [row["split"] for row in rows if row["metric"] == "top-1"] == ["test", SPLIT]


def subject(method: str, images: int | None, classes: tuple[str, ...] = CLASSES) -> Subject:
    recipe = load_recipe(find_recipe(f"{method}_cifar10"))
    return Subject(
        small_encoder(), "runs/mine", recipe, images=images, classes=classes, learned_labels=method == "supcon"
    )


def test_images_that_were_pretrained_on_without_labels_are_said_to_be(
    pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = evaluate(subject("simclr", 72, CLASSES[::-1]), pictures, "knn", cache_dir=tmp_path)
    assert found.metrics["data"]["split"]["seen_in_pretraining"] is True
    assert {row["split"] for row in found.results} == {f"{SPLIT}, seen in pretraining without labels"}
    assert "those that are drawn to be tested on are among them" in caplog.text
    for other in (subject("simclr", 71), subject("simclr", 72, ("a", *CLASSES[1:]))):
        assert (
            evaluate(other, pictures, "knn", cache_dir=tmp_path).metrics["data"]["split"]["seen_in_pretraining"]
            is False
        )


def test_a_subset_that_was_pretrained_on_counts_as_the_whole_that_it_is_of(pictures: Path, tmp_path: Path) -> None:
    thinned = subject("simclr", 28)  # longtail-10 of 12 images in each of 6 classes: 12 + 7 + 4 + 3 + 1 + 1
    recipe = thinned.recipe.model_copy(
        update={"data": thinned.recipe.data.model_copy(update={"subset": "longtail-10"})}
    )
    thinned = dataclasses.replace(thinned, recipe=recipe)
    found = evaluate(thinned, pictures, "knn", cache_dir=tmp_path)
    assert found.metrics["data"]["split"]["seen_in_pretraining"] is True


def test_labels_that_were_learned_are_not_tested_on(
    pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(
        ClzooError, match=r"pretrained on the 72 images of .* with their labels.*--data train=DIR,test="
    ):
        evaluate(subject("supcon", 72), pictures, "knn", cache_dir=tmp_path)
    evaluate(subject("supcon", None), pictures, "knn", cache_dir=tmp_path)
    assert "if it was from these images, the accuracy says nothing" in caplog.text
