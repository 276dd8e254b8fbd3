"""An evaluation as files: metrics.json, arrays.npz, plots/*.png, and report.html, one page that holds everything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clzoo.errors import ClzooError
from clzoo.evaluation import figures
from clzoo.files import atomic_path, write_json, write_text
from clzoo.page import TAIL, data_uri, head

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from clzoo.evaluation.run import Evaluation

_STYLE = """
section { padding: 1.5rem 0; border-top: 1px solid var(--line); }
h2 { margin: 0 0 .75rem; font-size: 1.2rem; font-weight: 600; }
p { max-width: 75ch; color: var(--soft); }
.wide { overflow-x: auto; }
table { margin-bottom: 1rem; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .9rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; }
td.number, th.number { text-align: right; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: 1rem; }
.plots img { max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: 10px; }
"""

_FILES = ("metrics.json", "report.html", "arrays.npz", "plots", "compare.html")
_OWN_SECTIONS = ("imbalanced", "collapse", "relations")  # protocols whose numbers stand in sections of their own
_MOST_NEIGHBORS = 200  # classes whose neighbours are listed in the page


@dataclass(frozen=True)
class Section:
    """A part of a page: a heading, HTML, and figures by file name."""

    title: str
    html: str
    plots: Mapping[str, Figure]


def write_evaluation(evaluation: Evaluation, folder: Path) -> Path:
    """Write the files of one evaluation; an earlier one's are replaced.

    Raises:
        ClzooError: the folder holds something else, or cannot be written.
    """
    metrics = evaluation.metrics
    sections = list(_sections(metrics, evaluation.arrays))
    title = f"{metrics['model']['name']} on {metrics['data']['title']}"
    return write_folder(folder, title, _facts(metrics), sections, metrics, evaluation.arrays, page="report.html")


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
    """metrics.json, arrays.npz, plots and one page, each written whole."""
    foreign = [path.name for path in folder.iterdir() if path.name not in _FILES] if folder.is_dir() else []
    if foreign:
        raise ClzooError(f"{folder} holds {foreign[0]}, which is not of an evaluation. Give another --out.")
    try:
        body = []
        for section in sections:
            pictures = {name: figures.png(figure) for name, figure in section.plots.items()}
            for name, content in pictures.items():
                with atomic_path(folder / "plots" / f"{name}.png") as path:
                    path.write_bytes(content)
            body.append(_section_html(section, pictures))
        write_text(folder / page, head(title, facts, _STYLE) + "".join(body) + TAIL)
        if arrays:
            with atomic_path(folder / "arrays.npz") as path:
                np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
        write_json(folder / "metrics.json", metrics)
    except OSError as error:
        raise ClzooError(f"{folder} cannot be written: {error}. Give another --out.") from error
    return folder


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An HTML table; numbers are right-aligned, None is a dash."""
    numeric = [all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(columns))]
    lines = ["".join(_cell("th", name, is_number) for name, is_number in zip(columns, numeric, strict=True))]
    lines += [
        "".join(_cell("td", cell, is_number) for cell, is_number in zip(row, numeric, strict=True)) for row in rows
    ]
    return '<div class="wide"><table>\n' + "".join(f"<tr>{line}</tr>\n" for line in lines) + "</table></div>\n"


