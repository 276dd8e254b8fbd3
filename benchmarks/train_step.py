"""What a training step costs beside its forward and backward pass, and InfoNCE beside lightly's, in one run.

    python benchmarks/train_step.py                              # CPU: cacr_cifar10_narrow; CUDA: MoCo v3 on ViT-S/16
    python benchmarks/train_step.py --recipe mocov2_cifar10 --steps 30
    python benchmarks/train_step.py --recipe mocov2_cifar10 --set backbone.name=resnet10_w16 --compile
    python benchmarks/train_step.py --losses                     # losses alone, compiled against plain
    python benchmarks/train_step.py --bf16                       # forward and backward, compiled, bf16 against fp32

Prints ratios of the best of several interleaved rounds; absolute times move with the machine's load. Images are
generated: the time does not depend on what they show. lightly is optional (pip install lightly); what is missing is
printed as "not measured". Figures with their hardware: docs/performance.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from unittest.mock import patch

import torch

from clzoo.hardware import describe_hardware
from clzoo.losses import cacr, info_nce, info_nce_queue, potential_samples, reco_global
from clzoo.methods import Batch
from clzoo.pretrain.build import build_method, compile_networks, compile_step
from clzoo.pretrain.feed import render_views
from clzoo.pretrain.loop import autocast
from clzoo.pretrain.optim import create_optimizer
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.recipe_files import find_recipe, load_recipe

ON_GPU = ["method.projector=[4096,4096,256]", "schedule.batch_size=256", "backbone.architecture=vit_small_patch16_224",
          "backbone.model_args={num_heads: 12}", "backbone.global_pool=token"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", help="a shipped name or a file")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--compile", action="store_true", help="only: forward and backward with and without compiling")
    parser.add_argument("--losses", action="store_true", help="only: losses alone with and without compiling")
    parser.add_argument("--bf16", action="store_true", help="only: forward and backward, compiled, in bf16 and in fp32")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{describe_hardware(str(device))}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    if arguments.compile or arguments.bf16:
        name, overrides = arguments.recipe or "cacr_cifar10_narrow", (*arguments.overrides, "compile=false")
        measure = against_plain if arguments.compile else against_fp32
        measure(load_recipe(find_recipe(name), overrides), device, arguments.steps)
        return
    if arguments.losses:
        losses_alone(device, arguments.rounds)
        return
    against_lightly(device, arguments.rounds)
    on_gpu = device.type == "cuda" and arguments.recipe is None
    name = arguments.recipe or ("mocov3_in1k" if on_gpu else "cacr_cifar10_narrow")
    overrides = (*(ON_GPU if on_gpu else ()), *arguments.overrides, "compile=false")
    step_shares(load_recipe(find_recipe(name), overrides), device, arguments.steps)


def against_lightly(device: torch.device, rounds: int) -> None:
    """InfoNCE forward and backward, D = 128, ours and lightly's in turns."""
    print("InfoNCE forward + backward, D = 128")
    if importlib.util.find_spec("lightly") is None:
        print("  not measured: lightly is not installed (pip install lightly)\n")
        return
    from lightly.loss import NTXentLoss

    theirs = NTXentLoss(temperature=0.5)
    for n in (256, 1024, 2048):
        z = torch.randn(2, n, 128, device=device, requires_grad=True)
        assert torch.allclose(info_nce(z, 0.5), theirs(z[0], z[1]), rtol=1e-4), "the two losses differ"
        ours_best, theirs_best = interleaved(
            device, rounds, lambda z=z: info_nce(z, 0.5).backward(), lambda z=z: theirs(z[0], z[1]).backward()
        )
        print(f"  N = {n:5}: ours {1e3 * ours_best:7.2f} ms, lightly {1e3 * theirs_best:7.2f} ms, "
              f"ratio {theirs_best / ours_best:.2f}")  # fmt: skip
    print()


def losses_alone(device: torch.device, rounds: int) -> None:
    """Forward and backward of one loss, compiled and plain in turns: 256 embeddings, D = 128, a queue of 8,192."""
    print("forward + backward of a loss alone, 256 embeddings, D = 128, queues of 8,192")
    views = torch.randn(5, 256, 128, device=device, requires_grad=True)
    key, weak, queue = (torch.randn(n, 128, device=device) for n in (256, 256, 8192))
    losses: dict[str, Callable[[], torch.Tensor]] = {
        "CACR, 5 views": lambda: cacr(views, t_pos=1.0, t_neg=2.0),
        "InfoNCE": lambda: info_nce_queue(views[0], key, queue, 0.2),
        "Potential Samples": lambda: potential_samples(views[0], key, queue),
        "ReCo, global term": lambda: reco_global(views[0], weak, queue, 0.1, 0.04),
    }
    for name, loss in losses.items():
        compiled = torch.compile(loss)
        assert torch.allclose(loss(), compiled(), rtol=1e-4), f"{name} compiled is another loss"
        plain_best, compiled_best = interleaved(
            device,
            rounds,
            lambda loss=loss: loss().backward(),
            lambda loss=compiled: loss().backward(),
            clock=busy(device),
        )
        print(f"  {name:18} plain {1e3 * plain_best:7.2f} ms, compiled {1e3 * compiled_best:7.2f} ms, "
              f"ratio {plain_best / compiled_best:.2f}")  # fmt: skip


def interleaved(
    device: torch.device, rounds: int, *functions: Callable[[], object], clock: Callable[[], float] | None = None
) -> list[float]:
    """Best seconds of each function, called in turns; by the wall, if no other clock is given."""
    clock = clock or (lambda: now(device))
    best = [float("inf")] * len(functions)
    for _ in range(rounds):
        for i, function in enumerate(functions):
            since = clock()
            function()
            best[i] = min(best[i], clock() - since)
    return best


