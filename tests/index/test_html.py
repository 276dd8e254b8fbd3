"""The page of neighbors: self-contained, honest about missing pictures, safe with hostile names."""

from __future__ import annotations

import base64
import io
import os
import re
import tarfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pytest
from PIL import Image

from clzoo import ClzooError, embed_folder
from clzoo.index import build_index, open_index, query_images, search, write_page
from clzoo.index.html import median_similarity

HOSTILE = "<script>alert(1)</script>'\" onerror=x &amp; ünïcode.png".replace("/", "\u2215")


class Page(HTMLParser):
    """Collects the tags with their attributes, and the text outside of <style>."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def index(embedded):
    return build_index(embedded)


@pytest.fixture
def query(pictures):
    return pictures / "reds" / "0.jpg"


def write(tmp_path, index, queries, k=3):
    results = [search(index, index.store.embeddings()[:1], k)[0] for _ in queries]
    return Page(write_page(tmp_path / "page.html", index, queries, results))


def test_every_query_and_hit_has_its_thumbnail(tmp_path, index, query):
    page = write(tmp_path, index, [query, query], k=3)
    images = page.of("img")
    assert len(images) == 2 * (1 + 3)
    for image in images:
        encoded = image["src"].removeprefix("data:image/jpeg;base64,")
        thumbnail = Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)))
        assert max(thumbnail.size) <= 224
        assert thumbnail.width > thumbnail.height  # of 48 x 40 pictures: the shape is kept
        assert image["alt"]
    text = " ".join(page.text)
    for fact in ("0.jpg", "1.000", "blues", "test-resnet18-random", "12 images", "recall@10 1.000"):
        assert fact in text, fact


def test_the_page_needs_no_script_and_no_other_file(tmp_path, index, query):
    page = write(tmp_path, index, [query])
    assert not page.of("script")
    assert not page.of("link")
    assert all(image["src"].startswith("data:") for image in page.of("img"))
    assert "http://" not in page.source
    assert "https://" not in page.source
    policies = [meta["content"] for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_hostile_names_stay_text(tmp_path, pictures, make_store):
    (pictures / HOSTILE).write_bytes((pictures / "reds" / "1.png").read_bytes())
    label = '"><img src=x onerror=alert(2)>'
    store = make_store(np.eye(2), paths=[HOSTILE, "reds/0.jpg"], labels=[label, label], root=pictures)
    index = build_index(store)
    path = write_page(
        tmp_path / "page.html", index, [pictures / HOSTILE], search(index, np.eye(2)[0], 2), title="<b>title</b>"
    )
    page = Page(path)
    assert not page.of("script")
    assert not page.of("b")
    assert len(page.of("img")) == 3
    assert all(set(image) == {"src", "alt"} for image in page.of("img"))
    names = [attributes["title"] for attributes in page.of("span") if "title" in attributes]
    assert HOSTILE in names  # unharmed, once unescaped
    assert label in page.text
    assert HOSTILE in page.text


@pytest.mark.skipif(os.name == "nt", reason="such names cannot exist there")
def test_a_query_whose_name_is_not_unicode_is_shown(tmp_path, index, query):
    try:
        strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg"))
        strange.write_bytes(query.read_bytes())
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    assert "caf\\udce9.jpg" in "".join(write(tmp_path, index, [strange]).text)


def test_a_picture_that_is_gone_keeps_its_place_and_is_named(tmp_path, index, pictures, query, caplog):
    gone = search(index, index.store.embeddings()[:1], 1)[0][0].path
    (pictures / gone).unlink()
    page = write(tmp_path, index, [query], k=3)
    assert len(page.of("img")) == 3
    assert len(page.of("li")) == 3
    assert "No such file or directory" in "".join(page.text)
    assert any(gone in record.message for record in caplog.records)


def test_an_existing_page_is_replaced_only_by_a_whole_one(tmp_path, index, query, monkeypatch):
    (tmp_path / "page.html").write_text("old")
    monkeypatch.setattr("clzoo.index.html._thumbnail", lambda source: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path, index, [query])
    assert (tmp_path / "page.html").read_text() == "old"
    assert not list(tmp_path.glob(".tmp-*"))


def test_results_must_belong_to_the_queries(tmp_path, index, query):
    with pytest.raises(ClzooError, match="1 queries and 2 results"):
        write_page(tmp_path / "page.html", index, [query], [[], []])


def test_both_colour_schemes_are_styled(tmp_path, index, query):
    page = write(tmp_path, index, [query])
    assert "prefers-color-scheme: dark" in page.source
    assert re.search(r"color-scheme:\s*light dark", page.source)


def test_pictures_link_to_their_files_and_to_nothing_else(tmp_path, index, pictures):
    strange = pictures / "reds" / "javascript:alert(1)#?.png"
    strange.write_bytes((pictures / "reds" / "1.png").read_bytes())
    page = write(tmp_path, index, [strange], k=3)
    links = [link["href"] for link in page.of("a")]
    assert links[0] == strange.as_uri()
    assert "javascript%3Aalert" in links[0]
    assert all(Path(url2pathname(urlsplit(link).path)).is_file() for link in links)
    assert len(links) == 1 + 3


def test_a_picture_without_a_file_of_its_own_has_no_link(tmp_path, make_store, query):
    store = make_store(np.eye(2), paths=["shard.tar/0.jpg", "javascript:alert(1)"], root=query.parent)
    path = write_page(tmp_path / "page.html", build_index(store), [query], search(store, np.eye(2)[0], 2))
    assert [link["href"] for link in Page(path).of("a")] == [query.as_uri()]


def test_of_what_lies_on_the_web_whole_files_alone_have_a_link(tmp_path, make_store, query):
    store = make_store(np.eye(2), paths=["train.tar/0 #.jpg", "cats/0 #.jpg"], root="https://127.0.0.1/d")
    path = write_page(tmp_path / "page.html", build_index(store), [query], search(store, np.eye(2)[0], 2))
    assert [link["href"] for link in Page(path).of("a")] == [query.as_uri(), "https://127.0.0.1/d/cats/0%20%23.jpg"]


def test_a_query_that_lies_in_an_archive_is_shown(tmp_path, pictures, encoder, caplog):
    shard = tmp_path / "shard.tar"
    with tarfile.open(shard, "w") as archive:
        archive.add(pictures / "reds" / "0.jpg", "0.jpg")
    embed_folder(shard, encoder, out=tmp_path / "of-shard")
    index = open_index(tmp_path / "of-shard")
    queries = query_images("shard.tar/0.jpg", index.store)
    page = Page(write_page(tmp_path / "page.html", index, queries, search(index, queries, 1)))
    assert len(page.of("img")) == 2
    assert "has no thumbnail" not in caplog.text


def test_a_query_that_a_list_named_by_a_url_stands_apart(tmp_path, make_store):
    url = "https://127.0.0.1/reds/0.jpg"
    store = make_store(np.eye(3), paths=[url, "a.jpg", "b.jpg"], labels=["red", "red", "blue"])
    queries = query_images(url, store)
    text = "".join(Page(write_page(tmp_path / "page.html", open_index(store), queries, search(store, queries, 3))).text)
    assert text.count("finds itself") == 1
    assert "1 of 2 same label" in text


def test_the_query_stands_apart_and_labels_are_counted_without_it(tmp_path, index, pictures):
    query = pictures / "reds" / "0.jpg"
    row = index.store.paths.index("reds/0.jpg")
    hits = search(index, index.store.embeddings()[row], 12)
    text = "".join(Page(write_page(tmp_path / "page.html", index, [query], [hits[0][::-1]])).text)
    assert "5 of 11 same label" in text  # six reds, one of which is the query
    assert text.count("finds itself") == 1
    page = Page(tmp_path / "page.html")
    assert [item.get("class") for item in page.of("li")] == ["other"] * 6 + ["same"] * 5  # as they were found
    assert len(page.of("img")) == 1 + 12
    assert "reds/0.jpg" in text  # a number alone would say nothing


def test_a_query_from_elsewhere_has_the_label_of_its_folder_if_the_collection_knows_it(tmp_path, index, query):
    for folder, counted in (("blues", True), ("greens", False)):
        (tmp_path / folder).mkdir()
        elsewhere = tmp_path / folder / "photo.jpg"
        elsewhere.write_bytes(query.read_bytes())
        page = write(tmp_path, index, [elsewhere], k=12)
        assert ("6 of 12 same label" in "".join(page.text)) == counted
        assert "finds itself" not in "".join(page.text)


def test_bars_run_from_the_median_similarity_to_one(tmp_path, make_store, query):
    angles = np.radians([0, 60, 90])
    store = make_store(np.stack([np.cos(angles), np.sin(angles)], axis=1), root=query.parent)
    assert median_similarity(store) == pytest.approx(0.5, abs=1e-3)  # of cos 60, cos 90 and cos 30
    hits = search(build_index(store), np.array([1.0, 0.0]), 3)
    path = write_page(tmp_path / "page.html", open_index(store), [query], hits)
    widths = [float(bar["style"].removeprefix("width: ").removesuffix("%")) for bar in Page(path).of("i")]
    assert widths == pytest.approx([100, 0, 0], abs=0.2)
    assert median_similarity(make_store(np.eye(2)[:1], folder=tmp_path / "one")) == 0
