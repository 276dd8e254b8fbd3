"""The parts of an evaluation's page, a function a protocol: first the headline, then the classes, then the details."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clzoo.evaluation import figures
from clzoo.evaluation.mistakes import predictions_of
from clzoo.evaluation.report_parts import Section, Table, class_dots, headlines_of, pairs_of

if TYPE_CHECKING:
    from clzoo.evaluation.run import Evaluation

_OWN_SECTIONS = ("imbalanced", "collapse", "relations")  # protocols whose numbers stand in sections of their own
_MOST_NEIGHBORS = 200  # classes whose neighbors are listed in the page


def sections_of(evaluation: Evaluation) -> Iterator[Section]:
    """What report.html shows, from top to bottom."""
    metrics, arrays = evaluation.metrics, evaluation.arrays
    details, classes = metrics["details"], metrics["data"]["classes"]
    titles = class_names(metrics)
    headlines = headlines_of(metrics, arrays.get("test_labels"))
    if headlines:
        yield Section("Accuracy", headlines=headlines)
    curves = _per_class(details)
    if curves:
        yield from _class_sections(curves, titles)
        yield from _pair_sections(evaluation, list(curves), titles)
    if "imbalanced" in details:
        yield from _imbalanced_sections(details["imbalanced"])
    if "collapse" in details:
        yield _collapse_section(details["collapse"])
    if "relations" in details:
        yield from _relations_sections(details["relations"], arrays, dict(zip(classes, titles, strict=True)))
    rows = [row for row in metrics["results"] if row["protocol"].partition(":")[0] not in _OWN_SECTIONS]
    if rows:
        yield Section("Every number, with its protocol", tables=[results_table(rows)], folded=bool(headlines))
    if curves:
        columns = ["class", *(name.partition("(")[0] for name in curves)]
        lines = [[title, *(values[i] for values in curves.values())] for i, title in enumerate(titles)]
        yield Section("Accuracy of every class, %", tables=[Table(columns, lines)], folded=True)
    if "linear" in details:
        yield _penalty_section(details["linear"])
    yield _data_section(metrics)


def class_names(metrics: dict[str, Any]) -> list[str]:
    """What the page calls each class: its title where the data set's name for it is an id."""
    titles = metrics["data"].get("class_titles") or {}
    return [titles.get(name, name) for name in metrics["data"]["classes"]]


