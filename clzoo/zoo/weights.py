"""Tensors into a network, strictly: every tensor accounted for, every shape equal, or an error that names them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from clzoo.backbones import network_of, require_feature, skeleton_of, unfilled_network_of
from clzoo.config import ModelConfig
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError

Shapes = dict[str, tuple[int, ...]]

_SHOWN = 6  # names in an error message


def read_safetensors(path: Path, *, next_step: str) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, memory-mapped.

    Raises:
        ClzooError: the file is missing, truncated or of another format; `next_step` is what to type then.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ClzooError(f"{path} does not exist. {next_step}") from None
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size if path.is_file() else 0
        raise ClzooError(
            f"{path} ({size:,} bytes) is not a whole safetensors file, it was truncated or damaged: {error}. "
            f"{next_step}"
        ) from error


def skeleton(config: ModelConfig, where: str) -> nn.Module:
    """`clzoo.backbones.skeleton_of`, whose errors name `where`."""
    with _named(where):
        return skeleton_of(config)


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> Shapes:
    """Names and shapes, e.g. of a state dict."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def require_equal(found: Shapes, expected: Shapes, *, where: str, architecture: str, next_step: str) -> None:
    """Compare names and shapes.

    Raises:
        ClzooError: naming missing tensors, unexpected ones and those of another shape.
    """
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    reshaped = [
        f"{name} {list(found[name])} (expected {list(shape)})"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    faults = [
        f"{len(names)} {kind}: {some(names)}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if names
    ]
    if faults:
        raise ClzooError(
            f"{where} does not hold exactly the {len(expected)} tensors of {architecture}; {'; '.join(faults)}. "
            f"{next_step}"
        )


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def build_encoder(
    config: ModelConfig, tensors: Mapping[str, torch.Tensor], device: torch.device, *, where: str, next_step: str
) -> Encoder:
    """An Encoder that holds copies of `tensors`, as float32 parameters.

    Raises:
        ClzooError: names or shapes differ from the architecture's, or the network's feature from the config's.
    """
    with _named(where):
        module = unfilled_network_of(config)
    require_equal(
        shapes_of(tensors),
        shapes_of(module.state_dict()),
        where=where,
        architecture=config.architecture,
        next_step=next_step,
    )
    module.load_state_dict(dict(tensors))  # strict; copies, so that the file may change afterwards
    encoder = Encoder(module, config, device)
    with _named(where):
        require_feature(encoder.module, config)
    return encoder


def network(config: ModelConfig, where: str) -> nn.Module:
    """`clzoo.backbones.network_of`, whose errors name `where`."""
    with _named(where):
        return network_of(config)


@contextmanager
def _named(where: str) -> Iterator[None]:
    try:
        yield
    except ClzooError as error:
        raise ClzooError(f"{where}: {error}") from error
