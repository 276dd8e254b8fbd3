"""A device that is not there: tensors that say they are on CUDA and compute on the CPU.

What a first run on a GPU usually stumbles over shows without one: an operation that mixes tensors of two devices raises
as it would there, and every place where the host waits for the device is counted. Code that asks for `device.type`
takes its CUDA road. Not pretended are autocast (products stay in float32), streams, limits of kernels, and waits of
torch inside of kernels other than those listed here.

The rules are torch's: a 0-dimensional tensor in host memory may enter arithmetic with a device's tensors. A copy to the
device waits, unless it is asked not to and its source is pinned; one from the device waits, unless it is asked not to
and its goal is pinned. An index in host memory is copied first; a mask as an index has to be counted first.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import no_grad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import clzoo

DEVICE = torch.device("cuda", 0)

_PACKAGE = Path(clzoo.__file__).parent

_INSIDE = torch.device("meta")  # what the wrappers are to torch's C++ part, and what it asks for when it makes tensors

# Their result has a size, or is a number, that only the device knows.
_READS = {
    "aten::_local_scalar_dense",  # item(), float(), int(), bool()
    "aten::equal",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
    "aten::histc",
    "aten::repeat_interleave",
    "aten::_linalg_svd",
    "aten::_linalg_eigh",
    "aten::_linalg_check_errors",
    "aten::linalg_lstsq",
    "aten::linalg_eig",
}
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}
_CUDA = {
    "is_available": True,
    "device_count": 1,
    "get_device_name": "a pretended device",
    "mem_get_info": (1 << 30, 1 << 30),
    "is_bf16_supported": True,
    "is_current_stream_capturing": False,
}
_COPIES = {"aten::_to_copy", "aten::copy_"}


class OnDevice(torch.Tensor):
    """A tensor of the pretended device around the one in host memory that holds its values."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnDevice:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=_INSIDE,
        )

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func}: a tensor of the pretended device is used outside of `pretended_device()`")

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)  # a checkpoint that is loaded into host memory

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"


def values_of(tensor: torch.Tensor) -> torch.Tensor:
    """The values in host memory, for assertions; not counted."""
    return tensor.held if isinstance(tensor, OnDevice) else tensor


class Pretence:
    """What has been waited for so far, and where: "aten::nonzero at clzoo/losses/x.py:12"."""

    def __init__(self) -> None:
        self.device = DEVICE
        self.waits: list[str] = []
        self.depth = (
            0  # of calls on tensors of the device: what torch then makes on "meta" is its own, and on the device
        )
        self._pinned: dict[int, torch.Tensor] = {}  # by storage; held, so that none is taken for another

    def wait(self, what: str) -> None:
        """Count it, with the innermost of our own lines."""
        own = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(_PACKAGE)]
        place = "a test"
        if own:
            file = Path(own[-1].filename).relative_to(_PACKAGE.parent).as_posix()
            place = f"{file}:{own[-1].lineno} in {own[-1].name}"
        self.waits.append(f"{what} at {place}")

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        self._pinned[tensor.untyped_storage()._cdata] = tensor
        return tensor

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._pinned

    def to_device(self, source: torch.Tensor, non_blocking: bool) -> None:
        if not (non_blocking and self.is_pinned(source)):
            self.wait("a copy to the device")


@contextmanager
def pretended_device() -> Iterator[Pretence]:
    """Inside, `cuda:0` is there; yields what counts the waits."""
    pretence = Pretence()
    with ExitStack() as stack:
        for name, value in _CUDA.items():
            stack.enter_context(patch.object(torch.cuda, name, lambda *_, value=value, **__: value))
        # Inference mode does not know wrappers; what it leaves out beside gradients is no matter here.
        stack.enter_context(patch.object(torch._C, "_InferenceMode", lambda mode: no_grad() if mode else nullcontext()))
        for name in (
            "_accelerator_graph_capture_health_check",
            "_cuda_graph_capture_health_check",
        ):  # the newer, the older
            if hasattr(torch.optim.Optimizer, name):
                stack.enter_context(patch.object(torch.optim.Optimizer, name, lambda _: None))
        stack.enter_context(_Dispatch(pretence))
        stack.enter_context(_Functions(pretence))
        yield pretence


