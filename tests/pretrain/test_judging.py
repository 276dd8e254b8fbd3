"""What an evaluation finds in a run: its projector, its gates, and the subset that it was pretrained on."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from labelled_pictures import CLASSES, make_splits
from picture_folders import encoded, make_shard
from PIL import Image
from safetensors.torch import load_file
from small_recipes import small_recipe

from clzoo.errors import ClzooError
from clzoo.evaluation import evaluate
from clzoo.evaluation.subject import find_subject
from clzoo.pretrain.build import build_method
from clzoo.pretrain.loop import pretrain
from clzoo.pretrain.start import start_from
from clzoo.publish import publish


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_splits(tmp_path_factory.mktemp("data") / "animals", train=40)


def test_a_run_on_an_imbalanced_subset_is_also_probed_by_how_often_it_saw_each_class(pictures, tmp_path):
    recipe = small_recipe("simclr_cifar10", "data.subset=linear")
    pretrain(recipe, pictures, tmp_path / "run", device="cpu")
    settings = ["imbalanced.subsets=[longtail-10]"]
    turned = dataclasses.replace(find_subject(tmp_path / "run"), classes=tuple(sorted(CLASSES, reverse=True)))
    of_turned = evaluate(turned, pictures, "imbalanced", settings=settings, device="cpu").metrics["details"]
    assert of_turned["imbalanced"]["pretrained_on"]["kept"] == [36, 28, 24, 16, 8, 4]  # by name, not by number
    other = dataclasses.replace(turned, classes=("unicorn", *sorted(CLASSES)[1:]))
    of_other = evaluate(other, pictures, "imbalanced", settings=settings, device="cpu").metrics["details"]
    assert of_other["imbalanced"]["pretrained_on"] is None
    found = evaluate(tmp_path / "run", pictures, "imbalanced", settings=settings, device="cpu").metrics["details"]
    pretrained_on = found["imbalanced"]["pretrained_on"]
    assert pretrained_on["name"] == "linear"
    assert pretrained_on["kept"] == [4, 8, 16, 24, 28, 36]  # (g + 1) / 10 of 40, g = 10 i // 6
    assert sum(pretrained_on["kept"]) == json.loads((tmp_path / "run" / "data.json").read_text())["images"]
    assert set(pretrained_on["probes"]) == {"knn", "linear"}
    assert [subset["name"] for subset in found["imbalanced"]["subsets"]] == ["longtail-10"]


def numbered_classes(root, classes=12):
    """train: a shard with class numbers; test: folders, which are sorted as text. A class is a colour."""
    rng = np.random.default_rng(0)

    def picture(label):
        colour = np.array([(label * 53) % 256, (label * 101) % 256, (label * 197) % 256])
        pixels = np.clip(colour + rng.normal(0, 8, (32, 32, 3)), 0, 255).astype(np.uint8)
        return Image.fromarray(pixels)

    members = {}
    for n in range(8 * classes):
        members[f"{n:03}.png"], members[f"{n:03}.cls"] = encoded(picture(n % classes)), str(n % classes).encode()
    make_shard(root / "train" / "0.tar", members)
    for label in range(classes):
        (root / "test" / str(label)).mkdir(parents=True)
        for n in range(2):
            picture(label).save(root / "test" / str(label) / f"{n}.png")
    return root


def test_the_online_k_nn_joins_numbered_shards_and_numbered_folders_by_name(tmp_path):
    recipe = small_recipe("simclr_cifar10", "monitor.knn_every_epochs=1")
    data = numbered_classes(tmp_path / "data")
    pretrain(recipe, data, tmp_path / "run", device="cpu")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    found = [line["knn"] for line in lines if "knn" in line]
    assert found
    assert min(found) > 80  # by number 8 of 12 classes would be others: "10" and "11" stand before "2"
    make_shard(data / "train" / "0.tar", {f"{n}.png": encoded(Image.new("RGB", (32, 32))) for n in range(64)})
    with pytest.raises(ClzooError, match=r"monitor\.knn_every_epochs=1 needs labels, and .*train has none"):
        pretrain(recipe, data, tmp_path / "other", device="cpu")  # before the first step, not after the first epoch
    assert not list((tmp_path / "other").glob("*.pt"))


def test_the_gates_of_a_hydra_run_tell_class_relations_before_and_after_publishing(pictures, tmp_path, caplog):
    recipe = small_recipe("hydra_cifar10", batch_size=24)
    pretrain(recipe, pictures, tmp_path / "run", device="cpu")
    of_run = evaluate(tmp_path / "run", pictures, "relations,collapse", device="cpu")
    assert find_subject(tmp_path / "run").classes == tuple(sorted(CLASSES))
    entry = publish(tmp_path / "run", "hydra-tiny-animals", pictures, tmp_path / "entry", protocols="knn", device="cpu")
    of_entry = evaluate(entry, pictures, "relations,collapse", device="cpu")
    for evaluation in (of_run, of_entry):
        details = evaluation.metrics["details"]
        assert set(details["relations"]["gates"]["neighbors"]) == set(CLASSES)
        assert details["collapse"]["projector"]["dim"] == 8
    assert of_entry.metrics["details"]["relations"]["gates"] == of_run.metrics["details"]["relations"]["gates"]
    assert find_subject(entry).classes == tuple(sorted(CLASSES))
    assert (of_entry.write(tmp_path / "report") / "plots" / "relations_gates_heat_map.png").is_file()
    gates_are_taken_over_by_name(recipe, entry, tuple(sorted(CLASSES)), caplog)


def gates_are_taken_over_by_name(recipe, entry, classes, caplog):
    """By a run that starts from the entry: its classes in another order, or other ones."""
    table = "pair_loss.filter.label_embedding.weight"
    kept = load_file(entry / "pretrain.safetensors")[table]
    turned = (*classes[2:], *classes[:2])
    method = build_method(recipe, len(classes))
    start_from(method, str(entry), turned)
    for number, name in enumerate(turned):
        assert torch.equal(method.state_dict()[table][number], kept[classes.index(name)])
    method = build_method(recipe, len(classes))
    before = method.state_dict()[table].clone()
    start_from(method, str(entry), ("unicorn", *classes[1:]))
    assert torch.equal(method.state_dict()[table], before)
    assert "the kept gates are of other classes" in caplog.text
    assert "unicorn" in caplog.text


@pytest.mark.parametrize("published", [False, True])
def test_gates_are_matched_by_the_names_of_the_run_and_by_number_in_a_run_without_names(pictures, tmp_path, published):
    run = tmp_path / "run"
    pretrain(small_recipe("hydra_cifar10", batch_size=24), pictures, run, device="cpu")
    data = json.loads((run / "data.json").read_text())
    names = data["class_names"]
    gates = evaluate(run, pictures, "relations", device="cpu").metrics["details"]["relations"]["gates"]["neighbors"]

    def with_names(names):
        """The run, or what is published of it, as if its classes had been called so."""
        (run / "data.json").write_text(json.dumps({**data, **names}))
        if not names:
            (run / "data.json").write_text(json.dumps({k: v for k, v in data.items() if k != "class_names"}))
        if not published:
            return run
        return publish(
            run, "hydra-tiny-animals", pictures, tmp_path / f"entry-{len(names)}-{names}"[:40], protocols="knn",
            device="cpu",
        )  # fmt: skip

    turned = evaluate(with_names({"class_names": names[1:] + names[:1]}), pictures, "relations", device="cpu")
    other = dict(zip(names, names[1:] + names[:1], strict=True))  # the gate of a class is now called as the next one
    expected = {other[name]: [other[near] for near in nearest] for name, nearest in gates.items()}
    assert turned.metrics["details"]["relations"]["gates"]["neighbors"] == expected
    old = evaluate(with_names({}), pictures, "relations", device="cpu").metrics["details"]["relations"]["gates"]
    assert old["neighbors"] == gates
    renamed = with_names({"class_names": ["unicorn", *names[1:]]})
    with pytest.raises(ClzooError, match=f"none for {names[0]}, but one for unicorn"):
        evaluate(renamed, pictures, "relations", device="cpu")


def test_a_run_without_class_names_is_continued_on_the_same_images(pictures, tmp_path):
    recipe = small_recipe("simclr_cifar10")
    pretrain(recipe, pictures, tmp_path / "run", device="cpu")
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    del data["class_names"]
    (tmp_path / "run" / "data.json").write_text(json.dumps(data))
    assert pretrain(recipe, pictures, tmp_path / "run", device="cpu")
    (tmp_path / "run" / "data.json").write_text(json.dumps({**data, "sha256": "0"}))
    with pytest.raises(ClzooError, match="was trained on other data"):
        pretrain(recipe, pictures, tmp_path / "run", device="cpu")
