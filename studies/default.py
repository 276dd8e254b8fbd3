"""What the bundled default encoder is judged by, for one encoder beside another, as a table in Markdown.

    python studies/default.py supcon-resnet10_w48-tiny supcon-resnet10_w32-tiny --tiny TINY --cifar CIFAR

TINY and CIFAR are folders with a part to train on and one to test on, as ../docs/data.md reads them. Columns:

    Tiny linear, k-NN     linear:v1 and knn:v1 on the published validation split of Tiny-ImageNet
    CIFAR-10 linear       linear:v1 on CIFAR-10's test split, which the encoder has not seen
    half size, copies     of `copies:v1` among 5,000 of Tiny-ImageNet's validation images: copies of half the size whose
                          nearest image is the original; and of all kinds of copies
    photographs, drawings of a picture's five nearest neighbors in examples/, the share that is of its own group

Below the table: what the first encoder has over each other one in the last two columns, in points, with the 95 %
interval of a paired bootstrap over the pictures.

About ten minutes an encoder on two cores. Random numbers: linear:v1's validation part and the bootstrap, seed 0.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np

import clzoo
from clzoo.adaptation.verdict import gain_of
from clzoo.data.collection import ChosenImages, Collection
from clzoo.evaluation import evaluate
from clzoo.evaluation.copies import evaluate_copies
from clzoo.evaluation.features import extract
from clzoo.evaluation.opening import splits_to_judge
from clzoo.hardware import describe_hardware
from clzoo.neighbors import nearest_others, of_own_group

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
COLUMNS = ("Tiny linear", "Tiny k-NN", "CIFAR-10 linear", "half size", "copies", "photographs", "drawings")
FOLDERS = ("photographs", "pictures")
NEIGHBORS = 5
AMONG = 5000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--tiny", required=True, type=Path)
    parser.add_argument("--cifar", required=True, type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    rows = {model: judge(clzoo.load(model, device="cpu"), options.tiny, options.cifar) for model in options.models}
    print(describe_hardware("cpu"))
    print("\n| encoder | " + " | ".join(COLUMNS) + " |")
    print("| --- |" + " --- |" * len(COLUMNS))
    for model, row in rows.items():
        print(f"| `{model}` | " + " | ".join(f"{value:.1f}" for value in row) + " |")
    print()
    first, *others = options.models
    for folder in FOLDERS:
        shares = {model: same_group(clzoo.load(model, device="cpu"), folder) for model in options.models}  # (N,) each
        for other in others:
            print(f"{folder}: {first} over {other} {gain_of(shares[other], shares[first][None])}")


def judge(encoder: clzoo.Encoder, tiny: Path, cifar: Path) -> list[float]:
    """Percentages, one a column."""
    own = evaluate(encoder, tiny, ["linear", "knn"], controls=False)
    other = evaluate(encoder, cifar, ["linear"], controls=False)
    copies = copies_found(encoder, tiny)
    return [
        own.value("linear:v1"),
        own.value("knn:v1"),
        other.value("linear:v1"),
        copies["copies found, half size"],
        copies["copies found"],
        *(100 * float(same_group(encoder, folder).mean()) for folder in FOLDERS),
    ]


def copies_found(encoder: clzoo.Encoder, tiny: Path) -> dict[str, float]:
    """`copies:v1` among images of the test split, evenly spaced."""
    _, test = splits_to_judge(tiny)
    chosen = np.linspace(0, len(test.images) - 1, AMONG).round().astype(np.int64)
    some = Collection(test.origin, ChosenImages(test.images, chosen))
    outcome = evaluate_copies(encoder, extract(encoder, some, needs_labels=False), some.images)
    return {result.metric: result.value for result in outcome.results}


def same_group(encoder: clzoo.Encoder, folder: str) -> np.ndarray:
    """(N,) of each picture of a folder of examples/: the share of its nearest neighbors that lies in its own group."""
    pictures = sorted((EXAMPLES / folder).glob("*/*.*"))
    groups = [picture.parent.name for picture in pictures]
    return of_own_group(groups, nearest_others(encoder.embed(pictures), NEIGHBORS)).mean(axis=1)


if __name__ == "__main__":
    main()
