"""Write what a study found into docs/results.md: a table of its runs, a table of its comparisons, and a picture.

    python studies/table.py studies/cifar10_narrow.yaml

Everything comes from studies/<study>/<run>.json, which studies/run.py keeps; the prose around the tables is by hand.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import yaml
from kept import KNN, LINEAR, Values, results_of, values
from scipy.stats import t as student_t

from clzoo.files import write_text

matplotlib.use("Agg")
from matplotlib import pyplot

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results.md"
LONG_TAIL = ("imbalanced:v1(longtail-100, linear:v1 logit-adjusted)", "balanced accuracy")
ABOUT_A_RUN = ("run", "seeds", "images seen", "encoder forwards", "minutes")
COLUMNS = (  # heading, (protocol, metric), digits
    ("k-NN", KNN, 2),
    ("linear", LINEAR, 2),
    ("long tail", LONG_TAIL, 2),
    ("effective rank", ("collapse:v1", "backbone effective rank"), 1),
    ("alignment", ("collapse:v1", "backbone alignment"), 2),
    ("uniformity", ("collapse:v1", "backbone uniformity"), 2),
)

RANKS = ("effective rank", "effective rank of covariance", "numerical rank")

# The rule of docs/study_protocol.md.
ENOUGH = 3  # seeds
AT_LEAST = 1.0  # points by which an effect must be there to be called shown
NOT_LOWER = -2.0  # points: what may be lost by something that is to be "not lower"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    path = parser.parse_args().study
    study = yaml.safe_load(path.read_text())
    kept = path.with_suffix("")
    runs = {name: found for name in study["runs"] if (found := results_of(kept, name))}
    if not runs:
        sys.exit(f"no run of {path} was judged yet; first: python studies/run.py {path} --data DIR")
    for name, seeds in runs.items():
        if len({what_was_measured(found) for found in seeds.values()}) > 1:
            told = f"Type: python studies/run.py {path} --data DIR"
            sys.exit(f"{kept / name}.json: not all seeds are as long, or judged alike. {told}")
    fill(RESULTS, f"{kept.name} runs", table_of_runs(study, runs))
    if "ranks" in study:
        fill(RESULTS, f"{kept.name} ranks", table_of_ranks(study, runs))
    if study["comparisons"]:  # a study that only chooses settings has none
        fill(RESULTS, f"{kept.name} comparisons", table_of_comparisons(study, runs))
        draw(RESULTS.with_name(f"results_{kept.name}.png"), study, runs)


def fill(document: Path, name: str, table: str) -> None:
    """Put a table between its two markers."""
    text = document.read_text()
    begin, end = f"<!-- {name}: written by studies/table.py -->\n", f"<!-- end of {name} -->"
    head, rest = text.split(begin)
    write_text(document, f"{head}{begin}\n{table}\n{end}{rest.split(end)[1]}")


def what_was_measured(found: dict[str, Any]) -> tuple[int, frozenset[tuple[str, str]]]:
    """How long a seed was trained, and the metrics that it has."""
    return found["images_seen"], frozenset((row["protocol"], row["metric"]) for row in found["results"])


# Tables -------------------------------------------------------------------------------------------------------------


def table_of_runs(study: dict[str, Any], runs: dict[str, Any]) -> str:
    """One row a run: what it cost, mean and standard deviation over its seeds, what was published elsewhere.

    What was measured of no run has no column.
    """
    columns = [column for column in COLUMNS if any(values(seeds, column[1]) for seeds in runs.values())]
    published = ["published"] if any("published" in study["runs"][name] for name in runs) else []
    headings = [*ABOUT_A_RUN, *(name for name, *_ in columns), *published]
    lines = [row(headings), row(["---"] * len(headings))]
    for name, seeds in runs.items():
        first = next(iter(seeds.values()))
        minutes = statistics.mean(found["minutes"] for found in seeds.values())
        cost = [f"{first['images_seen']:,}", f"{first['encoder_forwards']:,}", f"{minutes:.1f}"]
        measured = [spread(list(values(seeds, metric).values()), digits) for _, metric, digits in columns]
        run = study["runs"][name]
        what = f"{run['is']} (`{name}`)"
        elsewhere = [run.get(key, "-") for key in published]
        lines.append(row([what, ", ".join(seeds), *cost, *measured, *elsewhere]))
    return "\n".join(lines) + "\n"


def table_of_ranks(study: dict[str, Any], runs: dict[str, Any]) -> str:
    """How many dimensions the runs that the study names use, of the projections and of the backbone's features."""
    lines = [row(["run", "seeds", *(f"{part}: {rank}" for part in ("projections", "features") for rank in RANKS)])]
    lines.append(row(["---"] * (2 + 2 * len(RANKS))))
    for name in [name for name in study["ranks"] if name in runs]:
        metrics = [("collapse:v1", f"{part} {rank}") for part in ("projector", "backbone") for rank in RANKS]
        measured = [spread(list(values(runs[name], metric).values()), 1) for metric in metrics]
        lines.append(row([f"{study['runs'][name]['is']} (`{name}`)", ", ".join(runs[name]), *measured]))
    return "\n".join(lines) + "\n"


