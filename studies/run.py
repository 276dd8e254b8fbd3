"""Train and judge every run of a study with every seed.

    python studies/run.py studies/cifar10_narrow.yaml --data CIFAR
    python studies/run.py studies/cifar10_narrow.yaml --data CIFAR --only simclr cacr_k1 --seeds 0
    python studies/table.py studies/cifar10_narrow.yaml                # into docs/results.md

A study is a YAML file: a recipe and `--set` overrides for each run ("all": of every run, "shared": of those that do
not say `shared: false`, "set": of one; "tuned" adds what a grid chose, see studies/tuned.py) and seeds, the study's or
a run's own; "data" is a folder below --data, of a run with images of its own. Each run is a `clzoo pretrain` and a
`clzoo evaluate` of the last epoch, in processes of their own. Killed, the same command goes on where it stopped; a run
that is judged is not run again, and a protocol added to the study is measured of runs that are there.

What is kept in git is studies/<study>/<run>.json: the resolved recipe, the cost and the results of each seed. The
tables are made from these files alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from kept import results_of
from tuned import overrides_of

from clzoo.augment.random import uniform
from clzoo.files import read_json, write_json
from clzoo.pretrain.recipe import Recipe


def main() -> None:
    arguments = parse()
    study = yaml.safe_load(arguments.study.read_text())
    kept = arguments.study.with_suffix("")
    for seed in arguments.seeds if arguments.seeds is not None else study["seeds"]:
        for name in arguments.only or study["runs"]:
            if arguments.seeds is None and seed not in study["runs"][name].get("seeds", study["seeds"]):
                continue
            missing = protocols_missing(study, results_of(kept, name).get(str(seed), {}))
            if missing:
                check_draws(arguments.study, study, seed)
                folder = arguments.runs / kept.name / f"{name}-seed{seed}"
                recipe, overrides = study["runs"][name]["recipe"], overrides_of(arguments.study, name)
                data = str(Path(arguments.data, study["runs"][name].get("data", "")))
                pretrain(recipe, [*overrides, f"seed={seed}"], data, folder)
                keep(kept, name, seed, folder, evaluate(study, missing, data, folder))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument(
        "--data", required=True, help="what `clzoo pretrain --data` takes, with a train and a test split"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where checkpoints go (default runs)")
    parser.add_argument("--only", nargs="+", metavar="RUN")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED")
    return parser.parse_args()


def check_draws(path: Path, study: dict[str, Any], seed: int) -> None:
    """Refuse to end a study otherwise than it began, where it began before each seed had augmentations of its own."""
    if study.get("seeds_share_draws") and seed and uniform(1, 0, 0, 0, 0) != uniform(0, 1, 0, 0, 0):
        sys.exit(f"{path}: seeds of this study share their augmentations. docs/study_protocol.md says how it is ended.")


def pretrain(recipe: str, overrides: list[str], data: str, folder: Path) -> None:
    sets = [part for override in overrides for part in ("--set", override)]
    clzoo("pretrain", recipe, "--data", data, "--out", str(folder), *sets)
    if not read_json(folder / "state.json")["finished"]:  # of code before its exit code said so: docs/study_protocol.md
        sys.exit(f"{folder} was stopped before its end. Run the same command again to go on.")


def evaluate(study: dict[str, Any], protocols: list[str], data: str, folder: Path) -> dict[str, Any]:
    report = folder / "evaluation"
    sets = [part for override in study["evaluation"] for part in ("--set", override)]
    options = ("--data", data, "--protocol", ",".join(protocols), "--title", study["title"], "--out", str(report))
    clzoo("evaluate", str(folder), *options, *sets)
    metrics: dict[str, Any] = read_json(report / "metrics.json")
    return metrics


def clzoo(*arguments: str) -> None:
    print("clzoo", *arguments, flush=True)
    if code := subprocess.run([sys.executable, "-m", "clzoo", *arguments]).returncode:
        sys.exit(f"clzoo {arguments[0]} ended with {code}. Run the same command again to go on.")


# What is kept -------------------------------------------------------------------------------------------------------


def protocols_missing(study: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """The protocols of the study that a seed was not judged by yet."""
    judged = {row["protocol"].partition(":")[0] for row in found.get("results", [])}
    return [protocol for protocol in study["protocols"] if protocol not in judged]


def keep(kept: Path, name: str, seed: int, folder: Path, metrics: dict[str, Any]) -> None:
    """Add one seed, or further results of one, to the run's file."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    state = read_json(folder / "state.json")
    cost = {key: state[key] for key in ("steps", "images_seen", "encoder_forwards", "minutes", "hardware", "versions")}
    rows = [{key: row[key] for key in ("protocol", "metric", "value")} for row in metrics["results"]]
    data = {part: metrics["data"][part]["sha256"] for part in ("train", "test")}
    seeds = results_of(kept, name)
    recipe["seed"] = None
    if seeds and as_recipe(read_json(kept / f"{name}.json")["recipe"]) != as_recipe(recipe):
        sys.exit(f"{kept / name}.json is of another recipe than {folder / 'recipe.yaml'}. Name another --runs.")
    if any(found.get("data", data) != data for found in seeds.values()):
        sys.exit(f"{kept / name}.json is of other images than {metrics['data']['test']['origin']}. Name its --data.")
    weights = metrics["model"]["weights_sha256"]
    before = seeds.get(str(seed), {"weights_sha256": weights, "results": []})
    if before["weights_sha256"] != weights:
        sys.exit(
            f"{kept / name}.json holds results of other weights for seed {seed} ({before['weights_sha256'][:8]}) than "
            f"{folder} ({weights[:8]}). Take that seed out of the file and run this again."
        )
    seeds[str(seed)] = {"weights_sha256": weights, "data": data, **cost, "results": [*before["results"], *rows]}
    kept.mkdir(exist_ok=True)
    write_json(kept / f"{name}.json", {"recipe": recipe, "seeds": dict(sorted(seeds.items()))})


def as_recipe(table: dict[str, Any]) -> Recipe:
    """A kept recipe, without its seed: a key that is newer than a run has its default."""
    return Recipe.model_validate({**table, "seed": 0})


if __name__ == "__main__":
    main()
