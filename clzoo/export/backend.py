"""ONNX Runtime in the place of torch: an Encoder whose network is its own exported graph."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import threading
from pathlib import Path
from typing import Any

import torch
from torch import nn

import clzoo
from clzoo import cache
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.graphs.provenance import FEATURE, PIXELS
from clzoo.graphs.session import open_session

log = logging.getLogger("clzoo")

BACKENDS = ("torch", "onnx", "auto")


def with_backend(encoder: Encoder, backend: str, *, cache_dir: str | Path | None = None) -> Encoder:
    """The encoder on a backend; with "torch" itself.

    "auto" measures nothing. Its rule: "onnx" for ResNets on a CPU where ONNX Runtime and the packages that export are
    installed, as it is the faster one there (docs/performance.md); else "torch", as ViTs gain nothing, and a GPU is
    better used by torch. There the embedding pipeline compiles the network for long jobs (`clzoo.embed.gpu`).

    On "onnx" the graph is exported at the first use, compared with torch, and kept in the cache under a hash of the
    weights. It gives pooled features of float32 arithmetic; patches need torch.

    Raises:
        ClzooError: an unknown backend, missing packages, or what `clzoo.export.export_onnx` raises.
    """
    if backend not in BACKENDS:
        raise ClzooError(f"backend must be torch, onnx or auto, found {backend!r}.")
    if backend == "auto":
        backend = "onnx" if gains_by_onnx(encoder) else "torch"
        log.info("backend: %s (chosen by backend='auto')", backend)
    if backend == "torch" or isinstance(encoder.module, OnnxNetwork):
        return encoder
    if encoder.device.type not in ("cpu", "cuda"):
        raise ClzooError(f"backend onnx runs on cpu and cuda, the encoder is on {encoder.device}. Ask for torch.")
    path = graph_path(encoder, cache_dir)
    if not path.is_file():
        log.info("exporting %s to ONNX, once: %s", encoder.config.name, path)
        encoder.export(path)
    network = OnnxNetwork(path, encoder.device.type, encoder.weights_sha256)
    return Encoder(network, encoder.config, encoder.device)


class OnnxNetwork(nn.Module):
    """An exported graph as a network: normalised pixels (B, 3, size, size) -> features (B, dim), on the same device.

    A session uses as many threads as torch would in the calling thread: all in `Encoder.embed`, one in each worker of
    the embedding pipeline, whose batches run side by side.

    Attributes:
        weights_sha256: of the weights in the graph; the module has no tensors.
    """

    only_dtype = "fp32"  # what it computes in; see Encoder.compute_dtype

    def __init__(self, path: Path, device: str, weights_sha256: str) -> None:
        super().__init__()
        self.path, self.kind, self.weights_sha256 = path, device, weights_sha256
        self._sessions: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._session(torch.get_num_threads())  # what cannot be opened is refused here

    def __getstate__(self) -> dict[str, Any]:
        """A copy, also in another process, opens the file anew: sessions and locks cannot be copied."""
        return {name: value for name, value in vars(self).items() if name not in ("_sessions", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_sessions": {}, "_lock": threading.Lock()})

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        session = self._session(torch.get_num_threads())
        array = pixels.float().cpu().contiguous().numpy()
        (features,) = session.run([FEATURE], {PIXELS: array})
        return torch.from_numpy(features).to(pixels.device)

    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Not in the graph."""
        raise ClzooError("backend onnx gives pooled features only. For patches type: clzoo.load(NAME, backend='torch')")

    def _session(self, threads: int) -> Any:
        with self._lock:
            if threads not in self._sessions:
                self._sessions[threads], _ = open_session(self.path, self.kind, threads=threads)
            return self._sessions[threads]


def graph_path(encoder: Encoder, cache_dir: str | Path | None = None) -> Path:
    """Where the cache holds, or would hold, the graph of a network."""
    return cache.root(cache_dir) / cache.GRAPHS / f"{_key(encoder)}.onnx"


def gains_by_onnx(encoder: Encoder) -> bool:
    """Whether ONNX Runtime can run a network here, and is the faster one in fp32: ResNets on a CPU."""
    is_resnet = "resnet" in encoder.config.architecture
    installed = all(importlib.util.find_spec(name) for name in ("onnxruntime", "onnx", "onnxscript"))
    return is_resnet and installed and encoder.device.type == "cpu"


def _key(encoder: Encoder) -> str:
    """Of everything that the graph depends on."""
    c = encoder.config
    parts = [encoder.weights_sha256, c.network, c.preprocessing.size, torch.__version__, clzoo.__version__]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
