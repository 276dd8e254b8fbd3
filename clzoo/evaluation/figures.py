"""The figures of reports. Each function takes numbers and returns a matplotlib Figure; nothing is computed here.

`png` is for files, `svg` for pages: there a figure takes the page's colors, so it follows the dark mode. Figures are
some 5 inches wide, so that their text can be read at the width of a phone.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_NAMES = 60
"""Classes up to which an axis names each of them."""

_FEW_NAMES = 12
"""Classes up to which a heat map is as wide as the other figures."""

_FLOOR = 1e-7
"""Singular values, relative to the largest, below which float32 features tell nothing."""


_COLORS = {  # of matplotlib, and the page's (clzoo/templates/base.css)
    "#000000": "currentColor",
    "#b0b0b0": "var(--line)",
    "#1f77b4": "var(--accent)",
    "#ff7f0e": "var(--second)",
    "#2ca02c": "var(--third)",
    "#d62728": "var(--fourth)",
    "#9467bd": "var(--fifth)",
}


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=150, format="png")
    return buffer.getvalue()


def svg(figure: Figure) -> str:
    """The figure as an `svg` element for a page: as wide as its place, text as text, in the page's colors."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "clzoo"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' (xmlns(:xlink)?|version)="[^"]*"', "", text).replace("xlink:href", "href")
    for theirs, ours in _COLORS.items():
        text = text.replace(f": {theirs}", f": {ours}")
    # Text keeps the page's font; black text has no color of its own, the style of the page gives it one.
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    text = re.sub(r' (width|height)="[^"]*"', "", text, count=2)
    return text.replace("<svg", f'<svg role="img" style="max-width: {width}px; aspect-ratio: {width} / {height}"', 1)


def long_tail_figure(
    kept: Sequence[int],
    probes: Mapping[str, Sequence[float | None]],
    title: str,
    limits: tuple[int, int] | None = None,
) -> Figure:
    """Accuracy of each class against how many training images it has, one line a probe; rare classes at the left.

    Panels with the same `limits`, the sizes of the smallest and the largest class of any of them, have the same axes.
    """
    figure, axes = _figure(4.6, 3.4)
    order = np.argsort(kept, kind="stable")
    frequency = np.asarray(kept)[order]
    for name, values in probes.items():
        axes.plot(frequency, _gaps(values)[order], marker="o", markersize=3, linewidth=1, label=_plain(name))
    low, high = limits or (frequency[0], frequency[-1])
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(low / 1.3 if low > 0 else -0.2, 1.3 * high)
    axes.set_xlabel("training images of the class")
    axes.set_ylabel("accuracy on the test split, %")
    axes.set_ylim(0, 100)
    axes.set_title(_plain(title), fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    return figure


def spectrum_figure(spectra: Mapping[str, Sequence[float]]) -> Figure:
    """Singular values relative to the largest, log scale: a flat curve uses all dimensions, a cliff is a collapse."""
    figure, axes = _figure(4.6, 3.2)
    lowest = 1.0
    for name, values in spectra.items():
        relative = np.asarray(values, float) / max(np.max(values, initial=0.0), 1e-30)
        relative = np.maximum(relative, _FLOOR)
        lowest = min(lowest, relative.min(initial=1.0))
        axes.plot(np.arange(1, len(relative) + 1), relative, linewidth=1.2, label=_plain(name))
    axes.set_yscale("log")
    axes.set_ylim(lowest / 2, 1.5)
    axes.set_xlabel("singular value")
    axes.set_ylabel("relative to the largest")
    axes.legend(fontsize=8, frameon=False)
    return figure


def heat_map_figure(similarity: np.ndarray, classes: Sequence[str], order: np.ndarray) -> Figure:
    """Similarity of every pair of classes (C, C), in the given order of classes."""
    side = 4.6 if len(classes) <= _FEW_NAMES else min(3 + 0.14 * len(classes), 11)
    figure, axes = _figure(side, side, grid=False)
    image = axes.imshow(similarity[np.ix_(order, order)], vmin=-1, vmax=1, cmap="RdBu_r")
    figure.colorbar(image, ax=axes, shrink=0.6, label="cosine of centred class vectors", location="top")
    names = [classes[number] for number in order]
    _name_classes(axes, names)
    if len(names) <= _MOST_NAMES:
        axes.set_yticks(range(len(names)), [_plain(name) for name in names], fontsize=8)
    return figure


def tree_figure(linkage: np.ndarray, classes: Sequence[str]) -> Figure:
    """The average-linkage tree of the classes; `linkage` is scipy's (C - 1, 4)."""
    from scipy.cluster.hierarchy import dendrogram

    figure, axes = _figure(4.6, max(2.5, 0.17 * len(classes)), grid=False)
    names = [_plain(name) for name in classes]
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(before + 4 * len(classes))  # of equal classes the tree is a chain, and scipy goes down it
    try:
        dendrogram(
            linkage, labels=names, orientation="left", ax=axes, leaf_font_size=8, color_threshold=0,
            above_threshold_color="#1f77b4",
        )  # fmt: skip
    finally:
        sys.setrecursionlimit(before)
    axes.set_xlabel("1 - cosine")
    return figure


def matrix_figure(values: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """A small symmetric matrix of models against models, its numbers written in."""
    figure, axes = _figure(max(2 + 0.9 * len(names), 3.4), 1.6 + 0.8 * len(names), grid=False)
    axes.imshow(values, vmin=0, vmax=1, cmap="Blues")
    for row, column in np.ndindex(values.shape):
        ink = "white" if values[row, column] > 0.6 else "#1d1d1f"  # on its own ground: not the page's ink
        axes.text(column, row, f"{values[row, column]:.2f}", ha="center", va="center", color=ink, fontsize=8)
    axes.set_xticks(range(len(names)), [_plain(name) for name in names], rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), [_plain(name) for name in names], fontsize=8)
    axes.set_title(_plain(title), fontsize=10)
    return figure


def _figure(width: float, height: float, *, grid: bool = True) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes: Any = figure.add_subplot()
    if grid:
        axes.grid(alpha=0.3)
    return figure, axes


def _name_classes(axes: Axes, classes: Sequence[str]) -> None:
    if len(classes) <= _MOST_NAMES:
        names = [_plain(name) for name in classes]
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    else:
        axes.set_xlabel(f"{len(classes)} classes")


def _gaps(values: Sequence[float | None]) -> np.ndarray:
    """Floats, with NaN where there is nothing, which leaves a gap in a line."""
    return np.array([np.nan if value is None else value for value in values], float)


def _plain(name: str) -> str:
    """A name as it is: matplotlib would read what stands between two $ as mathematics."""
    return name.replace("$", r"\$")
