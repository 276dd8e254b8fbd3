"""The end of training makes the run folder a model of its own: whole or not there, whenever the process dies."""

import json
import shutil
import signal

import numpy as np
import pytest
import timm
import torch
from small_recipes import small_recipe
from small_runs import same, weights_of

import clzoo
from clzoo.cli import main
from clzoo.config import ModelConfig
from clzoo.errors import ClzooError
from clzoo.evaluation.subject import find_subject
from clzoo.pretrain.loop import pretrain
from clzoo.pretrain.start import open_start
from clzoo.pretrain.trained import convert_checkpoint, load_run
from clzoo.zoo import verify
from clzoo.zoo.weights import read_safetensors

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mine"
    # What all recipes for small images have: a stem that timm does not know, and BatchNorm over groups.
    assert pretrain(small_recipe("mocov2_cifar10"), pictures, folder, device="cpu")
    return folder


@pytest.fixture
def unfinished(pictures, tmp_path):
    assert not pretrain(small_recipe("simclr_cifar10"), pictures, tmp_path / "unfinished", device="cpu", max_minutes=0)
    return tmp_path / "unfinished"


def test_a_finished_run_has_the_encoder_of_its_last_checkpoint_with_hash_and_probe(run):
    config = ModelConfig.load(run / "config.json")
    trained = {k.removeprefix("backbone."): v for k, v in weights_of(run).items() if k.startswith("backbone.")}
    assert same(read_safetensors(run / "model.safetensors", next_step=""), trained)
    encoder = clzoo.load(run, device="cpu")
    assert encoder.weights_sha256 == config.weights_sha256
    assert encoder.probe() == pytest.approx(config.probe, rel=1e-5)
    assert (encoder.embed(IMAGE) == load_run(run, "cpu")[0].embed(IMAGE)).all()
    assert verify(run).problem is None


def test_a_finished_run_is_read_from_its_files_and_not_from_a_checkpoint(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for path in (tmp_path / "run").glob("checkpoint-*"):  # as people do when the disk is full
        path.unlink()
    assert (clzoo.load(tmp_path / "run", device="cpu").embed(IMAGE) == clzoo.load(run, device="cpu").embed(IMAGE)).all()
    weights = tmp_path / "run" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ClzooError, match="the weights have hash"):
        clzoo.load(tmp_path / "run", device="cpu")


def test_verify_and_info_take_a_run(run, unfinished, capsys):
    assert main(["verify", str(run), "--json"]) is None
    assert json.loads(capsys.readouterr().out)["verified"] is True
    assert main(["info", str(run), "--json"]) is None
    info = json.loads(capsys.readouterr().out)
    assert (info["status"], info["clzoo"]["weights_sha256"]) == ("run", clzoo.load(run, "cpu").weights_sha256)
    assert main(["info", str(run)]) is None
    for command in ("verify", "info"):
        with pytest.raises(SystemExit):
            main([command, str(unfinished)])
        said = capsys.readouterr().err
        assert "it stopped at step 1 (of 8 steps)" in said
        assert f"clzoo convert {unfinished} --out DIR" in said


