"""Split the training images of a folder once more, so that settings can be chosen without opening the test split.

    python studies/holdout.py CIFAR/train --each 500 --out CIFAR-holdout

OUT/train and OUT/test hold links to the images of the class folders: `--each` images a class go to OUT/test, the same
ones wherever the folder lies (a seeded permutation of the sorted names). `clzoo pretrain`, `clzoo evaluate` and
`studies/run.py` take OUT as `--data`.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

SEED = 2026


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, help="a folder with one sub-folder a class")
    parser.add_argument("--each", type=int, required=True, help="images a class that are held out")
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    arguments = parser.parse_args()
    if arguments.out.exists():
        sys.exit(f"{arguments.out} exists already. Give another --out, or delete it.")
    folders = sorted(path for path in arguments.train.iterdir() if path.is_dir())
    parts = {folder: split(sorted(path.name for path in folder.iterdir()), arguments.each) for folder in folders}
    for folder, (held_out, kept) in parts.items():
        for part, names in (("train", kept), ("test", held_out)):
            place = arguments.out / part / folder.name
            place.mkdir(parents=True)
            for name in names:
                (place / name).symlink_to((folder / name).resolve())


def split(names: list[str], each: int) -> tuple[list[str], list[str]]:
    """(held out, kept) names of one class, in sorted order.

    Raises:
        SystemExit: the class has no image left to train on.
    """
    if len(names) <= each:
        sys.exit(f"a class has {len(names)} images, of which {each} cannot be held out. Give a smaller --each.")
    chosen = set(random.Random(SEED).sample(names, each))
    return sorted(chosen), [name for name in names if name not in chosen]


if __name__ == "__main__":
    main()
