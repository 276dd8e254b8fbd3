"""Is the verdict of `clzoo adapt` right, and which measures without labels predict whether an adaptation helped?

    python studies/adapt.py --cifar10 CIFAR --tiny TINY          # measures what is not measured yet, then writes
    python studies/adapt.py --table                              # into docs/adapt.md from what is kept

A cell is a start encoder and a set of about 1,200 images; each is adapted with three seeds. The verdict comes from the
fifth of the images that was held out, the true gain from 1,000 further images that nothing else saw, with the labels of
all images of the adaptation as the bank. What is kept in git is studies/adapt/<cell>.json; the tables are made of it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

import clzoo
from clzoo.adaptation import measures, planning
from clzoo.adaptation.verdict import gain_of, judge
from clzoo.data.imbalance import class_sizes
from clzoo.data.opening import open_source
from clzoo.data.parts import parts_of
from clzoo.evaluation.controls import recalibrated
from clzoo.files import read_json, write_json, write_text
from clzoo.hardware import describe_hardware

KEPT = Path(__file__).resolve().parent / "adapt"
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "adapt.md"

STARTS = (
    "simclr-resnet10_w16-cifar10",
    "cacr-resnet10_w16-cifar10",
    "supcon-resnet10_w32-tiny",
    "supcon-resnet10_w48-tiny",
)
TARGETS = ("tiny20", "cifar10", "cifar10-longtail-10", "drawings")
FLATTENED = "cifar10-longtail-10+flatten"  # beside the same set without; it is no cell of the correlations
SEEDS = 3
EPOCHS = 4
IMAGES, TEST_IMAGES = 1200, 1000

AT_LEAST = 0.6  # rank correlation from which a measure is said to predict (docs/adapt.md)
DRAWS = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, help="a folder with train/<class>/*.jpg and test/<class>/*.jpg")
    parser.add_argument("--tiny", type=Path, help="Tiny-ImageNet with train/<class>/*.JPEG")
    parser.add_argument("--drawings", type=Path, help="drawings by category, such as those of openclipart-png")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    sources = {"cifar10": arguments.cifar10, "tiny": arguments.tiny, "drawings": arguments.drawings}
    if not arguments.table:
        KEPT.mkdir(exist_ok=True)
        for start in STARTS:
            for target in (*TARGETS, FLATTENED):
                if sources[target.partition("-")[0].removesuffix("20")] is not None:
                    measure(start, target, sources)
    fill("study", tables())


def measure(start: str, target: str, sources: dict[str, Path | None]) -> None:
    """One cell, unless it is measured."""
    path = KEPT / f"{start}--{target}.json"
    if path.is_file():
        return
    began = time.process_time()
    planning.EPOCHS = EPOCHS
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["CLZOO_CACHE"] = str(Path(temporary) / "cache")
        train, test = make_set(target, sources, Path(temporary) / target)
        adapted = clzoo.adapt(
            train,
            start=start,
            method="simclr",
            labels=True,
            flatten=target == FLATTENED,
            seeds=SEEDS,
            out=Path(temporary) / "run",
            device="cpu",
        )
        assert adapted.verdict is not None, "stopped"
        found = compare(start, adapted, train, test)
    kept = {"start": start, "target": target, "seeds": SEEDS, "epochs": EPOCHS, "hardware": describe_hardware()}
    minutes = round((time.process_time() - began) / 60, 2)
    write_json(path, {**kept, "cpu_minutes": minutes, "verdict": adapted.report["verdict"], **found})
    print(path.name, adapted.report["sentence"], found["true"], f"{minutes} CPU minutes", flush=True)


def compare(start: str, adapted: clzoo.Adaptation, train: Path, test: Path) -> dict[str, Any]:
    """True gains, gains by each measure, and the verdict that each seed alone would have had."""
    begun = clzoo.load(start, "cpu")
    folders = [adapted.folder, *(adapted.folder / "adaptation" / f"seed-{seed}" for seed in range(1, SEEDS))]
    runs = [clzoo.load(folder, "cpu") for folder in folders]
    whole, further = open_source(train, "train"), open_source(test, "train")
    parts = parts_of(whole.images)
    bank, held = measures.part(whole, parts.train), measures.part(whole, parts.judged)
    true: dict[str, list[float]] = {}
    before = measures.outcomes_with_labels(begun, bank, further)
    after = [measures.outcomes_with_labels(run, bank, further) for run in runs]
    for name in (measures.KNN, measures.LINEAR):
        true[name] = [100 * float(np.mean(each[name]) - np.mean(before[name])) for each in after]
    free = measures.outcomes_without_labels(begun, bank, held)[1]
    gains = {name: [] for name in measures.LABEL_FREE}
    for run in runs:
        values = measures.outcomes_without_labels(run, bank, held)[1]
        for name in gains:
            gains[name].append(values[name] - free[name])
    control = recalibrated(begun, bank)
    assert control is not None
    sides = [measures.knn_outcomes(encoder, bank, held) for encoder in (begun, control, *runs)]
    alone = [judge(measures.KNN, sides[0], each[None], batchnorm=sides[1]).word for each in sides[2:]]
    gains["k-NN, held out"] = list(gain_of(sides[0], np.stack(sides[2:])).by_seed)
    return {"gain": adapted.report["gain"], "true": true, "gains": gains, "alone": alone}


def make_set(target: str, sources: dict[str, Path | None], out: Path) -> tuple[Path, Path]:
    """Links to the images of a target, and to further ones to judge by."""
    kind, _, subset = target.removesuffix("+flatten").partition("-")
    source = sources[kind.removesuffix("20")]
    assert source is not None
    folder = source / "train" if (source / "train").is_dir() else source
    classes = sorted(path for path in folder.iterdir() if path.is_dir())[: 20 if kind != "cifar10" else 10]
    each, judged = IMAGES // len(classes), TEST_IMAGES // len(classes)
    sizes = class_sizes([300] * len(classes), subset) if subset else [each] * len(classes)
    for size, path in zip(sizes, classes, strict=True):
        images = sorted(file for file in path.rglob("*") if file.is_file())
        link(images[:size], out / "train" / path.name)
        link(images[-judged:], out / "test" / path.name)  # the other end of the class: none is in both
        assert size + judged <= len(images), path
    return out / "train", out / "test"


def link(images: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, image in enumerate(images):  # of sub-folders, two may have one name
        (folder / f"{number:05}-{image.name}").symlink_to(image.resolve())


# Tables -------------------------------------------------------------------------------------------------------------


def tables() -> str:
    found = {path.stem: read_json(path) for path in sorted(KEPT.glob("*.json"))}
    if not found:
        return "Not measured.\n"
    first = next(iter(found.values()))
    minutes = sum(cell["cpu_minutes"] for cell in found.values())
    head = (
        f"{len(found)} cells of {SEEDS} seeds each (0 to {SEEDS - 1}), SimCLR, {first['epochs']} epochs, half way back "
        f"towards the start, no pilots; {first['hardware']}, {minutes:.0f} CPU minutes.\n"
    )
    cells = {name: cell for name, cell in found.items() if cell["target"] != FLATTENED}
    return "\n".join(
        [head, table_of_cells(found), *agreement(list(cells.values())), flattening(found), "", predictors(cells)]
    )


def table_of_cells(found: dict[str, Any]) -> str:
    columns = ["start", "images", "held-out gain, k-NN", "verdict", "true gain, k-NN", "true gain, linear"]
    lines = [row(columns), row(["---"] * len(columns))]
    for target in (*TARGETS, FLATTENED):
        for start in STARTS:
            cell = found.get(f"{start}--{target}")
            if cell is None:
                lines.append(row([f"`{start}`", target, "not measured", "", "", ""]))
                continue
            gain = cell["gain"]
            held = f"{gain['value']:+.1f} [{gain['low']:.1f}, {gain['high']:.1f}]"
            true = [spread(cell["true"][name]) for name in (measures.KNN, measures.LINEAR)]
            lines.append(row([f"`{start}`", target, held, cell["verdict"], *true]))
    return "\n".join(lines) + "\n"


def agreement(cells: list[dict[str, Any]]) -> list[str]:
    """How often a verdict's sign is the sign of the true gain."""
    of_three = [(cell["verdict"], float(np.mean(cell["true"][measures.KNN]))) for cell in cells]
    alone = [pair for cell in cells for pair in zip(cell["alone"], cell["true"][measures.KNN], strict=True)]
    lines = []
    for called, pairs in (("Of three seeds", of_three), ("Of one seed", alone)):
        told = []
        for word, is_right in (("helped", above), ("harmed", below)):
            gains = [gain for verdict, gain in pairs if verdict == word]
            told.append(f"{len(gains)} {word}, the true k-NN gain has that sign in {sum(map(is_right, gains))}")
        undecided = sum(verdict == "no evidence" for verdict, _ in pairs)
        lines.append(f"- {called}: {'; '.join(told)}; {undecided} no evidence.")
    inside = [
        cell["gain"]["low"] <= gain <= cell["gain"]["high"] for cell, (_, gain) in zip(cells, of_three, strict=True)
    ]
    lines.append(
        f"- The true k-NN gain lies inside the interval of the held-out part in {sum(inside)} of {len(cells)} cells."
    )
    return lines


