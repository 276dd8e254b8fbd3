"""The training loop, read from top to bottom: data, views, loss, step, log, checkpoint."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch

from clzoo.augment import ViewPolicy, make_view
from clzoo.backbones import create_backbone
from clzoo.config import Preprocessing
from clzoo.data.resident import find_split, load_image_folder
from clzoo.device import resolve_device
from clzoo.errors import ClzooError
from clzoo.methods import create_method
from clzoo.pretrain.checkpoint import load_checkpoint, save_checkpoint
from clzoo.pretrain.log import StepLog, stop_on_sigterm
from clzoo.pretrain.optim import create_optimizer, learning_rate_share
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.run_folder import claim, write_state
from clzoo.transform import normalize

log = logging.getLogger("clzoo")


def pretrain(recipe: Recipe, data: Path, out: Path, *, device: str = "auto", max_minutes: float | None = None) -> bool:
    """Train `recipe` on an image folder; run again with the same arguments, it goes on where it stopped.

    Args:
        data: folder of class sub-folders, or one that holds such a folder as `train`.
        out: run folder: recipe.yaml, log.jsonl, checkpoints, and state.json.
        max_minutes: stop with a checkpoint after this time; so does SIGTERM.

    Returns:
        Whether the run is finished.

    Raises:
        ClzooError: bad data, a run folder of another recipe, a loss that is not finite.
    """
    target = resolve_device(device)
    images = load_image_folder(find_split(data, "train") or data, recipe.data.size)
    batch_size = recipe.schedule.batch_size
    if len(images) < batch_size:
        raise ClzooError(
            f"{data} has {len(images)} images, fewer than one batch: --set schedule.batch_size={len(images)}"
        )
    steps_per_epoch = len(images) // batch_size
    total_steps = recipe.schedule.epochs * steps_per_epoch
    claim(out, recipe, images)

    method = build_method(recipe).to(target, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = create_optimizer(method, recipe)
    first_step, seconds_before = 0, 0.0
    if state := load_checkpoint(out):
        method.load_state_dict(state["method"])
        optimizer.load_state_dict(state["optimizer"])
        first_step, seconds_before = state["step"], state["seconds"]
    if recipe.compile:
        method.backbone.compile()
    started = time.monotonic()
    log.info(
        "%s on %d images: steps %d to %d of batch %d x %d views, on %s, run folder %s",
        recipe.name, len(images), first_step, total_steps, batch_size, recipe.method.views, target, out,
    )  # fmt: skip

    def checkpoint(step: int) -> None:
        seconds = seconds_before + time.monotonic() - started
        state = {"method": method.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds}
        save_checkpoint(out, step, state)
        write_state(out, recipe, step, total_steps, seconds, str(target))

    pixels = torch.from_numpy(images.pixels).to(target)  # (N, S, S, 3) uint8
    with stop_on_sigterm() as stop, StepLog(out / "log.jsonl", first_step, total_steps) as step_log:
        for step in range(first_step, total_steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * learning_rate_share(recipe.schedule, step, steps_per_epoch)
            with step_log.waiting_for_data():
                epoch, position = divmod(step, steps_per_epoch)
                order = _order(recipe.seed, epoch, len(images))
                samples = order[position * batch_size : (position + 1) * batch_size].to(target)
                views = render_views(pixels[samples], samples, recipe, epoch)
            loss = method(views)
            if not torch.isfinite(loss):
                raise ClzooError(
                    f"the loss is {loss.item()} at step {step}; the last good checkpoint is kept in {out}. "
                    f"Try a lower rate: --set optimizer.base_lr={recipe.optimizer.base_lr / 2:g}"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step_log.add(step, loss, optimizer.param_groups[0]["lr"], batch_size)

            done = step + 1
            out_of_time = max_minutes is not None and time.monotonic() - started > 60 * max_minutes
            if done % steps_per_epoch == 0 or done == total_steps or stop.is_set() or out_of_time:
                checkpoint(done)
            if done < total_steps and (stop.is_set() or out_of_time):
                log.warning("stopped after step %d of %d; run the same command again to go on", done, total_steps)
                return False
    return True


def build_method(recipe: Recipe) -> torch.nn.Module:
    """The recipe's method with its initial weights, a function of the recipe's seed."""
    torch.manual_seed(recipe.seed)
    b = recipe.backbone
    backbone = create_backbone(
        b.architecture, model_args=b.model_args, global_pool=b.global_pool, stem_stride=b.stem_stride
    )
    return create_method(backbone, int(backbone.num_features), recipe.method)  # type: ignore[arg-type]


def render_views(pixels: torch.Tensor, samples: torch.Tensor, recipe: Recipe, epoch: int) -> list[torch.Tensor]:
    """The views of a batch as the network sees them: V normalised tensors (B, 3, size, size).

    Args:
        pixels: uint8 (B, H, W, 3).
        samples: (B,) indices in the data set.
    """
    policy = ViewPolicy(**recipe.views.model_dump())
    preprocessing = Preprocessing(size=policy.size, crop_pct=1.0, mean=recipe.data.mean, std=recipe.data.std)
    rendered = (
        make_view(pixels, policy, seed=recipe.seed, epoch=epoch, samples=samples, view=view)
        for view in range(recipe.method.views)
    )
    return [normalize(255 * view.permute(0, 2, 3, 1), preprocessing) for view in rendered]


def _order(seed: int, epoch: int, count: int) -> torch.Tensor:
    """(count,) permutation of the data set for one epoch, a function of seed and epoch alone."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator)
