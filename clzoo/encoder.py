"""Encoder: what a user holds. From images to vectors."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from clzoo.backbones import network_of, skeleton_of
from clzoo.config import ModelConfig
from clzoo.data.given import given_to_embed, require_pixels
from clzoo.device import has_native_bf16, mind_fork, resolve_device
from clzoo.errors import ClzooError
from clzoo.images import as_levels, as_rgb
from clzoo.proof import PROBE_LENGTH, halves_sha256, probe_image, weights_sha256
from clzoo.stages import maps_of, patches_of
from clzoo.transform import normalize, resize_and_crop

if TYPE_CHECKING:
    from clzoo.export import Exported

log = logging.getLogger("clzoo")

ImageLike = str | Path | bytes | BinaryIO | Image.Image | np.ndarray | torch.Tensor
"""A path, encoded bytes, a binary file object, a PIL image, an array (H, W, 3) or a tensor (3, H, W).

Arrays and tensors are uint8, or float with values in [0, 1]."""

Features = str | Sequence[str]
""""pooled", "patch", the name of a stage (clzoo.stages.stage_names), or a list of such names."""

_MODES = threading.Lock()  # changes of training mode, of any encoder

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Encoder:
    """A pretrained backbone with its preprocessing: images in, features out. `clzoo.load` makes one.

    Attributes:
        module: the timm network without classifier, in eval mode.
        config: the model's `config.json`.
        device: where the module lives.
        dtype: what it computes in where a call does not say; see `encode`.
        place: what `clzoo.load` takes to get it again, from any folder; None where it came otherwise.
    """

    def __init__(
        self, module: torch.nn.Module, config: ModelConfig, device: str | torch.device = "cpu", dtype: str = "auto"
    ) -> None:
        self.config = config
        self.place: str | None = None
        self.dtype = dtype
        self.device = resolve_device(device)
        mind_fork(computes=True)
        self._inside = 0  # calls that need eval mode and are under way
        self._training: list[torch.nn.Module] = []  # what was in training mode before them
        self._hashed: tuple[list[Any], str] | None = None  # where the tensors are and how often written; their hash
        # Measured once on a CPU: channels_last is 1.2 to 1.4 times faster for ResNets and costs ViTs nothing.
        self.module = module.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._at_first = self._written()

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

    @property
    def weights_sha256(self) -> str:
        """Canonical hash of the module's tensors (clzoo.proof): which weights these are now.

        Kept until they change, as torch counts it: `parameter.data` written in place goes unnoticed.
        """
        if (known := getattr(self.module, "weights_sha256", None)) is not None:  # of an exported graph
            return str(known)
        state = self._written()
        if self._hashed is None or self._hashed[0] != state:
            self._hashed = (state, weights_sha256(self.module.state_dict()))
        return self._hashed[1]

    @property
    def is_as_loaded(self) -> bool:
        """Whether the weights are those of the config's hash; without one, whether none was written since they came."""
        recorded = self.config.weights_sha256
        if recorded is None:
            return self._written() == self._at_first
        return recorded == self.weights_sha256 or recorded == halves_sha256(self.module.state_dict())

    def _written(self) -> list[Any]:
        """Where the tensors are, and how often torch counts that they were written."""
        return [(t.data_ptr(), None if t.is_inference() else t._version) for t in self.module.state_dict().values()]

    def require_weights(self) -> None:
        """For what needs the tensors themselves.

        Raises:
            ClzooError: the network is an exported graph (backend "onnx").
        """
        if hasattr(self.module, "weights_sha256"):
            raise ClzooError(
                f"{self.config.name} was loaded as an exported graph, whose weights cannot be taken out of it. Load it "
                "as a network: clzoo.load(NAME, backend='torch')"
            )

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

    def encode(self, pixels: torch.Tensor, *, features: str = "pooled", dtype: str = "auto") -> torch.Tensor:
        """A batch of `pixels` through the network.

        Args:
            pixels: uint8 (B, H, W, 3), on any device.
            features: "pooled" for (B, dim); "patch" for the map (B, C, h, w) that a ResNet or Swin pools, or the patch
                tokens (B, N, C) of a ViT without its class token; the name of a stage, such as "layer3", for its map
                (B, C, h, w) (clzoo.stages).
            dtype: "fp32", or an autocast type: "fp16" (CUDA only), "bf16" (CUDA, and CPUs that compute in it); "auto"
                is the encoder's own: if `load` was not told, bf16 on GPUs of CUDA that compute in it, else fp32.

        Returns:
            float32 features on the encoder's device, not normalised.

        Raises:
            ClzooError: other values than uint8 or in another order; the network's feature is not `dim` long, or it has
                no such stage or no patches.
        """
        return self._encode(pixels, [features], dtype)[0]

    @torch.inference_mode()
    def _encode(self, pixels: torch.Tensor, features: Sequence[str], dtype: str) -> list[torch.Tensor]:
        """Each of the features of one forward pass; "pooled" and "patch" come alone."""
        require_pixels(pixels, torch.Tensor)
        mind_fork(computes=True)
        autocast = _AUTOCAST[self.compute_dtype(dtype)]
        inputs = normalize(pixels.to(self.device, non_blocking=True), self.config.preprocessing)
        # A user may have called .train() on the module.
        with self._evaluating(), torch.autocast(self.device.type, dtype=autocast, enabled=autocast is not None):
            if features == ["pooled"]:
                return [self._checked(self.module(inputs)).float()]
            if features == ["patch"]:
                return [patches_of(self.module, inputs).float()]
            return [stage.float() for stage in maps_of(self.module, inputs, features)]

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
        dtype = self.dtype if dtype == "auto" else dtype
        only = getattr(self.module, "only_dtype", None)  # of an exported graph
        if only is not None and dtype in _AUTOCAST and dtype != only:
            raise ClzooError(f"dtype {dtype}: this exported graph computes in {only}. Ask for --backend torch.")
        if only is not None and dtype == "auto":
            return str(only)
        if dtype == "auto":
            return "bf16" if self.device.type == "cuda" and has_native_bf16("cuda") else "fp32"
        if dtype not in _AUTOCAST:
            raise ClzooError(f"dtype must be auto, fp32, bf16 or fp16, found {dtype!r}.")
        if self.device.type == "cpu" and dtype != "fp32" and not (dtype == "bf16" and has_native_bf16()):
            raise ClzooError(f"dtype {dtype} is emulated by this CPU, unusably slowly. Ask for --dtype fp32.")
        if self.device.type == "cuda" and dtype == "bf16" and not has_native_bf16("cuda"):
            raise ClzooError("dtype bf16 is emulated by this GPU, unusably slowly. Ask for --dtype fp16 or fp32.")
        return dtype

    def embed(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        batch_size: int = 64,
        normalize: bool = True,
        features: Features = "pooled",
        dtype: str = "auto",
        as_tensor: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
        progress: bool = False,
    ) -> Any:
        """Embed one image or many, decoded in threads, a few batches ahead of the network.

        Args:
            images: one image, or a list or generator of them (an array (N, H, W, 3) and a tensor (N, 3, H, W) count as
                lists).
            normalize: divide each vector by its L2 norm.
            features: see `encode`; or a list of stages, whose maps come of one forward pass.
            dtype: what to compute in; see `encode`.
            as_tensor: return a tensor on the encoder's device instead of a numpy array.
            on_error: "skip" leaves out images that cannot be read, and says which.
            progress: show a bar, on a terminal.

        Returns:
            float32 (dim,) for one image, (N, dim) for N; with other features the shapes of `encode`, normalised at each
            place; of a list of stages a list. With on_error="skip" a pair: the vectors of the others, and a list of
            `Skipped` (position, name, reason).

        Raises:
            ClzooError: an image that cannot be read, named.
        """
        batches, single, skipped = given_to_embed(images, self.pixels, batch_size, on_error=on_error, progress=progress)
        wanted = [features] if isinstance(features, str) else list(features)
        with self._evaluating():
            chunks = [self._encode(torch.from_numpy(batch), wanted, dtype) for batch in batches]
        if not chunks:
            if features != "pooled":
                raise ClzooError(f"none of the {len(skipped or ())} images can be read: {(skipped or [])[0]}.")
            chunks = [[torch.zeros((0, self.dim), device=self.device)]]
        results = []
        for parts in zip(*chunks, strict=True):
            # A clone made outside inference mode is an ordinary tensor, usable in autograd.
            vectors = torch.cat(parts).clone()
            if normalize:
                vectors = F.normalize(
                    vectors, dim=-1 if vectors.ndim == 3 else 1
                )  # tokens (N, T, C), all others (N, C, ...)
            vectors = vectors[0] if single else vectors
            results.append(vectors if as_tensor else vectors.cpu().numpy())
        result = results[0] if isinstance(features, str) else results
        return result if skipped is None else (result, skipped)

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
        from clzoo.loading import load

        return load(name_or_path, **options)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """The module in eval mode; the last of the threads that are inside puts it back as the first has found it."""
        with _MODES:
            if self._inside == 0:
                self._training = [module for module in self.module.modules() if module.training]
                self.module.eval()
            self._inside += 1
        try:
            yield
        finally:
            with _MODES:
                self._inside -= 1
                if self._inside == 0:
                    for module in self._training:
                        module.training = True


def _as_pil(image: ImageLike) -> Image.Image:
    return _tensor_to_pil(image) if isinstance(image, torch.Tensor) else as_rgb(image)


def _tensor_to_pil(image: torch.Tensor) -> Image.Image:
    kind = image.is_floating_point() or image.dtype == torch.uint8
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape or not kind:
        turned = image.ndim == 3 and image.shape[2] == 3
        raise ClzooError(
            "a tensor must be uint8 (3, H, W), or float with values in [0, 1]; found "
            f"{image.dtype} {tuple(image.shape)}."
            + (" Put the channels first: tensor.permute(2, 0, 1)" if turned else "")
        )
    levels = as_levels(image.detach().float()).byte() if image.is_floating_point() else image
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().cpu().numpy())