def flattening(found: dict[str, Any]) -> str:
    """What `--flatten` adds to the true gain on the long-tailed set, seed by seed."""
    told = []
    for start in STARTS:
        pair = [found.get(f"{start}--{target}") for target in (FLATTENED.removesuffix("+flatten"), FLATTENED)]
        if pair[0] is None or pair[1] is None:
            continue
        gains = [np.subtract(pair[1]["true"][name], pair[0]["true"][name]) for name in (measures.KNN, measures.LINEAR)]
        told.append(f"`{start}` {' / '.join(spread(list(gain)) for gain in gains)}")
    if not told:
        return "- `--flatten`: not measured."
    return f"- `--flatten` against plain adaptation, true k-NN / linear, judged on balanced classes: {'; '.join(told)}."


def above(gain: float) -> bool:
    return gain > 0


def below(gain: float) -> bool:
    return gain < 0


def predictors(found: dict[str, Any]) -> str:
    """Rank correlation of each measure's gain with the true gain, with an interval over cells."""
    cells = list(found.values())
    columns = ["measure", "with true k-NN", "with true linear", "predicts"]
    lines = [row(columns), row(["---"] * len(columns))]
    for name in ("k-NN, held out", *measures.LABEL_FREE):
        both = [correlation(cells, name, truth) for truth in (measures.KNN, measures.LINEAR)]
        predicts = all(value >= AT_LEAST and low > 0 for value, low, _ in both)
        shown = [f"{value:+.2f} [{low:+.2f}, {high:+.2f}]" for value, low, high in both]
        lines.append(row([name, *shown, "yes" if predicts else "no"]))
    return "\n".join(lines) + "\n"