def busy(device: torch.device) -> Callable[[], float]:
    """A clock that other processes disturb less: on a CPU that of the time computed."""
    return time.process_time if device.type == "cpu" else lambda: now(device)


def now(device: torch.device) -> float:
    """Seconds, after everything asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def against_plain(recipe: Recipe, device: torch.device, steps: int) -> None:
    """Forward and backward as they are, with the networks compiled, and with `compile: true`, in turns; best of each.

    Where each network is passed once, `compile: true` makes one region of networks and loss; else it is the networks.
    On a CPU in CPU time, which other processes disturb less; the first step, which compiles with nothing cached, by the
    wall, for compilers are other processes.
    """
    kinds = ("plain", "networks", "compile: true")
    batch = made_batch(recipe, device)

    def step_of(kind: str) -> Callable[[], None]:
        return forward_and_backward(recipe, device, batch, kind)

    compiling_seconds(device, step_of("networks"))  # with it what a process pays once
    first = {kind: compiling_seconds(device, step_of(kind)) for kind in kinds}
    functions = [step_of(kind) for kind in kinds]
    for function in functions:
        function()
    best = dict(zip(kinds, interleaved(device, steps, *functions, clock=busy(device)), strict=True))
    print(described(recipe))
    for kind, seconds in best.items():
        print(f"  {kind:14} {1e3 * seconds:8.1f} ms, {best['plain'] / seconds:.2f} times as fast, "
              f"first step {first[kind]:.1f} s")  # fmt: skip


def against_fp32(recipe: Recipe, device: torch.device, steps: int) -> None:
    """Forward and backward with compiled networks in fp32 and in bf16, in turns; best of each, on a CPU in CPU time."""
    batch = made_batch(recipe, device)
    in_precision = {p: recipe.model_copy(update={"precision": p}) for p in ("fp32", "bf16")}
    functions = [forward_and_backward(each, device, batch, "networks") for each in in_precision.values()]
    best = dict(zip(in_precision, interleaved(device, steps, *functions, clock=busy(device)), strict=True))
    views = len(batch.views) * recipe.schedule.batch_size
    print(described(recipe))
    for precision, seconds in best.items():
        print(f"  {precision} {1e3 * seconds:8.1f} ms, {views / seconds:6.0f} views/s")
    print(f"  bf16 is {best['fp32'] / best['bf16']:.2f} times as fast as fp32")


def described(recipe: Recipe) -> str:
    batch = f"batch {recipe.schedule.batch_size} x {len(recipe.view_policies())} views"
    return f"{recipe.name}, {recipe.backbone.name}, {batch}"


def made_batch(recipe: Recipe, device: torch.device) -> Batch:
    """One batch of noise as the recipe would see it, with labels of ten classes."""
    batch_size, side = recipe.schedule.batch_size, recipe.data.size
    pixels = torch.randint(0, 256, (batch_size, side, side, 3), dtype=torch.uint8, device=device)
    samples = torch.arange(batch_size, device=device)
    return Batch(render_views(pixels, samples, recipe, epoch=0), samples % 10, progress=0.5)


def forward_and_backward(recipe: Recipe, device: torch.device, batch: Batch, kind: str) -> Callable[[], None]:
    """One step of a new method without the optimiser; `kind` says what of it is compiled, as in `against_plain`."""
    method = build_method(recipe, classes=10).to(device, memory_format=torch.channels_last)
    if kind == "networks":
        compile_networks(method)
    call = compile_step(method, method) if kind == "compile: true" else method

    def step() -> None:
        with autocast(device, recipe.precision):
            call(batch).backward()
        method.zero_grad(set_to_none=True)

    return step


def compiling_seconds(device: torch.device, step: Callable[[], None]) -> float:
    """Of a step that finds nothing compiled, in this process or on the disk."""
    with tempfile.TemporaryDirectory() as empty, patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=empty):
        since = now(device)
        step()
        seconds = now(device) - since
    torch.compiler.reset()
    return seconds


def step_shares(recipe: Recipe, device: torch.device, steps: int) -> None:
    """Medians over steps of the three parts of a step."""
    batch_size = recipe.schedule.batch_size
    method = build_method(recipe, classes=10).to(device, memory_format=torch.channels_last)
    optimizer = create_optimizer(method, recipe)
    side = recipe.data.size
    pixels = torch.randint(0, 256, (batch_size, side, side, 3), dtype=torch.uint8, device=device)
    samples = torch.arange(batch_size, device=device)
    parts: dict[str, list[float]] = {"views": [], "forward and backward": [], "optimiser": []}
    for step in range(steps + 3):
        t0 = now(device)
        batch = Batch(render_views(pixels, samples, recipe, epoch=step), samples % 10, step=step)
        t1 = now(device)
        with autocast(device, recipe.precision):
            method(batch).backward()
        t2 = now(device)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        t3 = now(device)
        if step >= 3:  # the first steps warm up
            for part, seconds in zip(parts, (t1 - t0, t2 - t1, t3 - t2), strict=True):
                parts[part].append(seconds)
    medians = {part: sorted(times)[len(times) // 2] for part, times in parts.items()}
    total = sum(medians.values())
    views = len(recipe.view_policies())
    print(
        f"{recipe.name}, {recipe.backbone.architecture}, batch {batch_size} x {views} views, {recipe.views[0].size} px"
    )
    for part, seconds in medians.items():
        print(f"  {part:21} {1e3 * seconds:8.1f} ms  {seconds / total:6.1%}")
    print(f"  {batch_size / total:,.0f} images/s; share that is not forward and backward: "
          f"{1 - medians['forward and backward'] / total:.1%}")  # fmt: skip


if __name__ == "__main__":
    main()
