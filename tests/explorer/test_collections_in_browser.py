"""Which collections the page shows, in a real browser: odd ones, large ones, two encoders, searched by the server."""

from __future__ import annotations

import base64
import csv
import io
import unicodedata

import numpy as np
import pytest
from in_page import names, passing, saved, screen_of, settled
from looking import places_of, random_vectors, serving
from PIL import Image
from written_stores import write_store

from clzoo import explore, open_store

EVIL = [
    "x</script><script>window.owned = 1</script>.png",
    'quote".png',
    "line\nbreak.png",
    "turned\u202egnp.exe",
    "<img src=x onerror='window.owned = 1'>.png",
    "comma, and ünï写真🦊.png",
]


def test_hostile_names_and_labels_stay_text_everywhere_and_come_out_of_the_table_as_they_were(opened, tmp_path):
    store = write_store(tmp_path / "store", random_vectors(6), paths=EVIL, labels=EVIL[::-1])
    page = opened(explore(store, flags=["outliers"], projection="pca").write_page(tmp_path / "map.html"))
    settled(page)
    page.check(".part .value:has-text('ünï') input")
    page.mouse.move(*screen_of(page, 0))
    page.keyboard.press("a")
    page.click("#tab-list")
    page.click(".list .tile")
    page.wait_for_selector(".neighbors .tile")
    text = page.inner_text("body")
    assert "\u202e" not in text
    assert "<script>window.owned" in text
    page.click("#reset")
    page.click("#tab-list")
    assert page.evaluate("() => window.owned") is None
    assert page.locator("img").count() == 0
    table = list(csv.DictReader(io.StringIO(saved(page, "#save-csv"), newline="")))
    assert [row["path"] for row in table] == [f"{store.root}/{path}" for path in store.paths]
    assert [row["label"] for row in table] == store.labels
    assert saved(page, "#save-list") == "".join(f"{store.root}/{path}\n" for path in EVIL if "\n" not in path)
    assert "1 images are not in the list" in page.inner_text(".status")


def test_pictures_that_are_gone_keep_their_place_with_the_reason(opened, tmp_path):
    store = write_store(tmp_path / "store", random_vectors(5))
    page = opened(explore(store, flags=[], projection="pca").write_page(tmp_path / "map.html"))
    page.keyboard.press("n")
    page.wait_for_selector(".neighbors canvas[data-drawn=missing]")
    assert page.get_attribute(".large canvas", "title") == "No such file or directory"
    assert page.inner_text(".details .bad") == "No picture: No such file or directory"


def test_pictures_of_more_sheets_than_are_kept_are_all_there_in_the_end(opened, tmp_path):
    count = 9 * 256  # at 96 px, where seven decoded sheets are kept
    for number in range(count):
        Image.new("RGB", (3, 2), (number % 256, 0, 0)).save(tmp_path / f"{number:06d}.png")
    store = write_store(
        tmp_path / "store", random_vectors(count), paths=[f"{n:06d}.png" for n in range(count)], root=tmp_path
    )
    page = opened(explore(store, flags=[], projection="pca").write_page(tmp_path / "map.html"))
    drawn = page.evaluate(
        """async () => {
            const places = Array.from({ length: 200 }, (_, n) => Math.floor((n * clzoo.collection.count) / 200));
            let drawn = 0; // as the map draws: all at once, again whenever something came
            for (let turn = 0; turn < 200 && drawn < places.length; turn++) {
                drawn = places.filter((place) => clzoo.source.tile(place)).length;
                await new Promise((done) => setTimeout(done, 20));
            }
            return drawn;
        }"""
    )
    assert drawn == 200


@pytest.fixture(scope="module")
def mac(tmp_path_factory):
    """A page of six pictures, one of them named as a Mac does it: each accent is a letter of its own."""
    place = tmp_path_factory.mktemp("mac")
    paths = [unicodedata.normalize("NFD", "Café à midi.jpg"), *(f"{number}.jpg" for number in range(5))]
    store = write_store(place / "store", random_vectors(6), paths=paths, labels=list("aabbcc"))
    return explore(store, flags=[], projection="pca").write_page(place / "map.html")


def test_names_are_found_however_their_accents_are_written(opened, mac):
    page = opened(mac)
    for written in ("café À", unicodedata.normalize("NFD", "café à")):
        page.fill("#search", written)
        assert passing(page) == [0]


def test_however_often_one_goes_farther_the_map_stays_in_sight(opened, mac):
    page = opened(mac)
    for _ in range(30):
        page.keyboard.press("-")
        page.wait_for_timeout(20)
    settled(page)
    assert page.evaluate("() => clzoo.map.camera.scale / clzoo.map.camera.whole") == pytest.approx(0.5)


def test_points_have_colors_by_a_column_of_more_values_than_a_canvas_has_pixels(opened, mac):
    page = opened(mac)
    page.keyboard.press("t")  # points alone
    page.evaluate(
        """() => {
            const column = clzoo.collection.columns[0], count = 70_000;
            column.values = Array.from({ length: count }, (_, code) => `caption ${code}`);
            column.codes = column.codes.map((code) => code * 29_999);
            column.counts = new Int32Array(count + 1);
            clzoo.state.color(0);
        }"""
    )
    settled(page)
    read = """(place) => {
        const canvas = document.querySelector(".points"), [x, y] = clzoo.map.screenOf(place);
        return [...canvas.getContext("2d").getImageData(Math.round(x), Math.round(y), 1, 1).data];
    }"""
    colors = [tuple(page.evaluate(read, place)) for place in range(6)]
    assert all(color[3] == 255 for color in colors), colors
    assert len(set(colors)) == 3


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_collection_of_hardly_any_images_breaks_nothing(opened, tmp_path, count):
    store = write_store(tmp_path / "store", random_vectors(max(count, 1)))
    if count == 0:
        store = write_store(tmp_path / "empty", np.zeros((0, 4), np.float32), normalized=False)
    page = opened(explore(store, projection="pca").write_page(tmp_path / "map.html"))
    settled(page)
    assert page.inner_text(".counter") == f"{count} images"
    for key in ("n", "Enter", "+", "ArrowLeft", "0", "a", "v", "g", "t", "l", "Escape", "Escape"):
        page.keyboard.press(key)
    page.mouse.move(400, 400)
    page.mouse.click(*(screen_of(page, 0) if count else (400, 400)))
    settled(page)
    assert names(page, ".neighbors") == list(range(1, count))