def table_of_comparisons(study: dict[str, Any], runs: dict[str, Any]) -> str:
    """One row a comparison: differences seed by seed, in points of accuracy, and what the linear probe's say."""
    headings = ["effect", "difference", "seeds", "k-NN", "linear", "95 % interval of linear", "verdict"]
    lines = [row(headings), row(["---"] * len(headings))]
    for comparison in study["comparisons"]:
        of, against = comparison["of"], comparison["against"]
        found = [difference(runs, of, against, metric) for metric in (KNN, LINEAR)]
        seeds = ", ".join(found[0]) or "-"
        cells = [spread(list(points.values()), 2, sign=True) for points in found]
        sides = " - ".join(f"({side})" if " - " in side else side for side in (of, against))
        judged = verdict(list(found[1].values()), comparison.get("counts", "higher"))
        lines.append(row([comparison["effect"], f"`{sides}`", seeds, *cells, *judged]))
    return "\n".join(lines) + "\n"


def verdict(points: list[float], counts: str) -> tuple[str, str]:
    """The 95 % interval of the mean difference by Student's t, and what docs/study_protocol.md calls it.

    Args:
        counts: "higher", or "not lower" than by NOT_LOWER points.
    """
    if len(points) < ENOUGH:
        return "-", f"none ({len(points)} of {ENOUGH} seeds)"
    mean = statistics.mean(points)
    half = float(student_t.ppf(0.975, len(points) - 1)) * statistics.stdev(points) / len(points) ** 0.5
    interval = f"[{mean - half:+.2f}, {mean + half:+.2f}]"
    floor, least = {"higher": (0.0, AT_LEAST), "not lower": (NOT_LOWER, NOT_LOWER)}[counts]
    if mean - half > floor and mean >= least:
        return interval, f"shown: {counts}"
    return interval, f"refuted: {counts}" if mean + half < floor else "no evidence"


def difference(runs: dict[str, Any], of: str, against: str, metric: tuple[str, str]) -> Values:
    """`of` minus `against` for the seeds that both have. Either may itself be "run - other run"."""
    first, second = (_side(runs, side, metric) for side in (of, against))
    return {seed: first[seed] - second[seed] for seed in first if seed in second}


def _side(runs: dict[str, Any], side: str, metric: tuple[str, str]) -> Values:
    run, _, other = side.partition(" - ")
    return difference(runs, run, other, metric) if other else values(runs.get(run, {}), metric)


def spread(numbers: list[float], digits: int, *, sign: bool = False) -> str:
    if not numbers:
        return "-"
    deviation = f" ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):{'+' if sign else ''}.{digits}f}{deviation}"


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


# Picture ------------------------------------------------------------------------------------------------------------


def draw(path: Path, study: dict[str, Any], runs: dict[str, Any]) -> None:
    """Every seed of every run as a dot, k-NN filled and linear open, over a line at each mean.

    Runs of one method stand together, the best first, and the methods by their best run.
    """
    groups = grouped(study, runs)
    names = [name for group in groups for name in group]
    figure, axes = pyplot.subplots(figsize=(9, 1.1 + 0.3 * len(names) + 0.2 * len(groups)))
    heights, height = [], 0.0
    for number, group in enumerate(groups):
        if number % 2 == 0:
            axes.axhspan(height - 0.6, height + len(group) - 0.4, color="0.95", zorder=0)
        heights += [height + place for place in range(len(group))]
        height += len(group) + 0.2
    for place, name in zip(heights, names, strict=True):
        for metric, color, fill in ((KNN, "tab:blue", "tab:blue"), (LINEAR, "tab:orange", "white")):
            found = list(values(runs[name], metric).values())
            if found:
                axes.vlines(statistics.mean(found), place - 0.36, place + 0.36, color=color, linewidth=1.2, zorder=2)
            axes.scatter(found, [place] * len(found), s=26, facecolor=fill, edgecolor=color, zorder=3)
    axes.set_yticks(heights, [label(study["runs"][name]) for name in names], fontsize=8.5)
    axes.set_ylim(height - 0.5, -0.7)
    axes.set_xlabel(f"accuracy on {study['title']}, %")
    axes.grid(axis="x", alpha=0.4)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    dots = [
        axes.scatter([], [], s=26, facecolor=fill, edgecolor=color, label=label)
        for label, color, fill in (("k-NN", "tab:blue", "tab:blue"), ("linear probe", "tab:orange", "white"))
    ]
    title = "a dot a seed, a line at the mean"
    figure.legend(handles=dots, title=title, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False,
                  bbox_transform=axes.transAxes)  # fmt: skip
    figure.savefig(path, dpi=130, bbox_inches="tight")


def label(run: dict[str, Any]) -> str:
    """What a run is, in words; behind the method's name where they do not begin with one."""
    method = run["recipe"].rpartition("_")[0].replace("_", " ").capitalize()
    return textwrap.fill(f"{method}: {run['is']}" if run["is"][0].islower() else run["is"], 60)


def grouped(study: dict[str, Any], runs: dict[str, Any]) -> list[list[str]]:
    """Names of the runs by method (the recipe without its data), each sorted by mean k-NN accuracy, best first."""

    def accuracy(name: str) -> float:
        return statistics.mean(values(runs[name], KNN).values() or [0.0])

    groups: dict[str, list[str]] = {}
    for name in sorted(runs, key=accuracy, reverse=True):
        groups.setdefault(study["runs"][name]["recipe"].rpartition("_")[0], []).append(name)
    return list(groups.values())


if __name__ == "__main__":
    main()
