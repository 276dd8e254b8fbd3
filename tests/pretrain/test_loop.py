import contextlib
import copy
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_recipes import small_recipe
from small_runs import lines_of, same, torchrun, wait_for_checkpoint, weights_of

from clzoo.data.training import open_training_set
from clzoo.embed import DEFAULT_MODEL
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.evaluation import evaluate
from clzoo.methods import METHODS
from clzoo.pretrain.build import build_method
from clzoo.pretrain.checkpoint import load_checkpoint, save_checkpoint
from clzoo.pretrain.feed import Steps, feed
from clzoo.pretrain.loop import autocast, pretrain
from clzoo.pretrain.monitors import monitor
from clzoo.pretrain.recipe_files import load_recipe
from clzoo.pretrain.run_folder import claim, read_data, require_same_data, train_alone
from clzoo.publish import publish

RECIPES = [f"{method}_cifar10" for method in METHODS]

# Every run of the fast tests checks one method's resumption; over the commits each has its turn.
COMMITS = subprocess.run(["git", "rev-list", "--count", "HEAD"], capture_output=True, text=True).stdout
OF_THIS_COMMIT = RECIPES[int(COMMITS or 0) % len(RECIPES)]


def test_a_run_lowers_its_loss_and_leaves_a_whole_folder(pictures, tmp_path, curves):
    recipe = small_recipe("cacr_cifar10", "schedule.epochs=6", "optimizer.base_lr=0.5", "monitor.every_steps=16")
    assert pretrain(recipe, pictures, tmp_path / "run", device="cpu")
    losses = [line["loss"] for line in lines_of(tmp_path / "run") if "loss" in line]
    assert losses[-1] < losses[0]
    monitors = [line for line in lines_of(tmp_path / "run") if "effective_rank" in line]
    assert [line["step"] for line in monitors] == [16, 32, 48]
    assert all(1 <= line["effective_rank"] <= 8 and 0 <= line["alignment"] <= 4 for line in monitors)
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert state["finished"]
    assert state["images_seen"] == 6 * 64
    assert state["encoder_forwards"] == 6 * 64 * 5
    assert Image.open(tmp_path / "run" / "curves.png").width > 500


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_in_bf16_has_nearly_the_same_loss_and_gradients_in_fp32(pictures, name):
    recipe = small_recipe(name, batch_size=32)
    images = open_training_set(recipe.data.name, pictures, recipe.data.size)
    batch = next(feed(images, recipe, Steps.of(recipe, images), 0, torch.device("cpu")))
    torch.manual_seed(0)
    method = build_method(recipe, 2)
    exact = copy.deepcopy(method)(batch)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = method(batch)
    coarse.backward()
    assert exact.dtype == coarse.dtype == torch.float32
    assert coarse != exact
    assert coarse.item() == pytest.approx(exact.item(), rel=0.03, abs=0.03)
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    assert gradients
    assert all(g.dtype == torch.float32 and torch.isfinite(g).all() for g in gradients)


