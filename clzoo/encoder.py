"""Encoder: what a user holds. From images to vectors."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from clzoo.backbones import network_of, skeleton_of
from clzoo.config import ModelConfig
from clzoo.data.images import as_rgb
from clzoo.device import has_native_bf16, resolve_device
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.proof import PROBE_LENGTH, probe_image, weights_sha256
from clzoo.transform import normalize, resize_and_crop

if TYPE_CHECKING:
    from clzoo.export import Exported

log = logging.getLogger("clzoo")

ImageLike = str | Path | bytes | Image.Image | np.ndarray | torch.Tensor
"""A path, encoded bytes, a PIL image, a uint8 (H, W, 3) array, or a float tensor (3, H, W) in [0, 1]."""

Features = Literal["pooled", "patch"]

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Encoder:
    """A pretrained backbone with its preprocessing: images in, features out. `clzoo.load` makes one.

    Attributes:
        module: the timm network without classifier, in eval mode.
        config: the model's `config.json`.
        device: where the module lives.
    """

    def __init__(self, module: torch.nn.Module, config: ModelConfig, device: str | torch.device = "cpu") -> None:
        self.config = config
        self.device = resolve_device(device)
        # channels_last is 1.2 to 1.4 times faster for ResNets and costs ViTs nothing (docs/performance.md).
        self.module = module.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def untrained(cls, config: ModelConfig, device: str | torch.device = "cpu") -> Encoder:
        """The config's architecture with random weights: the start of training, and the control of a measurement.

        Raises:
            ClzooError: timm cannot build it, or another input size or feature length than the config says.
        """
        skeleton_of(config)  # refuses a config that does not fit the architecture
        return cls(network_of(config), config, device)

    def __repr__(self) -> str:
        return f"Encoder({self.config.name!r}, dim={self.dim}, device={str(self.device)!r})"

    @property
    def dim(self) -> int:
        """Length of one pooled feature."""
        return self.config.num_features

    @cached_property
    def weights_sha256(self) -> str:
        """Canonical hash of the module's tensors (clzoo.proof), computed once: which weights these really are."""
        return weights_sha256(self.module.state_dict())

    def probe(self) -> list[float]:
        """First 16 values of the unnormalised feature of the probe image: with the hash, the proof of weights."""
        vector = self.embed(probe_image(), normalize=False)
        return [float(value) for value in vector[:PROBE_LENGTH]]

    def transform(self, image: ImageLike) -> torch.Tensor:
        """One image -> the network's normalised input, float32 (3, H, W)."""
        pixels = torch.from_numpy(self.pixels(image).copy())
        return normalize(pixels[None], self.config.preprocessing)[0]

    def pixels(self, image: ImageLike) -> np.ndarray:
        """One image -> the resized and cropped pixels, uint8 (H, W, 3), before normalisation.

        Raises:
            UnreadableImageError: the reason, without the path.
            ClzooError: an array or tensor of another shape, type or range.
        """
        return resize_and_crop(_as_pil(image), self.config.preprocessing)

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor, *, features: Features = "pooled", dtype: str = "auto") -> torch.Tensor:
        """A batch of `pixels` through the network.

        Args:
            pixels: uint8 (B, H, W, 3), on any device.
            features: "pooled" for (B, dim); "patch" for the map (B, C, h, w) of a ResNet, or the patch tokens
                (B, N, C) of a ViT without its class token.
            dtype: "fp32", or an autocast type: "fp16" (CUDA only), "bf16" (CUDA, and CPUs that compute in it); "auto"
                is bf16 on CUDA, else fp32.

        Returns:
            float32 features on the encoder's device, not normalised.

        Raises:
            ClzooError: the network's feature is not `dim` long.
        """
        autocast = _AUTOCAST[self.compute_dtype(dtype)]
        self.module.eval()  # a user may have called .train() on the module
        inputs = normalize(pixels.to(self.device, non_blocking=True), self.config.preprocessing)
        with torch.autocast(self.device.type, dtype=autocast, enabled=autocast is not None):
            if features == "pooled":
                return self._checked(self.module(inputs)).float()
            if features == "patch":
                maps = self.module.forward_features(inputs)
                return (
                    maps[:, getattr(self.module, "num_prefix_tokens", 0) :].float() if maps.ndim == 3 else maps.float()
                )
        raise ClzooError(f"features must be 'pooled' or 'patch', found {features!r}.")

    def _checked(self, vectors: torch.Tensor) -> torch.Tensor:
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise ClzooError(
                f"the network of {self.config.name} gives {list(vectors.shape[1:])} values for an image, its config "
                f"says num_features {self.dim}. Give the Encoder the config of the network that it holds."
            )
        return vectors

    def compute_dtype(self, dtype: str = "auto") -> str:
        """The type that `encode(dtype=...)` computes in: "fp32", "bf16" or "fp16".

        Raises:
            ClzooError: an unknown type, or one that this device only emulates.
        """
        only = getattr(self.module, "only_dtype", None)  # of an exported graph
        if only is not None and dtype in _AUTOCAST and dtype != only:
            raise ClzooError(f"dtype {dtype}: this exported graph computes in {only}. Ask for --backend torch.")
        if only is not None and dtype == "auto":
            return str(only)
        if dtype == "auto":
            return "bf16" if self.device.type == "cuda" else "fp32"
        if dtype not in _AUTOCAST:
            raise ClzooError(f"dtype must be auto, fp32, bf16 or fp16, found {dtype!r}.")
        if self.device.type == "cpu" and dtype != "fp32" and not (dtype == "bf16" and has_native_bf16()):
            raise ClzooError(f"dtype {dtype} is emulated by this CPU, unusably slowly. Ask for --dtype fp32.")
        return dtype

    def embed(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        batch_size: int = 64,
        normalize: bool = True,
        features: Features = "pooled",
        as_tensor: bool = False,
    ) -> Any:
        """Embed one image or many.

        Args:
            images: one image, or a sequence of them (a uint8 (N, H, W, 3) array and a float (N, 3, H, W) tensor count
                as sequences).
            normalize: divide each vector by its L2 norm.
            features: see `encode`.
            as_tensor: return a tensor on the encoder's device instead of a numpy array.

        Returns:
            float32 (dim,) for one image, (N, dim) for N; with features="patch" the shapes of `encode`.

        Raises:
            ClzooError: an image that cannot be read, named.
        """
        single = _is_single(images)
        batch: Sequence[ImageLike] = [images] if single else images  # type: ignore[list-item,assignment]
        if len(batch) == 0:
            raise ClzooError("embed() was given no images; expected one image or a non-empty sequence.")
        chunks = []
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:  # Pillow decodes outside the interpreter's lock
            for part in _batched(pool.map(self._pixels_or_named_error, batch, range(len(batch))), batch_size):
                chunks.append(self.encode(torch.from_numpy(np.stack(part)), features=features))
        # A clone made outside inference mode is an ordinary tensor, usable in autograd.
        vectors = torch.cat(chunks).clone()
        if normalize:
            vectors = F.normalize(vectors, dim=1 if features == "pooled" or vectors.ndim == 4 else -1)
        vectors = vectors[0] if single else vectors
        return vectors if as_tensor else vectors.cpu().numpy()

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `folder` as a hub entry (config.json, model.safetensors, card); `clzoo.load(folder)` reads it."""
        from clzoo.zoo.saving import save_entry

        return save_entry(self, Path(folder))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Save to a temporary folder and push it in one commit; options as in `clzoo.push`. Returns its URL."""
        from clzoo.zoo.pushing import push_encoder

        return push_encoder(self, repo_id, **options)

    def export(self, out: str | Path, **options: Any) -> Exported:
        """Write an ONNX file and log how near it is to torch; options as in `clzoo.export.export_onnx`."""
        from clzoo.export import export_onnx

        exported = export_onnx(self, out, **options)
        for line in exported.lines():
            log.info("%s", line)
        return exported

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> Encoder:
        """The same as `clzoo.load`."""
        from clzoo.zoo import load

        return load(name_or_path, **options)

    def _pixels_or_named_error(self, image: ImageLike, position: int) -> np.ndarray:
        try:
            return self.pixels(image)
        except UnreadableImageError as error:
            name = str(image) if isinstance(image, str | Path) else f"image {position} of the call"
            raise ClzooError(f"{name} cannot be decoded: {error}.") from error


def _is_single(images: Any) -> bool:
    if isinstance(images, np.ndarray | torch.Tensor):
        return images.ndim == 3
    return isinstance(images, str | Path | bytes | Image.Image)


def _as_pil(image: ImageLike) -> Image.Image:
    return _tensor_to_pil(image) if isinstance(image, torch.Tensor) else as_rgb(image)


def _tensor_to_pil(image: torch.Tensor) -> Image.Image:
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
        raise ClzooError(f"a tensor must be float (3, H, W) in [0, 1], found {image.dtype} {tuple(image.shape)}.")
    low, high = image.min().item(), image.max().item()
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise ClzooError(
            f"a tensor's values must lie in [0, 1], found [{low:.3g}, {high:.3g}]: divide by 255, and do not "
            "normalise it yourself (the encoder does)."
        )
    # Rounded to 8 bits, so that every kind of input takes the same road through Pillow's antialiased resize.
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def _batched(items: Iterator[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    while part := list(islice(items, size)):
        yield part
