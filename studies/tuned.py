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
from kept import KNN, results_of, values

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
    runs = {name: results_of(path.with_suffix(""), name) for name in candidates(path, method)}
    missing = [name for name, seeds in runs.items() if not seeds]
    if missing:
        raise ClzooError(
            f"{len(runs) - len(missing)} of {len(runs)} runs were judged. For the others: "
            f"python studies/run.py {path} --data DIR --only {' '.join(missing)}"
        )
    return max(runs, key=lambda name: (max(values(runs[name], KNN).values()), -rate_of(path, name)))


def rate_of(path: Path, name: str) -> float:
    """The learning rate that a run was trained with."""
    recipe = read_json(path.with_suffix("") / f"{name}.json")["recipe"]
    return float(recipe["optimizer"]["base_lr"])


def candidates(path: Path, method: str) -> list[str]:
    """The runs of a grid among which a method's settings are chosen."""
    runs = [name for name, run in yaml.safe_load(path.read_text())["runs"].items() if run["tunes"] == method]
    if not runs:
        raise ClzooError(f"no run of {path} says `tunes: {method}`.")
    return runs


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
