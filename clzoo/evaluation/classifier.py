"""The two protocols that run the network every epoch: `linear:sgd`, the papers' linear probe, and `finetune`.

One training loop serves both. The backbone is frozen and in eval mode (linear:sgd), or a copy of it is trained with
BatchNorm in training mode (finetune); the classifier is one linear layer over the raw pooled features. The test images
are looked at once, after the last epoch.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from clzoo.augment import ViewPolicy
from clzoo.data.classes import with_classes_of
from clzoo.data.stream import stream_views
from clzoo.data.training import TrainingSet, pixel_batches
from clzoo.device import to_device
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.evaluation.classifier_settings import ClassifierSettings, Finetune, LinearSGD
from clzoo.evaluation.results import Outcome, Result
from clzoo.evaluation.scores import Accuracy, accuracy_of
from clzoo.progress import Progress
from clzoo.transform import normalize

log = logging.getLogger("clzoo")

CHECK_EVERY = 50  # steps between two looks at the loss; a GPU has to be waited for


def evaluate_linear_sgd(
    encoder: Encoder,
    train: TrainingSet,
    test: TrainingSet,
    *,
    seeds: tuple[int, ...],
    settings: LinearSGD | None = None,
) -> Outcome:
    """Accuracy of a linear layer trained by SGD on a frozen backbone that sees new crops each epoch: the last epoch's.

    On a CPU the result is a function of the seed, bit for bit; on CUDA the training part runs the backbone in bf16. The
    test features are float32.

    Args:
        seeds: of initial weights, order and crops; at least one.
        settings: the preset for the encoder's input size, if not given.

    Returns:
        Results top-1 and, with more than five classes, top-5. Details of the first seed: "protocol", the fields of
        Accuracy, and "losses", the mean training loss of each epoch.

    Raises:
        ClzooError: sets without labels, other classes in `train` than in `test`, a batch larger than the train set, a
            loss that is not finite.
    """
    return _evaluate(encoder, train, test, seeds, settings or LinearSGD.for_size(encoder.config.preprocessing.size))


def evaluate_finetune(
    encoder: Encoder,
    train: TrainingSet,
    test: TrainingSet,
    *,
    seeds: tuple[int, ...],
    settings: Finetune | None = None,
) -> Outcome:
    """Accuracy of the whole network, trained on labels from the encoder's weights: the last epoch's.

    The encoder itself stays as it is. The seed also draws the labeled images where `settings.fraction` is below 1.
    Everything else is as in `evaluate_linear_sgd`.
    """
    return _evaluate(encoder, train, test, seeds, settings or Finetune.for_size(encoder.config.preprocessing.size))


def _evaluate(
    encoder: Encoder, train: TrainingSet, test: TrainingSet, seeds: tuple[int, ...], settings: ClassifierSettings
) -> Outcome:
    labels, truth = _labels(train, test, settings)
    accuracies: list[Accuracy] = []
    losses: list[list[float]] = []
    for seed in seeds:
        with _own_random_state(seed, encoder.device):
            model, head, of_epochs = _train(encoder, train, labels, seed, settings)
        accuracies.append(accuracy_of(_test_scores(model, head, test), truth))
        losses.append(of_epochs)
    results = [Result.over_seeds(settings.id, "top-1", [accuracy.top1 for accuracy in accuracies], seeds)]
    top5 = [accuracy.top5 for accuracy in accuracies if accuracy.top5 is not None]
    if top5:
        results.append(Result.over_seeds(settings.id, "top-5", top5, seeds))
    details = {
        "protocol": settings.id,
        **accuracies[0].to_json(),
        "losses": [round(loss, 6) for loss in losses[0]],
    }
    return Outcome(results, details)


def _train(
    encoder: Encoder, train: TrainingSet, labels: torch.Tensor, seed: int, settings: ClassifierSettings
) -> tuple[Encoder, nn.Linear, list[float]]:
    """The trained network and linear layer, and the mean loss of each epoch."""
    generator = torch.Generator().manual_seed(seed)  # of everything but the crops, which take the seed itself
    samples = labeled_samples(labels, settings.fraction if isinstance(settings, Finetune) else 1.0, generator)
    if len(samples) < settings.batch_size:
        raise ClzooError(
            f"{settings.key} has {len(samples)} labeled images of {train.origin}, fewer than one batch of "
            f"{settings.batch_size}: --set {settings.key}.batch_size={len(samples)}"
        )
    frozen = isinstance(settings, LinearSGD)
    model = encoder if frozen else Encoder(copy.deepcopy(encoder.module), encoder.config, encoder.device)
    model.module.train(not frozen)
    head = _linear_layer(model.dim, len(train.classes), generator).to(model.device)
    optimizer = _optimizer(settings, model.module, head)
    steps = math.ceil(len(samples) / settings.batch_size)  # of one epoch
    losses: list[float] = []
    running = torch.zeros((), device=model.device)  # sum of the epoch's losses
    with (
        Progress(f"{settings.key}, seed {seed}: step", settings.epochs * steps) as progress,
        closing(_batches(model, train, _plan(samples, settings.epochs, steps, generator), seed, settings)) as batches,
    ):
        for step, (chosen, inputs) in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate(step, steps)
            scores = head(_features(model, inputs, frozen))  # (B, C)
            loss = F.cross_entropy(scores, to_device(labels[chosen], model.device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            running += loss.detach()
            ends_epoch = (step + 1) % steps == 0
            if ends_epoch or step % CHECK_EVERY == 0:
                _require_finite(running.item(), step, steps, settings)
            if ends_epoch:
                losses.append(running.item() / steps)
                running.zero_()
            said = f"epoch {step // steps + 1} of {settings.epochs}"
            progress.tell(step + 1, f"{said}, loss {losses[-1]:.4f}" if losses else said)
    return model, head, losses


def labeled_samples(labels: torch.Tensor, fraction: float, generator: torch.Generator) -> torch.Tensor:
    """Sample numbers that keep their labels, ascending: of each class the fraction, rounded, but one at least.

    Args:
        labels: int64 (N,).
    """
    if fraction == 1:
        return torch.arange(len(labels))
    kept = []
    for label in labels.unique():
        of_class = (labels == label).nonzero().squeeze(1)
        count = max(1, round(fraction * len(of_class)))
        kept.append(of_class[torch.randperm(len(of_class), generator=generator)[:count]])
    return torch.cat(kept).sort().values


def _plan(
    samples: torch.Tensor, epochs: int, steps: int, generator: torch.Generator
) -> Iterator[tuple[int, torch.Tensor]]:
    """(epoch, sample numbers (B,)) of each step: every epoch a new permutation in `steps` nearly equal parts."""
    for epoch in range(epochs):
        order = samples[torch.randperm(len(samples), generator=generator)]
        for part in order.tensor_split(steps):
            yield epoch, part


def _batches(
    model: Encoder,
    train: TrainingSet,
    plan: Iterator[tuple[int, torch.Tensor]],
    seed: int,
    settings: ClassifierSettings,
) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
    """(sample numbers (B,), inputs float32 (B, 3, size, size), normalized, on the model's device) of each step."""
    p = model.config.preprocessing
    policy = ViewPolicy(size=p.size, crop_scale=settings.crop_scale, jitter=0.0, grayscale=0.0)  # crop and flip
    with closing(
        stream_views(train, plan, [policy], partial(normalize, p=p), seed=seed, device=model.device)
    ) as batches:
        for samples, (inputs,) in batches:
            yield samples, inputs


def _features(model: Encoder, inputs: torch.Tensor, frozen: bool) -> torch.Tensor:
    """Pooled features float32 (B, D), with a graph unless frozen; in bf16 up to there on CUDA."""
    autocast = torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda")
    with torch.inference_mode(frozen), autocast:
        features = model.module(inputs)
    # Outside of inference mode a clone is an ordinary tensor, which the linear layer may keep for its gradient.
    return features.clone().float() if frozen else features.float()


def _test_scores(model: Encoder, head: nn.Linear, test: TrainingSet) -> torch.Tensor:
    """(Q, C) float32 on the CPU, from the encoder's own preprocessing."""
    with torch.inference_mode():
        batches = map(torch.from_numpy, pixel_batches(test, model.config.preprocessing))
        return torch.cat([head(model.encode(part, dtype="fp32")).cpu() for part in batches])


def _linear_layer(dim: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """Weights of standard deviation 0.01, biases 0 (as MoCo's release)."""
    layer = nn.Linear(dim, classes)
    nn.init.normal_(layer.weight, std=0.01, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def _optimizer(settings: ClassifierSettings, backbone: nn.Module, head: nn.Linear) -> torch.optim.Optimizer:
    if isinstance(settings, LinearSGD):
        return torch.optim.SGD(
            head.parameters(),
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
        )
    assert isinstance(settings, Finetune)
    weights = [*backbone.requires_grad_(True).parameters(), *head.parameters()]
    groups = [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups)
    return torch.optim.SGD(groups, momentum=settings.momentum)


@contextmanager
def _own_random_state(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout and stochastic depth draw from torch's own generators: here from the seed, and afterwards as before."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _require_finite(loss: float, step: int, steps: int, settings: ClassifierSettings) -> None:
    if math.isfinite(loss):
        return
    if step == 0:  # before any weight moved
        raise ClzooError(
            f"{settings.key}: the loss of the first batch is {loss}: the encoder's features are not finite."
        )
    raise ClzooError(
        f"{settings.key}: the loss is {loss} in epoch {step // steps + 1}. Try a lower rate: "
        f"--set {settings.key}.lr={settings.lr / 2:g}"
    )


def _labels(train: TrainingSet, test: TrainingSet, settings: ClassifierSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 (N,) and (Q,), both counted in the classes of `train`."""
    for images in (train, test):
        images.require_labels(settings.key)
    labels, truth = (with_classes_of(train, images).labels for images in (train, test))
    return torch.as_tensor(labels), torch.as_tensor(truth)
