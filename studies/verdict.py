"""How often does the verdict of `clzoo adapt` call help or harm where there is neither?

    python studies/verdict.py            # simulates, and writes into docs/adapt.md
    python studies/verdict.py --table    # from what is kept

A case is made up: held-out images of a difficulty each, drawn from Beta(0.43, 0.29), so that an encoder gets 60 % of
them right and two that are equally good differ on a fifth of them. The start encoder and each run draw their outcomes
by that difficulty, independently. In the second kind of cases runs differ truly, as seeds do: each run has its own
accuracy, normal with a standard deviation of one point around that of the start encoder, so a run may have gained or
lost, and on average nothing is gained. The rule is asked as it stands, without the controls and probes that can only
take help back. What is kept in git is studies/verdict.json; the table is made of it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from clzoo.adaptation.verdict import RULE, judge
from clzoo.files import read_json, write_json, write_text
from clzoo.hardware import describe_hardware

KEPT = Path(__file__).resolve().with_suffix(".json")
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "adapt.md"

IMAGES = (48, 200, 1000, 5000)
SEEDS = (1, 2, 3)
BETWEEN = (0.0, 1.0)  # points: standard deviation of the true accuracies of runs
CASES = 1000
DIFFICULTY = (0.43, 0.29)
STATED = 2.5  # percent of cases on each side, by a 95 % interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="simulate nothing")
    if not parser.parse_args().table:
        began = time.process_time()
        cells = [rates(images, seeds, sd) for sd in BETWEEN for seeds in SEEDS for images in IMAGES]
        minutes = round((time.process_time() - began) / 60, 1)
        about = {"rule": RULE, "cases": CASES, "hardware": describe_hardware("cpu"), "cpu_minutes": minutes}
        write_json(KEPT, {**about, "cells": cells})
    write_text(DOCUMENT, filled(DOCUMENT.read_text(encoding="utf-8"), table(read_json(KEPT))))


def rates(images: int, seeds: int, sd: float) -> dict[str, Any]:
    """Shares of the cases that are called help and harm."""
    generator = np.random.default_rng([images, seeds, int(10 * sd)])
    words = [word_of_a_case(generator, images, seeds, sd) for _ in range(CASES)]
    found = {word: words.count(word) for word in ("helped", "harmed")}
    print(images, seeds, sd, found, flush=True)
    return {"images": images, "seeds": seeds, "sd": sd, **found}


def word_of_a_case(generator: np.random.Generator, images: int, seeds: int, sd: float) -> str:
    right = generator.beta(*DIFFICULTY, size=images)  # (N,) chance that an encoder gets each image right
    start = generator.random(images) < right
    own = moved(right, generator.normal(0, sd / 100, size=(seeds, 1)))  # (S, N)
    return judge("made up", start, generator.random((seeds, images)) < own).word


def moved(right: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Chances (N,) whose mean is higher by each of `by` (S, 1): (S, N). Where more is to be gained, more is."""
    mean = right.mean()
    return np.where(by > 0, right + (1 - right) * by / (1 - mean), right * (1 + by / mean))


def table(kept: dict[str, Any]) -> str:
    cases = kept["cases"]
    lines = [
        f"{cases:,} cases a cell, `{kept['rule']}`, {kept['cpu_minutes']:g} CPU minutes ({kept['hardware']}). "
        "Cells are the percentage called helped / harmed.",
        "",
        "| held-out images | "
        + " | ".join(f"{s} seed{'s' * (s > 1)}, {told(sd)}" for sd in BETWEEN for s in SEEDS)
        + " |",
        "| --- |" + " --- |" * len(BETWEEN) * len(SEEDS),
    ]
    cells = {(each["images"], each["seeds"], each["sd"]): each for each in kept["cells"]}
    for images in IMAGES:
        shown = [
            "{:.1f} / {:.1f}".format(*(100 * cells[images, seeds, sd][word] / cases for word in ("helped", "harmed")))
            for sd in BETWEEN
            for seeds in SEEDS
        ]
        lines.append(f"| {images:,} | {' | '.join(shown)} |")
    return "\n".join([*lines, "", *above(kept)])


def above(kept: dict[str, Any]) -> list[str]:
    """Which cells call more than a 95 % interval states, by more than chance of so many cases (two standard errors)."""
    limit = STATED + 200 * float(np.sqrt(STATED / 100 * (1 - STATED / 100) / kept["cases"]))
    told_of = [
        f"{100 * cell[word] / kept['cases']:.1f} % {word} ({cell['images']:,} images, {cell['seeds']} "
        f"seed{'s' * (cell['seeds'] > 1)}, {told(cell['sd'])})"
        for cell in kept["cells"]
        for word in ("helped", "harmed")
        if 100 * cell[word] / kept["cases"] > limit
    ]
    head = f"A 95 % interval states {STATED:g} % on each side; with so many cases up to {limit:.1f} % is chance. "
    return [head + (f"Above it: {'; '.join(told_of)}." if told_of else "No cell is above it.")]


def told(sd: float) -> str:
    return f"runs differ by {sd:g} point" if sd else "runs alike"


def filled(text: str, between: str) -> str:
    begin, end = "<!-- chance: written by studies/verdict.py -->\n", "<!-- end of chance -->"
    head, rest = text.split(begin)
    return f"{head}{begin}\n{between}\n\n{end}{rest.split(end)[1]}"


if __name__ == "__main__":
    main()
