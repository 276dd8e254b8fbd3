"""The server: on this machine alone, behind its token, for its own name; and how it begins and ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from looking import places_of, serving, short_lists

from clzoo import ClzooError, explore, open_store
from clzoo.cli.explore import command
from clzoo.explorer import exploring, graph, server

pytest.importorskip("starlette", reason='needs pip install "clzoo[explore]"')
pytest.importorskip("uvicorn", reason='needs pip install "clzoo[explore]"')


def ask(address, path="", body=None, **headers):
    """(status, headers, content)"""
    request = urllib.request.Request(address + path, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_the_page_comes_with_a_policy_that_lets_it_ask_its_server_alone(address):
    status, headers, content = ask(address)
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["Referrer-Policy"] == "no-referrer"
    assert b'id="collection"' not in content


@pytest.mark.parametrize("path", ["", "collection", "neighbors/0", "picture/small/0", "search"])
def test_nothing_is_answered_without_the_token_or_to_another_name(address, path):
    wrong = address.replace("/token/", "/tokem/")
    assert ask(wrong, path)[0] == 404
    root = address.removesuffix("token/")
    assert ask(root, path)[0] == 404
    assert ask(address, path, Host="evil.example")[0] == 400
    assert ask(address, path, Host="127.0.0.1.evil.example:80")[0] == 400


def test_neighbors_are_those_of_the_graph(address, view):
    (found,) = json.loads(ask(address, "neighbors/7")[2])
    assert found["places"] == view.seen[0].graph.rows[7].tolist()
    assert found["similarity"] == pytest.approx(view.seen[0].graph.similarity[7].tolist(), abs=1e-5)
    assert ask(address, "neighbors/36")[0] == 404


def test_pictures_are_small_or_large_jpegs_and_one_that_is_gone_says_why(address, view, tmp_path):
    for size in ("small", "large"):
        status, headers, content = ask(address, f"picture/{size}/3")
        assert (status, headers["Content-Type"]) == (200, "image/jpeg")
        assert content.startswith(b"\xff\xd8")
    assert ask(address, "picture/small/36")[0] == 404
    (tmp_path / "empty").mkdir()
    moved = explore(open_store(view.store.path, images=tmp_path / "empty"), flags=[], projection="pca")
    with serving(moved) as gone:
        status, _, content = ask(gone, "picture/small/0")
    assert (status, content) == (404, b"No such file or directory")


def test_a_picture_finds_itself(address, place):
    (row,) = places_of(place / "store", "bee_05.png")
    (found,) = json.loads(ask(address, "search", (place / "pictures/bee/bee_05.png").read_bytes())[2])
    assert found["places"][0] == row
    assert found["similarity"][0] == pytest.approx(1, abs=1e-3)
    assert len(found["places"]) == 15


def test_a_picture_finds_as_many_as_the_index_does(tmp_path, place, monkeypatch):
    pytest.importorskip("faiss")
    for module in (graph, server):
        monkeypatch.setattr(module, "MOST_EXACT", 100)
    vectors, store = short_lists(tmp_path)
    view = explore(store, flags=[], projection="pca")
    picture = (place / "pictures/bee/bee_05.png").read_bytes()
    counts = set()
    for row in range(0, len(vectors), 12):  # one of each group
        encoder = SimpleNamespace(embed=lambda _, row=row: vectors[row])
        monkeypatch.setattr(server, "encoder_of", lambda *_, encoder=encoder: encoder)
        (found,) = server._Search(view).nearest(picture)
        assert found["places"][0] == row
        assert min(found["similarity"]) >= -1
        counts.add(len(found["places"]))
    assert max(counts) == 15 > min(counts)


def test_what_is_no_picture_is_answered_with_the_reason(address):
    status, _, content = ask(address, "search", b"no picture")
    assert status == 422
    assert b"this cannot be searched with" in content
    assert ask(address, "search", b"")[0] == 422
    assert ask(address, "search")[0] == 405


def test_a_model_that_has_moved_is_told_in_the_answer(place, view, tmp_path):
    import dataclasses

    store = open_store(place / "store")
    store.manifest = dataclasses.replace(store.manifest, load=str(tmp_path / "moved"))
    moved = explore(store, flags=[], projection="pca")
    with serving(moved) as address:
        status, _, content = ask(address, "search", (place / "pictures/bee/bee_05.png").read_bytes())
    assert status == 422
    assert b"--model PLACE" in content


def test_a_port_in_use_is_an_error_that_says_what_to_type_and_the_command_says_it_before_the_work(
    place, view, monkeypatch
):
    monkeypatch.setattr(exploring, "_seen", lambda *_: pytest.fail("neighbors and a map, which take minutes"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ClzooError, match=rf"port {port} of 127.0.0.1 is in use.*--port 0"):
            view.serve(port, browser=False)
        error = CliRunner().invoke(command, [str(place / "store"), "--port", str(port)]).exception
        assert isinstance(error, ClzooError)
        assert f"port {port} of 127.0.0.1 is in use" in str(error)


def test_a_port_of_a_page_without_a_server_is_refused(place, tmp_path):
    words = [str(place / "store"), "--html", str(tmp_path / "map.html"), "--port", "8000"]
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 2
    assert "--port is of the server, and --html writes a file without one" in done.output


@pytest.mark.parametrize("answer", [False, webbrowser.Error("could not locate runnable browser")])
def test_a_browser_that_is_not_there_is_told_beside_the_address(view, monkeypatch, answer):
    def no_browser(address):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(webbrowser, "open", no_browser)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    said = []
    view.serve(announce=said.append)
    assert re.match(r"explore at http://127\.0\.0\.1:\d+/[\w-]{22}/ ", said[0])
    assert said[1:] == ["no browser could be started: open that address yourself"]


def test_the_command_prints_its_address_and_ends_quietly_at_ctrl_c(place, warm_python, tmp_path):
    command = ("-m", "clzoo", "explore", str(place / "store"), "--map", "pca", "--flags", "outliers", "--no-browser")
    out = tmp_path / "out"
    process = warm_python.start(command, os.environ, timeout=120, stdout=str(out))
    try:
        while not (found := re.search(r"http://127\.0\.0\.1:\d+/[\w-]{22}/ ", out.read_text() if out.exists() else "")):
            assert process.poll() is None, "it ended"
            time.sleep(0.05)
        address = found.group().strip()
        assert ask(address)[0] == 200
        process.kill(signal.SIGINT)
        done = process.finish()
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    finally:
        process.kill()


IN_A_NOTEBOOK = """
import asyncio, sys
from clzoo import explore