def test_bf16_is_refused_where_the_cpu_emulates_it_and_leaves_no_folder(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("clzoo.pretrain.loop.has_native_bf16", lambda *_: False)
    with pytest.raises(ClzooError, match=r"bf16 is emulated by this CPU.*--set precision=fp32"):
        pretrain(small_recipe("simclr_cifar10", "precision=bf16"), pictures, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_bf16_is_what_a_gpu_gets_that_computes_in_it(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr("clzoo.pretrain.loop.has_native_bf16", lambda kind: kind != "cuda")
    assert isinstance(autocast(gpu, "auto"), contextlib.nullcontext)
    with pytest.raises(ClzooError, match=r"bf16 is emulated by this GPU.*--set precision=fp32"):
        autocast(gpu, "bf16")


def test_a_run_from_before_a_recipe_key_was_there_goes_on(pictures, tmp_path):
    recipe = small_recipe("simclr_cifar10", "schedule.epochs=3")
    assert not pretrain(recipe, pictures, tmp_path / "run", device="cpu", max_minutes=0)
    path = tmp_path / "run" / "recipe.yaml"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("precision")))
    assert pretrain(recipe, pictures, tmp_path / "run", device="cpu")


def test_another_seed_gives_other_weights(pictures, tmp_path):
    for run, seed in (("a", 0), ("b", 0), ("c", 1)):
        recipe = small_recipe("cacr_cifar10", f"seed={seed}", "schedule.epochs=0.25")
        pretrain(recipe, pictures, tmp_path / run, device="cpu")
    assert same(weights_of(tmp_path / "a"), weights_of(tmp_path / "b"))
    assert not same(weights_of(tmp_path / "a"), weights_of(tmp_path / "c"))


@pytest.mark.parametrize("name", [OF_THIS_COMMIT, *(pytest.param(n, marks=pytest.mark.slow) for n in RECIPES)])
def test_a_run_in_pieces_equals_the_uninterrupted_one_bit_for_bit(name, pictures, tmp_path):
    recipe = small_recipe(name)
    assert pretrain(recipe, pictures, tmp_path / "whole", device="cpu")
    pieces = 1
    while not pretrain(recipe, pictures, tmp_path / "pieces", device="cpu", max_minutes=0):  # one step a call
        pieces += 1
    assert pieces == 8
    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "pieces"))


def test_looking_at_a_run_does_not_change_it(pictures, tmp_path):
    quiet = small_recipe("mocov2_cifar10", "monitor.every_steps=0")
    watched = small_recipe("mocov2_cifar10", "monitor.every_steps=2", "monitor.knn_every_epochs=1")
    pretrain(quiet, pictures, tmp_path / "quiet", device="cpu")
    pretrain(watched, pictures, tmp_path / "watched", device="cpu")
    assert same(weights_of(tmp_path / "quiet"), weights_of(tmp_path / "watched"))
    measured = {line["step"]: line["knn"] for line in lines_of(tmp_path / "watched") if "knn" in line}
    assert list(measured) == [0, 8]  # before the first step, and after the last
    assert all(0 <= value <= 100 for value in measured.values())


def test_a_network_that_draws_numbers_of_its_own_ends_the_same_in_pieces_and_looked_at(pictures, tmp_path):
    model_args = "{channels: [4, 8, 8, 8], stem_type: deep, stem_width: 4, drop_path_rate: 0.5}"
    drawing = (f"backbone.model_args={model_args}", "schedule.epochs=0.75")
    quiet = small_recipe("mocov2_cifar10", *drawing, "monitor.every_steps=0")
    pretrain(quiet, pictures, tmp_path / "whole", device="cpu")
    while not pretrain(quiet, pictures, tmp_path / "pieces", device="cpu", max_minutes=0):
        torch.rand(1)
    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "pieces"))
    watched = small_recipe("mocov2_cifar10", *drawing, "monitor.every_steps=2")
    pretrain(watched, pictures, tmp_path / "watched", device="cpu")
    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "watched"))


def test_accumulated_gradients_move_the_weights_once_in_so_many_steps(pictures, tmp_path):
    recipe = small_recipe("simclr_cifar10", "schedule.accumulate=4")
    assert pretrain(recipe, pictures, tmp_path / "whole", device="cpu")
    while not pretrain(recipe, pictures, tmp_path / "pieces", device="cpu", max_minutes=0):
        assert json.loads((tmp_path / "pieces" / "state.json").read_text())["step"] % 4 == 0
    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "pieces"))


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_killed_process_goes_on_and_ends_with_the_weights_of_an_uninterrupted_one(name, pictures, tmp_path, start):
    seed = random.randrange(10**6)
    print("seed", seed)
    delays = random.Random(seed)
    pretrain(small_recipe(name, "schedule.epochs=12"), pictures, tmp_path / "whole", device="cpu")
    run = tmp_path / "killed"
    for _ in range(3):
        process = start(pictures, run, "schedule.epochs=12", name=name)
        wait_for_checkpoint(run, process)
        time.sleep(delays.uniform(0, 1.5))
        process.kill()
        process.wait()
    last = start(pictures, run, "schedule.epochs=12", name=name).finish()
    assert last.returncode == 0, last.stderr
    assert same(weights_of(tmp_path / "whole"), weights_of(run))


