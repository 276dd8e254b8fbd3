"""ONNX Runtime's execution providers beside its CPU provider: the network alone, images/s, and how far the vectors lie.

    python benchmarks/providers.py                                          # every provider that is installed here
    python benchmarks/providers.py --models resnet50 vit_small_patch16_224 --rounds 7

A provider comes with its package: pip install onnxruntime-openvino (or -gpu) in an environment of its own, as they
overwrite each other's files. Weights are random, which changes neither speed nor agreement. Rounds are interleaved, the
best of each counts. A provider that is promised and does not start is an error, as everywhere.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from clzoo.backbones import feature_width, network_of
from clzoo.config import ModelConfig, Preprocessing
from clzoo.encoder import Encoder
from clzoo.graphs.provenance import EMBEDDING, PIXELS
from clzoo.graphs.session import _PROVIDERS, open_session
from clzoo.hardware import describe_hardware


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet50", "vit_small_patch16_224"], metavar="NAME")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    available = onnxruntime.get_available_providers()
    devices = [name for name, provider in _PROVIDERS.items() if provider.name in available]
    print(f"{describe_hardware()}, {arguments.threads} threads, onnxruntime {onnxruntime.__version__}")
    print(f"providers here: {', '.join(devices)}; batch {arguments.batch}\n")
    with tempfile.TemporaryDirectory() as place:
        for name in arguments.models:
            compare(exported(name, Path(place)), name, devices, arguments)


def exported(architecture: str, folder: Path) -> Path:
    """The graph of a timm network with random weights."""
    torch.manual_seed(0)
    pool = "token" if architecture.startswith("vit") else "avg"
    config = ModelConfig(
        name=architecture, architecture=architecture, num_features=1, method="none", backbone=architecture,
        data="none", global_pool=pool, preprocessing=Preprocessing(),
    )  # fmt: skip
    with torch.device("meta"):
        width = feature_width(network_of(config), config.preprocessing.size)
    config = replace(config, num_features=width)
    Encoder.untrained(config).export(folder / f"{architecture}.onnx")
    return folder / f"{architecture}.onnx"


def compare(graph: Path, name: str, devices: list[str], arguments: argparse.Namespace) -> None:
    """Best images/s of each device, and the vectors' distance from those of the CPU provider."""
    pixels = np.random.default_rng(0).standard_normal((arguments.batch, 3, 224, 224), np.float32)
    sessions = {device: open_session(graph, device, threads=arguments.threads)[0] for device in devices}
    vectors = {device: session.run([EMBEDDING], {PIXELS: pixels})[0] for device, session in sessions.items()}
    best = dict.fromkeys(devices, float("inf"))
    for _ in range(arguments.rounds):
        for device, session in sessions.items():
            since = time.perf_counter()
            session.run([EMBEDDING], {PIXELS: pixels})
            best[device] = min(best[device], time.perf_counter() - since)
    for device in devices:
        difference = np.abs(vectors[device] - vectors["cpu"]).max()
        print(f"{name:24} {device:9} {arguments.batch / best[device]:8.1f} images/s, "
              f"{best['cpu'] / best[device]:.2f} of cpu; largest difference {difference:.1e}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
