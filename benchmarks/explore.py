"""Frames per second of the explorer's map, in a headless Chromium without a GPU.

    python benchmarks/explore.py [--points 100000 1000000] [--seconds 4] [--chromium PROGRAM]

Generated points in 50 groups, a window of 1,180 x 800, the server of `clzoo explore`. The map is moved, then zoomed, at
every frame that the browser gives, for so many seconds each; counted are the frames that the map drew. Needs
`pip install "clzoo[explore]" playwright` and Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from clzoo.explorer.exploring import Exploration, Seen
from clzoo.explorer.findings import Findings
from clzoo.explorer.graph import Graph
from clzoo.hardware import describe_hardware

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from written_stores import write_store

MOVES = {
    "panning": "(i) => clzoo.map.move(i % 2 ? 12 : -11, i % 3 ? 3 : -5)",
    "zooming": "(i) => { clzoo.map.camera.zoom(i % 40 < 20 ? 1.03 : 1 / 1.03); clzoo.map.move(0, 0); }",
}
COUNT = """async ([move, milliseconds]) => {
    const act = eval(move), start = performance.now(), before = clzoo.map.frames;
    for (let i = 0; performance.now() - start < milliseconds; i++) {
        act(i);
        await new Promise(requestAnimationFrame);
    }
    return (clzoo.map.frames - before) / ((performance.now() - start) / 1000);
}"""


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium", metavar="PROGRAM")
    given = parser.parse_args()
    from playwright.sync_api import sync_playwright

    print(describe_hardware("cpu"))
    print(f"\n| points | {' | '.join(MOVES)} | page ready after |\n| --- |{' --- |' * (len(MOVES) + 1)}")
    with sync_playwright() as playwright:
        for count in given.points:
            with tempfile.TemporaryDirectory() as folder, served(generated(count, Path(folder))) as address:
                # A policy of hashes forbids `eval`; only what is measured here needs it.
                browser = playwright.chromium.launch(
                    executable_path=given.chromium, args=["--no-sandbox", "--disable-gpu"]
                )
                page = browser.new_page(viewport={"width": 1180, "height": 800}, bypass_csp=True)
                started = time.perf_counter()
                page.goto(address)
                page.wait_for_selector("html[data-ready=yes]", timeout=300_000)
                ready = time.perf_counter() - started
                page.wait_for_timeout(1500)
                found = [page.evaluate(COUNT, [move, 1000 * given.seconds]) for move in MOVES.values()]
                shown = " | ".join(f"{frames:.0f} frames/s" for frames in found)
                print(f"| {count:,} | {shown} | {ready:.1f} s |   Chromium {browser.version}")
                browser.close()


def generated(count: int, folder: Path) -> Exploration:
    """A map of so many points in 50 groups; nothing is looked for, and an image has one neighbor."""
    random = np.random.default_rng(0)
    groups, centers = random.integers(0, 50, count), random.uniform(-0.85, 0.85, (50, 2))
    places = (centers[groups] + random.normal(0, 0.06, (count, 2))).clip(-1, 1).astype(np.float32)
    store = write_store(folder, np.ones((count, 2), np.float32), labels=[f"group {group}" for group in groups])
    graph = Graph(np.zeros((count, 1), np.int32), np.zeros((count, 1), np.float32), "exact")
    return Exploration((Seen(store, np.arange(count), graph, places, "PCA"),), Findings([], [], []), None, ())


@contextmanager
def served(view: Exploration) -> Iterator[str]:
    """The address of the real server, in a thread of this process."""
    told: list[str] = []
    ready = threading.Event()

    def announce(line: str) -> Any:
        told.append(line.split()[2])
        ready.set()

    threading.Thread(target=view.serve, kwargs={"browser": False, "announce": announce}, daemon=True).start()
    assert ready.wait(60), "the server does not start"
    yield told[0]


if __name__ == "__main__":
    main()
