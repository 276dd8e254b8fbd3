"""What adapt and distil refuse before anything is opened, and what a person who stops is told."""

from __future__ import annotations

import math
import signal
from types import SimpleNamespace

import pytest
from labelled_pictures import make_splits
from small_models import small_encoder

import clzoo.adaptation
import clzoo.adaptation.clock
import clzoo.adaptation.distillation
import clzoo.adaptation.planning
import clzoo.adaptation.run
import clzoo.adaptation.teacher
from clzoo.adaptation import adapt, distil
from clzoo.adaptation.clock import Clock, train_in_time
from clzoo.adaptation.pilots import Scored, Setting
from clzoo.cli import main
from clzoo.config import Preprocessing
from clzoo.embed import embed_folder
from clzoo.errors import ClzooError
from clzoo.files import read_json
from clzoo.zoo import load

NOWHERE = "nowhere/at/all"  # each refusal comes before the images are looked for


@pytest.mark.parametrize("minutes", [0, -3, math.nan, math.inf])
@pytest.mark.parametrize("call", [adapt, distil])
def test_a_time_that_is_none_is_refused(call, minutes):
    with pytest.raises(ClzooError, match=r"--minutes .* expected a number above 0, such as --minutes 30"):
        call(NOWHERE, minutes=minutes)


@pytest.mark.parametrize("minutes", ["0", "-3", "nan", "inf", "soon"])
@pytest.mark.parametrize("command", ["adapt", "distil"])
def test_a_time_that_is_none_is_wrong_usage_of_the_command(command, minutes, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, NOWHERE, "--minutes", minutes])
    assert stopped.value.code == 2
    assert f"'{minutes}' is no number above 0, such as 30" in capsys.readouterr().err


@pytest.mark.parametrize("seeds", [0, -1, 101, 10**9])
def test_a_number_of_seeds_that_cannot_be_is_refused(seeds):
    with pytest.raises(ClzooError, match=rf"--seeds {seeds}: expected 1 to 100"):
        adapt(NOWHERE, seeds=seeds)


