"""How fast `clzoo embed` is, beside what bounds it and beside what one would write instead.

    pip install lightly                                          # optional: without it that row says "not installed"
    python benchmarks/embed.py --images photographs.tar          # a .tar or a folder of pictures

For each network, with the same pictures and the same preprocessing, in one run (images per second, higher is better):

    clzoo torch, onnx    clzoo.embed_folder from files to the finished store: listing, decoding, model, fsync, manifest
    clzoo default        the same with what `clzoo embed` takes where nothing is asked for (clzoo/embed/compute.py):
                         bf16 where the CPU computes in it, else ONNX Runtime for ResNets; the rows above are fp32
    model torch, onnx    the network alone on tensors that are ready, all cores: the faster of "every layer over all
                         cores" and "a batch on each core"; on a GPU there is one way, and torch alone
    decode               reading, decoding, resizing and cropping alone, all cores
    timm                 a plain loop as timm's users write it: timm's transform, an image data set, DataLoader with
                         a worker a core, eager, inference_mode, features kept in a list
    lightly              the embed loop of lightly itself over its own data set and a DataLoader with a worker a core
    PIL loop             what sentence-transformers does with pictures: open and transform them one after the other in
                         the main process, a batch of 32 at a time

The ceiling of cores that are shared is 1 / (1 / model + 1 / decode); on a GPU it is min(model, decode). Targets on a
CPU: each backend >= 0.95 of its ceiling, the default >= 2 times timm on ResNets, >= 1 on ViTs; on a GPU >= 0.9 of the
ceiling. Rounds are interleaved, and the figures compared are the best of each (other
load only ever makes a round slower); the median is printed beside it. Weights are random, which costs the same.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import io
import logging
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform
from torch.utils.data import DataLoader, Dataset

import clzoo
from clzoo.config import ModelConfig
from clzoo.data.listing import Listing
from clzoo.data.parallel import usable_cores
from clzoo.data.sources import list_images
from clzoo.embed.compute import Compute, choose
from clzoo.embed.stream import default_batch_size
from clzoo.encoder import Encoder
from clzoo.export.backend import with_backend

MODELS = ("resnet18", "resnet50", "vit_small_patch16_224")
BATCH = 32  # of the rivals
WORKERS = usable_cores()  # of their DataLoaders

Way = Callable[[int], object]


def main() -> None:
    arguments = parse()
    logging.getLogger("clzoo").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="clzoo-benchmark-") as temporary:
        os.environ["XDG_CACHE_HOME"] = str(Path(temporary, "cache"))  # the exported graphs
        pictures = list_images(unpacked(arguments.images, Path(temporary, "unpacked")))
        listing = list_images(repeat(pictures, Path(temporary, "images"), arguments.count))
        print(f"{len(listing.items)} images, {arguments.rounds} rounds, {usable_cores()} cores, {versions()}")
        for name in arguments.models:
            encoder = untrained(name, arguments.device)
            speeds = measure(ways(encoder, listing, Path(temporary, name)), len(listing.items), arguments.rounds)
            print(f"\n{name}, {encoder.device}, clzoo batch {default_batch_size(encoder)}, the others' {BATCH}, fp32")
            report(speeds, encoder)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, type=Path, help="a folder or a .tar; repeated up to --count")
    parser.add_argument("--models", default=MODELS, nargs="+", metavar="ARCHITECTURE", help="names of timm")
    parser.add_argument("--count", default=240, type=int, help="images a round (default 240)")
    parser.add_argument("--rounds", default=3, type=int, help="(default 3)")
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def versions() -> str:
    packages = ("torch", "timm", "onnxruntime", "lightly")
    found = (f"{name} {importlib.metadata.version(name)}" for name in packages if importlib.util.find_spec(name))
    return ", ".join(found)


def unpacked(images: Path, folder: Path) -> Path:
    if images.is_dir():
        return images
    with tarfile.open(images) as archive:
        archive.extractall(folder, filter="data")
    return folder


def repeat(listing: Listing, folder: Path, count: int) -> Path:
    """A folder of `count` links to the listed pictures, in a class folder as lightly wants it."""
    (folder / "all").mkdir(parents=True)
    for number in range(count):
        picture = Path(listing.items[number % len(listing.items)].file)
        (folder / "all" / f"{number:06d}{picture.suffix.lower()}").symlink_to(picture.resolve())
    return folder


def untrained(name: str, device: str) -> Encoder:
    network = timm.create_model(name, num_classes=0)
    config = ModelConfig(
        name=f"random-{name}-none",
        architecture=name,
        num_features=network.num_features,
        method="random",
        backbone=name,
        data="none",
        global_pool="token" if name.startswith("vit") else "avg",
    )
    return Encoder.untrained(config, device)


# The ways ---------------------------------------------------------------------------------------------------------


def ways(encoder: Encoder, listing: Listing, folder: Path) -> dict[str, Way]:
    """Everything that is measured, by the name of its row."""
    backends = {"torch": encoder}
    if encoder.device.type == "cpu":
        backends["onnx"] = with_backend(encoder, "onnx")
    found: dict[str, Way] = {}
    for backend, engine in backends.items():
        found[f"clzoo {backend}"] = embed(engine, listing, folder / backend)
        found |= {f"model {backend}{how}": way for how, way in model_alone(engine, listing).items()}
    chosen = default_of(encoder)
    found["clzoo default"] = embed(backends[chosen.backend], listing, folder / "default", chosen.dtype)
    files = [item.file for item in listing.items]
    return {
        **found,
        "decode": lambda number: decode(encoder, listing),
        "timm": timm_loop(encoder, files),
        **({"lightly": lightly_loop(encoder, listing.root)} if importlib.util.find_spec("lightly") else {}),
        "PIL loop": pil_loop(encoder, files),
    }


def default_of(encoder: Encoder) -> Compute:
    """What a large new store is computed by where nothing is asked for."""
    return choose(encoder, "auto", "auto", images=100_000, manifest=None)


def embed(encoder: Encoder, listing: Listing, folder: Path, dtype: str = "auto") -> Way:
    return lambda number: clzoo.embed_folder(listing.root, encoder, folder / str(number), dtype=dtype, progress=False)


def decode(encoder: Encoder, listing: Listing) -> list[np.ndarray]:
    """Every image to the network's pixels, on all cores."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(lambda item: encoder.pixels(item.read()), listing.items))