def test_a_second_process_is_refused_in_a_run_folder_until_the_first_is_gone(pictures, tmp_path, start):
    run = tmp_path / "run"
    first = start(pictures, run, "schedule.epochs=500")
    wait_for_checkpoint(run, first)
    recipe = load_recipe(run / "recipe.yaml")
    with pytest.raises(ClzooError, match=r"another process trains in .*choose another --out"):
        pretrain(recipe, pictures, run, device="cpu", max_minutes=0)
    first.kill()
    first.wait()
    steps_of_the_first = load_checkpoint(run)["step"]
    assert not pretrain(recipe, pictures, run, device="cpu", max_minutes=0)
    assert load_checkpoint(run)["step"] > steps_of_the_first


@pytest.mark.slow
def test_two_processes_train_a_method_with_shuffled_batchnorm_and_resume(pictures, tmp_path):
    process = torchrun(pictures, tmp_path / "run", "schedule.epochs=3", name="mocov2_cifar10")
    assert process.wait() == 0, process.stderr.read()
    state = load_checkpoint(tmp_path / "run")
    assert state["step"] == 24
    again = torchrun(pictures, tmp_path / "run", "schedule.epochs=3", name="mocov2_cifar10")
    assert again.wait() == 0, again.stderr.read()


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="finds the workers in /proc")  # noqa: PTH112
def test_a_killed_worker_is_restarted_and_the_run_resumes(pictures, tmp_path):
    overrides = ("schedule.epochs=40", "monitor.every_steps=0")
    run = tmp_path / "run"
    # More than one: now and then Gloo meets an address of the dead worker, and torchrun has to start them once more.
    process = torchrun(pictures, run, *overrides, name="mocov2_cifar10", restarts=4)
    wait_for_checkpoint(run, process)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    assert process.wait() == 0, process.stderr.read()
    assert load_checkpoint(run)["step"] == 320


@pytest.mark.slow
def test_synchronised_batchnorm_on_several_cpu_processes_is_an_error_that_says_so(pictures, tmp_path):
    process = torchrun(pictures, tmp_path / "run", name="simclr_cifar10")
    assert process.wait() != 0
    assert "synchronises BatchNorm" in process.stderr.read()


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(pictures, tmp_path, caplog):
    pretrain(small_recipe("cacr_cifar10", "schedule.epochs=2"), pictures, tmp_path / "run", device="cpu")
    older, newest = sorted((tmp_path / "run").glob("checkpoint-*.pt"))
    before = weights_of(tmp_path / "run")
    newest.write_bytes(newest.read_bytes()[:-100])
    assert not same(weights_of(tmp_path / "run"), before)
    assert newest.name in caplog.text
    older.unlink()
    with pytest.raises(ClzooError, match="none is whole"):
        load_checkpoint(tmp_path / "run")


@pytest.mark.parametrize("content", ["", "{}", "[]"])
def test_a_damaged_record_of_the_newest_checkpoint_falls_back_too(content, tmp_path, caplog):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"step": step})
    (tmp_path / "checkpoint-00000002.json").write_text(content)
    state = load_checkpoint(tmp_path)
    assert state is not None
    assert state["step"] == 1
    assert "checkpoint-00000002.json has another checksum, or none" in caplog.text