@pytest.fixture
def places(tmp_path):
    """A file, a place below it, a folder of something else, a run of clzoo pretrain, one of either command."""
    (tmp_path / "file").write_text("mine")
    for folder, name in (
        ("full", "thesis.txt"),
        ("run", "recipe.yaml"),
        ("distillation", "plan.json"),
        ("adaptation", "verdict.json"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("mine")
    return tmp_path


@pytest.mark.parametrize(
    ("call", "place", "message"),
    [
        *((call, "file", "file is a file, expected a folder") for call in (adapt, distil)),
        *((call, "file/below", "file is a file, expected a folder") for call in (adapt, distil)),
        (adapt, "full", r"is not empty and is no adaptation \(it holds thesis.txt\)"),
        (adapt, "run", r"is not empty and is no adaptation \(it holds recipe.yaml\)"),
        (adapt, "distillation", r"is not empty and is no adaptation \(it holds plan.json\)"),
        (distil, "full", r"is not empty and is no distillation \(it holds thesis.txt\)"),
        (distil, "run", r"is not empty and is no distillation \(it holds recipe.yaml\)"),
        (distil, "adaptation", r"is not empty and is no distillation \(it holds verdict.json\)"),
    ],
)
def test_a_folder_of_something_else_is_refused_and_left_alone(places, call, place, message):
    before = {path: path.read_bytes() for path in places.rglob("*") if path.is_file()}
    with pytest.raises(ClzooError, match=rf"{message}\.?.*Choose another --out"):
        call(NOWHERE, out=places / place)
    assert {path: path.read_bytes() for path in places.rglob("*") if path.is_file()} == before


def test_a_place_that_cannot_be_written_is_refused_and_one_that_can_is_left_as_it_was(tmp_path, monkeypatch):
    with pytest.raises(ClzooError, match="not a folder or file"):
        adapt(NOWHERE, out=tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(ClzooError, match=r"b cannot be written: No space left on device. Choose another --out"):
        adapt(NOWHERE, out=tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("call", [adapt, distil])
def test_two_at_once_in_one_folder_do_not_overwrite_each_others_plan(call, tmp_path, monkeypatch):
    pictures, out = make_splits(tmp_path / "pictures", train=12, test=1) / "train", tmp_path / "out"
    encoder = small_encoder(preprocessing=Preprocessing(size=24, crop_pct=1.0))
    start = encoder.save_pretrained(tmp_path / "start")
    if call is adapt:
        options = {"images": pictures, "start": start, "out": out, "device": "cpu"}
        of_work = (clzoo.adaptation.run, "measure_before")
    else:
        embed_folder(pictures, encoder, out=tmp_path / "store")
        options = {"store": tmp_path / "store", "student": "resnet10_w16", "out": out, "device": "cpu"}
        of_work = (clzoo.adaptation.distillation, "seconds_per_image")
        options["minutes"] = 1
        monkeypatch.setattr(clzoo.adaptation.teacher, "_labels_of", lambda _, rows: (rows % 2, ("a", "b"), None))
    begun = []

    def work(*_, **__):
        begun.append(call)
        if len(begun) == 1:
            with pytest.raises(ClzooError, match=r"another process trains in .*out.* choose another --out"):
                call(**options)
        raise InterruptedError

    monkeypatch.setattr(*of_work, work)
    with pytest.raises(InterruptedError):
        call(**options)
    assert len(begun) == 1
    assert not list(out.rglob("plan.json"))


def test_a_start_that_cannot_be_trained_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"a graph")
    with pytest.raises(ClzooError, match=r"model.onnx is an ONNX graph.* Name the model that it was exported from"):
        adapt(NOWHERE, start=tmp_path / "model.onnx")
    (tmp_path / "pictures").mkdir()
    with pytest.raises(ClzooError, match=r"pictures is no model: it holds no config.json.*clzoo list"):
        load(tmp_path / "pictures")
    with pytest.raises(ClzooError, match="the zoo has no model 'resnet_nothing'"):
        adapt(NOWHERE, start="resnet_nothing")


# Stopping -----------------------------------------------------------------------------------------------------------


def test_asked_in_the_last_step_the_next_run_is_not_begun():
    def train(recipe, late):
        signal.raise_signal(signal.SIGINT)
        return True

    assert train_in_time(train, "the recipe", None, lambda _: None) == (False, "the recipe")
    assert train_in_time(lambda *_: True, "the recipe", None, lambda _: None) == (True, "the recipe")


def test_asked_while_a_pilot_is_judged_the_next_one_is_not_begun_and_what_it_told_is_kept(tmp_path, monkeypatch):
    tried = []

    def pilot(setting, *_):
        tried.append(setting)
        if len(tried) == 1:
            signal.raise_signal(signal.SIGINT)
        return [Scored(setting, 50.0)]

    monkeypatch.setattr(clzoo.adaptation.planning, "run_pilot", pilot)
    monkeypatch.setattr(clzoo.adaptation.clock, "now", lambda: 0.0)
    settings = [{"frozen": [], "base_lr": rate} for rate in (0.1, 0.2, 0.3)]
    plan = {"settings": settings, "pilots": [], "pilot_steps": 5, "recipe": {}}
    job = SimpleNamespace(folder=tmp_path, labels=True, minutes=1.0, whole=None, parts=None, data="", encoder=None)
    clock = Clock(tmp_path / "time.json", 1.0)
    assert not clzoo.adaptation.planning._piloted(job, plan, None, clock)
    assert tried == [Setting((), 0.1)]
    assert read_json(tmp_path / "plan.json")["pilots"] == [[Scored(tried[0], 50.0).to_json() | {"frozen": []}]]
    assert clzoo.adaptation.planning._piloted(job, plan, None, clock)
    assert [each.base_lr for each in tried] == [0.1, 0.2, 0.3]
    assert len(plan["pilots"]) == 3


@pytest.mark.parametrize(("command", "mark"), [("adapt", "state.json"), ("distil", "config.json")])
def test_a_second_ctrl_c_tells_what_is_left_and_what_to_type(command, mark, tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(clzoo.adaptation, "adapt", interrupted)
    monkeypatch.setattr(clzoo.adaptation.distillation, "distil", interrupted)
    words, out = [command, "photos", "--out", str(tmp_path)], str(tmp_path)
    for has_model in (False, True):
        if has_model:
            (tmp_path / mark).write_text("{}")
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 130
        said = capsys.readouterr().err
        assert (f"as far as it came it is a model: {out}. " in said) is has_model
        assert "to go on, type: " in said
        assert f"{command} photos --out {out}" in said
