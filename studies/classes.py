"""Link the images of some of a data set's classes, so that a method can be asked how it does with fewer of them.

    python studies/classes.py TINY --classes 20 50 --out TINY-classes

OUT/20/train, OUT/20/val and so on hold links to the class folders of TINY's parts. The classes are spaced evenly in the
order of their names, where WordNet's numbers put related ones beside each other. `studies/run.py` takes OUT as `--data`
for a study whose runs say `data: "20"`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder with train/<class>/ and val/<class>/ or test/<class>/")
    parser.add_argument("--classes", type=int, nargs="+", required=True, metavar="N")
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    arguments = parser.parse_args()
    if arguments.out.exists():
        sys.exit(f"{arguments.out} exists already. Give another --out, or delete it.")
    parts = parts_with_classes(arguments.data)
    chosen_by_count = {count: spaced(parts["train"], count) for count in arguments.classes}
    for count, chosen in chosen_by_count.items():
        for part in parts:
            place = arguments.out / str(count) / part
            place.mkdir(parents=True)
            for name in chosen:
                (place / name).symlink_to((arguments.data / part / name).resolve())


def parts_with_classes(data: Path) -> dict[str, list[str]]:
    """Names of the class folders of `train` and of each part that has the same ones; of others clzoo judges nothing.

    Raises:
        SystemExit: there is nothing to train on, or nothing to judge on.
    """
    found = {part.name: sorted(path.name for path in part.iterdir() if path.is_dir()) for part in sorted(data.iterdir())
             if part.is_dir()}  # fmt: skip
    same = {name: classes for name, classes in found.items() if classes and classes == found.get("train")}
    if len(same) < 2:
        sys.exit(f"{data} must hold train/<class>/ and val/<class>/ or test/<class>/ of the same classes.")
    return same


def spaced(classes: list[str], count: int) -> list[str]:
    """`count` of the classes, evenly spaced, the first one among them.

    Raises:
        SystemExit: there are fewer.
    """
    if not 1 <= count <= len(classes):
        sys.exit(f"--classes {count}: there are {len(classes)} classes. Give numbers from 1 to {len(classes)}.")
    return [classes[position * len(classes) // count] for position in range(count)]


if __name__ == "__main__":
    main()
