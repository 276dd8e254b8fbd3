"""clzoo.adapt from a folder of pictures to a verdict, stopped and resumed, and what may be published of it."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import signal
import sys
import time

import click
import numpy as np
import pytest
import torch
from labelled_pictures import make_splits
from pretended_clock import Ticking
from small_models import small_encoder

import clzoo.adaptation.before
import clzoo.adaptation.clock
import clzoo.adaptation.distillation
import clzoo.adaptation.planning
import clzoo.adaptation.run
import clzoo.cli.adapt
import clzoo.cli.distil
import clzoo.pretrain.loop
from clzoo.adaptation import adapt
from clzoo.adaptation.before import measure_elsewhere
from clzoo.adaptation.measures import KNN, LABEL_FREE, LINEAR, knn_outcomes
from clzoo.cli import main
from clzoo.config import Preprocessing
from clzoo.data.parts import parts_of
from clzoo.errors import ClzooError
from clzoo.evaluation import evaluate
from clzoo.files import read_json
from clzoo.pretrain.loop import pretrain
from clzoo.pretrain.recipe_files import load_recipe
from clzoo.pretrain.stopping import asked_to_stop
from clzoo.publish import publish
from clzoo.zoo import load


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """240 pictures of six classes."""
    return make_splits(tmp_path_factory.mktemp("adapt") / "pictures", train=40, test=1, contrast=40) / "train"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """An encoder as a folder, with terms of its own."""
    narrow = {"channels": [4, 8, 8, 8], "stem_type": "deep", "stem_width": 4}
    network = {
        "architecture": "resnet10t",
        "model_args": narrow,
        "num_features": 8,
        "backbone": "resnet10t",
        "method": "simclr",
    }
    encoder = small_encoder(
        **network,
        license="cc-by-nc-4.0",
        preprocessing=Preprocessing(size=24, crop_pct=1.0),
    )
    return encoder.save_pretrained(tmp_path_factory.mktemp("adapt") / "start")


def shorten(patch: pytest.MonkeyPatch) -> None:
    """Two epochs, one draw of few labels, no pictures of curves."""
    patch.setattr(clzoo.adaptation.planning, "EPOCHS", 2)
    patch.setattr(clzoo.adaptation.measures, "_DRAWS", (0,))
    patch.setattr(clzoo.pretrain.loop, "draw_curves", lambda _: None)


def by_knn_alone(encoder, train, held, *, labels):
    found = knn_outcomes(encoder, train, held)
    return {KNN: found, LINEAR: found}, {name: 100 * float(np.mean(found)) for name in (KNN, LINEAR)}


@pytest.fixture
def quick_verdict(monkeypatch):
    """No probes are fitted: what they say is held by the tests of the whole report."""
    monkeypatch.setattr(clzoo.adaptation.before, "measure", by_knn_alone)
    monkeypatch.setattr(clzoo.adaptation.run, "measure", by_knn_alone)


def stopped_by_hand(train):
    """The same training, with Ctrl-C before its first step."""

    def stopping(*arguments, **further):
        with asked_to_stop() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.is_set()
            return train(*arguments, **further)

    return stopping


@pytest.fixture(autouse=True)
def short(monkeypatch, tmp_path):
    shorten(monkeypatch)
    monkeypatch.setenv("CLZOO_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, pictures, start):
    """One adaptation with labels and two seeds."""
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        out = tmp_path_factory.mktemp("adapt") / "run"
        return adapt(pictures, start=start, labels=True, seeds=2, out=out, device="cpu", also_keep=pictures)


def tensors(run) -> dict[str, torch.Tensor]:
    return load(run, "cpu").module.state_dict()


def equal(one, two) -> bool:
    first, second = tensors(one), tensors(two)
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_report_holds_every_encoder_by_every_measure(adapted):
    report = read_json(adapted.folder / "verdict.json")
    assert report["verdict"] == adapted.verdict.word
    assert list(report["measures"]) == [KNN, LINEAR, "linear, 8 labels a class"]
    of_knn = report["measures"][KNN]
    assert {of: len(values) for of, values in of_knn.items()} == {
        "start encoder": 1,
        "its BatchNorm statistics alone": 1,
        "adapted": 2,
        "random network": 1,
    }
    mean = sum(of_knn["adapted"]) / 2
    assert report["gain"]["value"] == pytest.approx(mean - of_knn["start encoder"][0], abs=1e-3)
    assert report["gain"]["images"] == report["images"]["held_out"] == 48
    assert report["elsewhere"]["verdict"] in ("lost", "gained", "no evidence of a loss")
    seen, judged = (report["elsewhere"][key] for key in ("trained_on", "images"))
    assert 0 < seen < judged == 48  # the general set is the same pictures here: it is said
    said = f"Limit: {seen} of the {judged} images that were judged there were trained on"
    assert said in (adapted.folder / "verdict.html").read_text()
    assert adapted.verdict.word in (adapted.folder / "verdict.html").read_text()


def test_held_out_images_are_not_trained_on_and_kept_by_name(adapted, pictures):
    kept = read_json(adapted.folder / "adaptation" / "held_out.json")
    assert (kept["train"], len(kept["held"]), len(kept["pilots"])) == (168, 48, 24)
    assert read_json(adapted.folder / "data.json")["images"] == 168
    assert all((pictures / name).is_file() for name in kept["held"])


def test_the_recipe_explains_itself_and_makes_the_same_run_again(adapted, pictures, tmp_path):
    file = adapted.folder / "adaptation" / "recipe.yaml"
    text = file.read_text()
    assert "clzoo pretrain" in text
    lines = [line.strip() for line in text.splitlines()]
    for key in ("method", "views", "frozen", "batch_size", "epochs", "warmup_epochs", "base_lr", "towards_start"):
        place = next(number for number, line in enumerate(lines) if line.startswith(f"{key}:"))
        assert lines[place - 1].startswith("#"), key
    recipe = load_recipe(file)
    assert recipe == load_recipe(adapted.folder / "recipe.yaml")
    assert recipe.schedule.epochs == 2
    assert pretrain(recipe, pictures, tmp_path / "again", device="cpu")
    assert equal(adapted.folder, tmp_path / "again")


def test_the_result_is_a_model_with_the_preprocessing_and_the_terms_of_its_start(adapted, start):
    found, begun = load(adapted.folder, "cpu"), load(start, "cpu")
    assert found.config.preprocessing == begun.config.preprocessing
    assert found.config.license == "cc-by-nc-4.0"
    assert found.weights_sha256 == read_json(adapted.folder / "verdict.json")["weights_sha256"][0]
    assert found.weights_sha256 != begun.weights_sha256


def test_a_split_drawn_from_the_same_images_is_said_to_have_been_seen(adapted, pictures):
    evaluation = evaluate(adapted.folder, pictures, "knn", device="cpu")
    assert {row["split"] for row in evaluation.results} != {"test"}
    assert all("seen in pretraining without labels" in row["split"] for row in evaluation.results)


def test_the_same_command_says_the_same_and_another_one_is_refused(adapted, pictures, start, capsys):
    kept = read_json(adapted.folder / "verdict.json")
    words = ["adapt", str(pictures), "--from", str(start), "--labels", "--out", str(adapted.folder), "--device", "cpu"]
    main([*words, "--seeds", "2", "--also-keep", str(pictures), "--quiet"])
    assert read_json(adapted.folder / "verdict.json") == kept
    printed = capsys.readouterr().out
    assert "random network" in printed
    assert f"Verdict: {kept['sentence']}." in printed
    assert f"clzoo publish {adapted.folder} simclr-resnet10t_" in printed
    plan = adapted.folder / "adaptation" / "plan.json"
    written = plan.read_text()
    as_before = json.loads(written)
    as_before["arguments"]["from"] = os.path.relpath(start)  # earlier versions kept it as it was typed
    plan.write_text(json.dumps(as_before))
    adapt(pictures, start=os.path.relpath(start), labels=True, seeds=2, out=adapted.folder, device="cpu")
    plan.write_text(written)
    assert read_json(adapted.folder / "verdict.json") == kept  # also of a start by another path, and of a general set
    with pytest.raises(ClzooError, match="an adaptation with seeds 2, now 3"):
        adapt(pictures, seeds=3, start=start, labels=True, out=adapted.folder, device="cpu")


def test_what_an_earlier_version_began_is_refused_in_words(adapted, pictures, start):
    path = adapted.folder / "adaptation" / "plan.json"
    kept = path.read_text()
    path.write_text(json.dumps({key: value for key, value in json.loads(kept).items() if key != "shortened"}))
    (adapted.folder / "verdict.json").rename(adapted.folder / "verdict.away")
    try:
        with pytest.raises(ClzooError, match=r"earlier version of clzoo.*Choose another --out"):
            adapt(pictures, start=start, out=adapted.folder, labels=True, seeds=2, device="cpu", also_keep=pictures)
    finally:
        (adapted.folder / "verdict.away").rename(adapted.folder / "verdict.json")
        path.write_text(kept)


def test_what_was_not_shown_to_help_is_published_with_consent_and_says_so(adapted, tmp_path):
    name = "simclr-resnet10t-train"
    report = read_json(adapted.folder / "verdict.json")
    kept = json.dumps(report)
    try:
        for word in ("harmed", "no evidence"):
            report |= {"verdict": word, "sentence": f"{word} (-3.1 [-4.2, -2.0] k-NN)"}
            (adapted.folder / "verdict.json").write_text(json.dumps(report))
            with pytest.raises(ClzooError, match=rf"{word} \(-3.1 .*--accept-verdict"):
                publish(adapted.folder, name, None, tmp_path / "entry", device="cpu")
        entry = publish(adapted.folder, name, None, tmp_path / "entry", device="cpu", accept_verdict=True)
        card = (entry / "README.md").read_text()
        assert "**no evidence (-3.1 [-4.2, -2.0] k-NN)**" in card
        assert "continued from" in card
        report["weights_sha256"][0] = "0" * 64
        (adapted.folder / "verdict.json").write_text(json.dumps(report))
        with pytest.raises(ClzooError, match=r"no evidence \(-3.1 .*--accept-verdict"):  # of one of its further seeds
            publish(adapted.folder / "adaptation" / "seed-1", name, None, tmp_path / "seed", device="cpu")
        with pytest.raises(ClzooError, match="is on other weights"):
            publish(adapted.folder, name, None, tmp_path / "other", device="cpu", accept_verdict=True)
        (adapted.folder / "verdict.json").unlink()
        with pytest.raises(ClzooError, match="was not judged yet"):
            publish(adapted.folder, name, None, tmp_path / "other", device="cpu", accept_verdict=True)
    finally:
        (adapted.folder / "verdict.json").write_text(kept)


def test_what_helped_is_published_as_it_is(adapted, tmp_path):
    report = read_json(adapted.folder / "verdict.json")
    kept = (adapted.folder / "verdict.json").read_text()
    (adapted.folder / "verdict.json").write_text(json.dumps({**report, "verdict": "helped", "sentence": "helped (+3)"}))
    try:
        entry = publish(adapted.folder, "simclr-resnet10t-train", None, tmp_path / "entry", device="cpu")
        assert "**helped (+3)**" in (entry / "README.md").read_text()
    finally:
        (adapted.folder / "verdict.json").write_text(kept)


def test_pilots_choose_in_a_fifth_of_the_time_and_a_stopped_adaptation_ends_the_same(
    pictures, start, tmp_path, monkeypatch, quick_verdict
):
    each, minutes = 0.01, 0.01  # seconds a step, as if measured
    monkeypatch.setattr(clzoo.adaptation.clock, "now", lambda: 0.0)  # and nothing takes longer than that
    monkeypatch.setattr(clzoo.adaptation.run, "_PAGE_SECONDS", 0)
    monkeypatch.setattr(clzoo.adaptation.planning, "seconds_per_step", lambda *_: each)
    monkeypatch.setattr(clzoo.adaptation.pilots, "FEWEST_STEPS", 2)
    monkeypatch.setattr(clzoo.adaptation.pilots, "_BANK", 20)
    options = {"start": start, "labels": True, "minutes": minutes, "device": "cpu"}
    whole = adapt(pictures, out=tmp_path / "whole", **options)
    plan = read_json(tmp_path / "whole" / "adaptation" / "plan.json")
    scored = [each for pilot in plan["pilots"] for each in pilot]
    assert len(plan["pilots"]) == 4
    assert {(bool(s["frozen"]), s["base_lr"], s["towards_start"]) for s in scored} == {
        (frozen, rate, share) for frozen in (True, False) for rate in (0.03, 0.0075) for share in (0.0, 0.5)
    }
    assert 0 < 4 * plan["pilot_steps"] * each <= 0.2 * 60 * minutes
    assert plan["steps"] == int(0.9 * 0.8 * 60 * minutes / each)
    best = max(scored, key=lambda s: s["score"])
    assert plan["chosen"] == {key: best[key] for key in ("frozen", "base_lr", "towards_start")}
    assert load_recipe(tmp_path / "whole" / "recipe.yaml").backbone.frozen == best["frozen"]
    assert not (tmp_path / "whole" / "adaptation" / "pilots").exists()
    assert whole.report["pilots"] == "8 settings"

    stopping = stopped_by_hand(pretrain)
    with monkeypatch.context() as patch:
        patch.setattr(clzoo.adaptation.pilots, "pretrain", stopping)
        first = adapt(pictures, out=tmp_path / "parts", **options)
    assert (first.verdict, first.has_encoder) == (None, False)
    with monkeypatch.context() as patch:
        patch.setattr(clzoo.adaptation.run, "pretrain", stopping)
        second = adapt(pictures, out=tmp_path / "parts", **options)
    assert (second.verdict, second.has_encoder) == (None, True)
    assert load(tmp_path / "parts", "cpu").dim == 8  # usable as far as it came
    assert not (tmp_path / "parts" / "verdict.json").exists()
    third = adapt(pictures, out=tmp_path / "parts", **options)
    assert equal(tmp_path / "whole", tmp_path / "parts")
    assert third.report == whole.report


def test_without_labels_nothing_is_claimed_that_was_not_shown(pictures, start, tmp_path):
    found = adapt(pictures, start=start, flatten=True, out=tmp_path / "run", device="cpu")
    assert load_recipe(tmp_path / "run" / "recipe.yaml").data.flatten
    assert list(found.report["measures"]) == list(LABEL_FREE)
    assert found.report["verdict"] == "no evidence"
    assert not found.report["shown_to_predict"]
    assert "--labels" in (tmp_path / "run" / "verdict.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minutes": 1e-6}, r"--minutes 1e-06 are 0 steps .* Type: --minutes"),
        ({"method": "nothing"}, "--method nothing is none of align_uniform"),
        ({"method": "supcon"}, "supcon learns from labels. Add --labels"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(pictures, start, tmp_path, options, message):
    with pytest.raises(ClzooError, match=message):
        adapt(pictures, start=start, out=tmp_path / "run", device="cpu", **options)
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"is not a folder or file.*Name the folder"),
        ("empty", r"holds no images"),
        ("flat", r"has no labels"),
        ("one class", r"has images of 1 class; a classifier needs at least 2"),
        ("broken", r"none of the images .* can be read; the first: ant/00.png"),
    ],
)
def test_a_general_set_that_is_none_is_said_before_anything_is_trained(pictures, start, tmp_path, kind, message):
    place = tmp_path / kind
    if kind != "missing":
        place.mkdir()
    if kind == "flat":
        for path in (pictures / "ant").iterdir():
            (place / path.name).write_bytes(path.read_bytes())
    if kind in ("one class", "broken"):
        for name in ("ant",) if kind == "one class" else ("ant", "bee"):
            (place / name).mkdir()
            for path in (pictures / name).iterdir():
                (place / name / path.name).write_bytes(path.read_bytes() if kind == "one class" else path.name.encode())
    with pytest.raises(ClzooError, match=rf"^--also-keep: .*{message}.* Or leave out --also-keep\.$"):
        measure_elsewhere(load(start, "cpu"), place)


def test_labels_that_are_not_there_are_an_error(pictures, start, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in pictures.rglob("*.png"):
        (flat / f"{path.parent.name}{path.name}").write_bytes(path.read_bytes())
    with pytest.raises(ClzooError, match=r"--labels: .* has no labels"):
        adapt(flat, start=start, labels=True, out=tmp_path / "run", device="cpu")


def test_time_below_an_epoch_is_a_stated_limit(pictures, start, tmp_path, monkeypatch):
    monkeypatch.setattr(clzoo.adaptation.recipes, "MOST_BATCH", 8)
    monkeypatch.setattr(clzoo.adaptation.recipes, "FEWEST_BATCH", 8)
    monkeypatch.setattr(clzoo.adaptation.planning, "seconds_per_step", lambda *_: 0.05)
    monkeypatch.setattr(clzoo.adaptation.clock, "now", lambda: 0.0)
    monkeypatch.setattr(clzoo.adaptation.run, "_PAGE_SECONDS", 0)
    found = adapt(pictures, start=start, minutes=0.0112, out=tmp_path / "run", device="cpu")
    assert any("12 steps, 57% of an epoch" in limit for limit in found.report["limits"])


def test_a_machine_slower_than_it_was_timed_moves_the_end_and_the_recipe_says_so(
    pictures, start, tmp_path, monkeypatch, quick_verdict
):
    monkeypatch.setattr(clzoo.adaptation.planning, "seconds_per_step", lambda *_: 0.1)  # it says
    monkeypatch.setattr(clzoo.adaptation.clock, "now", Ticking(0.15))  # a step reads the clock once
    monkeypatch.setattr(clzoo.adaptation.run, "_PAGE_SECONDS", 0)
    run, minutes = tmp_path / "run", 0.1
    calls, in_parts = [], stopped_by_hand(pretrain)

    def train(recipe, *arguments, **further):
        calls.append(recipe.schedule.shortened)
        return (in_parts if len(calls) == 2 else pretrain)(recipe, *arguments, **further)

    monkeypatch.setattr(clzoo.adaptation.run, "pretrain", train)
    options = {"start": start, "labels": True, "minutes": minutes, "out": run, "device": "cpu"}
    assert adapt(pictures, **options).verdict is None  # stopped after the decision, before its end
    decided = load_recipe(run / "adaptation" / "recipe.yaml")
    assert calls[0] == []
    assert calls[1] == decided.schedule.shortened
    assert load_recipe(run / "recipe.yaml") == decided
    found = adapt(pictures, **options)
    ended = load_recipe(run / "adaptation" / "recipe.yaml")
    assert ended.schedule.shortened[: len(decided.schedule.shortened)] == decided.schedule.shortened  # kept for good
    plan, state = (read_json(run / name) for name in ("adaptation/plan.json", "state.json"))
    end = ended.schedule.shortened[-1][1]
    assert (state["finished"], state["step"]) == (True, end)
    assert end < plan["steps"]
    assert any(f"seed 0 ended after {end} of {plan['steps']} steps" in limit for limit in found.report["limits"])
    monkeypatch.undo()
    shorten(monkeypatch)
    assert pretrain(ended, pictures, tmp_path / "again", device="cpu")
    assert equal(run, tmp_path / "again")  # the recipe alone, without any clock


def test_pilots_whose_time_is_over_end_and_what_they_told_counts(pictures, start, tmp_path, monkeypatch, quick_verdict):
    monkeypatch.setattr(clzoo.adaptation.planning, "seconds_per_step", lambda *_: 0.01)
    monkeypatch.setattr(clzoo.adaptation.pilots, "FEWEST_STEPS", 2)
    monkeypatch.setattr(clzoo.adaptation.pilots, "_BANK", 20)
    monkeypatch.setattr(clzoo.adaptation.clock, "now", Ticking(0.012))  # each step reads it; a fifth are 0.24 s
    monkeypatch.setattr(clzoo.adaptation.run, "_PAGE_SECONDS", 0)
    run = tmp_path / "run"
    found = adapt(pictures, start=start, labels=True, minutes=0.02, out=run, device="cpu")
    plan = read_json(run / "adaptation" / "plan.json")
    assert 0 < len(plan["pilots"]) < len(plan["settings"]) == 4
    assert plan["chosen"]["base_lr"] in {scored["base_lr"] for pilot in plan["pilots"] for scored in pilot}
    assert found.report["pilots"] == f"a fifth of the time was over after {len(plan['pilots'])} of 4 pilots"
    assert found.report["pilots"] in (run / "adaptation" / "recipe.yaml").read_text().replace("\n  # ", " ")


def test_without_an_image_for_pilots_none_is_run(pictures, start, tmp_path, monkeypatch, quick_verdict):
    def copies_of_one_everywhere(images):
        parts = parts_of(images)
        return dataclasses.replace(parts, pilots=parts.pilots[:0])

    monkeypatch.setattr(clzoo.adaptation.run, "parts_of", copies_of_one_everywhere)
    monkeypatch.setattr(clzoo.adaptation.run, "_trained", lambda *_: False)
    adapt(pictures, start=start, labels=True, minutes=10, out=tmp_path / "run", device="cpu")
    plan = read_json(tmp_path / "run" / "adaptation" / "plan.json")
    assert plan["settings"] == plan["pilots"] == []
    assert "left none to choose by" in plan["no_pilots"]


def test_copies_that_leave_too_few_images_to_train_on_are_refused(
    pictures, start, tmp_path, monkeypatch, mostly_copies
):
    monkeypatch.setattr(clzoo.adaptation.run, "parts_of", mostly_copies)
    with pytest.raises(ClzooError, match=r"pictures: 15 images are left to train on.*clzoo curate duplicates STORE"):
        adapt(pictures, start=start, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_time_goes_on_where_it_was_and_not_from_the_start(pictures, start, tmp_path, monkeypatch, quick_verdict):
    monkeypatch.setattr(clzoo.adaptation.clock, "now", Ticking(0.01))
    options = {"start": start, "labels": True, "minutes": 9, "out": tmp_path / "run", "device": "cpu"}
    monkeypatch.setattr(clzoo.adaptation.planning, "seconds_per_step", lambda *_: 20.0)
    with monkeypatch.context() as patch:
        patch.setattr(clzoo.adaptation.run, "pretrain", stopped_by_hand(pretrain))
        adapt(pictures, **options)
    first = read_json(tmp_path / "run" / "adaptation" / "time.json")
    found = adapt(pictures, **options)
    whole = read_json(tmp_path / "run" / "adaptation" / "time.json")
    assert set(first) <= set(whole)
    assert all(whole[part] >= first[part] for part in first)
    assert whole["training"] > first["training"] > 0
    assert "of 9 minutes" in found.took


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_leaves_a_model_and_the_command_that_goes_on_verbatim(pictures, start, tmp_path, warm_python):
    run = tmp_path / "a run"
    words = ["adapt", pictures, "--from", start, "--out", run, "--device", "cpu", "--method", "simclr", "--seeds", "1"]
    words += ["--max-pixels", "5000", "--minutes", "9.25", "--quiet"]
    process = warm_python.start(("-m", "clzoo", *map(str, words)), os.environ, timeout=200)
    while not (run / "log.jsonl").is_file() and process.poll() is None:
        time.sleep(0.05)
    process.kill(signal.SIGINT)
    done = process.finish()
    assert done.returncode == 130, done.stderr
    (printed,) = (line for line in done.stderr.splitlines() if "to go on, type: " in line)
    program, typed = shlex.split(printed.partition("type: ")[2])[0], shlex.split(printed.partition("type: ")[2])[1:]
    assert program in ("python", "clzoo", sys.executable)
    assert typed[-len(words) :] == [str(word) for word in words]
    assert load(run, "cpu").dim == 8


@pytest.mark.parametrize("command", ["adapt", "distil"])
def test_what_is_printed_to_go_on_has_every_option(command, tmp_path, monkeypatch, capsys, pictures, start):
    """Whatever options a command has or will have: each is given, and the line has it."""
    module = {"adapt": clzoo.cli.adapt, "distil": clzoo.cli.distil}[command]
    given = []
    for option in module.command.params:
        if isinstance(option, click.Argument):
            given.append(str(pictures))
        else:
            values = {"out": "my run", "minutes": "0.125", "seeds": "7", "max_pixels": "123456"}
            given += [option.opts[0]] if option.is_flag else [option.opts[0], values.get(option.name, "cpu")]

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("clzoo.images.set_max_pixels", lambda _: None)
    monkeypatch.setattr(clzoo.adaptation, "adapt", interrupted)
    monkeypatch.setattr(clzoo.adaptation.distillation, "distil", interrupted)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        main([command, *given])
    (printed,) = (line for line in capsys.readouterr().err.splitlines() if "to go on, type: " in line)
    typed = shlex.split(printed.partition("type: ")[2])
    assert typed[-len(given) - 1 :] == [command, *given]