def drop(page, content: bytes, name: str) -> None:
    page.evaluate(
        """([content, name]) => {
            const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
            const items = new DataTransfer();
            items.items.add(new File([bytes], name, {type: "image/png"}));
            document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: items, bubbles: true, cancelable: true}));
        }""",
        [base64.b64encode(content).decode(), name],
    )


def test_from_the_server_a_dropped_picture_is_searched_with_and_pictures_and_neighbors_come(
    opened, address, place, view
):
    page = opened(address)
    (row,) = places_of(place / "store", "bee_05.png")
    drop(page, (place / "pictures/bee/bee_05.png").read_bytes(), "<b>mine</b>.png")
    page.wait_for_selector(".neighbors .tile")
    assert page.inner_text(".details h2") == "<b>mine</b>.png"
    assert names(page, ".neighbors")[0] == row
    page.evaluate(
        """async () => {
            const items = new DataTransfer(), picture = await (await fetch("picture/large/3")).blob();
            items.items.add(new File([picture], "pasted.jpg", {type: "image/jpeg"}));
            dispatchEvent(new ClipboardEvent("paste", {clipboardData: items}));
        }"""
    )
    page.wait_for_selector(".details h2:has-text('pasted.jpg')")
    page.wait_for_selector(".neighbors .tile")
    assert names(page, ".neighbors")[0] == 3
    page.click("#back")
    page.wait_for_selector(".details h2:has-text('mine')")
    page.wait_for_selector(".neighbors .tile")
    page.click(".neighbors .tile >> nth=0")
    page.wait_for_function("(row) => clzoo.state.current === row", arg=int(row))
    page.wait_for_selector(".large canvas[data-drawn=yes]")
    page.wait_for_selector(".neighbors .tile")
    assert names(page, ".neighbors") == view.seen[0].graph.rows[row].tolist()


def test_the_file_says_that_searching_needs_the_server(opened, file, place):
    page = opened(file)
    drop(page, (place / "pictures/bee/bee_05.png").read_bytes(), "mine.png")
    assert "without --html" in page.inner_text(".status")
    assert page.locator("#with-picture").count() == 0


def test_two_encoders_stand_beside_each_other_and_the_least_agreement_comes_first(opened, place, other_store, tmp_path):
    view = explore(place / "store", other_store, flags=[], projection="pca")
    page = opened(view.write_page(tmp_path / "pair.html"))
    settled(page)
    order = np.argsort(view.agreement, kind="stable")
    assert names(page, ".list") == order.tolist()
    page.click(".list .tile >> nth=0")
    page.wait_for_selector(".neighbors section >> nth=1")
    sections = page.locator(".neighbors section")
    assert sections.count() == 2
    for i in range(2):
        found = sections.nth(i).locator(".tile").evaluate_all("all => all.map((one) => Number(one.dataset.place))")
        assert found == view.seen[i].graph.rows[order[0]].tolist()
    only = set(view.seen[0].graph.rows[order[0]]) - set(view.seen[1].graph.rows[order[0]])
    assert sections.nth(0).locator(".only").count() == len(only)
    left, right = sections.nth(0).bounding_box(), sections.nth(1).bounding_box()
    assert left["x"] + left["width"] <= right["x"]
    before = screen_of(page, 0)
    page.select_option("#map-of", "1")
    settled(page)
    assert screen_of(page, 0) != before


def test_two_stores_of_one_encoder_or_without_a_common_image_are_refused(place, tmp_path):
    from clzoo import ClzooError

    with pytest.raises(ClzooError, match="there is nothing to compare"):
        explore(place / "store", place / "store", projection="pca")
    write_store(tmp_path / "elsewhere", random_vectors(4))
    with pytest.raises(ClzooError, match="no image in common"):
        explore(place / "store", tmp_path / "elsewhere", projection="pca")


@pytest.mark.slow
def test_a_hundred_thousand_points_are_drawn_hovered_and_filtered(opened, tmp_path):
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(40, 8))
    groups = rng.integers(0, 40, 100_000)
    vectors = (centers[groups] + 0.5 * rng.normal(size=(100_000, 8))).astype(np.float32)
    store = write_store(tmp_path / "store", vectors, labels=[f"group {group}" for group in groups])
    with serving(explore(open_store(store.path), flags=["outliers"], projection="pca")) as address:
        page = opened(address)
        settled(page)
        assert page.inner_text(".counter") == "100,000 images"
        frames = page.evaluate(
            """async () => {
                const before = clzoo.map.frames;
                for (let n = 0; n < 20; n++) {
                    clzoo.map.move(n % 2 ? 15 : -15, 5);
                    await new Promise(requestAnimationFrame);
                }
                return clzoo.map.frames - before;
            }"""
        )
        assert frames >= 19
        page.check("text=group 7 >> nth=0")
        assert len(passing(page)) == int((groups == 7).sum())