class _Dispatch(TorchDispatchMode):
    """Unwraps, checks and counts each operation."""

    def __init__(self, pretence: Pretence) -> None:
        super().__init__()
        self.pretence = pretence

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func.name().partition(".")[0]
        tensors = list(_tensors(args, kwargs.values()))
        there = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
        is_there = bool(there)
        asked = kwargs.get("device")
        if not there and (asked is None or asked != _INSIDE or not self.pretence.depth):
            return func(*args, **kwargs)
        if asked is not None:
            is_there = asked in (_INSIDE, DEVICE)
            kwargs["device"] = torch.device("cpu")
        if name in _COPIES:
            is_there = self._copy(name, args, kwargs, is_there)
        elif there:
            self._check(name, args, tensors)
        held = {key: _mapped(_held, value) for key, value in kwargs.items() if key != "pin_memory"}
        result = func(*(_mapped(_held, value) for value in args), **held)
        by_held = {id(tensor.held): tensor for tensor in there}

        def wrapped(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor) or not is_there:
                return leaf
            own = by_held.get(id(leaf))  # an operation in place gives its own argument back
            return OnDevice(leaf) if own is None else own

        return _mapped(wrapped, result)

    def _copy(self, name: str, args: Any, kwargs: Any, is_there: bool) -> bool:
        """Count a copy between the devices; whether its result is on the device."""
        if name == "aten::copy_":
            goal, source = args[:2]
            non_blocking = bool(kwargs.get("non_blocking", args[2] if len(args) > 2 else False))
            if isinstance(source, OnDevice) and not isinstance(goal, OnDevice):
                if not (non_blocking and self.pretence.is_pinned(goal)):
                    self.pretence.wait("a copy from the device")
            elif isinstance(goal, OnDevice) and not isinstance(source, OnDevice):
                self.pretence.to_device(source, non_blocking)
            return isinstance(goal, OnDevice)
        source = args[0]
        if isinstance(source, OnDevice) and not is_there:
            self.pretence.wait("a copy from the device")
        elif is_there and not isinstance(source, OnDevice):
            self.pretence.to_device(source, bool(kwargs.get("non_blocking")))
        return is_there

    def _check(self, name: str, args: Any, tensors: list[torch.Tensor]) -> None:
        """Refuse what mixes the devices, and count what waits."""
        if name in _INDEXING:
            target, indices = args[0], [index for index in args[1] if index is not None]
            if not isinstance(target, OnDevice):
                raise RuntimeError(f"{name}: indices are on the device, what they index is not")
            for index in indices:
                if not isinstance(index, OnDevice):
                    self.pretence.wait("an index copied to the device")
                is_fill = name != "aten::index" and len(indices) == 1 and args[2].numel() == 1
                if index.dtype in (torch.bool, torch.uint8) and not is_fill:
                    self.pretence.wait("a mask as an index")
            tensors = [tensor for tensor in tensors if all(tensor is not index for index in indices)]
        mixed = [tensor for tensor in tensors if not isinstance(tensor, OnDevice)]
        if any(tensor.dim() > 0 for tensor in mixed):
            kinds = ", ".join(f"{'device' if isinstance(t, OnDevice) else 'host'} {tuple(t.shape)}" for t in tensors)
            raise RuntimeError(f"{name}: tensors on the device and in host memory are mixed: {kinds}")
        if mixed and name in ("aten::where", "aten::index_put_", "aten::index_put"):
            self.pretence.wait("a number copied to the device")
        if name in _READS:
            self.pretence.wait(name)


class _Functions(TorchFunctionMode):
    """What is asked for in Python with `device=` or `.to`, before torch looks for the real device."""

    def __init__(self, pretence: Pretence) -> None:
        super().__init__()
        self.pretence = pretence

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.pin_memory:
            return self.pretence.pin(args[0].clone())
        if func is torch.Tensor.is_pinned:
            return self.pretence.is_pinned(args[0])
        if func is torch.Tensor.numpy and isinstance(args[0], OnDevice):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        if func is torch.Tensor.tolist and isinstance(args[0], OnDevice):
            return args[0].cpu().tolist()
        if func is torch.Tensor.cuda:
            func, args = torch.Tensor.to, (args[0], DEVICE)
        if func is torch.Tensor.to:
            return self._to(args, kwargs)
        if any(isinstance(tensor, OnDevice) for tensor in _tensors(args, kwargs.values())):
            if _is_pretended(kwargs.get("device")):
                kwargs["device"] = _INSIDE
            self.pretence.depth += 1
            try:
                return func(*args, **kwargs)
            finally:
                self.pretence.depth -= 1
        if not _is_pretended(kwargs.get("device")):
            is_pinned = kwargs.pop("pin_memory", False)
            result = func(*args, **kwargs)
            return self.pretence.pin(result) if is_pinned else result
        if func in (torch.tensor, torch.as_tensor, torch.asarray):
            source = func(*args, **{**kwargs, "device": "cpu"})
            self.pretence.to_device(source, non_blocking=False)
            return OnDevice(source.clone())
        return OnDevice(func(*args, **{**kwargs, "device": "cpu"}))

    def _to(self, args: Any, kwargs: Any) -> torch.Tensor:
        source, *rest = args
        is_device = [isinstance(value, torch.device | str) for value in rest]
        asked = next((value for value, is_it in zip(rest, is_device, strict=True) if is_it), kwargs.get("device"))
        if isinstance(source, OnDevice):
            swap = _INSIDE if _is_pretended(asked) else asked
        elif _is_pretended(asked):
            non_blocking = kwargs.get("non_blocking", any(value is True for value in rest[1:2] + rest[2:3]))
            self.pretence.to_device(source, bool(non_blocking))
            swap = torch.device("cpu")
        else:
            return torch.Tensor.to(*args, **kwargs)
        rest = [swap if is_it else value for value, is_it in zip(rest, is_device, strict=True)]
        if "device" in kwargs:
            kwargs["device"] = swap
        result = torch.Tensor.to(source, *rest, **kwargs)
        if isinstance(source, OnDevice):
            return result
        return OnDevice(result.detach().clone(memory_format=torch.preserve_format)).requires_grad_(result.requires_grad)


def _tensors(*values: Any) -> Iterator[torch.Tensor]:
    """Those of a call, also in lists; plain loops, which cost a tenth of torch's own trees."""
    for group in values:
        for value in group:
            if isinstance(value, torch.Tensor):
                yield value
            elif isinstance(value, list | tuple):
                yield from _tensors(value)


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)([_mapped(function, inner) for inner in value])
    return function(value)


def _held(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, OnDevice) else leaf


def _is_pretended(device: Any) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type
