"""The training loop, read from top to bottom: data, views, loss, step, log, checkpoint."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from clzoo.data.training import TrainingSet
from clzoo.device import has_native_bf16, resolve_device
from clzoo.distributed import rank
from clzoo.errors import ClzooError
from clzoo.pretrain.build import build_method
from clzoo.pretrain.curves import draw_curves
from clzoo.pretrain.feed import Steps, feed, images_of
from clzoo.pretrain.finite import FiniteLosses
from clzoo.pretrain.forecast import Forecast
from clzoo.pretrain.log import StepLog
from clzoo.pretrain.online import Watch, knn_queries
from clzoo.pretrain.optim import warning_of_curve
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.run_folder import claim, release, train_alone
from clzoo.pretrain.start import start_from, with_start
from clzoo.pretrain.stopping import any_process, asked_to_stop
from clzoo.pretrain.train_state import TrainState
from clzoo.pretrain.trained import write_encoder

log = logging.getLogger("clzoo")


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
            finite, a step that does not fit into memory or that there is no compiler for.
    """
    began = time.monotonic()
    target = resolve_device(device)
    precision = autocast(target, recipe.precision)
    recipe, begun = with_start(recipe, init, out)
    _require_start(recipe)
    if rank() == 0 and (warning := warning_of_curve(recipe.schedule)) is not None:
        log.warning(warning)
    images = images_of(recipe, data) if images is None else images
    steps = Steps.of(recipe, images)
    method = build_method(recipe, images.class_count).to(target, memory_format=torch.channels_last)
    if method.needs.labels:
        images.require_labels(recipe.method.name)
    if begun is not None and recipe.start is not None:
        classes = None if images.labels is None else images.classes
        start_from(method, begun, classes, recipe.start.weights_sha256)
        del begun  # the encoder's own memory
    queries = knn_queries(data, recipe, images)
    deadline = None if max_minutes is None else began + 60 * max_minutes
    # Once everything fits: a recipe that cannot run leaves no folder behind.
    with train_alone(out) if rank() == 0 else contextlib.nullcontext():
        if rank() == 0:
            claim(out, recipe, images, data, init=init)
        try:
            run = TrainState(method, images, recipe, out, target, precision)
            log.info(
                "%s on %d images: steps %d to %d of batch %d x %d views, on %s, run folder %s",
                recipe.name, len(images), run.first_step, steps.total, steps.batch_size, len(recipe.view_policies()),
                target, out,
            )  # fmt: skip
            return _train(run, steps, queries, deadline, on_checkpoint, is_late)
        except BaseException as error:
            if rank() == 0:
                release(out)
            if (explained := _explained(error, recipe, steps, target)) is not None:
                raise explained from error
            raise


def _train(
    run: TrainState,
    steps: Steps,
    queries: TrainingSet | None,
    deadline: float | None,
    on_checkpoint: Callable[[Any, int, Steps], object] | None,
    is_late: Callable[[int, int], bool] | None,
) -> bool:
    """`pretrain` from the moment that the run stands: step after step, to the end or to where it is stopped."""
    recipe = run.recipe
    run.tell_state(steps)
    batches = feed(run.images, recipe, steps, run.first_step, run.device)
    losses = FiniteLosses(run.device, run.out, recipe)
    forecast = Forecast(recipe, run.images, steps, run.first_step, run.device)
    with asked_to_stop() as stop, StepLog(run.out, run.first_step, steps.total) as step_log:
        watch = Watch(run, steps, queries, step_log, losses)
        for step in range(run.first_step, steps.total):
            rate = run.set_rate(step, steps)
            with step_log.waiting_for_data():
                batch = next(batches)
            loss = run.learn(batch, step, losses)

            done, moved = step + 1, run.moves(step)
            if step_log.is_due(step) or forecast.is_due(done):
                losses.check()
            step_log.add(step, loss, rate, steps.batch_size)
            if forecast.is_due(done):
                forecast.tell(done)
            if done == steps.total:
                run.go_towards_start(steps)
            watch.after(step, batch)  # of the weights that are kept

            out_of_time = deadline is not None and time.monotonic() > deadline
            late = moved and is_late is not None and is_late(done, steps.total)
            stopping = moved and any_process(stop.is_set() or out_of_time or late)
            is_epoch = done % steps.per_epoch < recipe.schedule.accumulate
            if (moved and (is_epoch or stopping)) or done == steps.total:
                losses.check_weights(step, run.method)
                run.checkpoint(done, steps, on_checkpoint)
            if stopping and done < steps.total:
                if not late:  # else the caller goes on at once
                    log.warning("stopped after step %d of %d; run the same command again to go on", done, steps.total)
                return False
    trained = run.complete()
    if rank() == 0:
        write_encoder(run.out, recipe, trained)  # first: the picture needs a log that nobody damaged
        draw_curves(run.out)
    return True


def _require_start(recipe: Recipe) -> None:
    """Refuse a recipe that refers to a start and has none."""
    share = recipe.schedule.towards_start
    if (share or recipe.data.flatten) and recipe.start is None:
        key = f"schedule.towards_start={share}" if share else "data.flatten"
        raise ClzooError(f"{key} needs an encoder to start from. Name one: --init NAME")


def autocast(device: torch.device, precision: str) -> Any:
    """The context that a step computes in; precision "auto" is bf16 on GPUs of CUDA that compute in it, else fp32.

    Raises:
        ClzooError: bf16 on a processor that only emulates it.
    """
    emulated = device.type in ("cpu", "cuda") and not has_native_bf16(device.type)
    if precision == "fp32" or (precision == "auto" and (device.type != "cuda" or emulated)):
        return contextlib.nullcontext()
    if emulated:
        processor = "CPU" if device.type == "cpu" else "GPU"
        raise ClzooError(f"precision bf16 is emulated by this {processor}, unusably slowly. Type: --set precision=fp32")
    return torch.autocast(device.type, torch.bfloat16)


def _explained(error: BaseException, recipe: Recipe, steps: Steps, device: torch.device) -> ClzooError | None:
    """What to do about an error of torch's that has a remedy; None of any other."""
    if _is_out_of_memory(error):
        return ClzooError(
            f"a step of {steps.local_batch} images does not fit into the memory of {device}. Try smaller "
            f"batches: --set schedule.batch_size={steps.batch_size // 2}. What was reported: {error}"
        )
    if recipe.compile and "InvalidCxxCompiler" in str(error):  # the type is wrapped in one of the compiler's
        return ClzooError(
            "compile: true needs a C++ compiler, and none was found that works (CXX names one; Debian: apt "
            "install g++). Without one, type: --set compile=false"
        )
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    # torch has no type of its own for a host without memory.
    on_host = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return on_host or isinstance(error, MemoryError | torch.OutOfMemoryError)
