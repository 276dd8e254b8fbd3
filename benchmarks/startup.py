"""Cold starts: wall and CPU time of short commands, each in a fresh process.

    python benchmarks/startup.py [--rounds N] [--json FILE]

The commands take turns, so that a busy moment hits all alike; the least of the rounds is shown, and its ratio to
`import torch`, which is the same on every version of clzoo.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="Of which the least counts.")
    parser.add_argument("--json", type=Path, help="Write the numbers there too.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        commands = _commands(Path(folder))
        best = dict.fromkeys(commands, (float("inf"), float("inf")))
        for _ in range(arguments.rounds):
            for name, command in commands.items():
                best[name] = min(best[name], _run(command), key=lambda times: times[1])
    _, unit = best["import torch"]
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, least of {arguments.rounds} rounds\n")
    print(f"{'':44} {'wall s':>7} {'CPU s':>7} {'CPU, times import torch':>24}")
    for name, (wall, cpu) in best.items():
        print(f"{name:44} {wall:7.2f} {cpu:7.2f} {cpu / unit:24.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({name: {"wall": w, "cpu": c} for name, (w, c) in best.items()}, indent=2))


def _commands(place: Path) -> dict[str, list[str]]:
    """What is measured: a name, and the command line of a process that ends by itself."""
    pictures, store = place / "pictures", place / "store"
    pictures.mkdir()
    random = np.random.default_rng(0)
    for number in range(24):
        Image.fromarray(random.integers(0, 256, (64, 64, 3), np.uint8)).save(pictures / f"{number:02}.png")
    python, clzoo = [sys.executable, "-c"], [sys.executable, "-m", "clzoo"]
    _run([*clzoo, "embed", str(pictures), "--out", str(store), "--index", "faiss", "--quiet"])
    new = place / "new.png"
    Image.fromarray(random.integers(0, 256, (64, 64, 3), np.uint8)).save(new)
    return {
        "python": [*python, "pass"],
        "import torch": [*python, "import torch"],
        "import clzoo": [*python, "import clzoo"],
        "import clzoo.encoder": [*python, "import clzoo.encoder"],
        "clzoo --help": [*clzoo, "--help"],
        "clzoo list": [*clzoo, "list"],
        "clzoo store info": [*clzoo, "store", "info", str(store)],
        "clzoo search, an image of the store": [*clzoo, "search", str(store), str(pictures / "03.png")],
        "clzoo search, a new image": [*clzoo, "search", str(store), str(new)],
        "clzoo embed, nothing new": [*clzoo, "embed", str(pictures), "--out", str(store)],
    }


def _run(command: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a process."""
    before, since = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - since, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
