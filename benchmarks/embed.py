"""How fast `clzoo embed` is, beside what bounds it and beside the loop that timm's users write.

    python benchmarks/embed.py --images DIR --model resnet50

Measures on this machine, with the same network, pictures and preprocessing (images per second, higher is better):

    embed     clzoo.embed_folder from files to the finished store: listing, decoding, model, fsync, manifest
    model     the network alone on tensors that are ready, all cores: the faster of "every layer over all cores"
              (torch's own way) and "a batch on each core" (ours); on a GPU there is one way
    decode    reading, decoding, resizing and cropping alone, all cores, no network
    timm      a plain loop: timm's transform, an image data set, DataLoader with 2 workers, torch.inference_mode,
              features kept in a list; nothing is stored

The bound is 1 / (1 / model + 1 / decode): what a machine reaches whose cores do one after the other without a pause.
The targets are embed >= 0.9 of the bound, and embed >= timm. Everything runs once per round, the rounds are
interleaved, and the figures compared are the best of each (other load on the machine only ever makes a round slower);
the median is printed beside it. An architecture of timm gets random weights: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform
from torch.utils.data import DataLoader, Dataset

import clzoo
from clzoo.backbones import create_backbone
from clzoo.config import ModelConfig
from clzoo.data.parallel import usable_cores
from clzoo.data.sources import Listing, list_images
from clzoo.embed.stream import default_batch_size
from clzoo.encoder import Encoder

TIMM_BATCH, TIMM_WORKERS = 32, 2


def main() -> None:
    arguments = parse()
    logging.getLogger("clzoo").setLevel(logging.ERROR)
    encoder, weights = load(arguments.model, arguments.device)
    with tempfile.TemporaryDirectory(prefix="clzoo-benchmark-") as temporary:
        source = repeat(list_images(arguments.images), Path(temporary, "images"), arguments.count)
        listing = list_images(source)
        print(
            f"{arguments.model} ({weights}), {len(listing.items)} images, {encoder.device}, "
            f"{usable_cores()} cores, torch {torch.__version__}, timm {timm.__version__}, "
            f"clzoo batch {default_batch_size(encoder)}, timm batch {TIMM_BATCH}, {arguments.rounds} rounds"
        )
        ways = {
            "embed": lambda number: clzoo.embed_folder(
                source, encoder, Path(temporary, f"store-{number}"), progress=False
            ),
            **model_ways(encoder, listing),
            "decode": lambda number: decode(encoder, listing),
            "timm": timm_loop(encoder, listing),
        }
        report(measure(ways, len(listing.items), arguments.rounds))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, type=Path, metavar="DIR", help="pictures; repeated up to --count")
    parser.add_argument("--model", default="resnet50", help="a timm architecture (random weights) or a zoo name")
    parser.add_argument("--count", default=240, type=int, help="images a round (default 240)")
    parser.add_argument("--rounds", default=5, type=int, help="(default 5)")
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def load(model: str, device: str) -> tuple[Encoder, str]:
    """The encoder, and what its weights are."""
    if not timm.is_model(model):
        return clzoo.load(model, device=device), "its own weights"
    network = timm.create_model(model, pretrained=False, num_classes=0)
    config = ModelConfig(
        name=model,
        architecture=model,
        num_features=network.num_features,
        method="random",
        backbone=model,
        data="none",
        global_pool="token" if model.startswith("vit") else "avg",
    )
    return Encoder.untrained(config, device), "random weights"


def repeat(listing: Listing, folder: Path, count: int) -> Path:
    """A folder of `count` links to the listed pictures."""
    folder.mkdir()
    for number in range(count):
        picture = Path(listing.items[number % len(listing.items)].file)
        (folder / f"{number:06d}{picture.suffix}").symlink_to(picture.resolve())
    return folder


def decode(encoder: Encoder, listing: Listing) -> list[np.ndarray]:
    """Every image to the network's pixels, on all cores."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(lambda item: encoder.pixels(item.read()), listing.items))


def model_ways(encoder: Encoder, listing: Listing) -> dict[str, Callable[[int], object]]:
    """The network alone, on a batch of real pixels again and again."""
    size = default_batch_size(encoder)
    ready = torch.from_numpy(np.stack(decode(encoder, Listing(listing.root, listing.items[:size]))))
    batches = [ready[: min(size, len(listing.items) - start)] for start in range(0, len(listing.items), size)]

    def in_turn(number: int) -> None:
        for batch in batches:
            encoder.encode(batch).cpu()

    def side_by_side(number: int) -> None:
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(usable_cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(encoder.encode, batches))
        torch.set_num_threads(threads)

    if encoder.device.type != "cpu":
        return {"model": in_turn}
    return {"model, layers over cores": in_turn, "model, a batch per core": side_by_side}


class Pictures(Dataset[torch.Tensor]):
    """What timm's users write."""

    def __init__(self, paths: list[str], transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[position]).convert("RGB"))


def timm_loop(encoder: Encoder, listing: Listing) -> Callable[[int], object]:
    """The plain loop, over the same network (in timm's own memory format)."""
    config, p = encoder.config, encoder.config.preprocessing
    network = create_backbone(
        config.architecture,
        model_args=config.model_args,
        global_pool=config.global_pool,
        stem_stride=config.stem_stride,
    )
    network = network.eval().to(encoder.device)
    transform = create_transform(
        (3, p.size, p.size), crop_pct=p.crop_pct, interpolation=p.interpolation, mean=p.mean, std=p.std
    )
    pictures = Pictures([item.file for item in listing.items], transform)

    def run(number: int) -> torch.Tensor:
        features = []
        with torch.inference_mode():
            for batch in DataLoader(pictures, batch_size=TIMM_BATCH, num_workers=TIMM_WORKERS):
                features.append(network(batch.to(encoder.device)).cpu())
        return torch.cat(features)

    return run


def measure(ways: dict[str, Callable[[int], object]], images: int, rounds: int) -> dict[str, list[float]]:
    """Images per second of every way in every round."""
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way(number)
            speeds[name].append(images / (time.perf_counter() - started))
    return speeds


def report(speeds: dict[str, list[float]]) -> None:
    best = {name: max(values) for name, values in speeds.items()}
    model = max(value for name, value in best.items() if name.startswith("model"))
    bound = 1 / (1 / model + 1 / best["decode"])
    print(f"{'img/s':26s}{'best':>9s}{'median':>9s}")
    for name, values in speeds.items():
        print(f"{name:26s}{best[name]:9.1f}{statistics.median(values):9.1f}")
    print(f"{'bound':26s}{bound:9.1f}")
    for name, ratio, target in (
        ("embed / bound", best["embed"] / bound, 0.9),
        ("embed / timm", best["embed"] / best["timm"], 1.0),
    ):
        print(f"{name:26s}{ratio:9.2f}   target {target}: {'reached' if ratio >= target else 'MISSED'}")


if __name__ == "__main__":
    main()