def results_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of metrics.json."""
    spread = [f"± {row['std']:.2f} over {len(row['seeds'])} seeds" if "std" in row else "" for row in rows]
    cells = [[r["protocol"], r["split"], r["metric"], r["value"], s] for r, s in zip(rows, spread, strict=True)]
    return table(("protocol", "split", "metric", "value", ""), cells)


def _cell(tag: str, value: object, is_number: bool) -> str:
    shown = "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
    return f'<{tag} class="number">{escape(shown)}</{tag}>' if is_number else f"<{tag}>{escape(shown)}</{tag}>"


def _section_html(section: Section, pictures: Mapping[str, bytes]) -> str:
    images = "".join(
        f'<img src="{data_uri(content, "png")}" alt="{escape(name)}">\n' for name, content in pictures.items()
    )
    plots = f'<div class="plots">\n{images}</div>\n' if images else ""
    return f"<section>\n<h2>{escape(section.title)}</h2>\n{section.html}{plots}</section>\n"


def _facts(metrics: dict[str, Any]) -> list[str]:
    model, data = metrics["model"], metrics["data"]
    return [
        f"{model['backbone']}, {model['dim']} values",
        f"weights {model['weights_sha256'][:12]}",
        f"{data['train']['images']:,} train and {data['test']['images']:,} test images, {len(data['classes'])} classes",
        metrics["hardware"],
        f"{metrics['minutes']:.1f} minutes",
    ]


# One function a protocol ----------------------------------------------------------------------------------------------


def _sections(metrics: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Iterator[Section]:
    details, classes = metrics["details"], metrics["data"]["classes"]
    headline = [row for row in metrics["results"] if row["protocol"].partition(":")[0] not in _OWN_SECTIONS]
    if headline:
        yield Section("Results", results_table(headline), _per_class_plots(details, classes))
    if "linear" in details:
        yield _linear_section(details["linear"])
    if "imbalanced" in details:
        yield from _imbalanced_sections(details["imbalanced"])
    if "collapse" in details:
        yield _collapse_section(details["collapse"])
    if "relations" in details:
        yield from _relations_sections(details["relations"], arrays, classes)
    yield _data_section(metrics)


def _per_class_plots(details: dict[str, Any], classes: list[str]) -> dict[str, Figure]:
    curves = {name: part["per_class"] for name, part in details.get("knn", {}).get("protocols", {}).items()}
    for name in ("linear", "linear:sgd", "finetune"):
        if name in details:
            curves[details[name]["protocol"]] = details[name]["per_class"]
    return {"per_class": figures.per_class_figure(curves, classes)} if curves else {}


def _linear_section(linear: dict[str, Any]) -> Section:
    rows = [[f"{point['penalty']:g}", point["validation"]] for point in linear["sweep"]]
    text = (
        f"<p>The penalty {linear['penalty']:g} was chosen by the accuracy on a part of the train split; "
        "the probe was then fitted to the whole of it. The test split had no part in the choice.</p>\n"
    )
    return Section("Penalty of the linear probe", text + table(("penalty", "validation accuracy, %"), rows), {})


def _imbalanced_sections(imbalanced: dict[str, Any]) -> Iterator[Section]:
    subsets = imbalanced["subsets"]
    rows = [[probe, *(s["probes"][probe]["balanced"] for s in subsets)] for probe in subsets[0]["probes"]]
    columns = ["balanced accuracy, %", *(f"{s['name']}, {sum(s['kept']):,} images" for s in subsets)]
    yield Section("Under imbalance", table(columns, rows), {})
    for subset in imbalanced["subsets"]:
        kept = subset["kept"]
        text = (
            f"<p>{sum(kept):,} train images, from {min(kept)} to {max(kept)} a class; tested on the whole test split."
            "</p>\n"
        )
        yield _probes_section(f"Probed on the subset {subset['name']}", text, subset, f"imbalanced_{subset['name']}")
    if imbalanced["pretrained_on"]:
        subset = imbalanced["pretrained_on"]
        text = "<p>Probed on the whole train split; classes by how many images pretraining had of them.</p>\n"
        yield _probes_section(f"Pretrained on the subset {subset['name']}", text, subset, "pretrained_on")


def _probes_section(title: str, text: str, subset: dict[str, Any], plot: str) -> Section:
    probes = subset["probes"]
    columns = ["probe", "top-1", "balanced"]
    columns += [f"{group}, {rule}" for rule in ("counts", "thirds") for group in ("many", "medium", "few")]
    rows = []
    for name, probe in probes.items():
        shots = [probe["shots"][rule][group] for rule in ("counts", "thirds") for group in ("many", "medium", "few")]
        rows.append([name, probe["top1"], probe["balanced"], *shots])
    note = (
        "<p>Accuracies in percent. By counts: many is above 100 images, medium 20 to 100, few below 20. By thirds: the "
        "classes sorted by frequency, in three equal parts.</p>\n"
    )
    curves = {name: probe["per_class"] for name, probe in probes.items()}
    plots = {plot: figures.long_tail_figure(subset["kept"], curves, subset["name"])}
    return Section(title, text + table(columns, rows) + note, plots)


def _collapse_section(collapse: dict[str, Any]) -> Section:
    keys = ("dim", "effective_rank", "effective_rank_covariance", "numerical_rank", "alignment", "uniformity")
    parts = {name: part for name, part in collapse.items() if isinstance(part, dict) and "singular_values" in part}
    rows = [[name, *(part[key] for key in keys)] for name, part in parts.items()]
    text = "<p>Of L2-normalised features of the test split; alignment is between two views of the same images.</p>\n"
    plots = {"spectrum": figures.spectrum_figure({name: part["singular_values"] for name, part in parts.items()})}
    return Section("Collapse", text + table(("of", *(key.replace("_", " ") for key in keys)), rows), plots)


def _relations_sections(
    relations: dict[str, Any], arrays: Mapping[str, np.ndarray], classes: list[str]
) -> Iterator[Section]:
    for source in ("features", "gates"):
        part = relations.get(source)
        if not part:
            continue
        html = ""
        if part.get("purity_at_5") is not None:
            rows = [[source, part["spearman"], part["purity_at_5"]]]
            rows += [[name, c["spearman"], c["purity_at_5"]] for name, c in relations.get("controls", {}).items()]
            html += f"<p>Against the taxonomy {escape(str(relations['taxonomy']))}.</p>\n"
            html += table(("of", "Spearman", "purity@5"), rows)
        if len(part["neighbors"]) <= _MOST_NEIGHBORS:
            html += table(("class", "nearest classes"), [[k, ", ".join(v)] for k, v in part["neighbors"].items()])
        prefix = f"relations_{source}"
        names = list(part["neighbors"])
        order = arrays.get("relations_taxonomy_order", arrays[f"{prefix}_order"])
        plots = {
            f"{prefix}_heat_map": figures.heat_map_figure(arrays[f"{prefix}_similarity"], names, order),
            f"{prefix}_tree": figures.tree_figure(arrays[f"{prefix}_linkage"], names),
        }
        yield Section(f"Class relations, from {source}", html, plots)


def _data_section(metrics: dict[str, Any]) -> Section:
    rows: list[list[object]] = []
    for split in ("train", "test"):
        part = metrics["data"][split]
        rows.append([split, part["origin"], part["images"], part["skipped"], part["sha256"][:16]])
    versions = ", ".join(f"{name} {version}" for name, version in metrics["versions"].items())
    html = table(("split", "source", "images", "unreadable", "sha256"), rows) + f"<p>{escape(versions)}</p>\n"
    return Section("Data", html, {})
