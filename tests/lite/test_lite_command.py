"""`python -m clzoo.lite`: embeds a folder and searches it exactly, with onnxruntime, numpy and Pillow alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from picture_folders import make_folder
from small_models import small_encoder
from test_lite import BLOCKED, FORBIDDEN

import clzoo
import clzoo.lite
from clzoo.config import Preprocessing
from clzoo.embed.export import export_store
from clzoo.errors import ClzooError
from clzoo.export import export_onnx
from clzoo.lite.__main__ import main
from clzoo.lite.vectors import Vectors


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A graph, pictures of two classes with a broken one, and a store of them that torch made."""
    place = tmp_path_factory.mktemp("lite")
    encoder = small_encoder()
    export_onnx(encoder, place / "model.onnx")
    make_folder(place / "pictures", {"red": 4, "blue": 3})
    (place / "pictures" / "red" / "broken.jpg").write_bytes(b"no picture")
    clzoo.embed_folder(place / "pictures", encoder, place / "store", labels=True, store_dtype="fp32", progress=False)
    return place


RUN = """
import json
from clzoo.lite.__main__ import main
code = main(sys.argv[1:])
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
sys.exit(code)
"""


def alone(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process that can import nothing else."""
    command = [sys.executable, "-c", BLOCKED + RUN, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not set(json.loads(done.stderr.splitlines()[-1])) & FORBIDDEN
    return done


def test_a_folder_is_embedded_and_searched_without_anything_else(place):
    out = place / "vectors.npz"
    done = alone("embed", place / "pictures", "--model", place / "model.onnx", "--out", out, "--labels")
    assert done.returncode == 0, done.stderr
    assert "7 vectors of cacr-test_resnet-cifar10, 1 failed" in done.stdout
    assert "warning: red/broken.jpg: not an image" in done.stderr
    store, found = clzoo.open_store(place / "store"), clzoo.lite.open_vectors(out)
    assert (found.paths, found.labels) == (store.paths, store.labels)
    assert np.array_equal(found.ids, store.ids)
    assert np.abs(found.embeddings - store.embeddings()).max() < 1e-4
    picture = place / "pictures" / found.paths[0]
    done = alone("search", out, picture, found.ids[1], "--model", place / "model.onnx", "-k", 3, "--json")
    by_image, by_id = json.loads(done.stdout).values()
    assert [by_image[0]["path"], by_id[0]["path"]] == found.paths[:2]
    assert len(by_image) == 3 and 1 - 1e-4 < by_image[0]["score"] <= 1  # noqa: PT018


def test_a_text_file_of_paths_is_embedded_without_anything_else(place):
    (place / "list.txt").write_text("pictures/red/00.png\npictures/blue/00.png\n")
    done = alone("embed", place / "list.txt", "--model", place / "model.onnx", "--out", place / "of-list.npz")
    assert done.returncode == 0, done.stderr
    assert len(clzoo.lite.open_vectors(place / "of-list.npz").paths) == 2


def test_labels_that_a_list_states_come_before_those_of_folders(place):
    listed = place / "listed.csv"
    listed.write_text("path,label\npictures/red/00.png,crimson\npictures/blue/00.png,\n")
    out = place / "listed.npz"
    assert main(["embed", str(listed), "--model", str(place / "model.onnx"), "--out", str(out), "--labels"]) == 0
    clzoo.embed_folder(listed, small_encoder(), place / "listed", labels=True, progress=False)
    found = clzoo.lite.open_vectors(out)
    labels = dict(zip(found.paths, found.labels, strict=True))
    assert labels == {"pictures/red/00.png": "crimson", "pictures/blue/00.png": "pictures"}
    assert found.labels == clzoo.open_store(place / "listed").labels


def test_it_finds_what_clzoo_finds_in_a_store_or_its_export(place, capsys):
    store = clzoo.open_store(place / "store")
    exported = export_store(store, place / "exported.npz")
    expected = clzoo.search(clzoo.build_index(store), store.embeddings(), k=7)
    for source in (exported, place / "store"):
        found = clzoo.lite.open_vectors(source).search(store.embeddings(), k=7)
        assert [[hit.path for hit in hits] for hits in found] == [[hit.path for hit in hits] for hits in expected]
        assert [hit.score for hit in found[0]] == pytest.approx([hit.score for hit in expected[0]], abs=1e-5)
    assert main(["search", str(exported), store.paths[2], "-k", "1"]) == 0
    assert capsys.readouterr().out == f"{store.paths[2]}\n  1.0000  {store.paths[2]}  {store.labels[2]}\n"


def test_a_query_that_is_a_file_here_is_embedded_where_a_model_is_given(place, tmp_path, monkeypatch, capsys):
    store = clzoo.open_store(place / "store")
    exported = export_store(store, tmp_path / "exported.npz")
    own, other = store.paths[0], store.paths[-1]
    (tmp_path / own).parent.mkdir(parents=True)
    shutil.copy(place / "pictures" / other, tmp_path / own)  # another picture by the same name
    monkeypatch.chdir(tmp_path)
    assert main(["search", str(exported), own, "--model", str(place / "model.onnx"), "-k", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[own][0]["path"] == other
    assert main(["search", str(exported), own, "-k", "1", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)[own][0]["path"] == own
    assert "its stored vector is taken; for the file that lies here: --model" in told.err


def test_a_graph_that_prepares_images_otherwise_is_refused(place, tmp_path, capsys):
    larger = small_encoder(preprocessing=Preprocessing(size=64, crop_pct=1.0))
    graph = export_onnx(larger, tmp_path / "larger.onnx").path
    picture = next((place / "pictures").rglob("*.png"))
    own = tmp_path / "own.npz"
    assert main(["embed", str(place / "pictures"), "--model", str(place / "model.onnx"), "--out", str(own)]) == 0
    exported = export_store(clzoo.open_store(place / "store"), tmp_path / "exported.npz")
    for vectors in (own, exported, place / "store"):
        assert main(["search", str(vectors), str(picture), "--model", str(place / "model.onnx")]) == 0
        assert main(["search", str(vectors), str(picture), "--model", str(graph)]) == 1
        assert "another preprocessing than" in (said := capsys.readouterr().err)
        assert "(size 32, not 64)" in said


def test_equal_scores_are_in_the_order_of_their_ids_and_none_exceeds_one():
    vectors = Vectors(list("abc"), [None] * 3, np.array([9, 3, 5]), np.float32([[3, 4], [6, 8], [0, 1]]))
    (hits,) = vectors.search(np.float32([3, 4]), k=5)
    assert [(hit.path, hit.id) for hit in hits] == [("b", 3), ("a", 9), ("c", 5)]
    assert max(hit.score for hit in hits) <= 1
    for queries in (np.zeros(2), np.array([np.nan, 1]), np.ones(3)):
        with pytest.raises(ClzooError, match=r"near to nothing|expected \(Q, 2\)"):
            vectors.search(queries)


def test_errors_name_what_to_type(place, tmp_path, capsys):
    exported = export_store(clzoo.open_store(place / "store"), tmp_path / "a.npz")
    other = export_onnx(small_encoder(seed=1), tmp_path / "other.onnx").path
    picture = next((place / "pictures").rglob("*.png"))
    (tmp_path / "text.npz").write_text("no vectors")
    (tmp_path / "folder").mkdir()
    for arguments, message in (
        (["search", exported, picture], "add --model FILE.onnx"),
        (["search", exported, picture, "--model", other], "Use the model that made it"),
        (["search", tmp_path / "none.npz", "x"], "does not exist. Type: python -m clzoo.lite embed"),
        (["search", tmp_path / "text.npz", "x"], "is not a file of vectors"),
        (["search", tmp_path / "folder", "x"], "is not an embedding store"),
        (["embed", tmp_path / "folder", "--model", other, "--out", tmp_path / "b.npz"], "holds no images"),
    ):
        assert main([str(argument) for argument in arguments]) == 1
        assert message in capsys.readouterr().err
    done = alone("search", place / "store", "x")
    assert "Type: pip install pyarrow" in done.stderr


def test_files_of_something_else_and_damaged_ones_are_errors(place, tmp_path, capsys):
    whole = {"id": np.array([1]), "path": np.array(["a"]), "label": np.array([""]), "embedding": np.ones((1, 2))}
    (tmp_path / "empty.npz").touch()
    np.save(tmp_path / "array.npy", np.ones((3, 2)))
    for name, array in (("path", np.array("a")), ("embedding", np.array([["x", "y"]])), ("id", np.array(1))):
        np.savez(tmp_path / f"{name}.npz", **{**whole, name: array})
    np.savez_compressed(tmp_path / "changed.npz", **{**whole, "embedding": np.ones((1, 5000))})
    content = bytearray((tmp_path / "changed.npz").read_bytes())
    content[60:200] = bytes(140)
    (tmp_path / "changed.npz").write_bytes(content)
    for file in sorted(tmp_path.glob("*.np?")):
        assert main(["search", str(file), "a"]) == 1, file
        assert f"{file} is not a file of vectors (" in capsys.readouterr().err
    shutil.copytree(place / "store", tmp_path / "store")
    next((tmp_path / "store").glob("items*.parquet")).unlink()
    assert main(["search", str(tmp_path / "store"), "a"]) == 1
    assert "is damaged, or is being written" in capsys.readouterr().err


def test_where_nothing_can_be_written_is_said_before_the_work(place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for out, message in (
        (".", ". is a folder; expected the name of a file"),
        ("file/vectors.npz", "file/vectors.npz cannot be written: "),
        ("n" * 300, "cannot be written: File name too long"),
    ):
        for command in ("embed", "classify"):
            assert main([command, str(place / "pictures"), "--model", "no-model", "--out", out]) == 1
            assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    main(["embed", str(place / "pictures"), "--model", str(place / "model.onnx"), "--out", "new/folder/vectors.npz"])
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["vectors.npz"]


def test_the_option_that_a_refused_image_names_is_taken(place, tmp_path):
    embed = ("embed", place / "pictures", "--model", place / "model.onnx", "--out", tmp_path / "a.npz")
    done = alone(*embed, "--max-pixels", 10)
    assert done.returncode == 1
    assert "the limit is 10; to allow more: --max-pixels N" in done.stderr
    assert alone(*embed, "--max-pixels", 10_000).returncode == 0
    assert "max_pixels must be at least 1" in alone(*embed, "--max-pixels", 0).stderr


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end otherwise")
def test_a_reader_that_has_seen_enough_ends_it_quietly(place):
    run = [sys.executable, "-m", "clzoo.lite", "search", place / "store", clzoo.open_store(place / "store").paths[0]]
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_a_model_whose_file_holds_halves_is_known_as_the_one_that_made_the_store(place, tmp_path, capsys):
    encoder = clzoo.load("supcon-resnet10_w32-tiny", device="cpu")
    assert encoder.weights_sha256 != encoder.config.weights_sha256  # or the test tests nothing
    export_onnx(encoder, tmp_path / "model.onnx")
    clzoo.embed_folder(place / "pictures", encoder, tmp_path / "store", progress=False)
    exported = export_store(clzoo.open_store(tmp_path / "store"), tmp_path / "store.npz")
    own = tmp_path / "own.npz"
    assert main(["embed", str(place / "pictures"), "--model", str(tmp_path / "model.onnx"), "--out", str(own)]) == 0
    picture = next((place / "pictures").rglob("*.png"))
    for source in (exported, tmp_path / "store", own):
        assert main(["search", str(source), str(picture), "--model", str(tmp_path / "model.onnx"), "-k", "1"]) == 0
        assert picture.name in capsys.readouterr().out
    assert clzoo.lite.open_vectors(own).weights_sha256 == clzoo.lite.open_vectors(exported).weights_sha256
