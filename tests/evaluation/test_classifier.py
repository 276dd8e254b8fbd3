import copy
import dataclasses
import logging
import math
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import small_encoder

import clzoo
from clzoo.augment import ViewPolicy, make_view
from clzoo.config import Preprocessing
from clzoo.data import stream
from clzoo.data.collection import ArrayImages
from clzoo.data.training import TrainingSet, open_training_set
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.evaluation import classifier
from clzoo.evaluation.classifier import evaluate_finetune, evaluate_linear_sgd, labeled_samples
from clzoo.evaluation.classifier_settings import Finetune, LinearSGD
from clzoo.evaluation.controls import calibrate_batchnorm
from clzoo.transform import normalize

NAMES = ("columns", "dots", "rows", "sky", "soil", "stone")
LINEAR = LinearSGD.for_size(32, {"epochs": 2, "batch_size": 16})
FINETUNE = Finetune.for_size(32, {"epochs": 2, "batch_size": 16})
BOTH = pytest.mark.parametrize(
    ("evaluate", "settings"), [(evaluate_linear_sgd, LINEAR), (evaluate_finetune, FINETUNE)], ids=["linear", "finetune"]
)


def narrow_encoder(seed=0, **changes):
    """A network of some thousand parameters for 32 px, with the BatchNorm statistics of such pictures."""
    narrow = {"channels": [4, 8, 8, 8], "stem_type": "deep", "stem_width": 4, **changes}
    encoder = small_encoder(seed, architecture="resnet10t", num_features=8, model_args=narrow, stem_stride=2)
    calibrate_batchnorm(encoder, [torch.from_numpy(pictures(48, seed=9).pixels)])
    return encoder


