"""What a person does with the page, in a real browser."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from in_page import isolated, names, passing, saved, screen_of, settled, within_reach
from looking import places_of

from clzoo.data.opening import open_source


def test_the_map_shows_every_image_at_its_place_in_the_color_of_its_label(opened, file, view):
    page = opened(file)
    assert page.title() == "store - clzoo explore"
    assert page.inner_text(".counter") == "36 images"
    page.keyboard.press("t")  # points alone
    settled(page)
    labels = np.array(view.store.labels)
    read = """(place) => {
        const canvas = document.querySelector(".points"), [x, y] = clzoo.map.screenOf(place);
        return [...canvas.getContext("2d").getImageData(Math.round(x), Math.round(y), 1, 1).data.slice(0, 3)];
    }"""
    found = {
        label: {tuple(page.evaluate(read, int(i))) for i in np.flatnonzero(labels == label)} for label in set(labels)
    }
    drawn = set().union(*found.values())
    assert (251, 251, 250) not in drawn, "the color of the map without a point"
    assert len(drawn) == 3, found


def test_hovering_shows_the_picture_and_what_it_is(opened, file, view):
    page = opened(file)
    settled(page)
    place = within_reach(page)
    page.mouse.move(*screen_of(page, place))
    assert Path(view.store.paths[place]).name in page.inner_text(".tooltip")
    assert f"label: {view.store.labels[place]}" in page.inner_text(".tooltip")
    page.wait_for_selector(".tooltip canvas[data-drawn=yes]")
    color = page.eval_on_selector(
        ".tooltip canvas", "(c) => [...c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data]"
    )
    shown = np.array(color[:3])
    from clzoo.curation.pictures import Pictures

    image = Pictures(view.store).image(place)
    assert np.abs(shown - np.asarray(image)[image.height // 2, image.width // 2]).max() < 40
    page.mouse.move(5, 5)
    assert page.is_hidden(".tooltip")


def test_a_click_shows_the_neighbors_and_theirs_on_another_click_and_the_way_back(opened, file, view):
    page = opened(file)
    settled(page)
    graph, place = view.seen[0].graph, within_reach(page)
    page.mouse.click(*screen_of(page, place))
    page.wait_for_selector(".neighbors .tile")
    assert page.inner_text(".details h2") == Path(view.store.paths[place]).name
    assert names(page, ".neighbors") == graph.rows[place].tolist()
    scores = page.eval_on_selector_all(".neighbors .score", "all => all.map((one) => one.textContent)")
    assert scores == [f"{similarity:.3f}" for similarity in graph.similarity[place]]
    same = page.eval_on_selector_all(".neighbors .tile", "all => all.map((one) => one.classList.contains('same'))")
    assert same == [view.store.labels[row] == view.store.labels[place] for row in graph.rows[place]]
    page.click(".neighbors .tile >> nth=2")
    other = int(graph.rows[place][2])
    page.wait_for_function("(other) => clzoo.state.current === other", arg=other)
    page.wait_for_selector(".neighbors .tile")
    assert names(page, ".neighbors") == graph.rows[other].tolist()
    page.click("#back")
    page.wait_for_selector(".neighbors .tile")
    assert names(page, ".neighbors") == graph.rows[place].tolist()
    page.click("#tab-filters")
    page.mouse.click(*screen_of(page, place))  # the same one again
    assert page.is_visible(".details h2")


def test_filters_by_label_column_flag_score_and_name_narrow_the_map_and_are_taken_back(opened, file, view):
    page = opened(file)
    labels, paths = np.array(view.store.labels), view.store.paths
    page.check("text=bee")
    assert passing(page) == np.flatnonzero(labels == "bee").tolist()
    assert page.inner_text(".counter") == "12 of 36 images"
    page.click("summary:has-text('camera')")
    page.check("text=phone")
    cameras = np.array(view.store.metadata["camera"].to_pylist())
    assert passing(page) == np.flatnonzero((labels == "bee") & (cameras == "phone")).tolist()
    page.click("#reset")
    assert len(passing(page)) == 36
    page.check("text=duplicate")
    assert passing(page) == places_of(view.store.path, "ant_00.png", "ant_01.png").tolist()
    page.click("#reset")
    page.click("summary:has-text('outlier distance')")
    page.wait_for_selector("[aria-label='Least of outlier distance']")
    page.eval_on_selector(
        "[aria-label='Least of outlier distance']", "(one) => (one.value = 500, one.dispatchEvent(new Event('input')))"
    )
    distance = next(score.values for score in view.findings.scores if score.name == "outlier distance")
    middle = (distance.min() + distance.max()) / 2
    assert passing(page) == np.flatnonzero(distance >= middle).tolist()
    page.click("#reset")
    page.fill("#search", "CAT_0")
    assert passing(page) == [row for row, path in enumerate(paths) if "cat_0" in path]
    page.keyboard.press("Enter")
    assert page.evaluate("() => clzoo.state.current") == passing(page)[0]


def test_points_are_colored_by_what_is_chosen(opened, file):
    page = opened(file)

    def colors() -> int:
        settled(page)
        return len(page.eval_on_selector_all(".swatch", "all => [...new Set(all.map((one) => one.style.background))]"))

    assert colors() == 3
    page.select_option("#color-by", label="camera")
    assert colors() == 2
    page.select_option("#color-by", label="flags")
    assert colors() == 3
    page.select_option("#color-by", label="exposure")
    assert page.is_visible("[aria-label='Histogram of exposure']")
    page.select_option("#color-by", label="nothing")
    assert colors() == 0


def test_a_lasso_selects_what_is_inside_and_both_exports_hold_exactly_that(opened, file, view, place, tmp_path):
    page = opened(file)
    settled(page)
    target = isolated(view)
    x, y = screen_of(page, target)
    page.click("#lasso")
    page.mouse.move(x - 12, y - 12)
    page.mouse.down()
    for dx, dy in ((12, -12), (12, 12), (-12, 12)):
        page.mouse.move(x + dx, y + dy)
    page.mouse.up()
    selected = page.evaluate("() => [...clzoo.state.selected].flatMap((one, i) => (one ? [i] : []))")
    assert target in selected
    assert len(selected) < 10
    page.click("#tab-list")
    assert names(page, ".list") == selected
    table = list(csv.DictReader(io.StringIO(saved(page, "#save-csv"))))
    assert [row["path"] for row in table] == [str(view.store.root / view.store.paths[row]) for row in selected]
    assert [row["label"] for row in table] == [view.store.labels[row] for row in selected]
    assert [row["camera"] for row in table] == [view.store.metadata["camera"][row].as_py() for row in selected]
    flagged = next(flag.rows for flag in view.findings.flags if flag.name == "outlier")
    assert [row["outlier"] for row in table] == [str(int(row in flagged)) for row in selected]
    text = saved(page, "#save-list")
    for name, content in (("chosen.txt", text), ("chosen.csv", saved(page, "#save-csv"))):
        (tmp_path / name).write_text(content, newline="")
        listing = open_source(tmp_path / name).listing
        assert sorted(item.path for item in listing.items) == sorted(row["path"] for row in table)
    page.click("#clear-selection")
    assert page.inner_text(".list .heading") == "36 in all"


def test_everything_can_be_done_with_the_keys(opened, file, view):
    page = opened(file)
    settled(page)
    press = page.keyboard.press
    press("n")
    press("n")
    assert page.evaluate("() => clzoo.state.current") == 1
    page.wait_for_selector(".neighbors .tile")
    press("3")
    page.wait_for_function("(other) => clzoo.state.current === other", arg=int(view.seen[0].graph.rows[1][2]))
    press("Backspace")
    assert page.evaluate("() => clzoo.state.current") == 1
    press("s")
    press("p")
    press("s")
    assert page.inner_text(".counter") == "36 images, 2 selected"
    assert page.get_attribute("#tab-picture", "aria-selected") == "true"
    press("a")
    assert page.get_attribute("#tab-list", "aria-selected") == "true"
    assert page.inner_text(".counter") == "36 images, 36 selected"
    press("Escape")
    press("Escape")
    assert page.inner_text(".counter") == "36 images"
    before = page.evaluate("() => ({...clzoo.map.camera})")
    press("+")
    press("ArrowRight")
    after = page.evaluate("() => ({...clzoo.map.camera})")
    assert after["scale"] > before["scale"]
    assert after["x"] > before["x"]
    press("n")  # which brings it into view
    press("v")
    box = page.locator(".marks").bounding_box()
    inside = [screen_of(page, i) for i in range(36)]
    expected = sum(
        box["x"] < x < box["x"] + box["width"] and box["y"] < y < box["y"] + box["height"] for x, y in inside
    )
    assert 0 < page.evaluate("() => clzoo.state.selectedCount") == expected < 36
    press("Escape")
    press("Escape")
    press("0")
    settled(page)
    assert page.evaluate("() => clzoo.map.camera.scale") == pytest.approx(before["scale"], rel=1e-3)
    press("Enter")
    assert page.evaluate("() => clzoo.state.current") is not None
    press("/")
    assert page.evaluate("() => document.activeElement.id") == "search"
    page.keyboard.type("bee")
    assert len(passing(page)) == 12
    press("Escape")
    press("?")
    assert page.is_visible("dialog")
    press("Escape")
    assert page.is_hidden("dialog")
    page.focus("#tab-list")
    press("ArrowLeft")
    assert page.get_attribute("#tab-filters", "aria-selected") == "true"
    press("ArrowRight")
    assert page.get_attribute("#tab-list", "aria-selected") == "true"
    press("Tab")
    press("Tab")
    press("Tab")
    press("Tab")
    assert page.evaluate("() => document.activeElement.className").split() == ["tile"]
    first = page.evaluate("() => Number(document.activeElement.dataset.place)")
    press("ArrowRight")
    assert page.evaluate("() => Number(document.activeElement.dataset.place)") != first


def test_the_wheel_zooms_at_the_pointer_and_dragging_moves(opened, file, view):
    page = opened(file)
    settled(page)
    place = isolated(view)
    before = screen_of(page, place)
    page.mouse.move(*before)
    page.mouse.wheel(0, -400)
    settled(page)
    zoomed = page.evaluate("() => clzoo.map.camera.scale / clzoo.map.camera.whole")
    assert zoomed > 1.5
    after = screen_of(page, place)
    assert after == pytest.approx(before, abs=zoomed)  # the pointer stands on a whole pixel
    page.mouse.down()
    page.mouse.move(before[0] + 40, before[1] + 25, steps=3)
    page.mouse.up()
    settled(page)
    assert screen_of(page, place) == pytest.approx((after[0] + 40, after[1] + 25), abs=1)
    assert page.evaluate("() => clzoo.state.current") is None, "a drag is no click"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_the_panel_lies_below_the_map_and_a_tap_shows_neighbors(opened, file, view, scheme):
    page = opened(file, 390, 800, has_touch=True, is_mobile=True, color_scheme=scheme)
    settled(page)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    assert page.locator("aside").bounding_box()["y"] >= page.locator("main").bounding_box()["height"]
    page.touchscreen.tap(*screen_of(page, isolated(view)))
    page.wait_for_selector(".neighbors .tile")
    background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(245, 245, 243)") == (scheme == "light")
