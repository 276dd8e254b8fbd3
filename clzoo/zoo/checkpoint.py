"""Opening other people's checkpoint files. Nothing in them is ever executed."""

from __future__ import annotations

import pickle
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clzoo.errors import ClzooError
from clzoo.zoo.weights import read_safetensors

_CONTAINERS = ("state_dict", "model")
_ASK = "Ask for a plain state dict or a .safetensors file in its place."


@dataclass(frozen=True)
class Checkpoint:
    """The state dict of a file, and the names of what lies beside it."""

    tensors: dict[str, torch.Tensor]
    others: tuple[str, ...]  # top-level entries that are no state dict: "epoch", "optimizer", ...


def read_checkpoint(path: Path) -> Checkpoint:
    """Open a `.safetensors` file, or a file of `torch.save` with weights_only (memory-mapped where it is a zip).

    Raises:
        ClzooError: missing, truncated, damaged, a pickle that wants code, or no state dict in it.
    """
    if not path.is_file():
        raise ClzooError(f"{path} does not exist or is a folder; expected a checkpoint file.")
    if path.suffix == ".safetensors":
        return Checkpoint(read_safetensors(path, next_step="Fetch or copy it again."), ())
    content = _unpickle(path)
    if not isinstance(content, dict):
        raise ClzooError(f"{path} holds a {type(content).__name__}; expected a state dict (a dict of tensors). {_ASK}")
    inner = next((name for name in _CONTAINERS if isinstance(content.get(name), dict)), None)
    state = content if inner is None else content[inner]
    tensors = {name: value for name, value in state.items() if isinstance(name, str) and torch.is_tensor(value)}
    if not tensors:
        raise ClzooError(
            f"{path} holds no tensors at its top level or under {' or '.join(_CONTAINERS)}; found the entries "
            f"{', '.join(map(str, content)) or '(none)'}. {_ASK}"
        )
    others = [str(name) for name in state if name not in tensors]
    if inner is not None:
        others += [str(name) for name in content if name != inner]
    return Checkpoint(tensors, tuple(others))


def _unpickle(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(2)
    is_zip = start == b"PK"  # what torch.save writes since 1.6; older files cannot be memory-mapped
    if start and not is_zip and start[:1] != b"\x80":  # \x80 opens every pickle since protocol 2
        raise ClzooError(f"{path} is not a checkpoint: neither a file of torch.save nor safetensors. {_ASK}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice about pickle protocols, to developers of torch
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        what = f"wants to run code ({wanted[1]})" if wanted else "holds more than tensors and plain values"
        raise ClzooError(f"{path} is a pickle that {what}, or is damaged. Nothing in it was run. {_ASK}") from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError) as error:
        raise ClzooError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be read, it was truncated or damaged: "
            f"{str(error).splitlines()[0] if str(error) else 'unexpected end'}. Fetch or copy it again."
        ) from error