def pictures(count, classes=3, seed=0, size=32):
    """Stripes along columns, dots, stripes along rows under noise; of more classes a brightness beside."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    pixels = rng.integers(0, 140, (count, size, size, 3))
    row, column = np.indices((size, size))
    for picture, label in zip(pixels, labels, strict=True):
        width = rng.integers(2, 5)
        pattern = (column // width % 2, (column // width + row // width) % 2, row // width % 2)[label % 3]
        picture += 60 * pattern[..., None] + 40 * (label // 3)
    return held(pixels.astype(np.uint8), labels, NAMES[:classes])


def held(pixels, labels, classes):
    return TrainingSet("toy", ArrayImages(pixels), np.arange(len(pixels)), labels, classes, pixels)


def streamed(images):
    return dataclasses.replace(images, pixels=None)


def state_of(encoder):
    return copy.deepcopy(encoder.module.state_dict())


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# What is trained


def test_linear_sgd_leaves_weights_and_batchnorm_statistics_as_they_were():
    encoder = narrow_encoder()
    encoder.module.train()  # whatever a user did before
    before = state_of(encoder)
    evaluate_linear_sgd(encoder, pictures(48), pictures(12, seed=1), seeds=(0,), settings=LINEAR)
    assert same(before, state_of(encoder))
    assert all(weight.grad is None for weight in encoder.module.parameters())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_finetune_trains_every_weight_of_a_copy(optimizer, monkeypatch):
    encoder = narrow_encoder()
    encoder.module.requires_grad_(False)  # as a user who only embeds may have set it
    before = state_of(encoder)
    tuned = []
    monkeypatch.setattr(classifier, "_test_scores", keeping(tuned, classifier._test_scores))
    settings = Finetune.for_size(32, {"epochs": 4, "batch_size": 16, "optimizer": optimizer})
    evaluate_finetune(encoder, pictures(48), pictures(12, seed=1), seeds=(0,), settings=settings)
    assert same(before, state_of(encoder))
    assert not any(weight.requires_grad for weight in encoder.module.parameters())
    assert not encoder.module.training
    after = tuned[0][0].module.state_dict()
    assert [name for name in before if torch.equal(before[name], after[name])] == []


def keeping(calls, function):
    def kept(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return kept


def test_a_task_that_random_features_fail_is_solved_by_finetuning():
    train, test = pictures(96), pictures(60, seed=1)
    frozen = evaluate_linear_sgd(
        narrow_encoder(), train, test, seeds=(0,), settings=LinearSGD.for_size(32, {"epochs": 12, "batch_size": 16})
    )
    tuned = evaluate_finetune(
        narrow_encoder(),
        train,
        test,
        seeds=(0,),
        settings=Finetune.for_size(32, {"epochs": 12, "batch_size": 16, "lr": 0.1}),
    )
    assert tuned.details["losses"][-1] < 0.5 * frozen.details["losses"][-1]
    assert tuned.results[0].value > frozen.results[0].value + 20


@pytest.mark.parametrize(("decay", "seed"), [("cosine", 3), ("steps", 0)])
def test_linear_sgd_equals_the_formulas_of_nesterov_sgd_up_to_the_last_step(decay, seed):
    encoder, train, test = narrow_encoder(), pictures(50), pictures(30, seed=1)
    changes = {"epochs": 3, "batch_size": 20, "decay": decay, "milestones": [1, 2], "weight_decay": 0.01}
    found = evaluate_linear_sgd(encoder, train, test, seeds=(seed,), settings=LinearSGD.for_size(32, changes))

    generator = torch.Generator().manual_seed(seed)
    weight = torch.empty(3, 8).normal_(std=0.01, generator=generator).double()
    bias, steps = torch.zeros(3).double(), 3  # of an epoch: 17 + 17 + 16 images
    momenta = [torch.zeros(3, 8).double(), torch.zeros(3).double()]
    losses, p = [], encoder.config.preprocessing
    policy = ViewPolicy(size=32, crop_scale=(0.2, 1.0), jitter=0.0, grayscale=0.0)
    for epoch in range(3):
        losses.append(0.0)
        for part, samples in enumerate(torch.randperm(50, generator=generator).split([17, 17, 16])):
            step = steps * epoch + part
            rate = 0.5 * (1 + math.cos(math.pi * step / 9)) if decay == "cosine" else (1.0, 0.1, 0.01)[epoch]
            images = torch.from_numpy(train.pixels)[samples]
            view = make_view(images, policy, seed=seed, epoch=epoch, samples=samples, view=0)
            with torch.no_grad():
                x = encoder.module(normalize(255 * view.permute(0, 2, 3, 1), p)).double()
            probabilities = (x @ weight.T + bias).softmax(dim=1)
            truth = torch.nn.functional.one_hot(torch.from_numpy(train.labels)[samples], 3)
            losses[-1] -= ((probabilities.log() * truth).sum(dim=1).mean() / steps).item()
            error = (probabilities - truth) / len(samples)
            gradients = [error.T @ x + 0.01 * weight, error.sum(dim=0) + 0.01 * bias]
            for value, momentum, gradient in zip((weight, bias), momenta, gradients, strict=True):
                momentum.mul_(0.9).add_(gradient)
                value -= rate * (gradient + 0.9 * momentum)
    assert found.details["losses"] == pytest.approx(losses, abs=1e-4)
    features = encoder.encode(torch.from_numpy(test.pixels)).double()
    predicted = (features @ weight.T + bias).argmax(dim=1).numpy()
    assert found.results[0].value == pytest.approx(100 * np.mean(predicted == test.labels))


@BOTH
def test_the_test_images_are_looked_at_once_after_the_last_epoch(evaluate, settings, monkeypatch):
    events = []
    forward, read = classifier._features, classifier.pixel_batches
    monkeypatch.setattr(classifier, "_features", lambda *a: events.append("train") or forward(*a))
    monkeypatch.setattr(classifier, "pixel_batches", lambda *a: events.append("test") or read(*a))
    evaluate(narrow_encoder(), pictures(48), pictures(12, seed=1), seeds=(0, 1), settings=settings)
    assert events == 2 * (2 * 3 * ["train"] + ["test"])


# Seeds


@BOTH
def test_a_seed_gives_the_same_result_again_and_another_seed_another(evaluate, settings):
    train, test = pictures(48), pictures(12, seed=1)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (
        evaluate(narrow_encoder(), train, test, seeds=(seed,), settings=settings).details for seed in (0, 0, 1)
    )
    assert first == again
    assert first["losses"] != other["losses"]
    assert torch.equal(state, torch.get_rng_state())


def test_dropout_inside_the_network_follows_the_seed():
    train, test = pictures(48), pictures(12, seed=1)
    losses = []
    for global_seed, drop in ((1, 0.5), (2, 0.5), (2, 0.0)):
        encoder = narrow_encoder(drop_rate=drop)
        torch.manual_seed(global_seed)
        losses.append(evaluate_finetune(encoder, train, test, seeds=(0,), settings=FINETUNE).details["losses"])
    assert losses[0] == losses[1]
    assert losses[1] != losses[2]


def test_several_seeds_give_mean_and_deviation_and_the_details_of_the_first():
    train, test, encoder = pictures(48), pictures(30, seed=1), narrow_encoder()
    alone = [evaluate_linear_sgd(encoder, train, test, seeds=(seed,), settings=LINEAR) for seed in (4, 7)]
    both = evaluate_linear_sgd(encoder, train, test, seeds=(4, 7), settings=LINEAR)
    values = [outcome.results[0].value for outcome in alone]
    assert both.results[0].value == pytest.approx(np.mean(values))
    assert both.results[0].std == pytest.approx(np.std(values, ddof=1))
    assert both.results[0].seeds == (4, 7)
    assert both.details == alone[0].details
    assert alone[0].results[0].std is None


@BOTH
def test_the_order_of_the_test_splits_classes_does_not_matter(evaluate, settings):
    train, test = pictures(48), pictures(12, seed=1)
    turned = dataclasses.replace(test, classes=test.classes[::-1], labels=2 - test.labels)
    one, other = (evaluate(narrow_encoder(), train, part, seeds=(0,), settings=settings) for part in (test, turned))
    assert one.results == other.results


@BOTH
def test_top_five_is_reported_of_more_than_five_classes(evaluate, settings):
    few = evaluate(narrow_encoder(), pictures(48), pictures(12, seed=1), seeds=(0,), settings=settings)
    many = evaluate(narrow_encoder(), pictures(48, 6), pictures(24, 6, seed=1), seeds=(0,), settings=settings)
    assert [result.metric for result in few.results] == ["top-1"]
    assert [result.metric for result in many.results] == ["top-1", "top-5"]
    assert {result.protocol for result in many.results} == {settings.id, many.details["protocol"]}
    assert many.details["top1"] == pytest.approx(many.results[0].value, abs=1e-4)
    assert many.details["top5"] == pytest.approx(many.results[1].value, abs=1e-4)
    assert len(many.details["per_class"]) == 6
    assert len(many.details["losses"]) == 2


# Where the images are


@BOTH
def test_streamed_images_give_nearly_the_losses_of_images_in_memory(evaluate, settings):
    train, test = pictures(48), pictures(12, seed=1)
    memory, stream = (
        evaluate(narrow_encoder(), images, test, seeds=(3,), settings=settings) for images in (train, streamed(train))
    )
    # The crops differ by the rounding of Pillow's resize to 8 bits.
    assert memory.details["losses"] == pytest.approx(stream.details["losses"], rel=0.02)
    assert memory.details["losses"] != stream.details["losses"]
    again = evaluate(narrow_encoder(), streamed(train), streamed(test), seeds=(3,), settings=settings)
    assert again.details == stream.details


def test_a_cpu_leaves_large_crops_to_workers_even_of_images_in_memory(monkeypatch):
    train, test = pictures(48), pictures(12, seed=1)
    from_stream = evaluate_linear_sgd(narrow_encoder(), streamed(train), test, seeds=(0,), settings=LINEAR)
    monkeypatch.setattr(stream, "LARGEST_BATCHED_ON_CPU", 31)
    memory = evaluate_linear_sgd(narrow_encoder(), train, test, seeds=(0,), settings=LINEAR)
    assert memory.details == from_stream.details


@BOTH
def test_images_held_larger_than_the_encoders_input_are_cropped_to_it(evaluate, settings):
    outcome = evaluate(
        narrow_encoder(), pictures(48, size=40), pictures(12, seed=1, size=36), seeds=(0,), settings=settings
    )
    assert np.isfinite(outcome.details["losses"]).all()


def test_a_run_without_a_terminal_says_how_long_it_will_take(monkeypatch, caplog):
    monkeypatch.setattr("clzoo.progress.EVERY_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "clzoo"):
        evaluate_linear_sgd(narrow_encoder(), pictures(48), pictures(12, seed=1), seeds=(7,), settings=LINEAR)
    lines = [record.getMessage() for record in caplog.records if "epoch" in record.getMessage()]
    assert len(lines) == 6
    assert lines[0].startswith("linear_sgd, seed 7: step 1 of 6  epoch 1 of 2  ")
    assert "epoch 2 of 2, loss 1." in lines[-1]
    assert lines[-1].endswith("less than a second left")


# Few labels


@pytest.mark.parametrize("seed", [0, 1])
def test_a_fraction_of_the_labels_is_the_same_share_of_every_class_and_never_none(seed):
    labels = torch.tensor([0] * 500 + [1] * 200 + [2] * 7 + [4] * 1)[torch.randperm(708)]

    def drawn(seed, fraction):
        return labeled_samples(labels, fraction, torch.Generator().manual_seed(seed))

    chosen = drawn(seed, 0.01)
    assert torch.bincount(labels[chosen]).tolist() == [5, 2, 1, 0, 1]
    assert torch.bincount(labels[drawn(seed, 0.1)]).tolist() == [50, 20, 1, 0, 1]
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert torch.equal(chosen, drawn(seed, 0.01))
    assert not torch.equal(chosen, drawn(seed + 2, 0.01))
    assert torch.equal(drawn(seed, 1.0), torch.arange(708))


def test_finetuning_on_a_fraction_never_sees_the_other_images():
    train, test = pictures(96), pictures(12, seed=1)
    settings = Finetune.for_size(32, {"epochs": 2, "batch_size": 8, "fraction": 0.25})
    chosen = labeled_samples(torch.from_numpy(train.labels), 0.25, torch.Generator().manual_seed(0))
    assert len(chosen) == 24
    spoiled = held(255 - train.pixels, train.labels, train.classes)
    spoiled.pixels[chosen] = train.pixels[chosen]
    first, second = (
        evaluate_finetune(narrow_encoder(), images, test, seeds=(0,), settings=settings) for images in (train, spoiled)
    )
    assert first.details == second.details
    assert "labels=25%" in first.details["protocol"]


# Settings


def test_each_size_has_its_preset_and_the_protocol_id_spells_it_out():
    assert LinearSGD.for_size(32).id == (
        "linear:sgd(lr=1,cosine,epochs=100,batch=256,crop=0.2-1,flip,momentum=0.9,nesterov,wd=0,last epoch)"
    )
    assert LinearSGD.for_size(96) == LinearSGD.for_size(32) == LinearSGD()
    assert LinearSGD.for_size(224).id == (
        "linear:sgd(lr=30,steps=60/80,epochs=100,batch=256,crop=0.08-1,flip,momentum=0.9,wd=0,last epoch)"
    )
    assert Finetune.for_size(64).id == (
        "finetune(sgd,lr=0.05,warmup=1,cosine,epochs=20,batch=128,crop=0.2-1,flip,momentum=0.9,wd=0.0001,labels=100%,"
        "last epoch)"
    )
    assert Finetune.for_size(224, {"optimizer": "adamw", "fraction": 0.01}).id == (
        "finetune(adamw,lr=0.0002,warmup=1,cosine,epochs=30,batch=256,crop=0.08-1,flip,wd=0.05,labels=1%,last epoch)"
    )


def test_the_size_of_the_encoder_chooses_the_preset(monkeypatch):
    asked = []
    monkeypatch.setattr(classifier, "_evaluate", keeping(asked, lambda *_: None))
    small = narrow_encoder()
    large = Encoder(small.module, dataclasses.replace(small.config, preprocessing=Preprocessing(size=224)))
    for evaluate in (evaluate_linear_sgd, evaluate_finetune):
        for encoder in (small, large):
            evaluate(encoder, pictures(12), pictures(12), seeds=(0,))
    expected = [table.for_size(size) for table in (LinearSGD, Finetune) for size in (32, 224)]
    assert [arguments[4] for arguments in asked] == expected


def test_a_change_overrides_the_preset_and_nothing_else():
    changed = LinearSGD.for_size(32, {"lr": 10, "decay": "steps"})  # the other published choice for small images
    assert changed.id == LinearSGD.for_size(32).id.replace("lr=1,cosine", "lr=10,steps=60/80")
    assert Finetune.for_size(224, {"optimizer": "adamw", "lr": 0.001}).lr == 0.001


def test_the_learning_rate_follows_its_formula():
    cosine, steps, tuned = LinearSGD(lr=2.0, epochs=10), LinearSGD.for_size(224), Finetune(lr=0.4, warmup_epochs=2)
    for step in range(50):
        assert cosine.learning_rate(step, 5) == pytest.approx(1 + math.cos(math.pi * step / 50))
    found = [steps.learning_rate(step, 7) for step in (0, 419, 420, 559, 560, 699)]
    assert found == pytest.approx([30, 30, 3, 3, 0.3, 0.3])
    assert [tuned.learning_rate(step, 5) for step in range(10)] == pytest.approx([0.04 * n for n in range(1, 11)])
    for step in range(10, 100):
        assert tuned.learning_rate(step, 5) == pytest.approx(0.2 * (1 + math.cos(math.pi * (step - 10) / 90)))
    assert Finetune(warmup_epochs=0).learning_rate(0, 5) == 0.05
    assert max(Finetune(warmup_epochs=0.5).learning_rate(step, 3) for step in range(60)) == 0.05


@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        (LinearSGD, {"epocs": 3}, r"unknown setting linear_sgd\.epocs: valid are epochs\."),
        (LinearSGD, {"warmup": 3}, r"unknown setting linear_sgd\.warmup: valid are lr, .*milestones"),
        (LinearSGD, {"lr": 0}, r"linear_sgd\.lr is 0: input should be greater than 0"),
        (LinearSGD, {"epochs": "many"}, r"linear_sgd\.epochs is 'many'"),
        (LinearSGD, {"decay": "steps", "epochs": 70}, r"milestones=\[60, 80\] must rise .* linear_sgd\.epochs=70"),
        (LinearSGD, {"decay": "steps", "milestones": [80, 60]}, r"milestones=\[80, 60\] must rise"),
        (LinearSGD, {"momentum": 0}, r"linear_sgd\.momentum=0 needs linear_sgd\.nesterov=false"),
        (Finetune, {"crop_scale": [0, 1]}, r"finetune\.crop_scale is .*two shares"),
        (Finetune, {"fraction": 1.5}, r"finetune\.fraction is 1\.5"),
        (Finetune, {"epochs": 3, "warmup_epochs": 3}, r"warmup_epochs=3 must be less than finetune\.epochs=3"),
        (Finetune, {"optimizer": "lars", "lr": -1}, r"(?s)finetune\.lr is -1.*finetune\.optimizer is 'lars'"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_valid(table, changes, message):
    with pytest.raises(ClzooError, match=message):
        table.for_size(32, changes)


def test_milestones_beyond_the_end_do_not_matter_to_a_cosine():
    assert LinearSGD.for_size(32, {"epochs": 5}).learning_rate(0, 1) == 1


# Bad input


@BOTH
def test_sets_that_do_not_fit_together_are_refused(evaluate, settings):
    train, test = pictures(48), pictures(12, seed=1)
    renamed = dataclasses.replace(test, classes=("columns", "dots", "cat"), origin="other")
    with pytest.raises(
        ClzooError, match=r"toy and other differ.*only in train rows; only in test cat\. .*the same class folders"
    ):
        evaluate(narrow_encoder(), train, renamed, seeds=(0,), settings=settings)
    with pytest.raises(ClzooError, match="needs labels"):
        evaluate(narrow_encoder(), train, dataclasses.replace(test, labels=None), seeds=(0,), settings=settings)
    with pytest.raises(ClzooError, match=f"12 labeled images of toy.*--set {settings.key}.batch_size=12"):
        evaluate(narrow_encoder(), test, test, seeds=(0,), settings=settings)


@BOTH
def test_a_rate_that_is_too_high_is_named_and_a_broken_encoder_is_told_from_it(evaluate, settings):
    train, test, encoder = pictures(48), pictures(12, seed=1), narrow_encoder()
    too_high = type(settings).for_size(32, {"epochs": 2, "batch_size": 16, "lr": 1e38})
    with pytest.raises(ClzooError, match=f"the loss is .* in epoch 1. Try a lower rate: --set {settings.key}.lr=5e"):
        evaluate(encoder, train, test, seeds=(0,), settings=too_high)
    next(encoder.module.parameters()).data.fill_(float("nan"))
    with pytest.raises(ClzooError, match="first batch is nan: the encoder's features are not finite"):
        evaluate(encoder, train, test, seeds=(0,), settings=settings)


# Devices and real images


@pytest.mark.gpu
@BOTH
def test_a_gpu_in_bf16_gives_nearly_the_losses_of_a_cpu(evaluate, settings):
    train, test = pictures(48), pictures(12, seed=1)
    cpu = evaluate(narrow_encoder(), train, test, seeds=(0,), settings=settings)
    for images in (train, streamed(train)):
        encoder = Encoder(narrow_encoder().module, narrow_encoder().config, "cuda")
        gpu = evaluate(encoder, images, test, seeds=(0,), settings=settings)
        assert gpu.details["losses"] == pytest.approx(cpu.details["losses"], rel=0.05)


@pytest.mark.slow
def test_the_bundled_encoder_separates_a_slice_of_cifar10(tmp_path):
    folder = os.environ.get("CLZOO_TEST_DATA")
    if not folder or not (Path(folder) / "cifar10-jpeg.tar.xz").is_file():
        pytest.skip("CLZOO_TEST_DATA is not set to a folder that holds cifar10-jpeg.tar.xz")
    with tarfile.open(Path(folder) / "cifar10-jpeg.tar.xz", "r|xz") as packed:
        for member in packed:
            if member.name.endswith("0.jpg"):  # every tenth image of each class: 5,000 and 1,000
                packed.extract(member, tmp_path, filter="data")
    train, test = (open_training_set("cifar10", tmp_path, 32, split=split) for split in ("train", "test"))
    encoder = clzoo.load("cacr-resnet18_w16-cifar10", device="cpu")
    settings = LinearSGD.for_size(32, {"epochs": 5})
    outcome = evaluate_linear_sgd(encoder, train, test, seeds=(0,), settings=settings)
    assert outcome.results[0].value > 45  # chance: 10
    assert outcome.results[1].value > 85
