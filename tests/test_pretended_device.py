"""What would break or wait on a GPU, found without one: tensors of a device that is only pretended."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pretended_device import DEVICE, OnDevice, pretended_device, values_of
from pretrain.small_recipes import small_recipe
from small_models import small_config

from clzoo.augment import ViewPolicy, finish_view, make_view
from clzoo.data.collection import ArrayImages
from clzoo.data.training import TrainingSet
from clzoo.embed.batch import Settings, vectors_of
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.evaluation.features import Features
from clzoo.evaluation.knn import evaluate_knn
from clzoo.evaluation.linear import evaluate_linear
from clzoo.index.exact import exact_search
from clzoo.knn import knn_accuracy
from clzoo.methods import Batch
from clzoo.neighbors import nearest
from clzoo.pretrain import finite
from clzoo.pretrain.build import build_method
from clzoo.pretrain.diagnostics import diagnose
from clzoo.pretrain.feed import Steps, feed
from clzoo.pretrain.finite import FiniteLosses
from clzoo.pretrain.loop import pretrain
from clzoo.pretrain.online import look, online_knn
from clzoo.pretrain.optim import create_optimizer
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.recipe_files import recipe_names

CPU = torch.device("cpu")


def toy(count=64, classes=4):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    names = tuple("abcdefgh"[:classes])
    return TrainingSet("toy", ArrayImages(pixels), np.arange(count), np.arange(count) % classes, names, pixels)


# The pretence itself --------------------------------------------------------------------------------------------------


def there(*shape, dtype=torch.float32):
    return torch.ones(shape, dtype=dtype, device=DEVICE)


WAITS = {
    "item": lambda: there().item(),
    "float": lambda: float(there()),
    "truth": lambda: bool(there(1).any()),
    "tolist": lambda: there(2).tolist(),
    "cpu": lambda: there(2).cpu(),
    "a copy into host memory": lambda: torch.empty(2).copy_(there(2)),
    "the same without waiting, not pinned": lambda: torch.empty(2).copy_(there(2), non_blocking=True),
    "a copy to the device": lambda: torch.ones(2).to(DEVICE),
    "the same in place": lambda: there(2).copy_(torch.ones(2)),
    "the same without waiting, not pinned, ": lambda: torch.ones(2).to(DEVICE, non_blocking=True),
    "pinned, but waiting": lambda: torch.ones(2).pin_memory().to(DEVICE),
    "a tensor made from numbers": lambda: torch.tensor([1.0, 2.0], device=DEVICE),
    "nonzero": lambda: there(3).nonzero(),
    "a mask as an index": lambda: there(3)[there(3) > 0],
    "a mask as an index, with a value each": lambda: there(3).index_put_((there(3) > 0,), there(3)),
    "an index in host memory": lambda: there(3)[torch.tensor([0, 2])],
    "a list as an index": lambda: there(3)[[0, 2]],
    "masked_select": lambda: there(3).masked_select(there(3) > 0),
    "unique": lambda: there(3).unique(),
    "bincount": lambda: there(3, dtype=torch.long).bincount(minlength=9),
    "equal": lambda: torch.equal(there(3), there(3)),
    "repeat_interleave": lambda: there(3).repeat_interleave(there(3, dtype=torch.long)),
    "where with a number in host memory": lambda: torch.where(there(3) > 0, torch.tensor(1.0), there(3)),
    "where alone": lambda: torch.where(there(3) > 0),
    "singular values": lambda: torch.linalg.svdvals(there(3, 3)),
}

GOES_ON = {
    "arithmetic with numbers": lambda: there(3) * 2 + torch.tensor(1.0),
    "where with numbers": lambda: torch.where(there(3) > 0, 1.0, 0.0),
    "masked_fill": lambda: there(3).masked_fill_(there(3) > 0, 2),
    "a number where a mask is": lambda: there(3).__setitem__(there(3) > 0, 2.0),
    "an index on the device": lambda: there(3)[there(2, dtype=torch.long)],
    "slices": lambda: there(3, 3)[1:, :2].clone(),
    "a pinned copy": lambda: torch.ones(2).pin_memory().to(DEVICE, non_blocking=True),
    "a part of a pinned buffer": lambda: torch.empty(4, pin_memory=True)[:2].to(DEVICE, non_blocking=True),
    "a copy into a pinned buffer": lambda: torch.empty(2, pin_memory=True).copy_(there(2), non_blocking=True),
    "a product": lambda: there(2, 3) @ there(3, 2),
    "the same device": lambda: there(2).to(DEVICE),
    "another type": lambda: there(2).half(),
}

MIXED = {
    "a sum": lambda: there(3) + torch.ones(3),
    "a product": lambda: there(2, 3) @ torch.ones(3, 2),
    "index_copy": lambda: there(3).index_copy_(0, torch.tensor([0]), there(1)),
    "index_select": lambda: there(3).index_select(0, torch.tensor([0])),
    "gather": lambda: torch.ones(3).gather(0, there(1, dtype=torch.long)),
    "an index on the device into host memory": lambda: torch.ones(3)[there(1, dtype=torch.long)],
    "values in host memory at an index": lambda: there(3).__setitem__(there(2, dtype=torch.long), torch.ones(2)),
    "cat": lambda: torch.cat([there(3), torch.ones(3)]),
    "where": lambda: torch.where(there(3) > 0, torch.ones(3), there(3)),
}


@pytest.mark.parametrize("what", WAITS)
def test_what_waits_is_counted_once_with_its_place(what):
    with pretended_device() as device:
        WAITS[what]()
    assert len(device.waits) == 1, device.waits
    assert " at " in device.waits[0]


@pytest.mark.parametrize("what", GOES_ON)
def test_what_does_not_wait_is_not_counted(what):
    with pretended_device() as device:
        GOES_ON[what]()
    assert device.waits == []


@pytest.mark.parametrize("what", MIXED)
def test_what_mixes_devices_is_refused(what):
    with pretended_device(), pytest.raises(RuntimeError, match=r"mixed|what they index is not"):
        MIXED[what]()


def test_the_device_says_what_cuda_says_and_computes_what_the_cpu_does():
    with pretended_device():
        x = torch.arange(6.0).reshape(2, 3)
        y = x.to(DEVICE).requires_grad_()
        assert y.device == DEVICE
        assert y.is_cuda
        assert str(y.new_zeros(2).device) == "cuda:0"
        with pytest.raises(TypeError, match="numpy"):
            y.detach().numpy()
        (y * y).sum().backward()
        assert torch.equal(y.grad.cpu(), 2 * x)
        y.data.mul_(0)  # a copy of its own: the source stays
        assert x[0, 1] == 1
    assert torch.device("meta") == torch.empty(1, device="meta").device


# Training -------------------------------------------------------------------------------------------------------------


def kinds() -> dict[str, str]:
    """One recipe of each kind: the others differ from one of them in numbers alone."""
    found: dict[str, str] = {}
    for name in recipe_names():
        found.setdefault(kind_of(small_recipe(name)), name)
    return found


def kind_of(recipe: Recipe) -> str:
    """What a step does, without its numbers: which options, optimiser and views are on."""

    def switches(value):
        if isinstance(value, dict):
            return {key: switches(inner) for key, inner in value.items() if key not in ("data", "seed", "monitor")}
        if isinstance(value, list | tuple):
            return [switches(inner) for inner in value]
        return value if isinstance(value, bool | str) or value is None else value > 0

    return json.dumps(switches(recipe.model_dump(mode="json")), sort_keys=True)


def steps_of(count, method, recipe, device, images):
    """Loss of the last of so many steps."""
    method = method.to(device, memory_format=torch.channels_last)
    optimizer, losses = create_optimizer(method, recipe), FiniteLosses(device, Path("out"), recipe)
    batches = feed(images, recipe, Steps.of(recipe, images), 0, device)
    for step in range(count):
        loss = method(next(batches))
        losses.add(step + 1, loss)  # not 0, nor 50, ...: of those the losses are read
        (loss / 2).backward()
        if recipe.optimizer.clip_grad:
            torch.nn.utils.clip_grad_norm_(method.parameters(), recipe.optimizer.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss


THE_PICTURES = ["a copy to the device at clzoo/data/stream.py in stream_views"]  # once, at the start


def waits_of(device):
    """In our own lines, without their numbers; not those of a test that moves its method there."""
    return [re.sub(r":\d+", "", wait) for wait in device.waits if not wait.endswith("at a test")]


@pytest.mark.parametrize("name", kinds().values())
def test_a_training_step_mixes_no_devices_and_waits_for_none(name):
    recipe, images = small_recipe(name), toy()
    method = build_method(recipe, len(images.classes))
    with pretended_device() as device:
        loss = steps_of(1, method, recipe, DEVICE, images)
    assert waits_of(device) == THE_PICTURES
    assert isinstance(loss, OnDevice)
    assert torch.isfinite(values_of(loss))


# SGD, LARS, Adam and AdamW: the second step finds the state that the first has made.
@pytest.mark.parametrize("name", ["reco_cifar10", "simclr_cifar10", "hydra_cifar10", "cacr_in1k_vit"])
def test_two_steps_there_are_the_steps_of_a_cpu(name):
    recipe, images = small_recipe(name), toy()
    expected = steps_of(2, build_method(recipe, len(images.classes)), recipe, CPU, images)
    method = build_method(recipe, len(images.classes))
    with pretended_device() as device:
        loss = steps_of(2, method, recipe, DEVICE, images)
    assert waits_of(device) == THE_PICTURES
    # Crops are made in half precision there.
    assert values_of(loss).item() == pytest.approx(expected.item(), rel=0.02)


@pytest.mark.parametrize("name", ["reco_cifar10", "potential_samples_cifar10", "simclr_cifar10"])
def test_a_look_mixes_no_devices_and_finds_what_a_cpu_finds(name):
    recipe, images = small_recipe(name), toy()
    steps = Steps.of(recipe, images)
    method = build_method(recipe, 4)
    batch = next(feed(images, recipe, steps, 0, CPU))
    method(batch)
    expected = look(method, batch, images, recipe, steps, 200)
    knn = online_knn(method, recipe, images, images)
    with pretended_device():
        method = method.to(DEVICE)
        moved = Batch([v.to(DEVICE) for v in batch.views], batch.labels.to(DEVICE), seed=batch.seed, step=batch.step)
        found = look(method, moved, images, recipe, steps, 200)
        assert online_knn(method, recipe, images, images) == knn
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["cacr_cifar10", "cacr_in1k_queue"])
def test_a_run_without_labels_is_looked_at_there_too(name):
    recipe = small_recipe(name)
    images = dataclasses.replace(toy(), labels=None)
    method = build_method(recipe, None)
    with pretended_device():
        method = method.to(DEVICE)
        batch = next(feed(images, recipe, Steps.of(recipe, images), 0, DEVICE))
        method(batch)
        assert -1 <= diagnose(method, batch)["cone_q_q"] <= 1


# Losses that are no numbers -------------------------------------------------------------------------------------------


def losses_until(bad, every=None):
    """Steps 0, 1, ... with a bad loss in the given ones; the error, and the step in which it was raised."""
    losses = FiniteLosses(DEVICE, Path("run"), small_recipe("simclr_cifar10"))
    for step in range(200):
        try:
            losses.add(step, torch.full((), bad.get(step, 1.0), device=DEVICE))
        except ClzooError as error:
            return str(error), step
    return None


def test_losses_are_looked_at_on_a_device_without_float64(monkeypatch):
    def refuse(_):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    monkeypatch.setattr(torch.Tensor, "double", refuse)
    losses = FiniteLosses(torch.device("cpu"), Path("run"), small_recipe("simclr_cifar10"))
    losses.add(0, torch.tensor(1.0))
    with pytest.raises(ClzooError, match="the loss is nan at step 1;"):
        losses.add(1, torch.tensor(float("nan")))


def test_a_bad_loss_is_named_with_its_step_though_it_is_read_later():
    with pretended_device() as device:
        error, raised = losses_until({61: float("inf"), 62: float("nan")})
        assert re.match(r"the loss is inf at step 61; no step of the run was kept\. ", error)
        assert raised == 2 * finite.EVERY == 100
        assert len(device.waits) == 4  # for steps 0, 50 and 100, and for the loss
        assert losses_until({}) is None


def run_there(recipe, folder, out, **options):
    with pretended_device() as device:
        finished = pretrain(recipe, folder, out, device="cuda", **options)
    return finished, device.waits


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """64 small pictures in two class folders."""
    from PIL import Image

    root = tmp_path_factory.mktemp("pictures")
    for number, pixels in enumerate(toy().pixels):
        file = root / "train" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    return root


def test_a_whole_run_waits_for_nothing_but_what_it_writes_down(pictures, tmp_path):
    overrides = ("schedule.epochs=1.5", "monitor.every_steps=0")
    finished, waits = run_there(small_recipe("mocov2_cifar10", *overrides), pictures, tmp_path / "run")
    assert finished
    places = Counter(re.search(r"at (\S+?)(:|$)", wait)[1] for wait in waits)
    of_training = {name for name in places if name.startswith("clzoo/pretrain/")}
    assert of_training == {f"clzoo/pretrain/{name}.py" for name in ("loop", "finite", "log")}
    of_encoder = {"clzoo/zoo/saving.py", "clzoo/encoder.py", "clzoo/proof.py"}
    assert places.keys() - of_training <= {"clzoo/data/stream.py", *of_encoder}
    tensors = len(build_method(small_recipe("mocov2_cifar10"), 2).state_dict())
    assert places["clzoo/pretrain/loop.py"] == tensors  # the method is moved there once ...
    assert places["clzoo/data/stream.py"] == 1  # ... and the pictures


def test_a_run_whose_loss_breaks_between_two_reads_names_the_step_and_keeps_the_checkpoint_before(
    pictures, tmp_path, monkeypatch
):
    from clzoo.losses import info_nce
    from clzoo.pretrain.checkpoint import load_checkpoint

    steps = iter(range(10**6))

    def breaking(*args):
        is_broken = torch.is_grad_enabled() and next(steps) == 13  # a look at the run computes the loss too
        return info_nce(*args) * (float("nan") if is_broken else 1.0)

    monkeypatch.setattr("clzoo.methods.simclr.info_nce", breaking)
    recipe = small_recipe("simclr_cifar10", "schedule.epochs=400", "monitor.every_steps=5")
    with pytest.raises(ClzooError, match=r"the loss is nan at step 13; the last good checkpoint is kept"):
        run_there(recipe, pictures, tmp_path / "run")
    assert load_checkpoint(tmp_path / "run")["step"] == 8
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) < 14
    assert all(torch.isfinite(torch.tensor(list(line.values()))).all() for line in lines)


# Augmentations --------------------------------------------------------------------------------------------------------

OFF = {"flip": 0.0, "jitter": 0.0, "grayscale": 0.0}
POLICIES = {
    "crop": ViewPolicy(24, **OFF),
    "flip": ViewPolicy(24, **{**OFF, "flip": 0.5}),
    "jitter": ViewPolicy(24, **{**OFF, "jitter": 0.8}),
    "grayscale": ViewPolicy(24, **{**OFF, "grayscale": 0.5}),
    "downscale": ViewPolicy(24, **OFF, downscale=0.5),
    "blur": ViewPolicy(24, **OFF, blur=0.5),
    "solarize": ViewPolicy(24, **OFF, solarize=0.5),
    "erase": ViewPolicy(24, **OFF, erase=0.5),
    "rand_augment": ViewPolicy(24, **OFF, rand_augment="rand-m9-n4-mstd0.5-inc1-p1.0"),
    "everything": ViewPolicy(24, blur=0.5, solarize=0.2, erase=0.2, rand_augment="rand-m9-mstd0.5-inc1"),
}


@pytest.mark.parametrize("what", POLICIES)
def test_a_view_is_made_there_without_waiting_and_is_that_of_a_cpu(what):
    policy, samples = POLICIES[what], torch.arange(64)
    images = torch.from_numpy(toy().pixels)
    where = {"seed": 1, "epoch": 0, "samples": samples, "view": 0}
    expected = make_view(images, policy, **where), finish_view(images[:, :24, :24], policy, **where)
    with pretended_device() as device:
        moved = images.to(DEVICE)
        device.waits.clear()
        view, finished = make_view(moved, policy, **where), finish_view(moved[:, :24, :24], policy, **where)
        assert device.waits == []
    torch.testing.assert_close(values_of(finished), expected[1], atol=1e-5, rtol=0)
    # Crops are made in half precision there; what is decided by a threshold may then fall to the other side.
    assert (values_of(view) - expected[0]).abs().quantile(0.99 if what in ("crop", "flip") else 0.9) < 5e-3


# Embedding, evaluation, search ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "architecture",
    [{}, {"architecture": "test_vit", "num_features": 64, "model_args": {"img_size": 32}, "global_pool": "token"}],
    ids=["resnet", "vit"],
)
def test_a_batch_is_embedded_there_without_waiting(architecture):
    torch.manual_seed(0)
    config = small_config(**architecture)
    on_cpu = Encoder.untrained(config)
    pixels = torch.from_numpy(toy(8).pixels)
    settings = Settings(8, 1, "fp32", "fp16", True)
    expected = on_cpu.encode(pixels, features="patch"), vectors_of(pixels, on_cpu, settings)
    with pretended_device() as device:
        encoder = Encoder(on_cpu.module, config, DEVICE)
        buffer = pixels.pin_memory()
        device.waits.clear()
        found = encoder.encode(buffer, features="patch", dtype="fp32"), vectors_of(buffer, encoder, settings)
        assert device.waits == []
        assert isinstance(encoder.embed(list(toy(3).pixels)), np.ndarray)
    for value, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(values_of(value), reference, atol=2e-3, rtol=0)


def features(count, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    x = torch.randn(count, 16, generator=generator) + torch.eye(16)[labels] * 2
    return Features(x, labels, tuple("abcd"), "toy", {})


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_evaluation_mixes_no_devices_and_finds_what_a_cpu_finds(protocol):
    train, test = features(240, 0), features(80, 1)

    def measured(device):
        if protocol == "knn":
            return evaluate_knn(train, test, device=device).results
        return evaluate_linear(train, test, seeds=(0,), device=device).results

    expected = measured(CPU)
    with pretended_device():
        found = measured(DEVICE)
    assert [result.value for result in found] == pytest.approx([result.value for result in expected])


class Vectors:
    """What exact search asks of a store."""

    def __init__(self, x, ids):
        self.x, self.ids, self.dim = x, ids, x.shape[1]
        self.manifest = SimpleNamespace(dtype=str(x.dtype))

    def __len__(self):
        return len(self.x)

    def raw_rows(self, rows):
        return self.x[rows]


def test_neighbors_and_exact_search_are_those_of_a_cpu():
    bank, queries = features(300, 0), features(20, 1)
    similarity, rows = nearest(bank.x, queries.x, 5)
    accuracy = knn_accuracy(bank.x, bank.labels, queries.x, queries.labels)
    store = Vectors(bank.x.numpy(), np.random.default_rng(0).permutation(300))
    scores, ids = exact_search(store, CPU)(queries.x.numpy(), 5)
    with pretended_device():
        there = nearest(bank.x.to(DEVICE), queries.x, 5, device=DEVICE)
        assert knn_accuracy(*(t.to(DEVICE) for t in (bank.x, bank.labels, queries.x, queries.labels))) == accuracy
        found = exact_search(store, DEVICE)(queries.x.numpy(), 5)
    assert torch.equal(values_of(there[1]), rows)
    torch.testing.assert_close(values_of(there[0]), similarity)
    assert np.array_equal(found[1], ids)
    np.testing.assert_allclose(found[0], scores, rtol=1e-6)
