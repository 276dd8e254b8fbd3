"""The training loop, read from top to bottom: data, views, loss, step, log, checkpoint."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clzoo.data.classes import with_classes_of
from clzoo.data.training import TrainingSet, open_training_set
from clzoo.device import has_native_bf16, resolve_device
from clzoo.distributed import rank, world_size
from clzoo.errors import ClzooError
from clzoo.methods import Batch
from clzoo.pretrain.build import build_method, for_processes
from clzoo.pretrain.checkpoint import load_checkpoint, save_checkpoint
from clzoo.pretrain.curves import draw_curves
from clzoo.pretrain.diagnostics import EARLY, diagnose, warning_of
from clzoo.pretrain.feed import Steps, feed, labels_of_queue
from clzoo.pretrain.log import StepLog, stop_on_sigterm
from clzoo.pretrain.monitors import monitor
from clzoo.pretrain.optim import create_optimizer, learning_rate_share
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.run_folder import claim, train_alone, write_state
from clzoo.pretrain.start import start_from

log = logging.getLogger("clzoo")


def pretrain(
    recipe: Recipe,
    data: str | Path,
    out: Path,
    *,
    device: str = "auto",
    max_minutes: float | None = None,
    init: str | None = None,
) -> bool:
    """Train `recipe` on a set of images; run again with the same arguments, it goes on where it stopped.

    Args:
        data: what clzoo.data.training opens: an image folder (or one with `train`), tar shards, torchvision's files, a
            pack, or hf-hub:ORG/NAME.
        out: run folder: recipe.yaml, log.jsonl, checkpoints, and state.json.
        max_minutes: stop with a checkpoint after this time; so does SIGTERM.
        init: a zoo name or folder whose weights a new run starts from.

    Returns:
        Whether the run is finished.

    Raises:
        ClzooError: bad data, a run folder of another recipe or one that another process trains in, a loss that is not
            finite.
    """
    target = resolve_device(device)
    precision = autocast(target, recipe.precision)
    images = open_training_set(recipe.data.name, data, recipe.data.size, subset=recipe.data.subset)
    steps = Steps.of(recipe, images)
    classes = None if images.labels is None else len(images.classes)
    method = build_method(recipe, classes).to(target, memory_format=torch.channels_last)
    if method.needs.labels:
        images.require_labels(recipe.method.name)
    # Once everything fits: a recipe that cannot run leaves no folder behind.
    with train_alone(out) if rank() == 0 else contextlib.nullcontext():
        if rank() == 0:
            claim(out, recipe, images)
        return _train(method, images, steps, recipe, data, out, target, precision, max_minutes, init)


def _train(
    method: Any,
    images: TrainingSet,
    steps: Steps,
    recipe: Recipe,
    data: str | Path,
    out: Path,
    target: torch.device,
    precision: Any,
    max_minutes: float | None,
    init: str | None,
) -> bool:
    """`pretrain` from the moment that the folder is its own."""
    optimizer = create_optimizer(method, recipe)
    first_step, seconds_before = _restore(out, method, optimizer)
    if init is not None and first_step == 0:
        start_from(method, init, None if images.labels is None else images.classes)
    if recipe.compile:
        method.backbone.compile()
    model = for_processes(method, target)
    started = time.monotonic()
    log.info(
        "%s on %d images: steps %d to %d of batch %d x %d views, on %s, run folder %s",
        recipe.name, len(images), first_step, steps.total, steps.batch_size, len(recipe.view_policies()), target, out,
    )  # fmt: skip

    def checkpoint(step: int) -> None:
        seconds = seconds_before + time.monotonic() - started
        state = {"method": method.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds}
        if rank() == 0:
            save_checkpoint(out, step, state)
            write_state(out, recipe, step, steps.total, seconds, str(target))

    share = recipe.schedule.accumulate
    knn_every = recipe.monitor.knn_every_epochs
    queries = _queries(data, recipe, images) if knn_every else images
    batches = feed(images, recipe, steps, first_step, target)
    warned = False
    with stop_on_sigterm() as stop, StepLog(out, first_step, steps.total) as step_log:
        for step in range(first_step, steps.total):
            rate = recipe.learning_rate * learning_rate_share(recipe.schedule, step, steps.per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with step_log.waiting_for_data():
                batch = next(batches)

            moves = (step + 1) % share == 0
            with _no_sync(model, moves):
                with precision:
                    loss = model(batch)
                if not torch.isfinite(loss):
                    raise ClzooError(
                        f"the loss is {loss.item()} at step {step}; the last good checkpoint is kept in {out}. "
                        f"Try a lower rate: --set optimizer.base_lr={recipe.optimizer.base_lr / 2:g}"
                    )
                (loss / share).backward()
            if moves:
                if recipe.optimizer.clip_grad:
                    nn.utils.clip_grad_norm_(method.parameters(), recipe.optimizer.clip_grad)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            step_log.add(step, loss, rate, steps.batch_size)

            done = step + 1
            if recipe.monitor.every_steps and (done in EARLY or done % recipe.monitor.every_steps == 0):
                told = _look(method, batch, images, recipe, steps, done)
                step_log.note(done, told)
                if not warned and (warning := warning_of(told, done)):
                    warned = True
                    log.warning(warning)
            if knn_every and done % (knn_every * steps.per_epoch) == 0 and rank() == 0:
                step_log.note(done, {"knn": _online_knn(method, recipe, images, queries)})
            out_of_time = max_minutes is not None and time.monotonic() - started > 60 * max_minutes
            stopping = moves and _any_process(stop.is_set() or out_of_time, target)
            if (moves and (done % steps.per_epoch < share or stopping)) or done == steps.total:
                checkpoint(done)
            if stopping and done < steps.total:
                log.warning("stopped after step %d of %d; run the same command again to go on", done, steps.total)
                return False
    if rank() == 0:
        draw_curves(out)
    return True


def _queries(data: str | Path, recipe: Recipe, train: TrainingSet) -> TrainingSet:
    """The test split for the online k-NN, with the classes of the images that are trained on."""
    who = f"monitor.knn_every_epochs={recipe.monitor.knn_every_epochs}"
    train.require_labels(who)
    try:
        test = open_training_set(recipe.data.name, data, recipe.data.size, split="test")
        test.require_labels(who)
        return with_classes_of(train, test)
    except ClzooError as error:
        raise ClzooError(
            f"monitor.knn_every_epochs={recipe.monitor.knn_every_epochs} needs a test split. {error} "
            "Without one: --set monitor.knn_every_epochs=0"
        ) from error


def _online_knn(method: Any, recipe: Recipe, train: TrainingSet, test: TrainingSet) -> float:
    """k-NN accuracy of the backbone as it is, in percent; leaves no trace in the method."""
    from clzoo.evaluation.controls import model_knn
    from clzoo.pretrain.trained import encoder_of

    was_training = method.training
    accuracy = model_knn(encoder_of(method, recipe, "online", str(next(method.parameters()).device)), train, test)
    method.train(was_training)
    return accuracy


def _look(method: Any, batch: Batch, images: TrainingSet, recipe: Recipe, steps: Steps, done: int) -> dict[str, float]:
    """The monitors and diagnostics of a step; they leave no trace in the method."""
    queue = getattr(method, "queue", None)
    labels = None
    if queue is not None:
        labels = labels_of_queue(images, recipe, steps, done, int(queue.pointer), len(queue.entries))
    regular = monitor(method, batch.views) if done % recipe.monitor.every_steps == 0 else {}
    return {**regular, **diagnose(method, batch, labels)}


def _restore(out: Path, method: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """(next step, seconds so far) of the newest checkpoint, loaded into both; (0, 0) where there is none."""
    state = load_checkpoint(out)
    if state is None:
        return 0, 0.0
    method.load_state_dict(state["method"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["seconds"]


def autocast(device: torch.device, precision: str) -> Any:
    """The context that a step computes in; precision "auto" is bf16 on CUDA and fp32 elsewhere.

    Raises:
        ClzooError: bf16 on a CPU that only emulates it.
    """
    if precision == "fp32" or (precision == "auto" and device.type != "cuda"):
        return contextlib.nullcontext()
    if device.type == "cpu" and not has_native_bf16():
        raise ClzooError("precision bf16 is emulated by this CPU, unusably slowly. Type: --set precision=fp32")
    return torch.autocast(device.type, torch.bfloat16)


def _no_sync(model: Any, moves: bool) -> Any:
    """Processes exchange gradients only in the step that moves the weights."""
    return contextlib.nullcontext() if moves or world_size() == 1 else model.no_sync()


def _any_process(flag: bool, device: torch.device) -> bool:
    """Whether any process wants to stop: all have to stop at the same step."""
    if world_size() == 1:
        return flag
    wants = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(wants, op=torch.distributed.ReduceOp.MAX)
    return bool(wants.item())