async def cell():
    view = explore(sys.argv[1], projection="pca", flags=("outliers",))
    view.serve(browser=False, announce=lambda words: print(words, flush=True))

asyncio.new_event_loop().run_until_complete(cell())  # ipykernel runs cells inside of a loop
print("the next cell")
"""


def test_in_a_notebook_it_serves_until_the_cell_is_interrupted(place, tmp_path, warm_python):
    out = tmp_path / "out"
    process = warm_python.start(("-c", IN_A_NOTEBOOK, str(place / "store")), os.environ, timeout=120, stdout=str(out))
    try:
        while not (found := re.search(r"http://127\.0\.0\.1:\d+/[\w-]{22}/ ", out.read_text() if out.exists() else "")):
            assert process.poll() is None, "it ended"
            time.sleep(0.05)
        assert ask(found.group().strip())[0] == 200
        process.kill(signal.SIGINT)
        done = process.finish()
        assert done.returncode == 0, done.stderr
        assert out.read_text().endswith("the next cell\n")
    finally:
        process.kill()


def test_without_the_extra_the_error_names_it_and_the_way_without_a_server(place, view, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.setattr(exploring, "_seen", lambda *_: pytest.fail("neighbors and a map, which take minutes"))
    assert "pip install" in str(CliRunner().invoke(command, [str(place / "store")]).exception)
    with pytest.raises(ClzooError, match=r'pip install "clzoo\[explore\]"; or write one file: --html FILE'):
        view.serve(browser=False)
