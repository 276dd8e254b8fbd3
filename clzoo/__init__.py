"""clzoo: a zoo of contrastively pretrained image encoders.

    >>> import clzoo
    >>> encoder = clzoo.load("cacr-resnet50-in1k")
    >>> vectors = encoder.embed(["a.jpg", "b.jpg"])  # (2, 2048), L2-normalised

Public names are imported on first use, so that `import clzoo` costs milliseconds and no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clzoo.errors import ClzooError
from clzoo.notices import show_notices

if TYPE_CHECKING:
    from clzoo import lite
    from clzoo.adaptation import Adaptation, Distillation, adapt, distil
    from clzoo.curation import classify, find_duplicates, find_label_errors, find_leaks, find_outliers, select_images
    from clzoo.embed import embed_folder, open_store
    from clzoo.encoder import Encoder
    from clzoo.evaluation import Evaluation, compare, evaluate
    from clzoo.explorer import explore
    from clzoo.images import set_max_pixels
    from clzoo.index import build_index, search
    from clzoo.loading import load
    from clzoo.zoo import list_models, push

__version__ = "0.1.0"

show_notices()

_HOME = {
    "Encoder": "clzoo.encoder",
    "load": "clzoo.loading",
    "list_models": "clzoo.zoo",
    "push": "clzoo.zoo",
    "embed_folder": "clzoo.embed",
    "open_store": "clzoo.embed",
    "build_index": "clzoo.index",
    "search": "clzoo.index",
    "Evaluation": "clzoo.evaluation",
    "evaluate": "clzoo.evaluation",
    "compare": "clzoo.evaluation",
    "Adaptation": "clzoo.adaptation",
    "adapt": "clzoo.adaptation",
    "Distillation": "clzoo.adaptation",
    "distil": "clzoo.adaptation",
    "set_max_pixels": "clzoo.images",
    "find_duplicates": "clzoo.curation",
    "find_label_errors": "clzoo.curation",
    "find_leaks": "clzoo.curation",
    "find_outliers": "clzoo.curation",
    "select_images": "clzoo.curation",
    "classify": "clzoo.curation",
    "explore": "clzoo.explorer",
}

# Modules that may be named after `import clzoo` alone.
_ROOMS = ("curation", "embed", "evaluation", "export", "images", "index", "lite", "losses", "zoo")

__all__ = [
    "Adaptation",
    "ClzooError",
    "Distillation",
    "Encoder",
    "Evaluation",
    "__version__",
    "adapt",
    "build_index",
    "classify",
    "compare",
    "distil",
    "embed_folder",
    "evaluate",
    "explore",
    "find_duplicates",
    "find_label_errors",
    "find_leaks",
    "find_outliers",
    "list_models",
    "lite",
    "load",
    "open_store",
    "push",
    "search",
    "select_images",
    "set_max_pixels",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"clzoo.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'clzoo' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_ROOMS})
