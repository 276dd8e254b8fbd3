"""What the tests ask of a page that is open in a browser."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def screen_of(page, place: int) -> tuple[float, float]:
    """Where an image stands in the window."""
    x, y = page.evaluate(
        """(place) => {
            const [x, y] = clzoo.map.screenOf(place), box = document.querySelector(".marks").getBoundingClientRect();
            return [x + box.left, y + box.top];
        }""",
        place,
    )
    return x, y


def settled(page) -> None:
    """The map stands still, and its pictures are drawn."""
    page.wait_for_timeout(250)


def names(page, grid: str) -> list[int]:
    """Places of the pictures in a grid."""
    return page.eval_on_selector_all(f"{grid} .tile", "tiles => tiles.map((tile) => Number(tile.dataset.place))")


def passing(page) -> list[int]:
    return page.evaluate("() => [...clzoo.state.passes].flatMap((one, i) => (one ? [i] : []))")


def saved(page, button: str) -> str:
    with page.expect_download() as download:
        page.click(button)
    return Path(download.value.path()).read_bytes().decode("utf-8")


def within_reach(page) -> int:
    """An image whose picture stands on the map, covered by no other and by no button."""
    return page.evaluate(
        """() => clzoo.map.placed().find((place) => {
            const [x, y] = clzoo.map.screenOf(place), box = document.querySelector(".marks").getBoundingClientRect();
            return document.elementFromPoint(x + box.left, y + box.top).className === "marks";
        })"""
    )


def isolated(view) -> int:
    """The image that lies farthest from its nearest neighbor on the map."""
    places = view.seen[0].places
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    np.fill_diagonal(distances, np.inf)
    return int(distances.min(axis=1).argmax())
