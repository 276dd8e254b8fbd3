"""Diagnostics of a run: what attracts, what repels, and the cone of queries, keys and queue."""

import copy
import json
import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from small_recipes import small_recipe

from clzoo.data.collection import ArrayImages
from clzoo.data.training import TrainingSet
from clzoo.losses.seen import watching
from clzoo.methods import Batch
from clzoo.pretrain.build import build_method
from clzoo.pretrain.diagnostics import EARLY, FROM, diagnose, warning_of
from clzoo.pretrain.feed import Steps, feed, labels_of_queue
from clzoo.pretrain.loop import pretrain
from clzoo.pretrain.recipe_files import recipe_names

CPU = torch.device("cpu")


def toy(count=40):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(count) % 4
    return TrainingSet("toy", ArrayImages(pixels), np.arange(count), labels, ("a", "b", "c", "d"), pixels)


def trained(name, *overrides, count=5):
    """A method after a few batches, the last batch, and the classes of its queue."""
    recipe = small_recipe(name, "schedule.epochs=3", *overrides)
    images, method = toy(), build_method(recipe, classes=4)
    steps = Steps.of(recipe, images)
    for done, batch in enumerate(feed(images, recipe, steps, 0, CPU), start=1):
        method(batch)
        if done == count:
            break
    queue = getattr(method, "queue", None)
    labels = queue and labels_of_queue(images, recipe, steps, done, int(queue.pointer), len(queue.entries))
    return method, batch, labels


