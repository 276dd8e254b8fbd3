"""Lists of paths as people have them: what a table says of the images, and in which forms a list may come."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from small_models import small_encoder

from clzoo import ClzooError, embed_folder, open_store
from clzoo.data.opening import has_test_split, is_whole, open_labelled, open_source

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


# Forms ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_are_read_as_spreadsheets_write_them(write_list: List, encoding: str, mark: str, end: str) -> None:
    rows = [("path", "label", "note"), ("all/0.png", "cat", '"a, b; c"'), ("all/1.png", "dög", "")]
    text = end.join(["", *(mark.join(row) for row in rows), ""])
    assert labels(write_list("list.csv", text.encode(encoding))) == ["cat", "dög"]
    assert labels(write_list("list.txt", end.join(["all/0.png", "all/1.png"]).encode(encoding))) == [None, None]


def test_a_chosen_column_tells_the_mark_and_names_may_hold_it(write_list: List) -> None:
    assert labels(write_list("list.csv", "place;label\nall/0.png;a,b\n") + "#column=place") == ["a,b"]
    assert labels(write_list("two.csv", "path,label\nall/0.png,a;b\n")) == ["a;b"]
    assert labels(write_list("one.csv", "all/0.png\nall/1.png\n")) == [None, None]


@pytest.mark.parametrize("column", ["", "#column=all/0.png"])
def test_a_table_without_names_of_columns_is_refused_and_shown_some(write_list: List, column: str) -> None:
    rows = "cat,all/0.png,5\ndog,all/1.png,5\n"
    with pytest.raises(
        ClzooError, match=r"begins with an image \(all/0\.png\).*such as: column1,path,column3 "
    ) as caught:
        labels(write_list("list.csv", rows) + column)
    advised = str(caught.value).split("such as: ")[1].split(" ")[0]
    assert labels(write_list("list.csv", f"{advised.replace('column1', 'label')}\n{rows}")) == ["cat", "dog"]


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_a_list_with_nul_characters_is_refused_with_what_writes_another(write_list: List, name: str) -> None:
    with pytest.raises(ClzooError, match=r"holds NUL characters, as find -print0 .*find DIR -name '\*\.jpg' >"):
        labels(write_list(name, b"all/0.png\0all/1.png\0"))


# Archives in a list ---------------------------------------------------------------------------------------------------


def test_the_images_of_an_archive_have_the_columns_of_the_row_that_names_it(tmp_path: Path) -> None:
    pictures = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(pictures):
        Image.new("RGB", (40, 40), (50 * number, 0, 0)).save(path)
    with zipfile.ZipFile(tmp_path / "sub.zip", "w") as archive:
        archive.write(pictures[0], "in/0.png")
        archive.write(pictures[1], "1.png")
    table = pa.table({"image": [path.read_bytes() for path in pictures[2:4]], "label": ["two", "three"]})
    pq.write_table(table, tmp_path / "rest.parquet")
    rows = ["Place,label,site", "sub.zip,zipped,north", "rest.parquet,,south", "4.png,loose,west"]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    source = f"{tmp_path}/list.csv#column=Place"
    store = open_store(embed_folder(source, small_encoder(), tmp_path / "out", labels=True, progress=False).store)
    expected = [
        ("4.png", "loose", "west"),
        ("rest.parquet/000000000", "two", "south"),
        ("rest.parquet/000000001", "three", "south"),
        ("sub.zip/1.png", "zipped", "north"),
        ("sub.zip/in/0.png", "zipped", "north"),
    ]
    assert list(zip(store.paths, store.labels, store.metadata["site"].to_pylist(), strict=True)) == expected
    assert [store.image_bytes(row) for row in range(5)] == [pictures[at].read_bytes() for at in (4, 2, 3, 1, 0)]


@pytest.fixture
def of_both(tmp_path: Path) -> list[str]:
    """Six paths, in train/a, train/b, test/a."""
    paths = [f"{place}/{number}.png" for place in ("train/a", "train/b", "test/a") for number in (0, 1)]
    for number, path in enumerate(paths):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / path)
    return paths


@pytest.mark.parametrize("name", ["all.txt", "all.csv", "all.csv#column=place", "test.parquet"])
def test_a_list_of_paths_in_both_splits_has_these_splits(tmp_path: Path, of_both: list[str], name: str) -> None:
    file, _, column = name.partition("#column=")
    if file.endswith(".parquet"):
        pq.write_table(pa.table({"path": of_both}), tmp_path / file)
    else:
        head = [f"{column or 'path'},x"] if file.endswith(".csv") else []
        (tmp_path / file).write_text("\n".join([*head, *(f"{path},1" if head else path for path in of_both)]))
    source = f"{tmp_path}/{name}"
    train, test = open_source(source, "train"), open_labelled(source, "test")
    assert (len(train), train.classes) == (4, ("a", "b"))
    assert (len(test), test.classes) == (2, ("a",))
    assert has_test_split(source)
    assert not is_whole(source)


def test_a_list_of_one_split_is_whole_whatever_split_it_is_named_for(tmp_path: Path, of_both: list[str]) -> None:
    for kind, chosen in (("train", of_both[:2]), ("test", of_both[2:4])):  # both of the folder train
        rows = [{"path": path, "label": Path(path).parent.name} for path in chosen]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{kind}.parquet")
        opened = open_labelled(f"{tmp_path}/{kind}.parquet", kind)
        assert (len(opened), opened.classes) == (2, (rows[0]["label"],))
        assert is_whole(f"{tmp_path}/{kind}.parquet")
