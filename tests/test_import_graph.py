"""Imports run one way: no folder of clzoo/ imports, at whatever distance, one that imports it.

Every import counts, also those inside functions and those for type checkers: what a file names, its reader has to know.
A module that lies beside the folders (encoder.py, transform.py, ...) is a room of its own; `clzoo/__init__.py` is the
front door and imports nothing until it is asked.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "clzoo"

# What an encoder offers beside its features is done elsewhere; each is imported inside the method that is called. And
# `clzoo.zoo.load` is a public name of what stands above the zoo, imported when it is asked for.
FACADE = {
    ("encoder.py", "zoo"),
    ("encoder.py", "export"),
    ("encoder.py", "loading"),
    ("zoo/__init__.py", "loading"),
}

Edges = dict[str, dict[str, set[str]]]


def edges(package: Path) -> Edges:
    """Room -> imported room -> files that do."""
    found: Edges = defaultdict(lambda: defaultdict(set))
    for path in sorted(package.rglob("*.py")):
        file = path.relative_to(package)
        own = file.parts[0].removesuffix(".py")
        for name in imported(path):
            room = name.split(".")[1] if "." in name else "__init__"
            if room not in (own, "__init__") and own != "__init__":
                found[own][room].add(file.as_posix())
    return found


def imported(path: Path) -> list[str]:
    """Dotted names of our own that a file imports, wherever it does."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            is_root = module == "clzoo"
            names += [f"clzoo.{a.name}" if is_root and is_module(a.name) else module for a in node.names]
    return [name for name in names if name.split(".")[0] == "clzoo"]


def is_module(name: str) -> bool:
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


def without(graph: Edges, exceptions: set[tuple[str, str]]) -> Edges:
    """The graph without the imports that are named."""
    kept: Edges = defaultdict(lambda: defaultdict(set))
    for own, rooms in graph.items():
        for room, files in rooms.items():
            if rest := {file for file in files if (file, room) not in exceptions}:
                kept[own][room] = rest
    return kept


def circles(graph: Edges) -> list[str]:
    """Imports that lead back to where they came from: the shortest way round of each room that lies on one."""
    found = []
    for start in sorted(graph):
        ways, seen = [[start]], {start}
        while ways:
            way = ways.pop(0)
            if start in graph.get(way[-1], {}):
                steps = zip(way, [*way[1:], start], strict=True)
                found.append(" -> ".join(f"{a} ({min(graph[a][b])})" for a, b in steps) + f" -> {start}")
                break
            nearer = [room for room in sorted(graph.get(way[-1], {})) if room not in seen]
            seen |= set(nearer)
            ways += [[*way, room] for room in nearer]
    return found


def test_no_folder_imports_one_that_imports_it() -> None:
    assert circles(without(edges(PACKAGE), FACADE)) == []


def test_every_exception_is_still_needed() -> None:
    graph = edges(PACKAGE)
    for exception in FACADE:
        others = FACADE - {exception}
        assert circles(without(graph, others)), f"{exception} closes no circle any more: take it off the list"


def test_the_facade_is_imported_when_it_is_asked_for() -> None:
    for file, room in FACADE:
        for node in ast.parse((PACKAGE / file).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert f"clzoo.{room}" not in ast.unparse(node)


def test_the_picture_of_the_folders_is_true() -> None:
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    lines = text.partition("```text\n")[2].partition("```")[0].splitlines()
    floors = [re.split(r"\s{5,}", line.strip())[0].split() for line in lines if line.strip() not in ("", "|")]
    height = {room: -number for number, rooms in enumerate(floors) for room in rooms}
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()} <= set(height)
    for own, rooms in without(edges(PACKAGE), FACADE).items():
        for room, files in rooms.items():
            if own in height and room in height:
                assert height[own] >= height[room], f"{own} imports {room}, which stands above it: {files}"


def test_losses_and_augmentations_stand_on_next_to_nothing_of_ours() -> None:
    graph = edges(PACKAGE)
    assert set(graph["losses"]) <= {"errors"}
    assert set(graph["augment"]) <= {"errors", "device"}
    assert set(graph["device"]) <= {"errors"}


def test_a_circle_is_found_at_any_distance(tmp_path: Path) -> None:
    for file, line in {
        "a/one.py": "def f():\n    from clzoo.b import two",
        "b/two.py": "import clzoo.c.three",
        "c/three.py": "from clzoo.a.one import f",
        "d/four.py": "from clzoo.a import one",
    }.items():
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text(line)
    found = circles(edges(tmp_path))
    assert found[0] == "a (a/one.py) -> b (b/two.py) -> c (c/three.py) -> a"
    assert len(found) == 3
    assert circles(without(edges(tmp_path), {("b/two.py", "c")})) == []


def test_no_two_test_files_have_one_name() -> None:
    """pytest imports them by their names alone, and collects the first only."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert {name for name in names if names.count(name) > 1} == set()
