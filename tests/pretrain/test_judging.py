"""What an evaluation finds in a run: its projector, its gates, and the subset that it was pretrained on."""

import json

import pytest
from labelled_pictures import CLASSES, make_splits
from small_recipes import small_recipe

from clzoo.evaluation import evaluate
from clzoo.pretrain.loop import pretrain
from clzoo.pretrain.publish import publish


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_splits(tmp_path_factory.mktemp("data") / "animals", train=40)


def test_a_run_on_an_imbalanced_subset_is_also_probed_by_how_often_it_saw_each_class(pictures, tmp_path):
    recipe = small_recipe("simclr_cifar10", "data.subset=linear")
    pretrain(recipe, pictures, tmp_path / "run", device="cpu")
    settings = ["imbalanced.subsets=[longtail-10]"]
    found = evaluate(tmp_path / "run", pictures, "imbalanced", settings=settings, device="cpu").metrics["details"]
    pretrained_on = found["imbalanced"]["pretrained_on"]
    assert pretrained_on["name"] == "linear"
    assert pretrained_on["kept"] == [4, 8, 16, 24, 28, 36]  # (g + 1) / 10 of 40, g = 10 i // 6
    assert sum(pretrained_on["kept"]) == json.loads((tmp_path / "run" / "data.json").read_text())["images"]
    assert set(pretrained_on["probes"]) == {"knn", "linear"}
    assert [subset["name"] for subset in found["imbalanced"]["subsets"]] == ["longtail-10"]


def test_the_gates_of_a_hydra_run_tell_class_relations_before_and_after_publishing(pictures, tmp_path):
    recipe = small_recipe("hydra_cifar10", batch_size=24)
    pretrain(recipe, pictures, tmp_path / "run", device="cpu")
    of_run = evaluate(tmp_path / "run", pictures, "relations,collapse", device="cpu")
    entry = publish(tmp_path / "run", "hydra-tiny-animals", pictures, tmp_path / "entry", protocols="knn", device="cpu")
    of_entry = evaluate(entry, pictures, "relations,collapse", device="cpu")
    for evaluation in (of_run, of_entry):
        details = evaluation.metrics["details"]
        assert set(details["relations"]["gates"]["neighbors"]) == set(CLASSES)
        assert details["collapse"]["projector"]["dim"] == 8
    assert of_entry.metrics["details"]["relations"]["gates"] == of_run.metrics["details"]["relations"]["gates"]
    assert (of_entry.write(tmp_path / "report") / "plots" / "relations_gates_heat_map.png").is_file()