def correlation(cells: list[dict[str, Any]], name: str, truth: str) -> tuple[float, float, float]:
    """Spearman's, over all seeds of all cells; the 95 % interval is of a bootstrap over cells."""

    def of(chosen: list[dict[str, Any]]) -> float:
        gains = [gain for cell in chosen for gain in cell["gains"][name]]
        true = [gain for cell in chosen for gain in cell["true"][truth]]
        varies = len(set(gains)) > 1 and len(set(true)) > 1
        return float(spearmanr(gains, true).statistic) if varies else 0.0

    generator = np.random.default_rng(0)
    drawn = [of([cells[i] for i in generator.integers(len(cells), size=len(cells))]) for _ in range(DRAWS)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return of(cells), float(low), float(high)


def fill(name: str, table: str) -> None:
    """Put the tables between their two markers."""
    text = DOCUMENT.read_text()
    begin, end = f"<!-- {name}: written by studies/adapt.py -->\n", f"<!-- end of {name} -->"
    head, rest = text.split(begin)
    write_text(DOCUMENT, f"{head}{begin}\n{table}\n{end}{rest.split(end)[1]}")


def spread(values: list[float], show: Callable[[float], str] = "{:+.1f}".format) -> str:
    return f"{show(float(np.mean(values)))} ± {float(np.std(values, ddof=1)):.1f}"


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