def test_timm_loads_a_run_whose_network_it_can_build(pictures, tmp_path):
    recipe = small_recipe("simclr_cifar10", "backbone.stem_stride=null", "data.size=32")
    assert pretrain(recipe, pictures, tmp_path / "run", device="cpu")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True).eval()
    ours = clzoo.load(tmp_path / "run", device="cpu")
    with torch.no_grad():
        vector = theirs(ours.transform(IMAGE)[None])[0].numpy()
    assert vector == pytest.approx(ours.embed(IMAGE, normalize=False), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("where", ["clzoo.zoo.saving.save_file", "clzoo.config.ModelConfig.save"])
def test_killed_while_it_is_written_a_run_has_no_encoder_and_the_same_command_writes_it(
    where, pictures, tmp_path, start
):
    run = tmp_path / "run"
    place, _, name = where.rpartition(".")
    die = "import os, pkgutil\nsetattr(pkgutil.resolve_name({!r}), {!r}, lambda *_, **__: os.kill(os.getpid(), 9))"
    assert start(pictures, run, first=die.format(place, name), name="simclr_cifar10").wait() == -signal.SIGKILL
    assert json.loads((run / "state.json").read_text())["finished"]
    assert not (run / "config.json").exists()
    assert (run / "model.safetensors").exists() == (name == "save")
    of_checkpoint = clzoo.load(run, device="cpu").weights_sha256
    with pytest.raises(ClzooError, match=r"its encoder is not written yet.*same clzoo pretrain command again"):
        verify(run)
    assert pretrain(small_recipe("simclr_cifar10"), pictures, run, device="cpu")
    assert verify(run).verified
    assert clzoo.load(run, device="cpu").weights_sha256 == of_checkpoint
    assert not [path.name for path in run.iterdir() if path.name.startswith(".tmp-")]


def test_a_state_that_a_kill_left_behind_its_checkpoint_is_told_anew(run, pictures, tmp_path):
    killed = shutil.copytree(run, tmp_path / "killed")
    whole = json.loads((killed / "state.json").read_text())
    for left in ({**whole, "step": 4, "finished": False}, None):  # between the checkpoint and its state
        if left is None:
            (killed / "state.json").unlink()
        else:
            (killed / "state.json").write_text(json.dumps(left))
        assert pretrain(small_recipe("mocov2_cifar10"), pictures, killed, device="cpu")
        told = json.loads((killed / "state.json").read_text())
        assert {key: told[key] for key in ("step", "finished")} == {"step": whole["step"], "finished": True}


def test_resume_goes_on_with_checkpoints_alone(run, pictures, tmp_path, clzoo_says):
    begun = tmp_path / "begun"  # killed before its first checkpoint
    begun.mkdir()
    for name in ("recipe.yaml", "data.json"):
        shutil.copy(run / name, begun / name)
    words = ("pretrain", begun / "recipe.yaml", "--data", pictures, "--out", begun, "--resume", "--device", "cpu")
    code, _, err = clzoo_says(*words)
    assert (code, "holds no checkpoint of a run. Start one without --resume" in err) == (1, True)


def test_a_finished_run_without_checkpoints_is_judged_and_started_from_and_never_trained_over(run, pictures, tmp_path):
    left = tmp_path / "left"
    shutil.copytree(run, left)
    for path in left.glob("checkpoint-*"):
        path.unlink()
    encoder = clzoo.load(run, device="cpu")
    subject = find_subject(left, "cpu")
    assert subject.encoder.weights_sha256 == open_start(str(left)).encoder.weights_sha256 == encoder.weights_sha256
    assert (subject.images, subject.classes) == (find_subject(run).images, find_subject(run).classes)
    for recipe in (small_recipe("mocov2_cifar10"), small_recipe("mocov2_cifar10", "seed=3")):
        with pytest.raises(ClzooError, match=r"finished run whose checkpoints were deleted.*Choose another --out"):
            pretrain(recipe, pictures, left, device="cpu", max_minutes=0)
    with pytest.raises(ClzooError, match=r"the checkpoints of .* were deleted.*The encoder is there"):
        convert_checkpoint(left, tmp_path / "converted")
    assert clzoo.load(left, device="cpu").weights_sha256 == encoder.weights_sha256


def test_a_model_that_somebody_copied_into_an_unfinished_run_is_not_believed(run, unfinished, pictures, caplog):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(run / name, unfinished / name)
    assert clzoo.load(unfinished, device="cpu").weights_sha256 != clzoo.load(run, device="cpu").weights_sha256
    assert "stopped at step 1 of 8; its newest checkpoint is taken" in caplog.text
    assert not pretrain(small_recipe("simclr_cifar10"), pictures, unfinished, device="cpu", max_minutes=0)
    assert not (unfinished / "config.json").exists()


def test_a_plain_word_is_the_zoos_also_where_a_run_of_that_name_lies_here(run, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    for name in ("simclr-resnet10_w16-cifar10", "mine"):
        shutil.copytree(run, tmp_path / name)
    of_zoo = clzoo.load("simclr-resnet10_w16-cifar10", device="cpu").weights_sha256
    caplog.clear()
    assert find_subject("simclr-resnet10_w16-cifar10", "cpu").encoder.weights_sha256 == of_zoo
    assert "to load it, type ./simclr-resnet10_w16-cifar10" in caplog.text
    of_run = clzoo.load(run, device="cpu").weights_sha256
    for typed in ("./simclr-resnet10_w16-cifar10", "mine"):
        assert find_subject(typed, "cpu").encoder.weights_sha256 == of_run


@pytest.mark.parametrize("of", ["folder", "file"])
def test_convert_takes_a_run_and_each_of_its_checkpoints(of, run, unfinished, tmp_path, capsys):
    for number, source in enumerate((run, unfinished)):
        path = source if of == "folder" else max(source.glob("checkpoint-*.pt"))
        out = tmp_path / f"converted-{number}"
        assert main(["convert", str(path), "--out", str(out)]) is None
        said = capsys.readouterr().out
        assert "projector (" in said
        assert "optimizer" in said
        encoder = clzoo.load(out, device="cpu")
        assert (encoder.embed(IMAGE) == load_run(source, "cpu")[0].embed(IMAGE)).all()
        assert encoder.config.name == out.name
        assert verify(out).verified
        assert "checkpoint of step" in (out / "README.md").read_text()
        with pytest.raises(SystemExit):
            main(["convert", str(path), "--out", str(out)])
        assert "exists already" in capsys.readouterr().err


def test_convert_refuses_a_damaged_checkpoint_another_architecture_and_options_that_mean_nothing(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    path = max((tmp_path / "run").glob("checkpoint-*.pt"))
    for arguments, said in (
        (["--arch", "resnet50"], "is of resnet10t, not resnet50"),
        (["--prefix", "backbone"], "leave out the options"),
    ):
        with pytest.raises(SystemExit):
            main(["convert", str(path), "--out", str(tmp_path / "out"), *arguments])
        assert said in capsys.readouterr().err
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(SystemExit):
        main(["convert", str(path), "--out", str(tmp_path / "out")])
    assert "is damaged" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    path.rename(tmp_path / "alone.pt")
    with pytest.raises(SystemExit):
        main(["convert", str(tmp_path / "alone.pt"), "--out", str(tmp_path / "out")])
    assert "--arch" in capsys.readouterr().err