@pytest.mark.skipif(os.name == "nt", reason="the limit is a POSIX one")
def test_a_full_disk_stops_the_run_with_a_reason_and_keeps_the_checkpoint_before(pictures, tmp_path, start):
    assert not pretrain(small_recipe("cacr_cifar10"), pictures, tmp_path / "run", device="cpu", max_minutes=0)
    before = weights_of(tmp_path / "run")

    no_large_files = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # bytes; a checkpoint has more
"""
    process = start(pictures, tmp_path / "run", first=no_large_files)
    assert process.wait() == 1
    error = process.finish().stderr
    assert "cannot be written" in error
    assert "Traceback" not in error
    assert same(weights_of(tmp_path / "run"), before)
    assert pretrain(small_recipe("cacr_cifar10"), pictures, tmp_path / "run", device="cpu")  # with room, it goes on


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(pictures, tmp_path):
    recipe = small_recipe("cacr_cifar10", "optimizer.base_lr=1e30", "schedule.epochs=4")
    with pytest.raises(
        ClzooError, match=r"the loss is nan at step \d+; no step .* was kept\. .* --set optimizer.base_lr="
    ):
        pretrain(recipe, pictures, tmp_path / "run", device="cpu")


def test_after_a_checkpoint_the_remedy_for_a_bad_loss_is_one_that_is_taken(pictures, tmp_path, monkeypatch):
    run, recipe = tmp_path / "run", small_recipe("simclr_cifar10", "schedule.epochs=2")
    assert not pretrain(recipe, pictures, run, device="cpu", max_minutes=0)
    with monkeypatch.context() as patch:
        patch.setattr("clzoo.methods.simclr.info_nce", lambda z, *_, **__: z.sum() * float("nan"))
        with pytest.raises(ClzooError, match=r"kept in .*run\. .* with another --out: --set optimizer.base_lr=0.15"):
            pretrain(recipe, pictures, run, device="cpu")
    lower = small_recipe("simclr_cifar10", "schedule.epochs=2", "optimizer.base_lr=0.15")
    with pytest.raises(ClzooError, match="another recipe"):  # so the same folder would be no remedy
        pretrain(lower, pictures, run, device="cpu")
    assert pretrain(lower, pictures, tmp_path / "another", device="cpu")


def test_a_warm_up_that_outlasts_the_run_is_said_before_the_first_step(pictures, tmp_path, caplog):
    recipe = small_recipe("simclr_cifar10", "schedule.warmup_epochs=2", "schedule.epochs=0.25")
    pretrain(recipe, pictures, tmp_path / "run", device="cpu")
    assert "warmup_epochs=2 is not over within schedule.epochs=0.25" in caplog.text


def test_a_run_folder_is_not_taken_over_by_another_recipe_or_other_data(pictures, tmp_path):
    recipe = small_recipe("cacr_cifar10")
    pretrain(recipe, pictures, tmp_path / "run", device="cpu")
    with pytest.raises(ClzooError, match=r"another recipe: seed is 0 there and 1 here\. Choose another --out"):
        pretrain(small_recipe("cacr_cifar10", "seed=1"), pictures, tmp_path / "run", device="cpu")
    others = ("views.0.flip=0.1", "optimizer.base_lr=0.1", "schedule.epochs=2", "schedule.accumulate=2", "seed=1")
    with pytest.raises(ClzooError, match=r"views .* optimizer\.base_lr is 0\.12 there and 0\.1 here.*, and 2 more"):
        pretrain(small_recipe("cacr_cifar10", *others), pictures, tmp_path / "run", device="cpu")
    with pytest.raises(ClzooError, match="other data"):
        pretrain(recipe, pictures / "test", tmp_path / "run", device="cpu")
    with pytest.raises(ClzooError, match="no run folder"):
        pretrain(recipe, pictures, pictures, device="cpu")
    for damaged, reason in (("", "is not valid JSON"), ("[]", r"holds \[\]; expected what the run wrote")):
        (tmp_path / "run" / "data.json").write_text(damaged)
        with pytest.raises(ClzooError, match=rf"data\.json {reason}"):
            pretrain(recipe, pictures, tmp_path / "run", device="cpu")


def test_a_streamed_run_is_not_continued_on_other_images_of_the_same_names_sizes_and_times(tmp_path):
    found = {}
    for name, seed in (("one", 0), ("copy", 0), ("other", 1)):
        for number, pixels in enumerate(np.random.default_rng(seed).integers(0, 256, (4, 32, 32, 3), np.uint8)):
            file = tmp_path / name / "train" / "ab"[number % 2] / f"{number}.bmp"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
            os.utime(file, (1, 1))
        found[name] = open_training_set("", tmp_path / name, 32, budget=0)
    run = tmp_path / "run"
    with train_alone(run):
        claim(run, small_recipe("simclr_cifar10"), found["one"])
    require_same_data(run, found["copy"].fingerprint(), "")
    with pytest.raises(ClzooError, match=r"was trained on other data.* Choose another --out"):
        require_same_data(run, found["other"].fingerprint(), "Choose another --out.")
    data = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps({**data, "decoding": data["decoding"] - 1}))
    with pytest.raises(ClzooError, match="was trained on other data"):
        require_same_data(run, found["one"].fingerprint(), "")
    del data["identity"]  # as an earlier version wrote it
    (run / "data.json").write_text(json.dumps(data))
    with pytest.raises(ClzooError, match="names and sizes of the images; whether these are the same images cannot be"):
        require_same_data(run, found["one"].fingerprint(), "")


def test_a_folder_of_the_users_own_is_refused_and_left_as_it_is(pictures, tmp_path):
    recipe = small_recipe("simclr_cifar10")
    for name in ("recipe.yaml", "data.json", ".tmp-notes", "log.jsonl"):
        mine = tmp_path / f"mine-{name}"
        mine.mkdir()
        (mine / name).write_text(recipe.to_yaml() if name == "recipe.yaml" else "{}")
        with pytest.raises(ClzooError, match="no run folder"):
            pretrain(recipe, pictures, mine, device="cpu")
        assert [path.name for path in mine.iterdir()] == [name]


def test_a_first_start_that_failed_does_not_refuse_the_corrected_command(pictures, tmp_path):
    wrong = small_recipe("simclr_cifar10", "optimizer.base_lr=1e38", "seed=3")
    with pytest.raises(ClzooError, match="the loss is"):
        pretrain(wrong, pictures, tmp_path / "run", device="cpu")
    with pytest.raises(ClzooError, match="does not fit"):
        pretrain(small_recipe("simclr_cifar10"), pictures, tmp_path / "run", device="cpu", init=DEFAULT_MODEL)
    pretrain(small_recipe("simclr_cifar10"), pictures, tmp_path / "run", device="cpu")
    pretrain(small_recipe("simclr_cifar10"), pictures, tmp_path / "straight", device="cpu")
    found, expected = weights_of(tmp_path / "run"), weights_of(tmp_path / "straight")
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert [line["step"] for line in lines_of(tmp_path / "run")] == [
        line["step"] for line in lines_of(tmp_path / "straight")
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_event_while_the_folder_is_claimed_the_same_command_goes_on(pictures, tmp_path):
    recipe = small_recipe("simclr_cifar10")
    images = open_training_set("mine", pictures, 32)
    step, finished = 0, False
    while not finished:
        step += 1
        out = tmp_path / f"run-{step}"
        if (child := os.fork()) == 0:
            seen = 0

            def die(event, arguments, out=out, step=step):
                nonlocal seen
                if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"):
                    seen += str(arguments[0]).startswith(str(out))
                    if seen == step:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(die)
            with train_alone(out):
                claim(out, recipe, images)
            os._exit(0)
        finished = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with train_alone(out):
            claim(out, recipe, images)
        assert {path.name for path in out.iterdir()} <= {".lock", "recipe.yaml", "data.json"}
        assert load_recipe(out / "recipe.yaml") == recipe
        assert read_data(out)[0] == images.fingerprint()
    assert step > 15


def test_a_checkpoint_that_a_kill_cut_off_goes_with_the_next_run_and_files_of_the_users_own_stay(pictures, tmp_path):
    recipe = small_recipe("simclr_cifar10", "schedule.epochs=2")
    pretrain(recipe, pictures, tmp_path / "run", device="cpu", max_minutes=0)
    for name in ("checkpoint-00000099.pt", "checkpoint-best.pt", "checkpoint-0-mine.json"):
        (tmp_path / "run" / name).write_bytes(b"{}")
    assert pretrain(recipe, pictures, tmp_path / "run", device="cpu")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"checkpoint-best.pt", "checkpoint-0-mine.json"} <= names
    assert "checkpoint-00000099.pt" not in names


def test_a_recipe_that_cannot_run_leaves_no_run_folder_behind(pictures, tmp_path):
    with pytest.raises(ClzooError, match="needs 3 views"):
        pretrain(small_recipe("reco_cifar10", "views.0.count=1"), pictures, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_fewer_images_than_a_batch_is_an_error(pictures, tmp_path):
    with pytest.raises(ClzooError, match="64 images, fewer than one batch"):
        pretrain(small_recipe("cacr_cifar10", batch_size=100), pictures, tmp_path / "run", device="cpu")


def test_a_finished_run_becomes_an_entry_that_the_next_run_can_start_from(pictures, tmp_path, caplog):
    recipe = small_recipe("mocov2_cifar10")
    pretrain(recipe, pictures, tmp_path / "run", device="cpu")
    entry = publish(tmp_path / "run", "mocov2-tiny-stripes", pictures, tmp_path / "entry", device="cpu")
    encoder = Encoder.from_pretrained(str(entry), device="cpu")
    trained = weights_of(tmp_path / "run")
    assert torch.equal(encoder.module.state_dict()["conv1.weight"], trained["backbone.conv1.weight"])
    metrics = json.loads((entry / "metrics.json").read_text())
    measured = {(row["of"], row["protocol"].partition("(")[0]) for row in metrics["results"]}
    assert {("this model", "knn:v1"), ("this model", "linear:v1"), ("random initialisation", "knn:v1")} <= measured
    assert metrics["training"]["images_seen"] == 64
    assert metrics["evaluation"]["model"]["weights_sha256"] == encoder.weights_sha256
    assert str(tmp_path.parent) not in (entry / "metrics.json").read_text()  # nor any other place on this machine

    caplog.set_level("INFO", "clzoo")
    pretrain(recipe, pictures, tmp_path / "next", device="cpu", init=str(entry), max_minutes=0)
    assert "all other state of the pretraining" in caplog.text
    pretrain(small_recipe("simclr_cifar10"), pictures, tmp_path / "x", device="cpu", init=str(entry), max_minutes=0)
    assert "heads are new" in caplog.text
    with pytest.raises(ClzooError, match="does not fit"):
        pretrain(small_recipe("mocov3_cifar10", "backbone.model_args={}"), pictures, tmp_path / "y", init=str(entry))


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    """Two finished runs of seeds 0 and 1, not to be changed."""
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clzoo.pretrain.loop.draw_curves", lambda _: None)
        for seed in (0, 1):
            pretrain(small_recipe("simclr_cifar10", f"seed={seed}"), pictures, root / f"run-{seed}", device="cpu")
    return root / "run-0", root / "run-1"


def test_a_second_publish_into_an_entry_asks_and_then_replaces_it_as_a_whole(pictures, finished, tmp_path):
    common = {"protocols": "knn", "device": "cpu"}
    entry = publish(finished[0], "simclr-tiny-stripes", pictures, tmp_path / "entry", **common)
    before = (entry / "pretrain.safetensors").read_bytes()
    with pytest.raises(ClzooError, match="--overwrite"):
        publish(finished[1], "simclr-tiny-stripes", pictures, entry, **common)
    assert (entry / "pretrain.safetensors").read_bytes() == before
    publish(finished[1], "simclr-tiny-stripes", pictures, entry, overwrite=True, **common)
    expected = {k: v for k, v in weights_of(finished[1]).items() if not k.startswith("backbone.")}
    assert same(load_file(entry / "pretrain.safetensors"), expected)


def test_an_earlier_evaluation_is_published_if_it_is_of_the_same_weights(pictures, finished, tmp_path):
    run, other = finished
    evaluate(run, pictures, "knn,collapse", device="cpu").write(tmp_path / "report")
    measured = tmp_path / "report" / "metrics.json"
    entry = publish(run, "simclr-tiny-stripes", pictures, tmp_path / "a", measured=measured, device="cpu")
    rows = json.loads((entry / "metrics.json").read_text())["results"]
    assert "projector effective rank" in {row["metric"] for row in rows}
    with pytest.raises(ClzooError, match="was measured on weights"):
        publish(other, "simclr-tiny-stripes", pictures, tmp_path / "b", measured=measured, device="cpu")


def test_weights_published_in_fp16_are_those_that_were_measured(pictures, finished, tmp_path):
    run = finished[0]
    entry = publish(run, "simclr-tiny-stripes", pictures, tmp_path / "entry", device="cpu", dtype="fp16")
    stored = load_file(entry / "model.safetensors")["conv1.weight"]
    assert stored.dtype == torch.float16
    assert torch.equal(stored, weights_of(run)["backbone.conv1.weight"].half())
    measured = json.loads((entry / "metrics.json").read_text())["evaluation"]["model"]["weights_sha256"]
    assert measured == Encoder.from_pretrained(str(entry), device="cpu").weights_sha256
    evaluate(run, pictures, "knn", device="cpu").write(tmp_path / "report")
    unrounded = {"measured": tmp_path / "report" / "metrics.json", "dtype": "fp16"}
    with pytest.raises(ClzooError, match="was measured on weights"):
        publish(run, "simclr-tiny-stripes", pictures, tmp_path / "b", device="cpu", **unrounded)


def test_an_unfinished_run_is_not_published(pictures, tmp_path):
    pretrain(small_recipe("cacr_cifar10"), pictures, tmp_path / "run", device="cpu", max_minutes=0)
    with pytest.raises(ClzooError, match="stopped at step 1 of 8"):
        publish(tmp_path / "run", "cacr-tiny-stripes", pictures, tmp_path / "entry")


def test_monitors_tell_collapse_from_spread():
    method = build_method(small_recipe("simclr_cifar10"), classes=None)
    views = list(torch.rand(2, 16, 3, 24, 24, generator=torch.Generator().manual_seed(0)))
    apart, together = monitor(method, views), monitor(method, [views[0][:1].expand(16, 3, 24, 24)] * 2)
    assert together["alignment"] == pytest.approx(0, abs=1e-6)
    assert together["uniformity"] == pytest.approx(0, abs=1e-4)
    assert apart["effective_rank"] > 2
    assert apart["alignment"] > together["alignment"]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["simclr_cifar10", "mocov2_cifar10", "hydra_cifar10"])
def test_a_recipe_trains_on_a_gpu_in_bf16_and_resumes(name, pictures, tmp_path):
    recipe = small_recipe(name, "schedule.epochs=2")
    assert not pretrain(recipe, pictures, tmp_path / "run", device="cuda", max_minutes=0)
    assert pretrain(recipe, pictures, tmp_path / "run", device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["simclr_cifar10", "mocov2_cifar10"])
def test_batchnorm_is_synchronised_or_shuffled_over_two_gpus(name, pictures, tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    process = torchrun(pictures, tmp_path / "run", name=name, device="cuda")
    assert process.wait() == 0, process.stderr.read()
    assert load_checkpoint(tmp_path / "run")["step"] == 8
