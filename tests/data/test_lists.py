"""Lists of paths as people have them: what a table says of the images, and in which forms a list may come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from clzoo.data.opening import open_source

List = Callable[[str, str | bytes], str]


@pytest.fixture(params=["here", "behind a URL"])
def write_list(request: pytest.FixtureRequest, tmp_path: Path, memory: MemoryFileSystem) -> List:
    """Write a list of the pictures 0.png to 5.png in the folder `all`; returns the source."""
    for number in range(6):
        (tmp_path / "all").mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "all" / f"{number}.png")

    def write(name: str, content: str | bytes) -> str:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        if request.param == "here":
            return str(tmp_path / name)
        for path in tmp_path.rglob("*.*"):
            memory.pipe(f"/lists/{path.relative_to(tmp_path).as_posix()}", path.read_bytes())
        return f"memory://lists/{name}"

    return write


def labels(source: str) -> list[str | None]:
    listing = open_source(source).listing
    assert listing is not None
    return [item.label for item in listing.items]


@pytest.mark.parametrize("head", ["path,label", "Path,Label", "PATH, LABEL ", '"File Name","path","Label"'])
def test_the_column_of_labels_is_found_as_that_of_paths_is_in_any_case(write_list: List, head: str) -> None:
    before = "x," if head.count(",") == 2 else ""
    rows = "".join(f"{before}all/{number}.png,{'cat' if number % 2 else 'dog'}\n" for number in range(6))
    assert labels(write_list("list.csv", f"{head}\n{rows}")) == ["dog", "cat"] * 3


def test_spaces_around_a_label_are_none_of_its_own(write_list: List) -> None:
    source = write_list("list.csv", "path, label\nall/0.png, cat\nall/1.png,cat \nall/2.png,sea lion\nall/3.png,  \n")
    assert labels(source) == ["cat", "cat", "sea lion", None]


def test_rows_of_one_image_with_two_labels_are_warned_about(write_list: List, caplog: pytest.LogCaptureFixture) -> None:
    source = write_list("list.csv", "path,label\nall/0.png,cat\nall/1.png,dog\n./all/0.png,lynx\nall/1.png,dog\n")
    assert labels(source) == ["cat", "dog"]
    assert "1 images stand in the list again with another label" in caplog.text
    assert "all/0.png is 'cat' and then 'lynx'" in caplog.text
    caplog.clear()
    assert labels(write_list("same.csv", "path,label\nall/0.png,cat\nall/0.png,cat\n")) == ["cat"]
    assert "another label" not in caplog.text
