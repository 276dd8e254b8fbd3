"""Publishing with and without labels, and with images that are no longer there: the card says what was measured."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
from labelled_pictures import CLASSES, make_splits

import clzoo
from clzoo.cli import main
from clzoo.errors import ClzooError
from clzoo.pretrain.loop import pretrain
from clzoo.pretrain.start import class_names
from clzoo.publish import publish, publish_command

NAME = "simclr-resnet18-cifar10"


@pytest.fixture(scope="module")
def small_recipe():
    """`tests/pretrain/small_recipes.py`, which lies beside the tests of training."""
    import sys

    sys.path.insert(0, str(Path(__file__).parent / "pretrain"))
    from small_recipes import small_recipe

    sys.path.pop(0)
    return small_recipe


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    return make_splits(tmp_path_factory.mktemp("data") / "animals", train=8)


@pytest.fixture(scope="module")
def flat(labelled) -> Path:
    folder = labelled.parent / "flat"
    folder.mkdir()
    for path in (labelled / "train").rglob("*.png"):
        shutil.copy(path, folder / f"{path.parent.name}-{path.name}")
    return folder


@pytest.fixture(scope="module")
def runs(labelled, flat, small_recipe, tmp_path_factory) -> dict[str, Path]:
    """A run on labelled and one on unlabelled images."""
    place = tmp_path_factory.mktemp("runs")
    for name, data in (("labelled", labelled), ("flat", flat)):
        assert pretrain(small_recipe("simclr_cifar10"), data, place / name, device="cpu")
    return {name: place / name for name in ("labelled", "flat")}


def content_of(entry: Path) -> tuple[dict, str]:
    return json.loads((entry / "metrics.json").read_text()), (entry / "README.md").read_text()


def test_unlabelled_images_are_found_where_the_run_had_them_and_measured_without_labels(runs, tmp_path):
    entry = publish(runs["flat"], NAME, None, tmp_path / "entry", device="cpu")
    metrics, card = content_of(entry)
    measured = {(row["of"], row["protocol"].partition("(")[0]) for row in metrics["results"]}
    assert measured == {
        ("this model", "collapse:v1"),
        ("this model", "copies:v1"),
        ("random initialisation", "copies:v1"),
    }
    assert {(row["dataset"], row["split"]) for row in metrics["results"]} == {("flat (48 images)", "train")}
    assert all("dataset_id" not in row for row in metrics["results"])
    assert metrics["evaluation"]["labels"] is False
    assert metrics["evaluation"]["data"]["train"]["images"] == 48
    assert str(runs["flat"].parent.parent) not in (entry / "metrics.json").read_text()  # no place of this machine
    assert "No labelled evaluation" in card
    assert "model-index" not in card
    assert clzoo.load(entry, device="cpu").weights_sha256 == metrics["evaluation"]["model"]["weights_sha256"]


def test_unlabelled_images_may_be_named_and_have_to_be_those_of_the_run(runs, flat, labelled, tmp_path):
    entry = publish(runs["flat"], NAME, flat, tmp_path / "entry", title="Animals", device="cpu")
    metrics, _ = content_of(entry)
    assert {row["dataset"] for row in metrics["results"]} == {"Animals (48 images)"}
    with pytest.raises(ClzooError, match="was trained on other data"):
        publish(runs["flat"], NAME, labelled / "test", tmp_path / "other", device="cpu")
    assert not (tmp_path / "other").exists()


def test_images_that_are_gone_or_changed_are_not_measured_and_the_card_claims_nothing(runs, tmp_path, caplog):
    run = tmp_path / "run"
    shutil.copytree(runs["flat"], run)
    data = json.loads((run / "data.json").read_text())
    moved, changed = tmp_path / "moved", tmp_path / "changed"
    shutil.copytree(data["source"], changed)
    next(changed.iterdir()).unlink()
    for source, said in ((moved, f"no longer in {moved}"), (changed, "was trained on other data")):
        (run / "data.json").write_text(json.dumps({**data, "source": str(source)}))
        entry = publish(run, NAME, None, tmp_path / f"entry-{source.name}", device="cpu")
        metrics, card = content_of(entry)
        assert metrics["results"] == []
        assert metrics["evaluation"]["data"] == {}
        assert "No labelled evaluation" in card
        assert "Nor were the images at hand" in card
        assert said in caplog.text
    (tmp_path / "list.csv").write_text("file\n" + "\n".join(map(str, sorted(changed.iterdir()))))
    (run / "data.json").write_text(json.dumps({**data, "source": f"{tmp_path / 'list.csv'}#column=file"}))
    caplog.clear()
    publish(run, NAME, None, tmp_path / "listed", device="cpu")
    assert "was trained on other data" in caplog.text  # not: it is no longer there
    del data["source"]  # as earlier versions wrote it
    (run / "data.json").write_text(json.dumps(data))
    assert content_of(publish(run, NAME, None, tmp_path / "old", device="cpu"))[0]["results"] == []
    assert "name them by --data" in caplog.text


def test_a_labelled_run_is_evaluated_with_its_data_and_without_them_the_card_says_that_it_was_not(
    runs, labelled, tmp_path
):
    without = publish(runs["labelled"], NAME, None, tmp_path / "without", device="cpu")
    metrics, card = content_of(without)
    assert {row["protocol"].partition(":")[0] for row in metrics["results"]} == {"collapse", "copies"}
    assert "No labelled evaluation" in card
    with_data = publish(runs["labelled"], NAME, labelled, tmp_path / "with", device="cpu")
    metrics, card = content_of(with_data)
    assert {row["protocol"].partition(":")[0] for row in metrics["results"]} == {"knn", "linear"}
    assert "No labelled evaluation" not in card
    with pytest.raises(ClzooError, match="--data DIR"):
        publish(runs["labelled"], NAME, None, tmp_path / "neither", protocols="knn", device="cpu")


def test_what_was_measured_on_other_images_is_not_set_beside_controls_on_these(runs, labelled, tmp_path):
    other = make_splits(tmp_path / "data", train=8)
    for path in (other / "test").rglob("*.png"):
        path.rename(path.with_name(f"other-{path.name}"))
    same, foreign = (
        clzoo.evaluate(str(runs["labelled"]), data, "knn", device="cpu").write(tmp_path / name) / "metrics.json"
        for name, data in (("same", labelled), ("foreign", other))
    )
    metrics, _ = content_of(publish(runs["labelled"], NAME, labelled, tmp_path / "entry", measured=same, device="cpu"))
    assert {row["of"] for row in metrics["results"]} > {"this model"}
    for options in ({"protocols": "linear"}, {"seeds": 3}):
        with pytest.raises(ClzooError, match="is taken as it is: leave out --protocol and --seeds"):
            publish(runs["labelled"], NAME, labelled, tmp_path / "mixed", measured=same, device="cpu", **options)
    with pytest.raises(ClzooError, match=r"measured on other test images than .*Leave out --metrics"):
        publish(runs["labelled"], NAME, labelled, tmp_path / "mixed", measured=foreign, device="cpu")
    assert not (tmp_path / "mixed").exists()


def test_gates_keep_the_names_of_their_classes_without_data(labelled, small_recipe, tmp_path):
    pretrain(small_recipe("hydra_cifar10", batch_size=24), labelled, tmp_path / "run", device="cpu")
    entry = publish(tmp_path / "run", "hydra-resnet18-cifar10", None, tmp_path / "entry", device="cpu")
    assert class_names(entry / "pretrain.safetensors") == tuple(sorted(CLASSES))


def test_labels_that_a_run_learned_are_not_drawn_to_test_it_on(labelled, small_recipe, tmp_path, caplog):
    shutil.copytree(labelled / "train", tmp_path / "classes")
    pretrain(small_recipe("supcon_cifar10"), tmp_path / "classes", tmp_path / "run", device="cpu")
    with pytest.raises(ClzooError, match=r"pretrained on the 48 images of .*classes with their labels"):
        clzoo.evaluate(str(tmp_path / "run"), tmp_path / "classes", "knn", device="cpu")
    published = publish(tmp_path / "run", "supcon-resnet18-cifar10", tmp_path / "classes", tmp_path / "entry")
    with pytest.raises(ClzooError, match=r"pretrained on the 48 images of .*classes with their labels"):
        clzoo.evaluate(published, tmp_path / "classes", "knn", device="cpu")
    (published / "metrics.json").unlink()  # as of an entry that does not say how many
    clzoo.evaluate(published, tmp_path / "classes", "knn", device="cpu")
    assert "learned from labels of classes that are called like these" in caplog.text
    caplog.clear()
    with pytest.raises(ClzooError, match=r"pretrained on the 48 images of .*classes with their labels"):
        clzoo.evaluate(str(tmp_path / "run" / "model.safetensors"), tmp_path / "classes", "knn", device="cpu")
    one = next(path for path in sorted((tmp_path / "classes").rglob("*.png")))
    shutil.copy(one, one.with_name("one_more.png"))
    clzoo.evaluate(str(tmp_path / "run"), tmp_path / "classes", "knn", device="cpu")
    assert "learned from labels of classes that are called like these" in caplog.text


def test_labels_that_a_run_learned_are_known_though_an_image_could_not_be_read(labelled, small_recipe, tmp_path):
    shutil.copytree(labelled / "train", tmp_path / "classes")
    broken = next(path for path in sorted((tmp_path / "classes").rglob("*.png")))
    broken.write_bytes(broken.read_bytes()[:200])
    pretrain(small_recipe("supcon_cifar10"), tmp_path / "classes", tmp_path / "run", device="cpu")
    with pytest.raises(ClzooError, match=r"pretrained on the 47 images of .*classes with their labels"):
        clzoo.evaluate(str(tmp_path / "run"), tmp_path / "classes", "knn", device="cpu")


def test_labels_without_a_test_split_are_no_labelled_evaluation(labelled, small_recipe, tmp_path, caplog):
    shutil.copytree(labelled / "train", tmp_path / "classes")
    pretrain(small_recipe("simclr_cifar10"), tmp_path / "classes", tmp_path / "run", device="cpu")
    metrics, _ = content_of(publish(tmp_path / "run", NAME, tmp_path / "classes", tmp_path / "entry", device="cpu"))
    assert metrics["evaluation"]["labels"] is False
    assert "classes has no test split" in caplog.text
    with pytest.raises(ClzooError, match="has no splits; for the test split expected"):  # all of it was trained on
        publish(tmp_path / "run", NAME, tmp_path / "classes", tmp_path / "other", protocols="knn", device="cpu")
    found = clzoo.evaluate(str(tmp_path / "run"), tmp_path / "classes", "knn", device="cpu")
    assert found.metrics["data"]["split"]["seen_in_pretraining"] is True
    assert {row["split"].rpartition(", ")[2] for row in found.results} == {"seen in pretraining without labels"}


def test_a_recipes_data_set_is_not_claimed_for_other_images(runs, labelled, tmp_path, caplog):
    entry = publish(runs["labelled"], NAME, labelled, tmp_path / "entry", device="cpu")
    metrics, card = content_of(entry)
    assert metrics["training"]["data"] == "animals"
    assert metrics["training"]["images"] == 48
    assert {row["dataset"] for row in metrics["results"]} == {"animals"}
    config = json.loads((entry / "config.json").read_text())
    assert config["clzoo"]["data"] == "animals"
    text = card + json.dumps({**metrics, "evaluation": None}) + json.dumps({**config, "clzoo": None})
    assert "CIFAR-10" not in text
    assert "uoft-cs" not in text
    assert "pretrained on animals (48 images)" in card
    assert "animals, test, 24 images" in card
    assert "A name that fits: simclr-resnet18-animals" in caplog.text  # the name itself is the publisher's to choose


def test_a_title_that_claims_a_data_set_is_refused_for_other_images(runs, labelled, tmp_path):
    with pytest.raises(
        ClzooError, match=r"'CIFAR-10' is the name of a data set of 50,000 and 10,000 .* trained on 48 images, animals"
    ):
        publish(runs["labelled"], NAME, labelled, tmp_path / "entry", title="CIFAR-10", device="cpu")
    with pytest.raises(ClzooError, match="'CIFAR-10' is the name of a data set"):
        publish(runs["flat"], NAME, None, tmp_path / "entry", title="CIFAR-10", device="cpu")
    assert not (tmp_path / "entry" / "config.json").exists()
    entry = publish(runs["labelled"], NAME, labelled, tmp_path / "entry", title="six noises", device="cpu")
    assert {row["dataset"] for row in content_of(entry)[0]["results"]} == {"six noises"}


@pytest.mark.parametrize("kind", ["flat", "labelled"])
def test_the_next_command_works_as_it_is_printed(kind, runs, flat, labelled, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = {"flat": flat, "labelled": labelled}[kind]
    run = tmp_path / "my runs" / "one"
    shutil.copytree(runs[kind], run)
    recipe = run / "recipe.yaml"
    again = ["pretrain", str(recipe), "--data", str(data), "--out", str(run), "--device", "cpu"]  # finished already
    assert main(again) is None
    printed = capsys.readouterr().out.partition("Next: ")[2].strip()
    assert main(shlex.split(printed)[1:]) is None
    name = shlex.split(printed)[3]
    assert name.rpartition("-")[2] == {"flat": "flat", "labelled": "animals"}[kind]  # and not the recipe's cifar10
    assert (tmp_path / "hub" / name / "model.safetensors").is_file()
    second = shlex.split(publish_command(run, data))  # where an entry of that name lies already
    assert second[-2:] == ["--out", str(run / "entry")]
