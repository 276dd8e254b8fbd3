"""One and the same photographs in every form that a source may have: the same vectors, row by row."""

from __future__ import annotations

import csv
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from picture_folders import make_shard
from pictures import make_image
from web_server import WebServer

from clzoo import ClzooError, Encoder, build_index, embed_folder, open_store
from clzoo.cli import main
from clzoo.data import parquet
from clzoo.data.opening import open_source, open_split
from clzoo.embed import Store
from clzoo.embed.pipeline import default_out
from clzoo.errors import UnreadableImageError
from clzoo.index import search

SPECIES = {"cats": "Felis catus", "dogs": "Canis familiaris"}


def embed(source: str | Path, encoder: Encoder, out: Path, **options: Any) -> Any:
    return embed_folder(source, encoder, out, progress=False, **options)


def in_every_form(images: Path, place: Path) -> dict[str, Path]:
    """The pictures of a folder as a list, tables, archives and a Parquet file of images."""
    files = sorted(images.rglob("*.*"), key=lambda path: path.relative_to(images).as_posix())
    paths = [path.relative_to(images).as_posix() for path in files]
    place.mkdir()
    (images / "list.txt").write_text("\n".join(paths[::-1]))  # the order of a list is no matter
    with (images / "list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "path", "species", "size"])
        rows.writerows([f"{n:03}", path, SPECIES[path[:4]], "large"] for n, path in enumerate(paths))
    table = pa.table({"file_name": paths, "year": pa.array(range(len(paths)), pa.int16())})
    pq.write_table(table, images / "list.parquet")
    members = {path: file.read_bytes() for path, file in zip(paths, files, strict=True)}
    make_shard(place / "photos.tar", members)
    with zipfile.ZipFile(place / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in members.items():
            archive.writestr(path, data)
    pictures = pa.array(
        [{"bytes": data, "path": path} for path, data in members.items()],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    names = list(SPECIES)
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    hub = {b"huggingface": json.dumps({"info": {"features": features}})}
    labels = [names.index(path[:4]) for path in paths]
    pq.write_table(
        pa.table({"image": pictures, "label": labels}).replace_schema_metadata(hub),
        place / "photos.parquet",
        row_group_size=max(2, len(paths) // 3),
    )
    return {
        "text": images / "list.txt",
        "csv": images / "list.csv",
        "table": images / "list.parquet",
        "tar": place / "photos.tar",
        "zip": place / "photos.zip",
        "parquet": place / "photos.parquet",
    }


def serve(web: WebServer, folder: Path) -> str:
    for path in folder.rglob("*.*"):
        web.files[f"/{folder.name}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    return f"{web.url}/{folder.name}"


def assert_same_vectors(store: Store, folder: Store) -> None:
    """Row by row: the same picture, label and vector. (Batches are the same, so vectors are to the bit.)"""
    assert len(store) == len(folder) > 0
    assert store.labels == folder.labels
    assert (store.embeddings() == folder.embeddings()).all()
    assert not store.errors()
    assert store.image_bytes(3) == folder.image_bytes(3)
    assert store.image_bytes(len(store) - 1) == folder.image_bytes(len(store) - 1)


def check_every_form(images: Path, place: Path, web: WebServer, encoder: Encoder) -> None:
    embed(images, encoder, place / "of-folder", labels=True)
    folder = open_store(place / "of-folder")
    forms = in_every_form(images, place / "forms")
    sources: dict[str, str | Path] = dict(forms)
    for name, path in forms.items():
        sources[f"{name} at a URL"] = f"{serve(web, path.parent)}/{path.name}"
    sources["folder at a URL"] = f"{web.url}/{images.name}/"
    for name, source in sources.items():
        out = place / name.replace(" ", "-")
        embed(source, encoder, out, labels=True)
        assert_same_vectors(open_store(out), folder)
        again = embed(source, encoder, out)
        assert (again.embedded, again.unchanged, again.generation) == (0, len(folder), open_store(out).generation), name


def test_the_same_pictures_in_every_form_give_the_same_vectors_row_by_row(
    images: Path, tmp_path: Path, web: WebServer, encoder: Encoder
) -> None:
    check_every_form(images, tmp_path / "all", web, encoder)


@pytest.mark.slow
def test_two_hundred_photographs_in_every_form(tmp_path: Path, web: WebServer, encoder: Encoder) -> None:
    import tarfile

    data = os.environ.get("CLZOO_TEST_DATA")
    if data is None:
        pytest.skip("CLZOO_TEST_DATA names no folder of photographs")
    with tarfile.open(Path(data) / "tiny-imagenet-val.tar.xz") as archive:
        count = 0
        for member in archive:
            if count < 200 and member.isfile() and member.name.lower().endswith((".jpg", ".jpeg")):
                path = tmp_path / "photos" / ("cats", "dogs")[count % 2] / Path(member.name).name
                path.parent.mkdir(parents=True, exist_ok=True)
                content = archive.extractfile(member)
                assert content is not None
                path.write_bytes(content.read())
                count += 1
    assert count == 200
    check_every_form(tmp_path / "photos", tmp_path / "all", web, encoder)


# Lists with metadata --------------------------------------------------------------------------------------------------


def test_the_other_columns_of_a_list_are_kept_and_searched_by(images: Path, tmp_path: Path, encoder: Encoder) -> None:
    source = in_every_form(images, tmp_path / "forms")["csv"]
    store = open_store(embed(source, encoder, tmp_path / "store").store)
    assert store.metadata.column_names == ["id", "species", "size"]
    assert store.metadata["id"].to_pylist() == [f"{n:03}" for n in range(24)]  # text stays text
    assert store.metadata["species"].to_pylist() == [SPECIES[path[:4]] for path in store.paths]
    build_index(store)
    vector = store.embeddings()[0]
    hits = search(store, vector, 24, where=["species=Canis familiaris"])[0]
    assert sorted(hit.path for hit in hits) == [path for path in store.paths if path.startswith("dogs")]
    assert [hit.path for hit in search(store, vector, 5, where=["metadata.id=007"])[0]] == [store.paths[7]]
    with pytest.raises(ClzooError, match=r"path, label, size, id, metadata\.id, species, metadata\.size"):
        search(store, vector, where=["genus=Felis"])


def test_what_a_list_says_anew_is_kept_anew_and_nothing_is_embedded(
    images: Path, tmp_path: Path, encoder: Encoder
) -> None:
    source = in_every_form(images, tmp_path / "forms")["csv"]
    first = embed(source, encoder, tmp_path / "store")
    (images / "dogs" / "001.png").rename(tmp_path / "away.png")  # cannot be reached: keeps what it has
    text = source.read_text().replace("Felis catus", "Felis silvestris").replace("Canis", "Vulpes")
    source.write_text(text.replace("species", "name"))
    again = embed(source, encoder, tmp_path / "store")
    assert (again.embedded, again.unchanged, again.kept, again.rows) == (0, 23, 1, 24)
    assert again.generation > first.generation
    store = open_store(tmp_path / "store")
    assert store.metadata.column_names == ["id", "name", "size"]
    assert set(store.metadata["name"].to_pylist()) == {"Felis silvestris", "Vulpes familiaris", None}
    assert store.metadata["size"][store.paths.index("dogs/001.png")].as_py() == "large"
    assert embed(source, encoder, tmp_path / "store").generation == again.generation
    make_image(images / "cats" / "000.jpg", np.random.default_rng(5))
    third = embed(source, encoder, tmp_path / "store")
    assert (third.embedded, third.unchanged) == (1, 22)
    assert open_store(tmp_path / "store").metadata["id"].to_pylist() == store.metadata["id"].to_pylist()


def test_a_label_column_states_the_labels(
    images: Path, tmp_path: Path, encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    (images / "x.csv").write_text("path,label\ncats/000.jpg,wild\ndogs/001.png,\n")
    store = open_store(embed(images / "x.csv", encoder, tmp_path / "store", labels=True).store)
    assert store.labels == ["wild", "dogs"]
    assert "1 of 2 images have no label in the column 'label': the name of their first sub-folder" in caplog.text
    (images / "x.csv").write_text("path,label\ncats/000.jpg,tame\ndogs/001.png,\n")
    assert embed(images / "x.csv", encoder, tmp_path / "store").embedded == 0
    assert open_store(tmp_path / "store").labels == ["tame", "dogs"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "place,kind\nx.png,1\n",
            "has the columns place, kind; none of them is called path.*a.csv#column=NAME",
        ),
        ("a.csv", "path,kind\nx.png\n", "row 2: 1 values, expected 2"),
        ("a.csv", "path,kind\n,1\n", "row 2: the column path is empty"),
        ("a.csv", "path,kind,kind\nx.png,1,2\n", "two columns of one name"),
        ("a.csv", 'path,kind\n"x.png,1\n', "is a damaged table"),
        ("a.csv#column=none", "path,kind\nx.png,1\n", "there is no none"),
        ("a.csv#colour=red", "path,kind\nx.png,1\n", "colour=red chooses nothing; expected"),
        ("a.csv#split=test", "path,kind\nx.png,1\n", "a split is chosen of Hub data sets alone"),
        ("a.txt#column=path", "x.png\n", "is a list without columns; leave out #column=path"),
    ],
)
def test_what_is_wrong_with_a_list_is_said(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name.partition("#")[0]).write_text(content)
    with pytest.raises(ClzooError, match=message):
        open_source(str(tmp_path / name))


def test_a_column_is_chosen_and_a_list_without_a_header_is_read_as_ever(images: Path) -> None:
    (images / "a.csv").write_text("place\tx\ncats/000.jpg\t1\n".replace("\t", ","))
    assert [item.path for item in open_source(f"{images}/a.csv#column=place").listing.items] == ["cats/000.jpg"]
    (images / "b.csv").write_text("cats/000.jpg\ndogs/001.png\n")
    assert len(open_source(images / "b.csv")) == 2
    assert open_split(f"{images}/a.csv#column=place", "train").classes == ("cats",)  # what the list names


# Parquet files of images ----------------------------------------------------------------------------------------------


def test_rows_are_read_a_block_at_a_time_in_one_pass(
    images: Path, tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = in_every_form(images, tmp_path / "forms")["parquet"]
    passes: list[int] = []
    real: Callable[..., Any] = parquet._blocks
    monkeypatch.setattr(parquet, "_BLOCK", 4)
    monkeypatch.setattr(parquet, "_blocks", lambda *a: (passes.append(a[2]), real(*a))[1])
    embed(source, encoder, tmp_path / "store", batch_size=3, workers=3)
    assert sorted(passes) == [0, 1, 2]
    assert open_store(tmp_path / "store").paths[:2] == [
        f"photos.parquet/{n:09}-{p}" for n, p in ((0, "000.jpg"), (1, "002.jpg"))
    ]


def test_a_file_that_was_rewritten_is_embedded_anew_and_one_of_other_things_is_counted(
    images: Path, tmp_path: Path, encoder: Encoder
) -> None:
    folder = in_every_form(images, tmp_path / "forms")["parquet"].parent
    (folder / "photos.tar").unlink()
    (folder / "photos.zip").unlink()
    pq.write_table(pa.table({"x": [1.0, 2.0]}), folder / "other.parquet")
    (folder / "broken.parquet").write_bytes(b"PAR1")
    first = embed(folder, encoder, tmp_path / "store")
    assert (first.rows, first.failed, first.ignored[".parquet"]) == (24, 1, 1)
    table = pq.read_table(folder / "photos.parquet")
    pq.write_table(table.slice(0, 22), folder / "photos.parquet")
    again = embed(folder, encoder, tmp_path / "store")
    assert (again.rows, again.embedded, again.dropped) == (22, 22, 2)


def test_labels_and_splits_of_parquet_files(images: Path, tmp_path: Path) -> None:
    source = in_every_form(images, tmp_path / "forms")["parquet"]
    (tmp_path / "set").mkdir()
    table = pq.read_table(source)
    pq.write_table(table, tmp_path / "set" / "train-00000-of-00001.parquet")
    pq.write_table(table.slice(0, 5), tmp_path / "set" / "test-00000-of-00001.parquet")
    train, test = open_split(tmp_path / "set", "train"), open_split(tmp_path / "set", "test")
    assert (train.classes, len(train), len(test)) == (("cats", "dogs"), 24, 5)
    assert train.labels.tolist() == [0] * 12 + [1] * 12
    plain = table.set_column(1, "category", pa.array([n % 11 for n in range(24)])).replace_schema_metadata(None)
    pq.write_table(plain, tmp_path / "plain.parquet")
    assert open_split(tmp_path / "plain.parquet", "train").classes == tuple(map(str, range(11)))


def test_several_columns_of_images_are_an_error_until_one_is_chosen(images: Path, tmp_path: Path) -> None:
    table = pq.read_table(in_every_form(images, tmp_path / "forms")["parquet"])
    table = table.rename_columns(["left", "label"]).append_column("right", table["image"])
    pq.write_table(table, tmp_path / "two.parquet")
    with pytest.raises(ClzooError, match=r"several columns of images: left, right.*#column=left"):
        open_source(tmp_path / "two.parquet")
    chosen = open_source(f"{tmp_path}/two.parquet#column=right")
    assert chosen.listing.items[0].read() == (images / "cats" / "000.jpg").read_bytes()
    with pytest.raises(ClzooError, match=r"two\.parquet has the columns .*; there is no middle"):
        open_source(f"{tmp_path}/two.parquet#column=middle")


def test_plain_bytes_are_images_by_their_name_or_when_they_are_chosen(images: Path, tmp_path: Path) -> None:
    data = [(images / "cats" / "000.jpg").read_bytes(), None]
    folder = tmp_path / "tables"
    folder.mkdir()
    pq.write_table(pa.table({"png": pa.array(data, pa.binary()), "blob": [b"x", b"y"]}), folder / "a.parquet")
    pq.write_table(pa.table({"blob": pa.array(data, pa.binary())}), folder / "b.parquet")
    listing = open_source(folder).listing
    assert [item.path for item in listing.items] == ["a.parquet/000000000", "a.parquet/000000001"]
    assert listing.items[0].read() == data[0]
    with pytest.raises(UnreadableImageError, match="the row has no image in it"):
        listing.items[1].read()
    assert listing.ignored == {".parquet": 1, "column blob": 1}
    assert open_source(f"{folder}/b.parquet#column=blob").listing.items[0].read() == data[0]


def test_a_list_behind_a_url_names_urls_too_and_what_is_not_there_keeps_its_row(
    images: Path, tmp_path: Path, web: WebServer, encoder: Encoder
) -> None:
    url = serve(web, images)
    lines = ["cats/000.jpg", f"{url}/dogs/001.png", "./cats/../cats/000.jpg", f"{url}/cats/002.jpg"]
    web.files["/images/a.txt"] = "\n".join(lines).encode()
    embed(f"{url}/a.txt", encoder, tmp_path / "store", labels=True)
    store = open_store(tmp_path / "store")
    assert store.paths == ["cats/000.jpg", f"{url}/cats/002.jpg", f"{url}/dogs/001.png"]
    assert store.labels == ["cats", None, None]
    assert store.image_bytes(2) == (images / "dogs" / "001.png").read_bytes()
    del web.files["/images/dogs/001.png"]
    again = embed(f"{url}/a.txt", encoder, tmp_path / "store")
    assert (again.rows, again.kept, again.failed) == (3, 1, 1)


# Arrays, and data sets of the Hub -------------------------------------------------------------------------------------


def test_a_pack_is_embedded_by_the_paths_of_its_source(images: Path, tmp_path: Path, encoder: Encoder) -> None:
    assert main_of("pack", images, "--size", 32, "--out", tmp_path / "pack") == 0
    done = embed(tmp_path / "pack", encoder, tmp_path / "store", labels=True)
    store = open_store(tmp_path / "store")
    assert (done.rows, store.labels) == (24, [path[:4] for path in store.paths])
    assert store.paths == sorted(path.relative_to(images).as_posix() for path in images.rglob("*.*"))
    np.testing.assert_allclose(store.embeddings()[5], encoder.embed(store.image_bytes(5)), atol=2e-3)
    assert embed(tmp_path / "pack", encoder, tmp_path / "store").unchanged == 24


def main_of(*arguments: object) -> int:
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_hub_data_set_is_streamed_and_a_split_of_it_chosen(hub: Any, images: Path, model_folder: Path) -> None:
    source = in_every_form(images, images.parent / "forms")["parquet"]
    table = pq.read_table(source)
    pq.write_table(table.slice(0, 5), images.parent / "test.parquet")
    files = {
        "README.md": b"# Pictures",
        "data/train-00000-of-00001.parquet": source.read_bytes(),
        "data/test-00000-of-00001.parquet": (images.parent / "test.parquet").read_bytes(),
    }
    hub.add("datasets/org/pictures", files)
    out = images.parent / "store"
    for end, rows in (("#split=train", 24), ("", 29)):
        arguments = ["embed", f"hf-hub:org/pictures{end}", "--model", str(model_folder), "--labels"]
        done = hub.python("-m", "clzoo", *arguments, "--out", str(out) + end, "--json", "--quiet")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["rows"] == rows
        again = hub.python("-m", "clzoo", *arguments, "--out", str(out) + end, "--json", "--quiet")
        assert json.loads(again.stdout)["unchanged"] == rows
    store = open_store(Path(f"{out}#split=train"))
    assert store.paths[0] == "data/train-00000-of-00001.parquet/000000000-000.jpg"
    assert store.labels == ["cats"] * 12 + ["dogs"] * 12
    folder = open_store(embed(images, str(model_folder), images.parent / "of-folder").store)
    np.testing.assert_allclose(store.embeddings(), folder.embeddings(), atol=2e-3)
    hub.add("datasets/org/archive", files)  # one whose main branch has other files, of which the Hub made Parquet
    repo = hub.repos["datasets/org/archive"]
    repo.branches["refs/convert/parquet"] = repo.branches["main"]
    repo.commit("main", {"README.md": repo.commits[repo.branches["main"]]["README.md"]}, "no images")
    arguments = ["embed", "hf-hub:org/archive#split=test", "--model", str(model_folder), "--out", f"{out}-converted"]
    done = hub.python("-m", "clzoo", *arguments, "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 5
    refused = hub.python("-m", "clzoo", "embed", "hf-hub:org/pictures#split=extra", "--model", str(model_folder))
    assert "no file is of the split extra; found data/test-" in refused.stderr


def test_names_of_stores() -> None:
    assert default_out("hf-hub:org/pictures#split=train") == Path("pictures-embeddings")
    assert default_out("https://host/a/photos.zip") == Path("photos-embeddings")
    assert default_out("https://host/list.csv#column=x") == Path("list.csv-embeddings")
