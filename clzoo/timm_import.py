"""timm, imported without the compiler of torch: `from clzoo.timm_import import timm`.

`import timm` brings torchvision and the definitions of all models, and two places among those import `torch._dynamo`,
with sympy, triton and parts of torch.distributed: 2.5 to 3 s of CPU, as much as torch itself, for what only
`torch.compile` needs. While timm is imported the module stands deferred in `sys.modules`: the two names that are asked
for come later, when they are called, and any other name brings the real module at once. Afterwards nothing is left of
it, and nothing that timm or torchvision do is changed.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

__all__ = ["timm"]

_COMPILER, _UTILS = "torch._dynamo", "torch._dynamo.utils"


class _Deferred(ModuleType):
    """Stands for a module: knows some of its names, and imports it for all others."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and not (name == "__path__" and self.__name__ == _COMPILER):
            raise AttributeError(name)
        _withdraw()
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def _compiler_deferred() -> Iterator[None]:
    if _COMPILER in sys.modules or not hasattr(torch, "_disable_dynamo"):
        yield
        return
    compiler, utils = _Deferred(_COMPILER), _Deferred(_UTILS)
    vars(compiler).update(disable=_disable, utils=utils)
    vars(utils).update(is_compile_supported=_is_compile_supported)
    sys.modules.update({_COMPILER: compiler, _UTILS: utils})
    try:
        yield
    finally:
        _withdraw()


def _withdraw() -> None:
    for name in (_COMPILER, _UTILS):
        if isinstance(sys.modules.get(name), _Deferred):
            del sys.modules[name]


def _disable(fn: Callable[..., Any] | None = None, recursive: bool = True, **others: Any) -> Any:
    """`torch._dynamo.disable`; of plain functions in the form that torch uses itself, which acts at the first call."""
    if inspect.isfunction(fn):
        return torch._disable_dynamo(fn, recursive)
    _withdraw()
    return importlib.import_module(_COMPILER).disable(fn, recursive, **others)


def _is_compile_supported(device_type: Any) -> Any:
    return importlib.import_module(_UTILS).is_compile_supported(device_type)


with _compiler_deferred():
    import timm
