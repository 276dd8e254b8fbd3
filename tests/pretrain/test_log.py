"""What a run writes down, from its first step to its last, however short it is."""

import json
import logging
import math

import numpy as np
import pytest
import torch
from PIL import Image
from small_recipes import small_recipe
from small_runs import lines_of

from clzoo.errors import ClzooError
from clzoo.heartbeat import Heartbeat, duration
from clzoo.pretrain.curves import draw_curves
from clzoo.pretrain.log import StepLog
from clzoo.pretrain.loop import pretrain


@pytest.mark.parametrize("epochs", [0.125, 0.25, 15 / 8, 30 / 8, 60 / 8], ids=lambda epochs: f"{epochs * 8:.0f} steps")
def test_loss_rate_and_knn_are_written_from_the_first_step_to_the_last(epochs, pictures, tmp_path, curves):
    recipe = small_recipe("simclr_cifar10", f"schedule.epochs={epochs}", "monitor.knn_every_epochs=1")
    assert pretrain(recipe, pictures, tmp_path / "run", device="cpu")
    lines, total = lines_of(tmp_path / "run"), round(epochs * 8)
    steps = [line["step"] for line in lines if "loss" in line]
    assert (steps[0], steps[-1]) == (1, total)
    assert len(steps) >= min(total, 15)
    assert steps == sorted(set(steps))
    assert all("learning_rate" in line for line in lines if "loss" in line)
    knn = [line["step"] for line in lines if "knn" in line]
    assert knn == sorted({0, *range(8, total + 1, 8), total})
    picture = np.asarray(Image.open(tmp_path / "run" / "curves.png").convert("RGB")).astype(int)
    colored = np.abs(picture - picture.mean(axis=2, keepdims=True)).max(axis=2) > 40  # the curves alone are
    assert colored.sum() > 20


def test_a_long_run_has_a_line_every_50_steps_and_a_mean_of_them(tmp_path):
    with StepLog(tmp_path, 0, 5000) as log:
        for step in range(120):
            log.add(step, torch.tensor(float(step)), 0.1, 8)
    assert [(line["step"], line["loss"]) for line in lines_of(tmp_path)] == [
        (1, 0.0),
        (50, 25.0),
        (100, 74.5),
        (120, 109.5),  # where it was stopped
    ]


def test_a_run_that_goes_on_says_nothing_of_its_first_step_again(tmp_path):
    with StepLog(tmp_path, 60, 5000) as log:
        for step in range(60, 130):
            log.add(step, torch.tensor(1.0), 0.1, 8)
    assert [line["step"] for line in lines_of(tmp_path)] == [100, 130]


def test_a_line_that_a_full_disk_cut_off_does_not_keep_a_run_from_its_end(pictures, tmp_path, curves):
    run, recipe = tmp_path / "run", small_recipe("simclr_cifar10")
    assert not pretrain(recipe, pictures, run, device="cpu", max_minutes=0)
    with (run / "log.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert pretrain(recipe, pictures, run, device="cpu")
    assert [line["step"] for line in lines_of(run)] == list(range(1, 9))
    assert (run / "curves.png").is_file()
    assert (run / "config.json").is_file()


def test_a_damaged_line_of_the_log_is_told_after_the_encoder_is_written(pictures, tmp_path, curves):
    run, recipe = tmp_path / "run", small_recipe("simclr_cifar10")
    assert not pretrain(recipe, pictures, run, device="cpu", max_minutes=0)
    with (run / "log.jsonl").open("ab") as file:
        file.write(b"\0\xff\0\n")
    with pytest.raises(ClzooError, match=r"line \d of .*log\.jsonl is not valid JSON .* Take it out"):
        pretrain(recipe, pictures, run, device="cpu")
    assert (run / "config.json").is_file()


def test_a_run_that_fails_writes_nothing_of_the_steps_since_the_last_line(tmp_path):
    def fail():
        with StepLog(tmp_path, 0, 5000) as log:
            for step in range(60):
                log.add(step, torch.tensor(1.0 if step < 50 else math.nan), 0.1, 8)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 50]


def test_measurements_that_are_no_numbers_are_left_out(tmp_path):
    with StepLog(tmp_path, 0, 10) as log:
        log.note(3, {"cone_q_q": math.nan, "uniformity": -math.inf, "alignment": 0.5})
    assert lines_of(tmp_path) == [{"step": 3, "alignment": 0.5}]


def test_steps_that_were_done_again_after_a_kill_are_drawn_once(tmp_path):
    lines = [{"step": step, "loss": 1.0} for step in (50, 100, 150, 100, 150)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    twice = draw_curves(tmp_path).read_bytes()
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:3]))
    assert draw_curves(tmp_path).read_bytes() == twice


def test_without_a_terminal_a_line_comes_every_30_seconds(tmp_path, caplog):
    caplog.set_level(logging.INFO, "clzoo")
    now = 0.0
    with StepLog(tmp_path, 0, 400, Heartbeat(clock=lambda: now)) as log:
        for step in range(100):
            now += 1.0
            log.add(step, torch.tensor(2.0), 0.1, 8)
    told = [record.getMessage() for record in caplog.records]
    assert [text.split("  ")[0] for text in told] == [f"step {step} of 400" for step in (30, 60, 90)]
    assert all("loss 2.0000" in text and text.endswith(" left") for text in told)


def test_a_pause_is_followed_by_one_line_and_not_by_those_that_were_missed():
    times = [0, 10, 29, 30, 31, 59, 200, 201, 229, 230]
    beat = Heartbeat(every=30, clock=iter(times).__next__)
    due = [beat.is_due() for _ in times[1:]]
    assert due == [False, False, True, False, False, True, False, False, True]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.01, "less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (90, "1.5 minutes"),
        (3600, "60 minutes"),
        (5400, "1.5 hours"),
        (35 * 3600, "35 hours"),
        (36 * 3600, "1.5 days"),
        (9 * 86400, "9 days"),
        (123 * 86400, "123 days"),
    ],
)
def test_durations_are_told_in_the_unit_that_a_person_would_choose(seconds, text):
    assert duration(seconds) == text
