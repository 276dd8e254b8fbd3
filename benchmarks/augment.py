"""Two random views of a batch: ours beside lightly's transforms on a CPU, beside a chain of kornia's on a GPU.

    python benchmarks/augment.py

Prints images per second (two views each) and ratios of the best of several interleaved rounds. On a CPU everything
runs on one thread, and the time of that thread counts: per core, whatever else the machine does. Both sides start from
decoded 8-bit images and do the same operations with the same probabilities. At 224 px ours is what the loader does on a
CPU: crop and flip by Pillow per image, the rest batched. lightly and kornia are optional (pip install lightly kornia);
what is missing is printed as "not measured". Figures with their hardware: docs/performance.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from clzoo.augment import ViewPolicy, crop_on_host, finish_view, make_view
from clzoo.hardware import describe_hardware

# SimCLR's chains as lightly's SimCLRTransform has them: cj_strength 0.5 and no blur at 32 px, its defaults at 224 px.
SMALL = ViewPolicy(
    size=32, crop_scale=(0.08, 1.0), jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grayscale=0.2
)
LARGE = ViewPolicy(
    size=224, crop_scale=(0.08, 1.0), jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, grayscale=0.2,
    blur=0.5,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    like_a_training_process()
    print(f"CPU: {describe_hardware()}, torch {torch.__version__}, one thread, two views of each image")
    against_lightly("32 px", 32, pictures(256, 32), rounds, small_views, {"cj_strength": 0.5, "gaussian_blur": 0.0})
    against_lightly("224 px from 500 x 375", 224, pictures(16, 375, 500), rounds, large_views, {})
    print()
    if torch.cuda.is_available():
        print(f"GPU: {describe_hardware('cuda')}, 256 images of 256 px to two views of 224 px each")
        against_kornia(5 * rounds)
    else:
        print("GPU: not measured: no CUDA device")


def like_a_training_process() -> None:
    """Free one large buffer: from then on glibc keeps freed memory at hand instead of giving it back to the system.

    Freed activations do the same in training. In a fresh process page faults would take up to half of the time of ours.
    """
    torch.ones(31 << 20, dtype=torch.uint8)


def pictures(count: int, height: int, width: int | None = None) -> np.ndarray:
    """Smooth random images, uint8 (count, height, width, 3)."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(coarse, size=(height, width or height), mode="bicubic").clamp(0, 1)
    return (fine * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def small_views(images: np.ndarray, epoch: int) -> list[torch.Tensor]:
    pixels, samples = torch.from_numpy(images), torch.arange(len(images))
    return [make_view(pixels, SMALL, seed=0, epoch=epoch, samples=samples, view=view) for view in range(2)]


def large_views(images: np.ndarray, epoch: int) -> list[torch.Tensor]:
    opened = [Image.fromarray(image) for image in images]
    samples = torch.arange(len(images))
    views = []
    for view in range(2):
        crops = np.stack(
            [crop_on_host(image, LARGE, seed=0, epoch=epoch, sample=i, view=view) for i, image in enumerate(opened)]
        )
        views.append(finish_view(torch.from_numpy(crops), LARGE, seed=0, epoch=epoch, samples=samples, view=view))
    return views


def against_lightly(
    title: str,
    size: int,
    images: np.ndarray,
    rounds: int,
    ours: Callable[[np.ndarray, int], list[torch.Tensor]],
    options: dict[str, float],
) -> None:
    if importlib.util.find_spec("lightly") is None:
        seconds = interleaved(rounds, time.thread_time, lambda epoch: ours(images, epoch))[0]
        print(f"  {title}: ours {len(images) / seconds:,.0f} images/s; lightly not measured: pip install lightly")
        return
    from lightly.transforms import SimCLRTransform

    theirs = SimCLRTransform(input_size=size, normalize=None, **options)  # ours is timed without, too
    opened = [Image.fromarray(image) for image in images]
    our_best, their_best = interleaved(
        rounds, time.thread_time, lambda epoch: ours(images, epoch), lambda _: [theirs(image) for image in opened]
    )
    count = len(images)
    print(
        f"  {title}: ours {count / our_best:,.0f} images/s, lightly {count / their_best:,.0f} images/s, "
        f"ratio {their_best / our_best:.1f}"
    )


def against_kornia(rounds: int) -> None:
    pixels = torch.from_numpy(pictures(256, 256)).cuda()
    samples = torch.arange(256)

    def ours(epoch: int) -> object:
        return [make_view(pixels, LARGE, seed=0, epoch=epoch, samples=samples, view=view) for view in range(2)]

    if importlib.util.find_spec("kornia") is None:
        print(f"  ours {1e3 * interleaved(rounds, on_gpu, ours)[0]:.2f} ms; kornia not measured: pip install kornia")
        return
    import kornia.augmentation as augmentation

    jitter = augmentation.ColorJitter(LARGE.brightness, LARGE.contrast, LARGE.saturation, LARGE.hue, p=LARGE.jitter)
    chain = torch.nn.Sequential(
        augmentation.RandomResizedCrop((LARGE.size, LARGE.size), scale=LARGE.crop_scale),
        augmentation.RandomHorizontalFlip(p=LARGE.flip),
        jitter,
        augmentation.RandomGrayscale(p=LARGE.grayscale),
        augmentation.RandomGaussianBlur((23, 23), LARGE.blur_sigma, p=LARGE.blur),
    )

    def theirs(_: int) -> object:
        source = pixels.permute(0, 3, 1, 2).float() / 255
        return [chain(source) for _ in range(2)]

    our_best, their_best = interleaved(rounds, on_gpu, ours, theirs)
    print(f"  ours {1e3 * our_best:.2f} ms, kornia {1e3 * their_best:.2f} ms, ratio {their_best / our_best:.1f}")


def interleaved(rounds: int, clock: Callable[[], float], *functions: Callable[[int], object]) -> list[float]:
    """Best seconds of each function, called in turns, each time with another epoch."""
    best = [float("inf")] * len(functions)
    for epoch in range(rounds + 1):
        for i, function in enumerate(functions):
            since = clock()
            function(epoch)
            if epoch > 0:  # the first call warms up
                best[i] = min(best[i], clock() - since)
    return best


def on_gpu() -> float:
    """Seconds by the wall, after everything asked of the GPU is done."""
    torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
