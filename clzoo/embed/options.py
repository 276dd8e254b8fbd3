"""How a source is embedded: what `clzoo embed`, `embed_folder` and its processes hand on to each other."""

from __future__ import annotations

from dataclasses import dataclass

from clzoo.embed.manifest import STORE_DTYPES
from clzoo.errors import ClzooError

ENGINES = ("local", "ray")
DECODERS = ("cpu", "gpu")


@dataclass(frozen=True)
class EmbedOptions:
    """What each one means: `clzoo.embed_folder`, whose keywords these are, with the same defaults.

    Raises:
        ClzooError: a value that is none of an option's, or two options that exclude each other.
    """

    device: str = "auto"
    size: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    dtype: str = "auto"
    store_dtype: str = "fp16"
    normalize: bool = True
    labels: bool | None = None
    engine: str = "local"
    backend: str = "auto"
    decode: str = "cpu"
    progress: bool = True

    def __post_init__(self) -> None:
        if self.store_dtype not in STORE_DTYPES:
            raise ClzooError(f"store_dtype must be fp16 or fp32, found {self.store_dtype!r}.")
        for name, value in (("batch_size", self.batch_size), ("workers", self.workers)):
            if value is not None and value < 1:
                raise ClzooError(f"{name} must be at least 1, found {value}.")
        if self.engine not in ENGINES:
            raise ClzooError(f"engine must be one of {', '.join(ENGINES)}, found {self.engine!r}.")
        if self.decode not in DECODERS:
            raise ClzooError(f"decode must be one of {', '.join(DECODERS)}, found {self.decode!r}.")
        if self.decode == "gpu" and self.engine == "ray":
            raise ClzooError("decode 'gpu' is for --engine local. Leave out one of them.")
