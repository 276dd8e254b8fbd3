"""The training loop, read from top to bottom: data, views, loss, step, log, checkpoint."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clzoo.data.training import TrainingSet
from clzoo.device import has_native_bf16, resolve_device
from clzoo.distributed import rank, world_size
from clzoo.errors import ClzooError
from clzoo.pretrain.averaging import BATCHES, estimate_batchnorm, move_towards, parameters_of
from clzoo.pretrain.build import build_method, compile_step, for_processes
from clzoo.pretrain.checkpoint import load_checkpoint, save_checkpoint
from clzoo.pretrain.curves import draw_curves
from clzoo.pretrain.diagnostics import warning_of
from clzoo.pretrain.feed import Steps, drawn_by, feed, images_of
from clzoo.pretrain.finite import FiniteLosses
from clzoo.pretrain.flattening import flat_weights
from clzoo.pretrain.forecast import Forecast
from clzoo.pretrain.log import StepLog
from clzoo.pretrain.online import is_knn_due, is_look_due, knn_queries, look, online_knn
from clzoo.pretrain.optim import create_optimizer, learning_rate_share, load_optimizer
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.run_folder import claim, release, train_alone, write_state
from clzoo.pretrain.sharding import shard, whole
from clzoo.pretrain.start import start_from, with_start
from clzoo.pretrain.stopping import any_process, asked_to_stop
from clzoo.pretrain.trained import encoder_of, write_encoder

log = logging.getLogger("clzoo")

_OF_THE_START = ("start", "weights")  # keys of a checkpoint: see `_begun`


def pretrain(
    recipe: Recipe,
    data: str | Path,
    out: Path,
    *,
    device: str = "auto",
    max_minutes: float | None = None,
    init: str | None = None,
    on_checkpoint: Callable[[Any, int, Steps], object] | None = None,
    images: TrainingSet | None = None,
    is_late: Callable[[int, int], bool] | None = None,
) -> bool:
    """Train `recipe` on a set of images; run again with the same arguments, it goes on where it stopped.

    SIGTERM and Ctrl-C end the step, write a checkpoint and return False; a second Ctrl-C raises KeyboardInterrupt at
    once. Outside the main thread Python takes no signals, and nothing is changed about them.

    Args:
        data: what clzoo.data.training opens: an image folder (or one with `train`), tar shards, torchvision's files, a
            pack, or hf-hub:ORG/NAME.
        out: run folder: recipe.yaml, log.jsonl, checkpoints, state.json, and at the end the encoder as a model. A start
            that fails before its first step leaves none.
        max_minutes: stop with a checkpoint after this time, counted from the call: opening the images and compiling are
            part of it. At least one step is made.
        init: a zoo name or folder whose weights a new run starts from; None: what the recipe starts from. The recipe in
            the run folder records it, with the license, which stays with the run's encoder.
        on_checkpoint: called by the first process after each checkpoint, with the method, the step and the plan.
        images: of `data`, where the caller has opened them for this recipe already.
        is_late: asked after each step, with the steps that are made and all of them; stop with a checkpoint if so.

    Returns:
        Whether the run is finished.

    Raises:
        ClzooError: bad data, a run folder of another recipe or one that another process trains in, a loss that is not
            finite.
    """
    began = time.monotonic()
    target = resolve_device(device)
    precision = autocast(target, recipe.precision)
    recipe, begun = with_start(recipe, init, out)
    _require_start(recipe)
    images = images_of(recipe, data) if images is None else images
    steps = Steps.of(recipe, images)
    classes = None if images.labels is None else len(images.classes)
    method = build_method(recipe, classes).to(target, memory_format=torch.channels_last)
    if method.needs.labels:
        images.require_labels(recipe.method.name)
    if begun is not None and recipe.start is not None:
        start_from(method, begun, None if classes is None else images.classes, recipe.start.weights_sha256)
        del begun  # the encoder's own memory
    queries = knn_queries(data, recipe, images)
    deadline = None if max_minutes is None else began + 60 * max_minutes
    # Once everything fits: a recipe that cannot run leaves no folder behind.
    with train_alone(out) if rank() == 0 else contextlib.nullcontext():
        if rank() == 0:
            claim(out, recipe, images, data, init=init)
        try:
            return _train(
                method, images, queries, steps, recipe, out, target, precision, deadline, on_checkpoint, is_late
            )
        except BaseException as error:
            if rank() == 0:
                release(out)
            if _is_out_of_memory(error):
                raise ClzooError(
                    f"a step of {steps.local_batch} images does not fit into the memory of {target}. Try smaller "
                    f"batches: --set schedule.batch_size={steps.batch_size // 2}. What was reported: {error}"
                ) from error
            raise


def _train(
    method: Any,
    images: TrainingSet,
    queries: TrainingSet | None,
    steps: Steps,
    recipe: Recipe,
    out: Path,
    target: torch.device,
    precision: Any,
    deadline: float | None,
    on_checkpoint: Callable[[Any, int, Steps], object] | None,
    is_late: Callable[[int, int], bool] | None,
) -> bool:
    """`pretrain` from the moment that the folder is its own."""
    saved = load_checkpoint(out)
    first_step, seconds_before = (saved["step"], saved["seconds"]) if saved is not None else (0, 0.0)
    kept: dict[str, Any] = {}
    if saved is not None:
        method.load_state_dict(saved["method"])
        kept = {key: saved[key] for key in _OF_THE_START if key in saved}
    elif recipe.start is not None:
        kept = _begun(method, images, recipe, target)
    start: dict[str, torch.Tensor] | None = kept.get("start")
    images = drawn_by(images, kept)
    sharded = recipe.shard_weights and world_size() > 1
    model: Any = for_processes(method, target, sharded=sharded)
    if sharded:
        shard(method, recipe.backbone.architecture, target)
    optimizer = create_optimizer(method, recipe)
    if saved is not None:
        load_optimizer(optimizer, saved["optimizer"])
    if recipe.compile:
        model = compile_step(method, model)
        log.info("the first step takes longer: it is compiled")
    started = time.monotonic()
    log.info(
        "%s on %d images: steps %d to %d of batch %d x %d views, on %s, run folder %s",
        recipe.name, len(images), first_step, steps.total, steps.batch_size, len(recipe.view_policies()), target, out,
    )  # fmt: skip

    def complete(state: dict[str, torch.Tensor] | None = None) -> Any:
        """The method with all of its weights here; without their `state` every process has to ask for it."""
        if not sharded:
            return method
        with torch.random.fork_rng(devices=[]):
            twin = build_method(recipe, None if images.labels is None else len(images.classes))
        twin.load_state_dict(whole(method.state_dict()) if state is None else state)
        return twin.to(target, memory_format=torch.channels_last)

    def checkpoint(step: int) -> None:
        seconds = seconds_before + time.monotonic() - started
        state = {"method": method.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds}
        state = whole(state) if sharded else state
        state |= {key: value for key, value in kept.items() if key != "start" or step < steps.total}
        if rank() == 0:
            save_checkpoint(out, step, state)
            write_state(out, recipe, step, steps.total, seconds, str(target))
            if on_checkpoint is not None:
                on_checkpoint(complete(state["method"]), step, steps)

    share = recipe.schedule.accumulate
    batches = feed(images, recipe, steps, first_step, target)
    losses = FiniteLosses(target, out, recipe)
    forecast = Forecast(recipe, images, steps, first_step, target)
    warned = False
    with asked_to_stop() as stop, StepLog(out, first_step, steps.total) as step_log:

        def measure(done: int) -> None:
            seen = complete()
            if rank() == 0 and queries is not None:
                step_log.note(done, {"knn": online_knn(seen, recipe, images, queries)})

        if queries is not None and first_step == 0:
            measure(0)
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
                losses.add(step, loss)
                (loss / share).backward()
            if moves:
                if recipe.optimizer.clip_grad:
                    nn.utils.clip_grad_norm_(method.parameters(), recipe.optimizer.clip_grad)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

            done = step + 1
            if step_log.is_due(step) or forecast.is_due(done):
                losses.check()
            step_log.add(step, loss, rate, steps.batch_size)
            if forecast.is_due(done):
                forecast.tell(done)
            if is_look_due(recipe, done):
                losses.check_weights(step, method)
                told = look(complete(), batch, images, recipe, steps, done)
                step_log.note(done, told)
                if not warned and (warning := warning_of(told, done)):
                    warned = True
                    log.warning(warning)
            if queries is not None and is_knn_due(recipe, steps, done):
                losses.check_weights(step, method)
                measure(done)
            if start is not None and done == steps.total:
                move_towards(method.backbone, start, recipe.schedule.towards_start)
                estimate_batchnorm(method, feed(images, recipe, steps, max(0, done - BATCHES), target))
            out_of_time = deadline is not None and time.monotonic() > deadline
            late = moves and is_late is not None and is_late(done, steps.total)
            stopping = moves and any_process(stop.is_set() or out_of_time or late)
            if (moves and (done % steps.per_epoch < share or stopping)) or done == steps.total:
                losses.check_weights(step, method)
                checkpoint(done)
            if stopping and done < steps.total:
                if not late:  # else the caller goes on at once
                    log.warning("stopped after step %d of %d; run the same command again to go on", done, steps.total)
                return False
    seen = complete()
    if rank() == 0:
        draw_curves(out)
        write_encoder(out, recipe, seen)
    return True


def _require_start(recipe: Recipe) -> None:
    """Refuse a recipe that refers to a start and has none."""
    share = recipe.schedule.towards_start
    if (share or recipe.data.flatten) and recipe.start is None:
        key = f"schedule.towards_start={share}" if share else "data.flatten"
        raise ClzooError(f"{key} needs an encoder to start from. Name one: --init NAME")


def _begun(method: Any, images: TrainingSet, recipe: Recipe, target: torch.device) -> dict[str, Any]:
    """What a run keeps of its start: until its end the weights to go back towards, and how often images are drawn."""
    kept: dict[str, Any] = {}
    if recipe.schedule.towards_start:
        kept["start"] = parameters_of(method.backbone)
    if recipe.data.flatten:
        was_training = method.training
        kept["weights"] = torch.from_numpy(flat_weights(encoder_of(method, recipe, "start", target), images))
        method.train(was_training)
    return kept


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


def _is_out_of_memory(error: BaseException) -> bool:
    # torch has no type of its own for a host without memory.
    on_host = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return on_host or isinstance(error, MemoryError | torch.OutOfMemoryError)


def _no_sync(model: Any, moves: bool) -> Any:
    """Processes exchange gradients only in the step that moves the weights."""
    has_own = isinstance(model, nn.parallel.DistributedDataParallel)  # shares are summed up in each step
    return model.no_sync() if has_own and not moves else contextlib.nullcontext()
