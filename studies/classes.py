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
    for part in sorted(path for path in arguments.data.iterdir() if path.is_dir()):
        folders = sorted(path for path in part.iterdir() if path.is_dir())
        for count in arguments.classes:
            place = arguments.out / str(count) / part.name
            place.mkdir(parents=True)
            for folder in spaced(folders, count):
                (place / folder.name).symlink_to(folder.resolve())


def spaced(folders: list[Path], count: int) -> list[Path]:
    """`count` of the folders, evenly spaced, the first one among them.

    Raises:
        SystemExit: there are fewer.
    """
    if not 1 <= count <= len(folders):
        sys.exit(f"--classes {count}: there are {len(folders)} classes. Give a number from 1 to {len(folders)}.")
    return [folders[position * len(folders) // count] for position in range(count)]


if __name__ == "__main__":
    main()
