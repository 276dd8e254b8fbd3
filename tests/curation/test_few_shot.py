"""A classifier from a few labels: it names the rest, says how surely, and can be kept."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
import tarfile

import numpy as np
import pytest
from patterns import content_of
from picture_folders import make_folder
from PIL import Image
from small_models import small_encoder
from test_labels import clusters
from test_pairs import unit
from written_stores import write_store

import clzoo
from clzoo import ClzooError, classify, open_store
from clzoo.cli import main
from clzoo.curation import Classifier, few_shot
from clzoo.curation.few_shot import best_temperature
from clzoo.curation.given_labels import read_labels
from clzoo.curation.onnx_head import export_classifier
from clzoo.lite.__main__ import main as lite
from clzoo.lite.encoder import LiteEncoder


@pytest.fixture
def store(tmp_path):
    vectors, labels = clusters()
    return write_store(tmp_path / "store", vectors, labels=labels)


@pytest.fixture
def given(store, tmp_path):
    """A file with the labels of the first 30 images."""
    file = tmp_path / "labels.csv"
    lines = [f"{store.paths[row]},{store.labels[row]}" for row in range(30)]
    file.write_text("\n".join(["path,label", *lines]))
    return file


def test_the_rest_is_named_and_surely(store, given):
    found = classify(store, read_labels(given, store))
    assert found.rows == list(range(30, 150))
    assert np.mean([label == store.labels[row] for row, label in zip(found.rows, found.labels, strict=True)]) > 0.97
    assert found.accuracy["linear"] > 90
    assert found.accuracy["knn"] > 90
    assert found.unsure < 10


def test_a_kept_classifier_names_alike_and_refuses_other_features(store, given, tmp_path):
    found = classify(store, read_labels(given, store))
    again = classify(store, Classifier.load(found.classifier.save(tmp_path / "head.npz")))
    assert again.rows == list(range(150))
    assert again.labels[30:] == found.labels
    assert again.confidence[30:] == pytest.approx(found.confidence)
    manifest = json.loads((store.path / "manifest.json").read_text())
    (store.path / "manifest.json").write_text(json.dumps({**manifest, "weights_sha256": "1" * 64}))
    with pytest.raises(ClzooError, match="the classifier was fitted to features of the weights 000000000000"):
        classify(store.path, found.classifier)
    with pytest.raises(ClzooError, match="is no classifier"):
        Classifier.load(given)
    with pytest.raises(ClzooError, match="does not exist"):
        Classifier.load(tmp_path / "none.npz")


def test_one_label_a_class_names_but_measures_nothing(store):
    labels = [label if row < 3 else None for row, label in enumerate(store.labels)]
    found = classify(store, labels)
    assert found.accuracy == {}
    assert np.mean([label == store.labels[row] for row, label in zip(found.rows, found.labels, strict=True)]) > 0.9
    assert "not calibrated" in "\n".join(found.summary())


def test_confidence_is_calibrated_by_the_right_temperature():
    random = np.random.default_rng(0)
    scores = 2 * random.normal(size=(20_000, 4))
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    labels = np.array([random.choice(4, p=p) for p in probabilities])
    too_sure = probabilities**2 / (probabilities**2).sum(axis=1, keepdims=True)
    assert best_temperature(probabilities, labels) == pytest.approx(1, rel=0.1)
    assert best_temperature(too_sure, labels) == pytest.approx(2, rel=0.1)


def test_the_command_writes_what_it_is_asked_for_and_nothing_else(store, given, tmp_path, capsys):
    before = content_of(store.path)
    files = [
        "--save",
        str(tmp_path / "head.npz"),
        "--out",
        str(tmp_path / "out.csv"),
        "--html",
        str(tmp_path / "p.html"),
    ]
    main(["curate", "classify", str(store.path), "--labels", str(given), "--json", "--quiet", *files])
    found = json.loads(capsys.readouterr().out)
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [(row["path"], row["label"]) for row in rows] == [(one["path"], one["label"]) for one in found["images"]]
    main(["curate", "classify", str(store.path), "--with", str(tmp_path / "head.npz"), "--json", "--quiet"])
    assert len(json.loads(capsys.readouterr().out)["images"]) == 150
    assert content_of(store.path) == before
    with pytest.raises(SystemExit, match="2"):
        main(["curate", "classify", str(store.path)])


def test_the_page_says_which_classes_it_does_not_show_whole(store, given, tmp_path, monkeypatch):
    found = classify(store, read_labels(given, store))
    assert "are shown" not in found.write_page(tmp_path / "whole.html").read_text()
    monkeypatch.setattr(few_shot, "MOST_PICTURES", 4 * len(set(found.labels)))
    text = found.write_page(tmp_path / "named.html").read_text()
    assert text.count('<span class="name"') == 4 * len(set(found.labels))
    for label in set(found.labels):
        assert f"<h2>{label}: {found.labels.count(label)}, of which 4 are shown</h2>" in text


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_mark_is_told_by_all_lines_and_not_by_a_name_that_holds_another(tmp_path, mark):
    store = write_store(tmp_path / "store", clusters()[0][:3], paths=["a,b;c.jpg", "d.jpg", "e.jpg"])
    quoted = '"a,b;c.jpg"' if mark in ",;" else "a,b;c.jpg"
    (tmp_path / "labels.csv").write_text(f"{quoted}{mark}x\nd.jpg{mark}y\n")
    assert read_labels(tmp_path / "labels.csv", store) == ["x", "y", None]
    if mark == ";":
        store = write_store(tmp_path / "other", clusters()[0][:2], paths=["a,b.jpg", "d.jpg"])
        (tmp_path / "labels.csv").write_text("a,b.jpg;x\nd.jpg;y\n")
        assert read_labels(tmp_path / "labels.csv", store) == ["x", "y"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("none.jpg,a\n000000.jpg,b", "names 1 images that are not in"),
        ("000000.jpg", r"line 1: found \['000000.jpg'\]; expected path,label"),
        ("000000.jpg,", "line 1"),
        ("000000.jpg,a\n000000.jpg,b", "line 2: 000000.jpg is 'b' here and 'a' before"),
        ("path,label\n", "has no line"),
    ],
)
def test_labels_that_name_no_row_or_say_nothing_are_refused(store, tmp_path, text, message):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ClzooError, match=message):
        read_labels(tmp_path / "bad.csv", store)


@pytest.mark.parametrize(
    "content",
    [
        "000000.jpg,ä\n000001.jpg,b\n".encode("utf-8-sig"),
        "path;label\r\n000000.jpg;ä\r\n000001.jpg;b\r\n".encode(),
        "000000.jpg\tä\n000001.jpg\tb\n".encode("utf-16"),
        "confidence,Label,path\n0.5,ä,000000.jpg\n,b,000001.jpg\n,,000002.jpg\n".encode(),
    ],
)
def test_labels_are_read_as_spreadsheets_write_them(store, tmp_path, content):
    (tmp_path / "given.csv").write_bytes(content)
    assert read_labels(tmp_path / "given.csv", store) == ["ä", "b", *[None] * 148]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("000000.jpg,a\n000001.jpg,ä\n".encode("latin-1"), "line 2 is not UTF-8"),
        (b"000000.jpg," + b"x" * 200_000, "line 1: field larger than"),
        (b"path,label\n000000.jpg\n", "line 2"),
    ],
)
def test_labels_that_cannot_be_read_are_refused_by_their_line(store, tmp_path, content, message):
    (tmp_path / "given.csv").write_bytes(content)
    with pytest.raises(ClzooError, match=message):
        read_labels(tmp_path / "given.csv", store)


def test_what_was_named_can_be_corrected_and_given_back(store, given, tmp_path):
    named = classify(store, read_labels(given, store))
    labels = read_labels(named.write_csv(tmp_path / "named.csv"), store)
    assert labels[:30] == [None] * 30
    assert labels[30:] == named.labels


@pytest.mark.parametrize(
    "change",
    [
        {"weight": np.full((3, 2), np.nan)},
        {"temperature": 0.0},
        {"temperature": np.ones(2)},
        {"scale": np.ones(3)},
        {"mean": np.float32(1)},
        {"classes": np.array(["a", "a", "b"])},
        {"classes": np.array(["a", "b", "\udce9"])},
        {"classes": np.array([], np.str_), "weight": np.ones((0, 2)), "bias": np.ones(0)},
        {"bias": np.array(["x", "y", "z"])},
    ],
)
def test_a_classifier_whose_arrays_say_nothing_is_refused(tmp_path, change):
    whole = {"weight": np.ones((3, 2)), "bias": np.ones(3), "mean": np.ones(2), "scale": np.ones(2), "temperature": 1.0}
    whole |= {"classes": np.array(["a", "b", "c"]), "weights_sha256": "0" * 64, "preprocessing": ""}
    np.savez(tmp_path / "whole.npz", **whole)
    assert Classifier.load(tmp_path / "whole.npz").classes == ("a", "b", "c")
    np.savez(tmp_path / "changed.npz", **(whole | change))
    with pytest.raises(ClzooError, match="is no classifier"):
        Classifier.load(tmp_path / "changed.npz")


def test_a_classifier_that_is_not_whole_is_refused(store, given, tmp_path):
    kept = classify(store, read_labels(given, store)).classifier.save(tmp_path / "head.npz").read_bytes()
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.ones(3))
    for name, content in (
        ("half", kept[: len(kept) // 2]),
        ("flipped", kept[:300] + bytes([kept[300] ^ 255]) + kept[301:]),
        ("empty", b""),
        ("array", (tmp_path / "array.npz").read_bytes()),
    ):
        (tmp_path / f"{name}.npz").write_bytes(content)
        with pytest.raises(ClzooError, match="is no classifier"):
            Classifier.load(tmp_path / f"{name}.npz")


def test_a_confidence_that_is_none_is_refused(store, given):
    for sure in (float("nan"), -0.1, 1.1):
        with pytest.raises(ClzooError, match="sure is a confidence from 0 to 1"):
            classify(store, read_labels(given, store), sure=sure)


def test_nothing_to_name_and_nothing_to_learn_from(store, tmp_path):
    assert classify(store, store.labels).rows == []
    with pytest.raises(ClzooError, match="no labels"):
        classify(write_store(tmp_path / "none", unit(5)), [None] * 5)


def test_encoder_and_classifier_in_one_file_name_as_the_command_does(both, planted, encoder, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    store = open_store(planted / "store")
    model, npz = both / "head.onnx", both / "head.npz"
    named = {each["path"]: each for each in json.loads((both / "named.json").read_text())["images"]}
    assert list(named) == store.paths[20:]
    session = runtime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    classes = json.loads(session.get_modelmeta().custom_metadata_map["clzoo.classes"])
    for path in store.paths[20:30]:
        with Image.open(planted / "pictures" / path) as image:
            (found,) = session.run(["probabilities"], {"images": np.asarray(image.convert("RGB"))[None]})[0]
        assert found.sum() == pytest.approx(1, abs=1e-5)
        assert classes[found.argmax()] == named[path]["label"]
        assert found.max() == pytest.approx(named[path]["confidence"], abs=0.02)
    vectors = LiteEncoder(model).embed([planted / "pictures" / store.paths[0]])
    assert (vectors @ encoder.embed([planted / "pictures" / store.paths[0]]).T).item() > 0.999

    other = small_encoder()
    with pytest.raises(ClzooError, match=f"has {other.weights_sha256[:12]}. Name its encoder"):
        export_classifier(Classifier.load(npz), other, tmp_path / "other.onnx")
    with pytest.raises(ClzooError, match="must be the name"):
        export_classifier(Classifier.load(npz), encoder, tmp_path / "other.txt")
    assert list(tmp_path.iterdir()) == []
    assert sorted(path.name for path in both.iterdir()) == ["head.npz", "head.onnx", "labels.csv", "named.json"]


@pytest.fixture(scope="module")
def both(planted, tmp_path_factory):
    """A classifier of the pictures of `planted` as `head.npz` and as `head.onnx`, and what the command said."""
    pytest.importorskip("onnxscript")
    place = tmp_path_factory.mktemp("both")
    store = open_store(planted / "store")
    names = ("odd", "even, \N{SNOWMAN}")
    with (place / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows((path, names[row % 2]) for row, path in enumerate(store.paths[:20]))
    written = ["--onnx", str(place / "head.onnx"), "--save", str(place / "head.npz"), "--quiet", "--json"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        main(["curate", "classify", str(store.path), "--labels", str(place / "labels.csv"), *written])
    (place / "named.json").write_text(said.getvalue())
    return place


def test_the_file_of_encoder_and_classifier_names_a_store_as_the_arrays_do(both, planted, capsys):
    found = []
    for name in ("head.npz", "head.onnx"):
        main(["curate", "classify", str(planted / "store"), "--with", str(both / name), "--json", "--quiet"])
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["classes"] == found[1]["classes"] == ["even, \N{SNOWMAN}", "odd"]
    assert [one["label"] for one in found[0]["images"]] == [one["label"] for one in found[1]["images"]]
    values = [[one["confidence"] for one in each["images"]] for each in found]
    assert values[1] == pytest.approx(values[0], abs=1e-4)


def test_clzoo_lite_names_images_without_a_store_alike(both, planted, tmp_path, capsys):
    main(["curate", "classify", str(planted / "store"), "--with", str(both / "head.onnx"), "--json", "--quiet"])
    expected = {one["path"]: one for one in json.loads(capsys.readouterr().out)["images"]}
    arguments = ["classify", str(planted / "pictures"), "--model", str(both / "head.onnx"), "--sure", "0.6"]
    assert lite([*arguments, "--out", str(tmp_path / "named.csv")]) == 0
    assert f"{len(expected)} images named, in 2 classes" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "named.csv").open(encoding="utf-8")))
    assert [row["path"] for row in rows] == list(expected)
    for row in rows:
        assert row["label"] == expected[row["path"]]["label"]
        assert float(row["confidence"]) == pytest.approx(expected[row["path"]]["confidence"], abs=0.02)
        assert (row["sure"] == "yes") == (float(row["confidence"]) >= 0.6)
    assert lite(arguments) == 0
    assert capsys.readouterr().out.count("\n") == len(expected) + 1
    encoder = LiteEncoder(both / "head.onnx")
    one = encoder.probabilities(planted / "pictures" / rows[0]["path"])
    assert one.shape == (2,)
    assert one.max() == pytest.approx(float(rows[0]["confidence"]), abs=1e-4)


@pytest.mark.parametrize("kind", ["folder", "list", "tar", "url"])
@pytest.mark.parametrize("name", ["head.npz", "head.onnx"])
def test_the_command_names_the_images_of_any_source_as_those_of_a_store(
    both, planted, name, kind, tmp_path, clzoo_says
):
    expected = json.loads(
        clzoo_says("curate", "classify", planted / "store", "--with", both / name, "--json", "--quiet")[1]
    )
    pictures = tmp_path / "pictures"
    shutil.copytree(planted / "pictures", pictures)
    (pictures / "broken.png").write_bytes(b"no picture")
    before = content_of(pictures)
    places = {"folder": pictures, "list": tmp_path / "list.txt", "tar": tmp_path / "shard.tar"}
    source = places[kind] if kind != "url" else pictures.as_uri()
    if kind == "list":
        source.write_text("\n".join(f"pictures/{path.name}" for path in sorted(pictures.iterdir())))
    elif kind == "tar":
        with tarfile.open(source, "w") as shard:
            for path in sorted(pictures.iterdir()):
                shard.add(path, path.name)
    prefix = {"list": "pictures/", "tar": "shard.tar/"}.get(kind, "")
    files = ["--out", tmp_path / "out.csv", "--html", tmp_path / "page.html"]
    code, out, err = clzoo_says("curate", "classify", source, "--with", both / name, "--json", "--quiet", *files)
    assert code == 0, err
    found = json.loads(out)
    assert found["source"] == str(source)
    assert found["weights_sha256"] == expected["weights_sha256"]
    assert [(each["path"].removeprefix(prefix), each["label"]) for each in found["images"]] == [
        (each["path"], each["label"]) for each in expected["images"]
    ]
    values = [[each["confidence"] for each in one["images"]] for one in (found, expected)]
    assert values[0] == pytest.approx(values[1], abs=0.02)  # the graph resizes by itself
    assert [each["path"] for each in found["failed"]] == [f"{prefix}broken.png"]
    rows = list(csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8")))
    assert [(row["path"], row["label"]) for row in rows] == [(each["path"], each["label"]) for each in found["images"]]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == len(rows)
    code, out, _ = clzoo_says("curate", "classify", source, "--with", both / name, "--quiet")
    assert f"{len(rows)} images named, in 2 classes" in out
    assert f"1 could not be read ({prefix}broken.png: " in out
    assert content_of(pictures) == before


def test_images_without_a_store_that_cannot_be_named_are_refused_in_words(both, planted, tmp_path, clzoo_says):
    def refused(*arguments: object, code: int = 1) -> str:
        found, _, err = clzoo_says("curate", "classify", *arguments, "--quiet")
        assert found == code, err
        return err

    npz, onnx, pictures = both / "head.npz", both / "head.onnx", planted / "pictures"
    assert "does not exist; expected a folder of images" in refused(tmp_path / "none", "--with", onnx)
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused(tmp_path / "empty", "--with", npz)
    (tmp_path / "empty" / "a.png").write_bytes(b"no picture")
    for saved in (npz, onnx):
        assert "none of the 1 images of" in refused(tmp_path / "empty", "--with", saved)
    assert "leave out --model" in refused(pictures, "--with", onnx, "--model", "supcon-resnet10_w32-tiny")
    assert "--images and --onnx are for one" in refused(pictures, "--with", npz, "--images", pictures, code=2)
    assert "is not an embedding store" in refused(pictures, "--by-folder")
    (tmp_path / "empty" / "manifest.json").write_text('{"format": "of a web page"}')  # makes no store of a folder
    assert "none of the 1 images of" in refused(tmp_path / "empty", "--with", npz)
    (tmp_path / "empty" / "manifest.json").write_text("{")
    assert "manifest.json" in refused(tmp_path / "empty", "--with", npz)
    other = small_encoder().save_pretrained(tmp_path / "other")
    assert "fitted to features of the weights" in refused(pictures, "--with", npz, "--model", other)

    with np.load(npz) as arrays:
        old = {name: arrays[name] for name in arrays.files if name != "model"}
        gone = {**old, "model": np.asarray(str(tmp_path / "gone"))}
    np.savez(tmp_path / "old.npz", **old)
    assert "does not say what its encoder is called" in refused(pictures, "--with", tmp_path / "old.npz")
    code, out, _ = clzoo_says(
        *("curate", "classify", pictures, "--with", tmp_path / "old.npz", "--quiet"),
        *("--model", "supcon-resnet10_w32-tiny"),
    )
    assert (code, "63 images named" in out) == (0, True)
    np.savez(tmp_path / "gone.npz", **gone)
    assert "If it has moved, say where it is: --model PLACE" in refused(pictures, "--with", tmp_path / "gone.npz")


def test_what_is_read_is_never_written_over(store, given, clzoo_says):
    before = given.read_bytes()
    for option in ("--out", "--save", "--onnx", "--html"):
        code, _, err = clzoo_says("curate", "classify", store.path, "--labels", given, option, given)
        assert (code, "is read: what is written needs another name" in err) == (2, True), option
    assert given.read_bytes() == before


def test_the_model_that_is_named_is_checked_and_kept_with_the_classifier(tmp_path, clzoo_says):
    made = small_encoder().save_pretrained(tmp_path / "made")
    make_folder(tmp_path / "pictures", {"red": 4, "blue": 4})
    clzoo.embed_folder(tmp_path / "pictures", made, tmp_path / "store", labels=True, progress=False)
    moved = made.rename(tmp_path / "moved")
    words = ("curate", "classify", tmp_path / "store", "--by-folder", "--quiet")
    code, _, err = clzoo_says(*words, "--model", tmp_path / "nowhere")
    assert (code, "nowhere" in err) == (1, True)
    assert clzoo_says(*words, "--model", moved, "--save", tmp_path / "head.npz")[0] == 0
    code, _, err = clzoo_says("curate", "classify", tmp_path / "pictures", "--with", tmp_path / "head.npz", "--quiet")
    assert code == 0, err


def test_a_graph_that_is_no_classifier_or_of_another_encoder_or_was_changed_is_refused(
    both, planted, small_graph, tmp_path, capsys
):
    import onnx

    def refused(path) -> str:
        with pytest.raises(SystemExit):
            main(["curate", "classify", str(planted / "store"), "--with", str(path), "--quiet"])
        text = capsys.readouterr().err
        assert text.startswith("error: "), text
        return text

    assert "does not exist" in refused(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    assert "cannot be opened by ONNX Runtime" in refused(tmp_path / "text.onnx")
    assert "is an encoder without a classifier" in refused(small_graph)
    assert lite(["classify", str(planted / "pictures"), "--model", str(small_graph)]) == 1
    assert "is an encoder without a classifier" in capsys.readouterr().err

    foreign = onnx.load(both / "head.onnx")
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    assert "was not exported by clzoo" in refused(tmp_path / "foreign.onnx")

    for damage, words in (
        (lambda model: _metadata(model, "clzoo.classes", '["one"]'), "does not name as many classes"),
        (lambda model: _metadata(model, "clzoo.classes", "[" * 100_000), "metadata is damaged"),
        (lambda model: _metadata(model, "clzoo.tensors_sha256", "1" * 64), "fitted to features of the weights 1111"),
        (lambda model: setattr(_node(model, "Softmax"), "op_type", "Sigmoid"), "was changed after its export"),
        (lambda model: setattr(_initial(model, "bias"), "name", "classifier/other"), "cannot be opened"),
    ):
        changed = onnx.load(both / "head.onnx")
        damage(changed)
        onnx.save(changed, tmp_path / "changed.onnx")
        assert words in refused(tmp_path / "changed.onnx")

    other = tmp_path / "other-store"
    clzoo.embed_folder(planted / "pictures", small_encoder(), out=other)
    with pytest.raises(ClzooError, match="the classifier was fitted to features of the weights"):
        classify(other, Classifier.load(both / "head.onnx"))


def _metadata(model, key, value):
    next(entry for entry in model.metadata_props if entry.key == key).value = value


def _node(model, kind):
    node = next(node for node in reversed(model.graph.node) if node.op_type == kind)
    del node.attribute[:]
    return node


def _initial(model, name):
    return next(each for each in model.graph.initializer if each.name == f"classifier/{name}")


def test_a_classifier_that_was_kept_with_the_version_of_the_decoder_is_still_taken(store, given, tmp_path):
    found = classify(store, read_labels(given, store))
    kept = found.classifier.save(tmp_path / "head.npz")
    with np.load(kept) as arrays:
        old = {**arrays, "preprocessing": np.asarray(f"crop_pct=0.875, decoding=1, {_rest(arrays['preprocessing'])}")}
    np.savez(kept, **old)
    assert classify(store, Classifier.load(kept)).labels[30:] == found.labels


def _rest(text):
    return str(text).removeprefix("crop_pct=0.875, ")
