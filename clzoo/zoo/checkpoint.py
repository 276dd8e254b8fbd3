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
from clzoo.wording import first_line
from clzoo.zoo.weights import read_safetensors

_CONTAINERS = ("state_dict", "model", "model_state_dict", "module", "net")
_EMA = ("state_dict_ema", "model_ema", "ema", "ema_state_dict", "ema_model", "model_ema_state_dict", "params_ema")
"""Under which files keep the moving average of their weights: as an entry, or as the first part of tensors' names."""
_ASK = "Ask for a plain state dict or a .safetensors file in its place."


@dataclass(frozen=True)
class Checkpoint:
    """The state dict of a file, and the names of what lies beside it."""

    tensors: dict[str, torch.Tensor]
    others: tuple[str, ...]  # top-level entries that are no state dict: "epoch", "optimizer", ...
    choice: str = ""  # which weights were taken, in words, of a file that holds a moving average (EMA) of them too


def read_checkpoint(path: Path, *, ema: bool = False) -> Checkpoint:
    """Open a `.safetensors` file, or a file of `torch.save` with weights_only (memory-mapped where it is a zip).

    Args:
        ema: take the moving average of the weights, where the file holds one beside them.

    Raises:
        ClzooError: missing, truncated, damaged, a pickle that wants code, no state dict in it, or no moving average.
    """
    if not path.is_file():
        raise ClzooError(f"{path} does not exist or is a folder; expected a checkpoint file.")
    if path.suffix == ".safetensors":
        return _by_names(read_safetensors(path, next_step="Fetch or copy it again."), (), path, ema)
    content = _unpickle(path)
    if not isinstance(content, dict):
        raise ClzooError(f"{path} holds a {type(content).__name__}; expected a state dict (a dict of tensors). {_ASK}")
    plain = next((name for name in _CONTAINERS if isinstance(content.get(name), dict)), None)
    average = next((name for name in _EMA if isinstance(content.get(name), dict)), None)
    found = {name: content[name] for name in (plain, average) if name is not None} or {"": content}
    taken = average if average is not None and (ema or plain is None) else next(iter(found))
    tensors, beside = _tensors_in(found[taken])
    if not tensors:
        raise ClzooError(
            f"{path} holds no tensors at its top level or under {', '.join(_CONTAINERS)}; found the entries "
            f"{', '.join(map(str, content)) or '(none)'}. {_ASK}"
        )
    others = (*beside, *(str(name) for name in content if taken and name != taken))
    if average is None:
        return _by_names(tensors, others, path, ema)
    return Checkpoint(tensors, others, _said(taken == average, average, alone=plain is None))


def _tensors_in(state: dict[Any, Any]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors of a state dict, which may lie in a further container, and the names of what is none."""
    inner = next((name for name in _CONTAINERS if isinstance(state.get(name), dict)), None)
    if inner is not None:
        tensors, beside = _tensors_in(state[inner])
        return tensors, [*beside, *(str(name) for name in state if name != inner)]
    tensors = {name: value for name, value in state.items() if isinstance(name, str) and torch.is_tensor(value)}
    return tensors, [str(name) for name in state if name not in tensors]


def _by_names(tensors: dict[str, torch.Tensor], others: tuple[str, ...], path: Path, ema: bool) -> Checkpoint:
    """The moving average or the rest, of a state dict that holds both under names such as "model_ema.conv1.weight"."""
    first = {name: bare_name(name).partition(".")[0] for name in tensors}
    average = {name: tensor for name, tensor in tensors.items() if first[name] in _EMA}
    if not average:
        if ema:
            raise ClzooError(
                f"{path} holds no moving average of its weights: no entry and no prefix {', '.join(_EMA)}. "
                "Leave out --ema; or name where it lies: --prefix PREFIX"
            )
        return Checkpoint(tensors, others)
    word = first[next(iter(average))]
    rest = {name: tensor for name, tensor in tensors.items() if name not in average}
    if ema or not rest:
        inside = {bare_name(name).partition(".")[2]: tensor for name, tensor in average.items()}
        return Checkpoint(inside, (*others, *({"the weights themselves"} if rest else ())), _said(True, word, not rest))
    return Checkpoint(rest, (*others, f"{word} ({len(average)} tensors)"), _said(False, word, alone=False))


def _said(is_average: bool, where: str, alone: bool) -> str:
    if is_average:
        return f"the moving average (EMA) under {where!r}" + (", the only ones in the file" if alone else "")
    return f"those of the training itself; the file holds their moving average too, under {where!r}: --ema takes it"


WRAPPERS = ("_orig_mod", "module", "model", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Names that are no part of an architecture: of torch.compile, DataParallel, Lightning, FSDP and checkpointing."""

INNER_WRAPPERS = tuple(name for name in WRAPPERS if name.startswith("_"))
"""Those that no architecture calls a layer: they are looked through wherever they stand."""


def bare_name(name: str) -> str:
    """The name of a tensor without the wrappers in front, in any nesting."""
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in WRAPPERS:
        del parts[0]
    return ".".join(parts)


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
        if "TorchScript" in str(error):
            raise ClzooError(
                f"{path} is a TorchScript archive, which holds a program; nothing in it was run. If you trust its "
                f"author, take its weights out: torch.save(torch.jit.load({str(path)!r}, 'cpu').state_dict(), "
                "'weights.pth')"
            ) from error
        raise ClzooError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be read, it was truncated or damaged: "
            f"{first_line(error)}. Fetch or copy it again."
        ) from error
