"""Ctrl-C and SIGTERM: real signals to real processes."""

import json
import os
import shlex
import signal
import threading
import time

import pytest
from small_recipes import small_recipe
from small_runs import lines_of, torchrun, wait_for_checkpoint

from clzoo.pretrain.checkpoint import load_checkpoint
from clzoo.pretrain.loop import pretrain
from clzoo.pretrain.stopping import asked_to_stop

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_saves_the_step_and_prints_the_command_that_goes_on(number, pictures, tmp_path, start, warm_python):
    run = tmp_path / "a run"  # with a space, as folders have
    process = start(pictures, run, "schedule.epochs=500")
    wait_for_checkpoint(run, process)
    process.kill(number)
    done = process.finish()
    assert done.returncode == 130, done.stderr
    state = load_checkpoint(run)
    assert f"stopped after step {state['step']} of 4000; run the same command again" in done.stderr
    assert lines_of(run)[-1]["step"] == state["step"]  # the last step has its line
    (typed,) = [line.partition("type: ")[2] for line in done.stderr.splitlines() if "to go on, type:" in line]
    _, *arguments = shlex.split(typed)
    again = warm_python.run((*arguments, "--max-minutes", "0"), os.environ, timeout=120)
    assert again.returncode == 0, again.stderr
    assert f"steps {state['step']} to 4000" in again.stderr


def test_the_second_ctrl_c_interrupts_at_once_and_afterwards_everything_is_as_before():
    before, reached = handlers(), []

    def train():
        with asked_to_stop() as stop:
            assert not stop.is_set()
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert stop.is_set()
            signal.raise_signal(signal.SIGINT)  # the first of its kind: a scheduler's word does not count
            reached.append("first")
            signal.raise_signal(signal.SIGINT)
            reached.append("second")

    with pytest.raises(KeyboardInterrupt):
        train()
    assert reached == ["first"]
    assert handlers() == before


def test_in_python_ctrl_c_returns_with_a_checkpoint_and_gives_the_handlers_back(pictures, tmp_path):
    before, run = handlers(), tmp_path / "run"

    def press():
        while not list(run.glob("checkpoint-*.json")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    assert not pretrain(small_recipe("simclr_cifar10", "schedule.epochs=500"), pictures, run, device="cpu")
    thread.join()
    assert handlers() == before
    assert 8 <= load_checkpoint(run)["step"] < 4000


def test_outside_the_main_thread_a_run_changes_nothing_about_signals(pictures, tmp_path):
    before, seen, finished = handlers(), [], []

    def train():
        finished.append(pretrain(small_recipe("simclr_cifar10"), pictures, tmp_path / "run", device="cpu"))

    thread = threading.Thread(target=train)
    thread.start()
    while thread.is_alive():
        seen.append(handlers())
        thread.join(0.01)
    assert finished == [True]
    assert all(found == before for found in seen)


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_under_torchrun_all_processes_stop_at_the_same_step(number, pictures, tmp_path):
    run = tmp_path / "run"
    process = torchrun(pictures, run, "schedule.epochs=500", name="mocov2_cifar10")
    wait_for_checkpoint(run, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=90)
    step = load_checkpoint(run)["step"]
    assert said.count(f"stopped after step {step} of 4000") == 2, said
    assert said.count("to go on, type: torchrun --nproc-per-node=2 -m clzoo pretrain") == 1
    again = torchrun(pictures, run, "schedule.epochs=500", name="mocov2_cifar10", extra=("--max-minutes", "0"))
    _, said = again.communicate(timeout=90)
    assert again.returncode == 0, said
    assert json.loads((run / "state.json").read_text())["step"] == step + 1


@pytest.mark.parametrize("minutes", ["nan", "inf", "-1", "soon"])
def test_minutes_that_are_no_time_are_refused(minutes, clzoo_says):
    code, _, error = clzoo_says("pretrain", "simclr_cifar10", "--data", ".", "--max-minutes", minutes)
    assert code == 2
    assert f"'{minutes}' is no number of at least 0, such as 30." in " ".join(error.split())
