"""Which settings a study's grid chose for each method, by the rule of docs/study_protocol.md.

    python studies/tuned.py studies/cifar10_tuning.yaml

A study that says `tuning: FILE` takes them from FILE's kept results: its runs that say `tuned: METHOD` get the
overrides of the run that won among those of FILE that say `tunes: METHOD`. The highest k-NN wins, of equal ones the
lower learning rate. A grid that is not whole chooses nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from clzoo.errors import ClzooError
from clzoo.files import read_json


def main() -> None:
    """Print, for each method of a grid, the run that won, or what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    path = parser.parse_args().study
    runs = yaml.safe_load(path.read_text())["runs"]
    for method in dict.fromkeys(run["tunes"] for run in runs.values()):
        try:
            print(f"{method}: {runs[winner(path, method)]['is']}")
        except ClzooError as error:
            print(f"{method}: {error}")


def winner(path: Path, method: str) -> str:
    """The run of a grid with the highest k-NN on what was held out, of equal ones that of the lower learning rate.

    Raises:
        ClzooError: not every run of the method's grid was judged.
    """
    runs = candidates(path, method)
    kept = {name: path.with_suffix("") / f"{name}.json" for name in runs}
    missing = [name for name, file in kept.items() if not file.exists()]
    if missing:
        raise ClzooError(
            f"{len(runs) - len(missing)} of {len(runs)} runs were judged. For the others: "
            f"python studies/run.py {path} --data DIR --only {' '.join(missing)}"
        )
    found = {name: read_json(file) for name, file in kept.items()}
    return max(runs, key=lambda name: (held_out_knn(found[name]), -found[name]["recipe"]["optimizer"]["base_lr"]))


def candidates(path: Path, method: str) -> list[str]:
    """The runs of a grid among which a method's settings are chosen."""
    runs = [name for name, run in yaml.safe_load(path.read_text())["runs"].items() if run["tunes"] == method]
    if not runs:
        raise ClzooError(f"no run of {path} says `tunes: {method}`.")
    return runs


def held_out_knn(found: dict[str, Any]) -> float:
    """Top-1 of `knn:v1` of the one seed that a grid is run with."""
    (seed,) = found["seeds"].values()
    rows = (row for row in seed["results"] if row["protocol"].startswith("knn:v1") and row["metric"] == "top-1")
    (accuracy,) = (float(row["value"]) for row in rows)
    return accuracy


def overrides_of(path: Path, run: str, choose: Callable[[Path, str], str] = winner) -> list[str]:
    """The `--set` values of one run of a study, each stronger than those before: of all, shared, tuned, its own.

    Args:
        choose: the run of a grid that gives the settings of a method.

    Raises:
        ClzooError: the run is tuned by a grid that is not whole.
    """
    study = yaml.safe_load(path.read_text())
    shared = study["shared"] if study["runs"][run].get("shared", True) else []
    return [*study["all"], *shared, *own_overrides(path, study, run, choose)]


def own_overrides(path: Path, study: dict[str, Any], run: str, choose: Callable[[Path, str], str]) -> list[str]:
    """What a run does not share: the settings of the grid's run that was chosen for it, then what it says itself."""
    said = study["runs"][run]
    if "tuned" not in said:
        return list(said.get("set", []))
    grid = path.with_name(study["tuning"])
    chosen = own_overrides(grid, yaml.safe_load(grid.read_text()), choose(grid, said["tuned"]), choose)
    return [*chosen, *said.get("set", [])]


if __name__ == "__main__":
    main()