@pytest.mark.parametrize("name", [n for n in recipe_names() if "cifar10" in n.split("_") and "alexnet" not in n])
def test_every_method_can_be_looked_at_and_keeps_no_trace_of_it(name):
    method, batch, labels = trained(name)
    before, was_training = copy.deepcopy(method.state_dict()), method.training
    state = torch.get_rng_state()
    found = diagnose(method, batch, labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert method.training == was_training
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    assert all(-1.001 <= value <= 1.001 for value in found.values())
    assert {"cone_q_q", "cone_k_k", "repelled_similarity"} <= found.keys()
    assert ("cone_q_queue" in found) == hasattr(method, "queue")
    assert ("false_negatives" in found) == (not method.needs.labels)
    assert ("attracted_purity" in found) == name.startswith(("reco", "potential_samples"))


def test_without_labels_nothing_is_said_of_classes():
    method, batch, _ = trained("mocov2_cifar10")
    found = diagnose(method, Batch(batch.views, None, seed=batch.seed, step=batch.step))
    assert found.keys() == {"cone_q_q", "cone_k_k", "cone_q_queue", "cone_k_queue", "repelled_similarity"}


def test_the_classes_of_the_queue_are_those_of_the_images_whose_keys_it_holds():
    recipe, images = small_recipe("mocov2_cifar10", "schedule.epochs=3", "method.queue=24"), toy(44)
    method, steps = build_method(recipe, classes=4), Steps.of(recipe, images)
    expected = torch.full((24,), -1)
    for done, batch in enumerate(feed(images, recipe, steps, 0, CPU), start=1):
        pointer = int(method.queue.pointer)
        method(batch)
        expected[pointer : pointer + 8] = batch.labels
        found = labels_of_queue(images, recipe, steps, done, int(method.queue.pointer), 24)
        assert torch.equal(found, expected)
        if done in (1, 2):
            assert (found == -1).sum() == 24 - 8 * done  # what was random at the start has no class
    assert done == 15  # over three epochs, whose orders differ


def test_values_are_those_of_the_formulas():
    method, batch, labels = trained("mocov2_cifar10")
    found = diagnose(method, batch, labels)
    twin = copy.deepcopy(method)
    with torch.no_grad():
        q = F.normalize(twin.query(batch.views[0]), dim=1)
        k = F.normalize(twin.shuffled_key(batch.views[1], twin.key_order(batch)), dim=1)
    rows = [(int(method.queue.pointer) + i) % 32 for i in range(24)]  # without this batch's own keys
    entries, classes = method.queue.entries[rows], labels[rows]
    others = [float(q[i] @ q[j]) for i in range(8) for j in range(8) if i != j]
    assert found["cone_q_q"] == pytest.approx(sum(others) / len(others), abs=1e-5)
    assert found["cone_k_queue"] == pytest.approx((k @ entries.T).mean().item(), abs=1e-5)
    share = (q @ entries.T / 0.2).softmax(dim=1)
    assert found["repelled_similarity"] == pytest.approx((share * (q @ entries.T)).sum(1).mean().item(), abs=1e-5)
    same, known = batch.labels[:, None] == classes, classes >= 0
    expected = (share * same).sum() / (share * known).sum()
    assert found["false_negatives"] == pytest.approx(expected.item(), abs=1e-5)


def test_of_a_loss_within_the_batch_both_views_of_all_others_repel():
    method, batch, _ = trained("simclr_cifar10")
    found = diagnose(method, batch)
    with torch.no_grad():
        z = F.normalize(copy.deepcopy(method).projector(method.backbone(torch.cat(batch.views))), dim=1)
    q, same = z[:8], batch.labels[:, None] == batch.labels.repeat(2)
    other = ~torch.eye(8, dtype=torch.bool).repeat(1, 2)  # neither itself nor its other view
    share = (q @ z.T / method.options.temperature).masked_fill(~other, float("-inf")).softmax(dim=1)
    assert found["repelled_similarity"] == pytest.approx((share * (q @ z.T)).sum(1).mean().item(), abs=1e-5)
    assert found["false_negatives"] == pytest.approx((share * same).sum().item() / 8, abs=1e-5)


def test_the_repulsion_is_what_the_loss_notes_of_a_queue_without_the_batchs_own_keys():
    method, batch, labels = trained("potential_samples_cifar10", "method.k=3")
    rows = [(int(method.queue.pointer) + i) % 32 for i in range(24)]
    twin = copy.deepcopy(method)
    twin.queue.entries, twin.queue.pointer = twin.queue.entries[rows], torch.zeros((), dtype=torch.long)
    with torch.no_grad(), watching() as seen:
        twin(batch)
    (term,) = [term for term in seen.terms() if term.role == "repulsion"]
    assert term.weights.shape == (8, 24)
    share = term.weights / term.weights.sum(dim=1, keepdim=True)
    found = diagnose(method, batch, labels)
    assert found["repelled_similarity"] == pytest.approx((share * term.cosine).sum(1).mean().item(), abs=1e-5)
    same, known = batch.labels[:, None] == labels[rows], labels[rows] >= 0
    expected = (share * same).sum() / (share * known).sum()
    assert found["false_negatives"] == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("name", [n for n in recipe_names() if n.endswith("_cifar10")])
def test_every_repulsion_says_the_cosines_of_its_pairs(name):
    method, batch, _ = trained(name, count=1)
    with torch.no_grad(), watching() as seen:
        method(batch)
    repelled = [term for term in seen.terms() if term.role == "repulsion"]
    assert repelled
    for term in repelled:
        met = term.cosine[term.weights > 0]
        assert term.cosine.shape == term.weights.shape
        assert met.abs().max() <= 1.001


def test_purity_is_that_of_the_mined_neighbors():
    method, batch, labels = trained("potential_samples_cifar10", "method.k=3")
    rows = [(int(method.queue.pointer) + i) % 32 for i in range(24)]
    twin = copy.deepcopy(method)
    k = F.normalize(twin.shuffled_key(batch.views[1], twin.key_order(batch)), dim=1)
    mined = labels[rows][(k @ method.queue.entries[rows].T).topk(3, dim=1).indices]
    expected = (mined == batch.labels[:, None]).sum() / (mined >= 0).sum()
    assert diagnose(method, batch, labels)["attracted_purity"] == pytest.approx(expected.item(), abs=1e-5)


def test_a_warning_comes_where_queries_coincide_and_not_before_they_could_move():
    healthy = {"cone_q_q": 0.77, "cone_q_queue": -0.40, "cone_k_queue": 0.57}  # MoCo v2 at step 75, low rate
    assert warning_of(healthy, 75) is None
    assert "nearly coincide (mean cosine 0.990; to the queue -0.40" in warning_of({**healthy, "cone_q_q": 0.99}, 50)
    assert warning_of({**healthy, "cone_q_q": 0.99}, FROM - 1) is None
    assert "nearly coincide (mean cosine 0.970)" in warning_of({"cone_q_q": 0.97, "cone_k_k": 0.97}, 100)
    assert FROM in EARLY
    assert max(EARLY) <= 100


def test_a_collapsing_run_is_told_of_once_within_the_first_hundred_steps(tmp_path, caplog):
    for number in range(8):  # of one colour: nothing tells one image from another
        path = tmp_path / "data" / "train" / "x" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (120, 90, 60)).save(path)
    recipe = small_recipe(
        "simclr_cifar10", "schedule.epochs=60", "views=[{count: 2, size: 24, crop_scale: [0.9, 1.0]}]"
    )
    with caplog.at_level(logging.WARNING, logger="clzoo"):
        pretrain(recipe, tmp_path / "data", tmp_path / "run", device="cpu")
    warnings = [record.message for record in caplog.records if "collapse" in record.message]
    assert len(warnings) == 1
    assert warnings[0].startswith("step 50: embeddings of different images nearly coincide")
    assert "--set optimizer.base_lr=" in warnings[0]
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "cone_q_q" in line] == [25, 50]