def results_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows of metrics.json."""
    spread = [f"± {row['std']:.2f} over {len(row['seeds'])} seeds" if "std" in row else "" for row in rows]
    cells = [
        [r["of"], r["protocol"], r["dataset"], r["split"], r["metric"], float(r["value"]), s]
        for r, s in zip(rows, spread, strict=True)
    ]
    return Table(("features of", "protocol", "data", "split", "metric", "value", ""), cells)


# One function a part --------------------------------------------------------------------------------------------------


def _per_class(details: dict[str, Any]) -> dict[str, list[float | None]]:
    """Accuracies of the classes by protocol."""
    curves = {name: part["per_class"] for name, part in details.get("knn", {}).get("protocols", {}).items()}
    for name in ("linear", "linear:sgd", "finetune"):
        if name in details:
            curves[details[name]["protocol"]] = details[name]["per_class"]
    return curves


def _class_sections(curves: dict[str, list[float | None]], titles: list[str]) -> Iterator[Section]:
    """The classes by the first protocol; by the others folded."""
    for number, (protocol, values) in enumerate(curves.items()):
        heading = f"Classes by {protocol.partition('(')[0]}, worst first: accuracy in %"
        yield Section(heading, dots=class_dots(values, titles), folded=number > 0)


def _pair_sections(evaluation: Evaluation, protocols: list[str], titles: list[str]) -> Iterator[Section]:
    arrays = evaluation.arrays
    for protocol in protocols:
        predicted = predictions_of(arrays, protocol)
        if predicted is None or "test_labels" not in arrays:
            continue
        pairs = pairs_of(arrays["test_labels"], predicted, titles, evaluation.test_images, arrays.get("test_rows"))
        if pairs:
            note = (
                f"By {protocol.partition('(')[0]}. Counted are test images in both directions; the pictures are the "
                "first of each, in the order of the test split."
            )
            yield Section("Most confused", notes=[note], pairs=pairs)
            return


def _penalty_section(linear: dict[str, Any]) -> Section:
    rows = [[f"{point['penalty']:g}", point["validation"]] for point in linear["sweep"]]
    note = (
        f"The penalty {linear['penalty']:g} was chosen by the accuracy on a part of the train split; "
        "the probe was then fitted to the whole of it. The test split had no part in the choice."
    )
    table = Table(("penalty", "validation accuracy, %"), rows)
    return Section("Penalty of the linear probe", notes=[note], tables=[table], folded=True)


def _imbalanced_sections(imbalanced: dict[str, Any]) -> Iterator[Section]:
    subsets, before = imbalanced["subsets"], imbalanced["pretrained_on"]
    rows = [[probe, *(s["probes"][probe]["balanced"] for s in subsets)] for probe in subsets[0]["probes"]]
    columns = ["balanced accuracy, %", *(f"{s['name']}, {sum(s['kept']):,} images" for s in subsets)]
    parts = [*((s, f"imbalanced_{s['name']}", f"probed on {s['name']}") for s in subsets)]
    if before:
        parts.append((before, "pretrained_on", f"pretrained on {before['name']}, probed on the whole"))
    sizes = [size for part, *_ in parts for size in part["kept"]]
    limits = min(sizes), max(sizes)
    plots = {
        name: figures.long_tail_figure(part["kept"], _curves(part), title, limits=limits) for part, name, title in parts
    }
    note = (
        "A dot is a class, at the number of training images that the subset keeps of it. All panels share their axes."
    )
    yield Section("Under imbalance", notes=[note], tables=[Table(columns, rows)], plots=plots)
    for subset in subsets:
        kept = subset["kept"]
        note = f"{sum(kept):,} train images, from {min(kept)} to {max(kept)} a class; tested on the whole test split."
        yield _probes_section(f"Probed on the subset {subset['name']}", note, subset)
    if before:
        note = "Probed on the whole train split; classes by how many images pretraining had of them."
        yield _probes_section(f"Pretrained on the subset {before['name']}", note, before)


def _curves(subset: dict[str, Any]) -> dict[str, list[float | None]]:
    return {name: probe["per_class"] for name, probe in subset["probes"].items()}


def _probes_section(title: str, note: str, subset: dict[str, Any]) -> Section:
    columns = ["probe", "top-1", "balanced"]
    columns += [f"{group}, {rule}" for rule in ("counts", "thirds") for group in ("many", "medium", "few")]
    rows = []
    for name, probe in subset["probes"].items():
        shots = [probe["shots"][rule][group] for rule in ("counts", "thirds") for group in ("many", "medium", "few")]
        rows.append([name, probe["top1"], probe["balanced"], *shots])
    rules = (
        "Accuracies in percent. By counts: many is above 100 images, medium 20 to 100, few below 20. By thirds: the "
        "classes sorted by frequency, in three equal parts."
    )
    return Section(title, notes=[note, rules], tables=[Table(columns, rows)], folded=True)


def _collapse_section(collapse: dict[str, Any]) -> Section:
    keys = ("dim", "effective_rank", "effective_rank_covariance", "numerical_rank", "alignment", "uniformity")
    parts = {name: part for name, part in collapse.items() if isinstance(part, dict) and "singular_values" in part}
    rows = [[name, *(part[key] for key in keys)] for name, part in parts.items()]
    note = "Of L2-normalised features of the test split; alignment is between two views of the same images."
    plots = {"spectrum": figures.spectrum_figure({name: part["singular_values"] for name, part in parts.items()})}
    table = Table(("of", *(key.replace("_", " ") for key in keys)), rows)
    return Section("Collapse", notes=[note], tables=[table], plots=plots)


def _relations_sections(
    relations: dict[str, Any], arrays: Mapping[str, np.ndarray], titles: Mapping[str, str]
) -> Iterator[Section]:
    for source in ("features", "gates"):
        part = relations.get(source)
        if not part:
            continue
        prefix = f"relations_{source}"
        names = [titles.get(name, name) for name in part["neighbors"]]
        order = arrays.get("relations_taxonomy_order", arrays[f"{prefix}_order"])
        plots = {
            f"{prefix}_heat_map": figures.heat_map_figure(arrays[f"{prefix}_similarity"], names, order),
            f"{prefix}_tree": figures.tree_figure(arrays[f"{prefix}_linkage"], names),
        }
        notes, tables = [], []
        if part.get("purity_at_5") is not None:
            rows = [[source, part["spearman"], part["purity_at_5"]]]
            rows += [[name, c["spearman"], c["purity_at_5"]] for name, c in relations.get("controls", {}).items()]
            notes.append(f"Against the taxonomy {relations['taxonomy']}.")
            tables.append(Table(("of", "Spearman", "purity@5"), rows))
        yield Section(f"Class relations, from {source}", notes=notes, tables=tables, plots=plots)
        if len(names) <= _MOST_NEIGHBORS:
            near = [", ".join(titles.get(name, name) for name in found) for found in part["neighbors"].values()]
            table = Table(("class", "nearest classes"), list(zip(names, near, strict=True)))
            yield Section(f"Nearest classes, from {source}", tables=[table], folded=True)


def _data_section(metrics: dict[str, Any]) -> Section:
    rows: list[list[object]] = []
    for split in ("train", "test"):
        part = metrics["data"][split]
        rows.append([split, part["origin"], part["images"], part["skipped"], part["sha256"][:16]])
    versions = ", ".join(f"{name} {version}" for name, version in metrics["versions"].items())
    table = Table(("split", "source", "images", "unreadable", "sha256"), rows)
    drawn = metrics["data"].get("split")
    rule = [] if drawn is None else [f"The source has no test split: train and test were drawn by {drawn['rule']}."]
    return Section("Data and versions", notes=[*rule, versions], tables=[table], folded=True)
