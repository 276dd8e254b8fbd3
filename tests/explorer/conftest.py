"""A labelled collection with a table of its own, and a headless Chromium that looks at pages of it."""

from __future__ import annotations

import csv
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from small_models import small_encoder

from clzoo import embed_folder, explore
from clzoo.explorer import Exploration

sys.path.insert(0, str(Path(__file__).parent.parent / "curation"))
sys.path.insert(0, str(Path(__file__).parent))
from looking import serving
from patterns import pattern

COLORS = {"ant": (200, 60, 60), "bee": (60, 180, 60), "cat": (60, 60, 200)}
EACH = 12


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_encoder().save_pretrained(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """`pictures/` of three colors, 12 of each, one of them twice; `list.csv` of them; `store`."""
    place = tmp_path_factory.mktemp("explored")
    with (place / "list.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "camera", "exposure"])
        for number, (label, color) in enumerate(COLORS.items()):
            (place / "pictures" / label).mkdir(parents=True)
            for picture in range(EACH):
                name = f"pictures/{label}/{label}_{picture:02}.png"
                mixed = Image.blend(pattern(100 * number + picture), Image.new("RGB", (48, 48), color), 0.75)
                mixed.save(place / name)
                table.writerow([name, label, ("phone", "mirrorless")[picture % 2], 0.5 + picture + 100 * number])
    shutil.copy(place / "pictures/ant/ant_00.png", place / "pictures/ant/ant_01.png")
    embed_folder(place / "list.csv", model, out=place / "store", labels=True, progress=False)
    return place


@pytest.fixture(scope="session")
def view(place: Path) -> Exploration:
    return explore(place / "store", projection="pca")


@pytest.fixture(scope="session")
def file(place: Path, view: Exploration) -> Path:
    """The view as one file."""
    return view.write_page(place / "map.html")


@pytest.fixture(scope="session")
def other_store(place: Path) -> Path:
    """The same pictures by another encoder."""
    embed_folder(place / "list.csv", small_encoder(seed=1), out=place / "other", labels=True, progress=False)
    return place / "other"


@pytest.fixture(scope="session")
def address(view: Exploration) -> Iterator[str]:
    with serving(view) as address:
        yield address


def chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for found in map(shutil.which, names) if found), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One browser for all tests."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = chromium()
    if path is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        root = os.name == "posix" and os.geteuid() == 0
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if root else [])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page and waits until it is ready; at the end no page has logged an error or asked anybody else."""
    contexts, wrong = [], []

    def open_page(where: Path | str, width: int = 1180, height: int = 800, **options: Any) -> Any:
        address = where.as_uri() if isinstance(where, Path) else where
        context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith((address, "data:", "blob:")) or wrong.append(asked.url))
        page.goto(address)
        page.wait_for_selector("html[data-ready=yes]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []
