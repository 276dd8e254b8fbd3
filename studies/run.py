"""Train and judge every run of a study with every seed, and write its table.

    python studies/run.py studies/cifar10_narrow.yaml --data CIFAR
    python studies/run.py studies/cifar10_narrow.yaml --data CIFAR --only simclr cacr_k1 --seeds 0
    python studies/run.py studies/cifar10_narrow.yaml --table          # docs/results of what is there, nothing run

A study is a YAML file: a recipe and `--set` overrides for each run ("all": of every run, "shared": of those that do
not say `shared: false`, "set": of one). Each run is a `clzoo pretrain` and a `clzoo evaluate` of the last epoch, in
processes of their own. Killed, the same command goes on where it stopped; a run that is judged is not run again.

What is kept in git is studies/<study>/<run>.json: the resolved recipe, the cost and the results of each seed. The
table, studies/<study>/README.md, is made from these files alone.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from clzoo.files import read_json, write_json, write_text

COLUMNS = (  # heading, protocol, metric, digits
    ("k-NN", "knn:v1", "top-1", 2),
    ("linear", "linear:v1", "top-1", 2),
    ("effective rank", "collapse:v1", "backbone effective rank", 1),
    ("alignment", "collapse:v1", "backbone alignment", 3),
    ("uniformity", "collapse:v1", "backbone uniformity", 2),
)


def main() -> None:
    arguments = parse()
    study = yaml.safe_load(arguments.study.read_text())
    kept = arguments.study.with_suffix("")
    if not arguments.table:
        for seed in arguments.seeds if arguments.seeds is not None else study["seeds"]:
            for name in arguments.only or study["runs"]:
                if str(seed) not in results_of(kept, name):
                    folder = arguments.runs / kept.name / f"{name}-seed{seed}"
                    pretrain(study, name, seed, arguments.data, folder)
                    keep(kept, name, seed, folder, evaluate(study, arguments.data, folder))
    write_text(kept / "README.md", table(study, kept))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--data", help="what `clzoo pretrain --data` takes, with a train and a test split")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where checkpoints go (default runs)")
    parser.add_argument("--only", nargs="+", metavar="RUN")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED")
    parser.add_argument("--table", action="store_true", help="only write the table")
    arguments = parser.parse_args()
    if not arguments.table and arguments.data is None:
        parser.error("--data is missing (or say --table)")
    return arguments


def pretrain(study: dict[str, Any], name: str, seed: int, data: str, folder: Path) -> None:
    run = study["runs"][name]
    overrides = [*study["all"], *(study["shared"] if run.get("shared", True) else []), *run.get("set", [])]
    sets = [part for override in [*overrides, f"seed={seed}"] for part in ("--set", override)]
    clzoo("pretrain", run["recipe"], "--data", data, "--out", str(folder), *sets)


def evaluate(study: dict[str, Any], data: str, folder: Path) -> dict[str, Any]:
    report = folder / "evaluation"
    options = ("--data", data, "--protocol", study["protocols"], "--title", study["title"], "--out", str(report))
    clzoo("evaluate", str(folder), *options)
    metrics: dict[str, Any] = read_json(report / "metrics.json")
    return metrics


def clzoo(*arguments: str) -> None:
    print("clzoo", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "clzoo", *arguments], check=True)


# What is kept -------------------------------------------------------------------------------------------------------


def results_of(kept: Path, name: str) -> dict[str, Any]:
    """What was measured of a run, by seed."""
    path = kept / f"{name}.json"
    seeds: dict[str, Any] = read_json(path)["seeds"] if path.exists() else {}
    return seeds


def keep(kept: Path, name: str, seed: int, folder: Path, metrics: dict[str, Any]) -> None:
    """Add one seed to the run's file."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    state = read_json(folder / "state.json")
    cost = {key: state[key] for key in ("steps", "images_seen", "encoder_forwards", "minutes", "hardware", "versions")}
    rows = [{key: row[key] for key in ("protocol", "metric", "value")} for row in metrics["results"]]
    found = {"weights_sha256": metrics["model"]["weights_sha256"], **cost, "results": rows}
    seeds = {**results_of(kept, name), str(seed): found}
    kept.mkdir(exist_ok=True)
    write_json(kept / f"{name}.json", {"recipe": {**recipe, "seed": None}, "seeds": dict(sorted(seeds.items()))})


# The table ----------------------------------------------------------------------------------------------------------


def table(study: dict[str, Any], kept: Path) -> str:
    """Markdown: one row a run, mean and standard deviation over its seeds."""
    headings = ["run", "what", "seeds", "images seen", "encoder forwards", "minutes", *(name for name, *_ in COLUMNS)]
    lines = [f"# {study['title']}", "", row(headings), row(["---"] * len(headings))]
    for name, run in study["runs"].items():
        if seeds := results_of(kept, name):
            lines.append(row([f"`{name}`", run["is"], ", ".join(seeds), *figures(list(seeds.values()))]))
    hardware = sorted({found["hardware"] for name in study["runs"] for found in results_of(kept, name).values()})
    lines += [
        "",
        f"Last epoch, {study['title']}, test split; mean and standard deviation over the seeds. Minutes: of "
        f"one run, mean, on {'; '.join(hardware)}. Written by studies/run.py from the files beside it.",
        "",
    ]
    return "\n".join(lines)


def figures(seeds: Sequence[dict[str, Any]]) -> list[str]:
    first = seeds[0]
    minutes = statistics.mean(found["minutes"] for found in seeds)
    cells = [f"{first['images_seen']:,}", f"{first['encoder_forwards']:,}", f"{minutes:.1f}"]
    for _, protocol, metric, digits in COLUMNS:
        cells.append(spread([value_of(found, protocol, metric) for found in seeds], digits))
    return cells


def value_of(found: dict[str, Any], protocol: str, metric: str) -> float | None:
    rows = found["results"]
    return next((r["value"] for r in rows if r["protocol"].startswith(protocol) and r["metric"] == metric), None)


def spread(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    deviation = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.{digits}f}{deviation}"


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
