"""An evaluation as files: metrics.json, arrays.npz, plots/*.png, and report.html, one page that holds everything."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from clzoo.errors import ClzooError
from clzoo.evaluation import figures
from clzoo.evaluation.report_parts import Section
from clzoo.evaluation.report_sections import sections_of
from clzoo.files import atomic_path, write_json, write_text
from clzoo.page import render

if TYPE_CHECKING:
    from clzoo.evaluation.run import Evaluation

_FILES = {"report.html": ("metrics.json", "arrays.npz", "plots"), "compare.html": ("metrics.json", "plots")}  # by page


def write_evaluation(evaluation: Evaluation, folder: Path) -> Path:
    """Write the files of one evaluation; an earlier one's are replaced.

    Raises:
        ClzooError: the folder holds something else, or cannot be written.
    """
    metrics = evaluation.metrics
    title = f"{metrics['model']['name']} on {metrics['data']['title']}"
    sections = list(sections_of(evaluation))
    return write_folder(folder, title, _facts(metrics), sections, metrics, evaluation.arrays, page="report.html")


def require_folder(folder: Path, page: str) -> None:
    """Check that an evaluation or comparison may be written to a folder; to be asked before hours of measuring.

    Names that begin with a dot, such as what a killed process or a file browser leaves, are passed over.

    Raises:
        ClzooError: it holds something else, or is, or lies in, what is no folder that can be written to.
    """
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        what = "may not be written to" if place.is_dir() else "is no folder"
        raise ClzooError(f"{folder} cannot be written: {place} {what}. Give another --out.")
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    known = (page, *_FILES[page])
    if foreign := [name for name in names if name not in known and not name.startswith(".")]:
        what = {"report.html": "an evaluation", "compare.html": "a comparison"}[page]
        raise ClzooError(f"{folder} holds {foreign[0]}, which is not of {what}. Give another --out.")


def write_folder(
    folder: Path,
    title: str,
    facts: list[str],
    sections: Sequence[Section],
    metrics: dict[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    page: str,
) -> Path:
    """arrays.npz, metrics.json, plots and one page, each written whole, in this order."""
    require_folder(folder, page)
    try:
        if arrays:  # the numbers first: they took long, and a picture may fail
            with atomic_path(folder / "arrays.npz") as path:
                np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
        write_json(folder / "metrics.json", metrics)
        body = []
        for section in sections:
            for name, figure in section.plots.items():
                with atomic_path(folder / "plots" / f"{name}.png") as path:
                    path.write_bytes(figures.png(figure))
            body.append((section, {name: Markup(figures.svg(figure)) for name, figure in section.plots.items()}))
        write_text(folder / page, render("report.html", title=title, facts=facts, sections=body))
        written = {f"{name}.png" for section in sections for name in section.plots}
        for plot in (folder / "plots").glob("*.png"):
            if plot.name not in written:  # of an earlier evaluation
                plot.unlink()
    except OSError as error:
        raise ClzooError(f"{folder} cannot be written: {error}. Give another --out.") from error
    return folder


def _facts(metrics: dict[str, Any]) -> list[str]:
    model, data = metrics["model"], metrics["data"]
    return [
        f"{model['backbone']}, {model['dim']} values",
        f"weights {model['weights_sha256'][:12]}",
        f"{data['train']['images']:,} train and {data['test']['images']:,} test images, {len(data['classes'])} classes",
        metrics["hardware"],
        f"{metrics['minutes']:.1f} minutes",
    ]
