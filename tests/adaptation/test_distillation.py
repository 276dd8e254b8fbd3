"""clzoo.distil: a student of stored vectors, beside the teacher and a student without one, as ONNX at the end."""

from __future__ import annotations

import json

import numpy as np
import pytest
from labelled_pictures import make_splits
from small_models import small_encoder

import clzoo.adaptation.distillation
from clzoo.adaptation import distil
from clzoo.embed import embed_folder, open_store
from clzoo.errors import ClzooError
from clzoo.files import read_json
from clzoo.lite import load as load_lite
from clzoo.zoo import load

STUDENT = "resnet10_w16"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """72 pictures of six classes, with labels, and vectors that tell those with much red from those with little."""
    root = tmp_path_factory.mktemp("distil")
    folder = make_splits(root, train=12, test=1) / "train"
    teacher = small_encoder(license="cc-by-nc-4.0", license_note="Ask first.")
    embed_folder(folder, teacher, out=root / "store", labels=True)
    (file,) = (root / "store").glob("embeddings-*.npy")
    vectors = np.zeros_like(np.load(file))
    vectors[np.arange(72), np.arange(72) // 12 % 2] = 1  # 12 of each class, in the order of their names
    np.save(file, vectors)
    return root / "store"


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(clzoo.adaptation.distillation, "EPOCHS", 20)


@pytest.fixture(scope="module")
def distilled(store, tmp_path_factory):
    """A student and all that comes with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clzoo.adaptation.distillation, "EPOCHS", 20)
        return distil(store, student=STUDENT, out=tmp_path_factory.mktemp("out") / "student", device="cpu")


def likeness(vectors: np.ndarray, teacher: np.ndarray) -> float:
    """Correlation of the cosines among images by the one and by the other."""
    upper = np.triu_indices(len(vectors), 1)
    return float(np.corrcoef((vectors @ vectors.T)[upper], (teacher @ teacher.T)[upper])[0, 1])


def test_the_student_is_a_model_that_sees_what_the_teacher_saw(store, distilled):
    opened = open_store(store)
    images = [opened.root / path for path in opened.paths]
    student, alone = load(distilled.folder, "cpu"), load(distilled.folder / "without_teacher", "cpu")
    teacher = opened.embeddings()
    assert likeness(student.embed(images), teacher) > likeness(alone.embed(images), teacher)
    assert "distilled from" in (distilled.folder / "README.md").read_text()


def test_the_student_has_the_license_of_its_teacher(distilled):
    config = load(distilled.folder, "cpu").config
    assert (config.license, config.license_note) == ("cc-by-nc-4.0", "Ask first.")
    card = (distilled.folder / "README.md").read_text()
    assert "license: cc-by-nc-4.0" in card
    assert "Derived from cacr-test_resnet-cifar10, whose license stays with these weights." in card
    graph = load_lite(distilled.folder / "model.onnx")
    assert (graph.provenance.license, graph.provenance.license_note) == ("cc-by-nc-4.0", "Ask first.")
    assert load(distilled.folder / "without_teacher", "cpu").config.license == "apache-2.0"


def test_the_report_has_teacher_student_and_the_student_without_one(distilled):
    report = read_json(distilled.folder / "verdict.json")
    assert set(report["measures"]["k-NN"]) == {"teacher", "student", "student without teacher"}
    assert report["verdict"] == distilled.verdict.word == "no evidence"  # 14 held-out images
    assert report["gain"]["images"] == 14
    assert report["weights_sha256"] == [load(distilled.folder, "cpu").weights_sha256]
    assert distilled.behind_teacher is not None
    assert any("72 images are fewer than 200" in limit for limit in report["limits"])


def test_the_graph_gives_the_vectors_of_the_student(store, distilled):
    opened = open_store(store)
    images = [opened.root / path for path in opened.paths[:5]]
    graph = load_lite(distilled.folder / "model.onnx").embed(images)
    assert np.allclose(graph, load(distilled.folder, "cpu").embed(images), atol=1e-3)


def test_the_teacher_is_not_run(store, tmp_path, monkeypatch):
    """It cannot be: the store names a model that is nowhere."""
    manifest = store / "manifest.json"
    kept = manifest.read_text()
    try:
        manifest.write_text(json.dumps({**json.loads(kept), "load": "timm:nowhere", "model": "timm:nowhere"}))
        monkeypatch.setattr(clzoo.adaptation.distillation, "_train", lambda *_: False)
        assert distil(store, student=STUDENT, out=tmp_path / "out", device="cpu").verdict is None
    finally:
        manifest.write_text(kept)


@pytest.mark.parametrize(
    ("student", "message"),
    [("resnet_nothing", "--student resnet_nothing: .*resnet10_w32"), ("simclr", "--student simclr: .*preset")],
)
def test_an_unknown_student_is_refused(store, tmp_path, student, message):
    with pytest.raises(ClzooError, match=message):
        distil(store, student=student, out=tmp_path / "out", device="cpu")


def test_what_an_earlier_version_began_is_refused_in_words(store, distilled, tmp_path):
    plan = read_json(distilled.folder / "plan.json")
    (tmp_path / "plan.json").write_text(json.dumps({key: value for key, value in plan.items() if key != "after"}))
    with pytest.raises(ClzooError, match=r"earlier version of clzoo.*Choose another --out"):
        distil(store, student=STUDENT, out=tmp_path, device="cpu")


def test_a_store_of_few_images_is_refused(tmp_path):
    folder = make_splits(tmp_path, train=5, test=1) / "train"
    embed_folder(folder, small_encoder(), out=tmp_path / "store")
    with pytest.raises(ClzooError, match="holds 30 different images; distilling takes at least 50"):
        distil(tmp_path / "store", student=STUDENT, out=tmp_path / "out", device="cpu")


@pytest.mark.slow
def test_a_stopped_distillation_ends_with_the_same_weights(store, distilled, tmp_path, monkeypatch):
    class Asked:
        def __init__(self) -> None:
            self.asked = 0

        def __enter__(self):
            return self

        def __exit__(self, *_) -> None:
            pass

        def is_set(self) -> bool:
            self.asked += 1
            return self.asked > 4

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(clzoo.adaptation.distillation, "asked_to_stop", Asked)
        assert distil(store, student=STUDENT, out=out, device="cpu").verdict is None
    assert list(out.glob("checkpoint-*.pt"))
    again = distil(store, student=STUDENT, out=out, device="cpu")
    assert load(out, "cpu").weights_sha256 == load(distilled.folder, "cpu").weights_sha256
    assert again.report["measures"] == distilled.report["measures"]
