"""A start that fails before its first step leaves nothing that refuses the corrected command."""

import shutil

import pytest
import torch
from small_recipes import small_recipe
from small_runs import lines_of

from clzoo.embed import DEFAULT_MODEL
from clzoo.errors import ClzooError
from clzoo.pretrain.loop import pretrain

NOT_THERE = "no-such-entry"


@pytest.fixture
def flat(pictures, tmp_path):
    """The same pictures without labels."""
    folder = tmp_path / "flat"
    folder.mkdir()
    for file in (pictures / "train").rglob("*.png"):
        shutil.copy(file, folder / f"{file.parent.name}-{file.name}")
    return folder


WRONG = {
    "init of another architecture": ("simclr_cifar10", (), {"init": DEFAULT_MODEL}, "does not fit"),
    "init that is not there": ("simclr_cifar10", (), {"init": NOT_THERE}, NOT_THERE),
    "an option out of range": ("simclr_cifar10", ("backbone.frozen=[no_such]",), {}, "no parameter"),
    "a queue that does not divide": ("mocov2_cifar10", ("method.queue=12",), {}, "no multiple"),
    "a subset that needs labels": ("simclr_cifar10", ("data.subset=longtail-100",), {"data": "flat"}, "needs labels"),
    "a method that needs labels": ("hydra_cifar10", (), {"data": "flat"}, "labels"),
    "k-NN without a test split": ("simclr_cifar10", ("monitor.knn_every_epochs=1",), {"data": "flat"}, "label|split"),
    "data that are not there": ("simclr_cifar10", (), {"data": "nowhere"}, "nowhere"),
    "a device that is not there": ("simclr_cifar10", (), {"device": "cuda:99"}, "cuda:99"),
    "gradients that no step is left to move by": (
        "simclr_cifar10",
        ("schedule.accumulate=9",),
        {},
        r"accumulate=9: .* this run has 8.*--set schedule.accumulate=8",
    ),
    "views of two sizes that are joined": (
        "simclr_cifar10",
        ("views=[{count: 1, size: 32, crop_scale: [0.2, 1]}, {count: 1, size: 24, crop_scale: [0.2, 1]}]",),
        {},
        r"simclr joins 2 views, which must have one size; .* 32 and 24 pixels\. Give each group",
    ),
    "a rate that is too high": ("simclr_cifar10", ("optimizer.base_lr=1e38",), {}, "the loss is|not finite"),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("already", [False, True], ids=["new", "an empty folder of the user's"])
def test_a_start_that_fails_does_not_stand_in_the_way(what, already, pictures, flat, tmp_path):
    name, overrides, options, reason = WRONG[what]
    run = tmp_path / "run"
    if already:
        run.mkdir()
    data = {"flat": flat, "nowhere": tmp_path / "nowhere"}.get(options.get("data"), pictures)
    given = {"device": "cpu", **{key: value for key, value in options.items() if key != "data"}}
    with pytest.raises(ClzooError, match=reason):
        pretrain(small_recipe(name, *overrides), data, run, **given)
    if "rate" not in what:  # there steps were made, and their log is evidence
        assert run.exists() == already
        assert not already or list(run.iterdir()) == []
    corrected = small_recipe("simclr_cifar10", "seed=7")
    assert pretrain(corrected, pictures, run, device="cpu")
    assert [line["step"] for line in lines_of(run)][:2] == [1, 2]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), KeyboardInterrupt()])
def test_neither_does_one_that_ends_within_the_first_step(error, pictures, tmp_path, monkeypatch):
    run = tmp_path / "run"

    def fail(*_):
        assert (run / "recipe.yaml").is_file()  # the folder was claimed already
        raise error

    recipe = small_recipe("simclr_cifar10")
    with monkeypatch.context() as patch:
        patch.setattr("clzoo.methods.simclr.info_nce", fail)
        is_memory = not isinstance(error, KeyboardInterrupt)
        with pytest.raises(ClzooError if is_memory else KeyboardInterrupt) as told:
            pretrain(recipe, pictures, run, device="cpu")
    assert not is_memory or "--set schedule.batch_size=4" in str(told.value)
    assert not run.exists()
    assert pretrain(small_recipe("mocov2_cifar10"), pictures / "test", run, device="cpu")


def test_memory_that_the_host_does_not_give_is_told_as_such(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("clzoo.methods.simclr.info_nce", lambda *_: torch.empty(1 << 60))
    with pytest.raises(ClzooError, match=r"a step of 8 images does not fit.*schedule\.batch_size=4"):
        pretrain(small_recipe("simclr_cifar10"), pictures, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
