"""The figures of reports. Each function takes numbers and returns a matplotlib Figure; nothing is computed here."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_NAMES = 60
"""Classes up to which an axis names each of them."""

_FLOOR = 1e-7
"""Singular values, relative to the largest, below which float32 features tell nothing."""


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, format="png")
    return buffer.getvalue()


def per_class_figure(curves: Mapping[str, Sequence[float | None]], classes: Sequence[str]) -> Figure:
    """Accuracy of each class, percent, one line a protocol; classes in their own order."""
    figure, axes = _figure(9, 3.4)
    for name, values in curves.items():
        axes.plot(_gaps(values), marker="o", markersize=3, linewidth=1, label=name)
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(0, 100)
    _name_classes(axes, classes)
    axes.legend(fontsize=7)
    return figure


def long_tail_figure(kept: Sequence[int], probes: Mapping[str, Sequence[float | None]], title: str) -> Figure:
    """Accuracy of each class against how many training images it has, one line a probe; rare classes at the left."""
    figure, axes = _figure(6, 3.6)
    order = np.argsort(kept, kind="stable")
    frequency = np.asarray(kept)[order]
    for name, values in probes.items():
        axes.plot(frequency, _gaps(values)[order], marker="o", markersize=3, linewidth=1, label=name)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(left=-0.2 if frequency[0] == 0 else None)
    axes.set_xlabel("training images of the class")
    axes.set_ylabel("accuracy on the balanced test split, %")
    axes.set_ylim(0, 100)
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=7)
    return figure


def spectrum_figure(spectra: Mapping[str, Sequence[float]]) -> Figure:
    """Singular values relative to the largest, log scale: a flat curve uses all dimensions, a cliff is a collapse."""
    figure, axes = _figure(6, 3.6)
    lowest = 1.0
    for name, values in spectra.items():
        relative = np.asarray(values, float) / max(np.max(values, initial=0.0), 1e-30)
        relative = np.maximum(relative, _FLOOR)
        lowest = min(lowest, relative.min(initial=1.0))
        axes.plot(np.arange(1, len(relative) + 1), relative, linewidth=1.2, label=name)
    axes.set_yscale("log")
    axes.set_ylim(lowest / 2, 1.5)
    axes.set_xlabel("singular value")
    axes.set_ylabel("relative to the largest")
    axes.legend(fontsize=7)
    return figure


def heat_map_figure(similarity: np.ndarray, classes: Sequence[str], order: np.ndarray) -> Figure:
    """Similarity of every pair of classes (C, C), in the given order of classes."""
    side = min(3 + 0.14 * len(classes), 14)
    figure, axes = _figure(side + 1, side, grid=False)
    image = axes.imshow(similarity[np.ix_(order, order)], vmin=-1, vmax=1, cmap="RdBu_r")
    figure.colorbar(image, ax=axes, shrink=0.7, label="cosine of centred class vectors")
    names = [classes[number] for number in order]
    _name_classes(axes, names)
    if len(names) <= _MOST_NAMES:
        axes.set_yticks(range(len(names)), names, fontsize=7)
    return figure


def tree_figure(linkage: np.ndarray, classes: Sequence[str]) -> Figure:
    """The average-linkage tree of the classes; `linkage` is scipy's (C - 1, 4)."""
    from scipy.cluster.hierarchy import dendrogram

    figure, axes = _figure(5.5, max(2.5, 0.16 * len(classes)), grid=False)
    dendrogram(linkage, labels=list(classes), orientation="right", ax=axes, leaf_font_size=7, color_threshold=0)
    axes.set_xlabel("1 - cosine")
    return figure


def matrix_figure(values: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """A small symmetric matrix of models against models, its numbers written in."""
    figure, axes = _figure(2 + 0.9 * len(names), 1.6 + 0.8 * len(names), grid=False)
    axes.imshow(values, vmin=0, vmax=1, cmap="Blues")
    for row, column in np.ndindex(values.shape):
        ink = "white" if values[row, column] > 0.6 else "black"
        axes.text(column, row, f"{values[row, column]:.2f}", ha="center", va="center", color=ink, fontsize=8)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_title(title, fontsize=9)
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
        axes.set_xticks(range(len(classes)), classes, rotation=60, ha="right", fontsize=7)
    else:
        axes.set_xlabel(f"{len(classes)} classes")


def _gaps(values: Sequence[float | None]) -> np.ndarray:
    """Floats, with NaN where there is nothing, which leaves a gap in a line."""
    return np.array([np.nan if value is None else value for value in values], float)
