"""What a method saw: names, weights and labels of a batch's pairs are those of the run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_recipes import small_recipe

from clzoo import ClzooError
from clzoo.cli import main
from clzoo.data.training import open_training_set
from clzoo.pretrain.explaining import explain_batch
from clzoo.pretrain.explanation import TOP, Met
from clzoo.pretrain.feed import Steps, labels_of_queue, samples_of_queue, samples_of_step
from clzoo.pretrain.loop import pretrain

RECIPES = ("cacr_cifar10", "hydra_cifar10", "potential_samples_cifar10", "reco_cifar10", "supcon_cifar10")
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """`train/<class>/NN.png`: 12 pictures of each of three classes, one of a hostile name."""
    folder = tmp_path_factory.mktemp("explained") / "pictures"
    for number, name in enumerate(("ant", f"bee{HOSTILE}".replace("/", "_"), "cat")):
        (folder / "train" / name).mkdir(parents=True)
        for i in range(12):
            noise = torch.randint(80 * number, 80 * number + 90, (32, 32, 3), dtype=torch.uint8).numpy()
            Image.fromarray(noise).save(folder / "train" / name / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def runs(pictures, tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("runs")
    for name in RECIPES:
        recipe = small_recipe(name, "monitor.knn_every_epochs=0", "schedule.epochs=2", "seed=3")
        assert pretrain(recipe, pictures, place / name, device="cpu")
    return {name: place / name for name in RECIPES}


@pytest.mark.parametrize("name", RECIPES)
def test_every_role_of_every_query_is_told_and_labels_are_those_of_the_images(runs, pictures, name):
    before = {path: path.read_bytes() for path in runs[name].rglob("*") if path.is_file()}
    found = explain_batch(runs[name], queries=3)
    assert {path: path.read_bytes() for path in runs[name].rglob("*") if path.is_file()} == before
    again = explain_batch(runs[name], pictures, queries=3)
    assert json.dumps(again.as_json()) == json.dumps(found.as_json())
    assert len(found.queries) == 3
    for query in found.queries:
        roles = {panel.role for panel in query.panels}
        assert {"attraction", "repulsion"} <= roles
        assert ("relation" in roles) == name.startswith("reco")
        assert (query.gate is not None) == name.startswith("hydra")
        assert query.name.split("/")[-2] == query.label
        for panel in query.panels:
            weights = [met.weight for met in panel.met]
            assert weights == sorted(weights, reverse=True)
            assert len(weights) <= TOP
            assert sum(met.share for met in panel.met) <= 1 + 1e-6
            for met in panel.met:
                if met.sample is None:
                    assert met.where == "random start"
                    assert met.label is None
                else:
                    assert met.name.split("/")[-2] == met.label
                    assert met.is_same_class == (met.label == query.label)


def test_cacr_attracts_its_own_views_and_repels_the_others(runs):
    found = explain_batch(runs["cacr_cifar10"])
    for query in found.queries:
        pull, push = query.panels
        assert {met.sample for met in pull.met} == {query.sample}
        assert sum(met.share for met in pull.met) == pytest.approx(1)
        assert "view 1" not in {met.where for met in pull.met}
        assert query.sample not in {met.sample for met in push.met}


def test_supcon_never_repels_its_class_and_hydra_never_its_own(runs):
    for name in ("supcon_cifar10", "hydra_cifar10"):
        found = explain_batch(runs[name])
        (push,) = [judged for judged in found.judgements if judged.role == "repulsion"]
        assert (push.among_top, push.among_all, push.of_weight) == (0, 0, 0)
    pull = next(judged for judged in explain_batch(runs["supcon_cifar10"]).judgements if judged.role == "attraction")
    assert pull.of_weight == 1


def test_mined_positives_are_entries_of_the_queue(runs):
    found = explain_batch(runs["potential_samples_cifar10"])
    pull, _ = found.queries[0].panels
    assert pull.beside == "omega"
    assert sum(met.beside for met in pull.met) == pytest.approx(1, abs=1e-5)
    assert {met.where for met in pull.met[1:]} <= {
        "random start",
        *(f"{n} steps ago" for n in range(2, 9)),
        "1 step ago",
    }


def test_shares_of_false_negatives_by_hand(runs, pictures):
    found = explain_batch(runs["cacr_cifar10"], queries=8)  # the whole batch
    pushes = [query.panels[1] for query in found.queries]
    judged = next(each for each in found.judgements if each.role == "repulsion")
    labels = [query.label for query in found.queries]
    same = sum(a == b for a in labels for b in labels) - len(labels)
    assert judged.among_all == pytest.approx(same / (8 * 7))
    assert judged.among_top == pytest.approx(judged.among_all)  # seven negatives: all are among the ten
    shown = [met for push in pushes for met in push.met]
    assert any(met.is_same_class for met in shown)


def test_the_queue_remembers_what_it_was_given(runs, pictures):
    recipe = small_recipe("reco_cifar10", "monitor.knn_every_epochs=0", "schedule.epochs=2", "seed=3")
    images = open_training_set("cifar10", pictures, 32)
    steps = Steps.of(recipe, images)
    for done, pointer in ((0, 0), (2, 16), (6, 16)):
        samples = samples_of_queue(images, recipe, steps, done, pointer, 32)
        labels = labels_of_queue(images, recipe, steps, done, pointer, 32)
        assert labels.tolist() == [-1 if s < 0 else images.labels[s] for s in samples.tolist()]
        assert (samples >= 0).sum() == min(32, 8 * done)
        if done:
            last = samples_of_step(images, recipe, steps, done - 1)
            assert samples[(torch.arange(pointer - 8, pointer)) % 32].tolist() == last.tolist()


def test_marks():
    def met(same: bool | None) -> Met:
        return Met(0, 0, "", None, "", 0, 1.0, 1.0, None, same)

    assert [met(True).mark(role) for role in ("attraction", "repulsion", "relation")] == ["right", "wrong", "right"]
    assert [met(False).mark(role) for role in ("attraction", "repulsion", "relation")] == ["wrong", "", ""]
    assert met(None).mark("repulsion") == ""


@pytest.mark.parametrize("name", ["hydra_cifar10", "reco_cifar10"])
def test_the_page_is_one_file_that_runs_nothing(runs, tmp_path, name, capsys):
    main(["explain-batch", str(runs[name]), "--queries", "3", "--json", "--quiet", "--html", str(tmp_path / "p.html")])
    found = json.loads(capsys.readouterr().out)
    assert [len(query["roles"]) > 1 for query in found["queries"]] == [True] * 3
    page = (tmp_path / "p.html").read_text()
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert set(re.findall(r'src="([^,]+),', page)) <= {"data:image/jpeg;base64", "data:image/png;base64"}
    assert page.count("<section>") == 3
    assert ("gates are open" in page) == name.startswith("hydra")
    assert ("the query, mixed" in page) == name.startswith("reco")


def test_images_that_moved_are_asked_for_and_nothing_is_offered_in_their_place(runs, pictures, tmp_path):
    run = shutil.copytree(runs["cacr_cifar10"], tmp_path / "run")
    data = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps({**data, "source": str(tmp_path / "gone")}))
    with pytest.raises(ClzooError, match=r"are no longer in .*gone\. Say where they are now: --data DIR"):
        explain_batch(run, device="cpu")
    assert explain_batch(run, pictures, device="cpu").queries


def test_other_images_no_run_and_a_silent_loss_are_refused(runs, pictures, tmp_path, monkeypatch):
    with pytest.raises(ClzooError, match="is no run folder"):
        explain_batch(tmp_path)
    other = tmp_path / "other" / "train" / "ant"
    other.mkdir(parents=True)
    for i in range(9):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(other / f"{i}.png")
    with pytest.raises(ClzooError, match="was trained on other data"):
        explain_batch(runs["cacr_cifar10"], tmp_path / "other")
    with pytest.raises(ClzooError, match="queries must be at least 1"):
        explain_batch(runs["cacr_cifar10"], queries=0)
    monkeypatch.setattr("clzoo.losses.seen.Seen.terms", lambda seen: [])
    with pytest.raises(ClzooError, match="the loss of cacr notes no weights"):
        explain_batch(runs["cacr_cifar10"])