def model_alone(encoder: Encoder, listing: Listing) -> dict[str, Way]:
    """The network on a batch of real pixels again and again."""
    size = default_batch_size(encoder)
    ready = torch.from_numpy(np.stack(decode(encoder, Listing(listing.root, listing.items[:size]))))
    batches = [ready[: min(size, len(listing.items) - start)] for start in range(0, len(listing.items), size)]

    def layers_over_cores(number: int) -> None:
        for batch in batches:
            encoder.encode(batch).cpu()

    def batch_per_core(number: int) -> None:
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(usable_cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(encoder.encode, batches))
        torch.set_num_threads(threads)

    if encoder.device.type != "cpu":
        return {"": layers_over_cores}
    return {", layers over cores": layers_over_cores, ", a batch per core": batch_per_core}


def eager(encoder: Encoder) -> torch.nn.Module:
    """The same network as timm makes it: its own memory format, nothing prepared."""
    config = encoder.config
    network = timm.create_model(config.architecture, num_classes=0, global_pool=config.global_pool)
    return network.eval().to(encoder.device)


def transform_of(encoder: Encoder) -> Callable[[Image.Image], torch.Tensor]:
    p = encoder.config.preprocessing
    return create_transform(
        (3, p.size, p.size), crop_pct=p.crop_pct, interpolation=p.interpolation, mean=p.mean, std=p.std
    )


class Pictures(Dataset[torch.Tensor]):
    """What timm's users write."""

    def __init__(self, files: Sequence[str], transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, position: int) -> torch.Tensor:
        return self.transform(Image.open(self.files[position]).convert("RGB"))


def timm_loop(encoder: Encoder, files: Sequence[str]) -> Way:
    network, pictures = eager(encoder), Pictures(files, transform_of(encoder))

    def run(number: int) -> torch.Tensor:
        features = []
        with torch.inference_mode():
            for batch in DataLoader(pictures, batch_size=BATCH, num_workers=WORKERS):
                features.append(network(batch.to(encoder.device)).cpu())
        return torch.cat(features)

    return run


def lightly_loop(encoder: Encoder, folder: str | Path) -> Way:
    from lightly.data import LightlyDataset
    from lightly.embedding import SelfSupervisedEmbedding

    network = eager(encoder)
    model: Any = SimpleNamespace(backbone=network, eval=network.eval)  # all that its `embed` asks of a model

    def run(number: int) -> object:
        pictures = LightlyDataset(input_dir=str(folder), transform=transform_of(encoder))
        loader: Any = DataLoader(pictures, batch_size=BATCH, num_workers=WORKERS)
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            return SelfSupervisedEmbedding(model, None, None, loader).embed(loader, encoder.device)  # type: ignore[arg-type]

    return run


def pil_loop(encoder: Encoder, files: Sequence[str]) -> Way:
    network, transform = eager(encoder), transform_of(encoder)

    def run(number: int) -> torch.Tensor:
        features = []
        with torch.inference_mode():
            for start in range(0, len(files), BATCH):
                images = [Image.open(file).convert("RGB") for file in files[start : start + BATCH]]
                batch = torch.stack([transform(image) for image in images])
                features.append(network(batch.to(encoder.device)).cpu())
        return torch.cat(features)

    return run


# The figures ------------------------------------------------------------------------------------------------------


def measure(ways: dict[str, Way], images: int, rounds: int) -> dict[str, list[float]]:
    """Images per second of every way in every round."""
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way(number)
            speeds[name].append(images / (time.perf_counter() - started))
    return speeds


def report(speeds: dict[str, list[float]], encoder: Encoder) -> None:
    on_cpu = encoder.device.type == "cpu"
    best = {name: max(values) for name, values in speeds.items()}
    print(f"{'img/s':36s}{'best':>9s}{'median':>9s}")
    for name, values in speeds.items():
        print(f"{name:36s}{best[name]:9.1f}{statistics.median(values):9.1f}")
    if "lightly" not in speeds:
        print(f"{'lightly':36s}  not installed")
    for backend in ("torch", "onnx"):
        if f"clzoo {backend}" in speeds:
            model = max(value for name, value in best.items() if name.startswith(f"model {backend}"))
            ceiling = 1 / (1 / model + 1 / best["decode"]) if on_cpu else min(model, best["decode"])
            judge(f"clzoo {backend} / its ceiling", best[f"clzoo {backend}"] / ceiling, 0.95 if on_cpu else 0.9)
    ours, chosen = best["clzoo default"], default_of(encoder)
    target = None if not on_cpu else 2.0 if "resnet" in encoder.config.architecture else 1.0
    judge(f"clzoo default ({chosen}) / timm", ours / best["timm"], target)
    for rival in ("lightly", "PIL loop"):
        if rival in best:
            judge(f"clzoo default / {rival}", ours / best[rival], None)


def judge(name: str, ratio: float, target: float | None) -> None:
    verdict = "" if target is None else f"   target {target}: {'reached' if ratio >= target else 'MISSED'}"
    print(f"{name:36s}{ratio:9.2f}{verdict}")


if __name__ == "__main__":
    main()
