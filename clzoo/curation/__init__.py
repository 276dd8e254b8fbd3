"""Jobs that people have with a collection of images, done on its store: each file is one job, or a part of several.

Nothing here changes or deletes an image or a store. Names are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clzoo.curation.duplicates import Duplicates, find_duplicates
    from clzoo.curation.few_shot import Classified, Classifier, classify
    from clzoo.curation.labels import LabelErrors, find_label_errors
    from clzoo.curation.leaks import Leaks, find_leaks
    from clzoo.curation.naming import classify_images
    from clzoo.curation.outliers import Outliers, find_outliers
    from clzoo.curation.selection import Selection, select_images

_HOME = {
    "Duplicates": "clzoo.curation.duplicates",
    "find_duplicates": "clzoo.curation.duplicates",
    "Leaks": "clzoo.curation.leaks",
    "find_leaks": "clzoo.curation.leaks",
    "LabelErrors": "clzoo.curation.labels",
    "find_label_errors": "clzoo.curation.labels",
    "Outliers": "clzoo.curation.outliers",
    "find_outliers": "clzoo.curation.outliers",
    "Selection": "clzoo.curation.selection",
    "select_images": "clzoo.curation.selection",
    "Classified": "clzoo.curation.few_shot",
    "Classifier": "clzoo.curation.few_shot",
    "classify": "clzoo.curation.few_shot",
    "classify_images": "clzoo.curation.naming",
}

__all__ = [
    "Classified",
    "Classifier",
    "Duplicates",
    "LabelErrors",
    "Leaks",
    "Outliers",
    "Selection",
    "classify",
    "classify_images",
    "find_duplicates",
    "find_label_errors",
    "find_leaks",
    "find_outliers",
    "select_images",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'clzoo.curation' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
