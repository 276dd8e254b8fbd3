"""clzoo.distil: a student of stored vectors, beside the teacher and a student without one, as ONNX at the end."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from labelled_pictures import make_splits
from pretended_clock import Ticking
from small_models import small_encoder

import clzoo.adaptation.clock
import clzoo.adaptation.distillation
import clzoo.adaptation.student
from clzoo.adaptation import distil
from clzoo.embed import embed_folder, open_store
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.files import read_json
from clzoo.lite import load as load_lite
from clzoo.pretrain.recipe import Recipe
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
    monkeypatch.setattr(clzoo.adaptation.distillation, "EPOCHS", 10)


@pytest.fixture(scope="module")
def distilled(store, tmp_path_factory):
    """A student and all that comes with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clzoo.adaptation.distillation, "EPOCHS", 10)
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
        monkeypatch.setattr(clzoo.adaptation.distillation, "train_student", lambda *_: False)
        assert distil(store, student=STUDENT, out=tmp_path / "out", device="cpu").verdict is None
    finally:
        manifest.write_text(kept)


def test_copies_that_leave_too_few_images_of_a_store_to_train_on_are_refused(
    store, tmp_path, monkeypatch, mostly_copies
):
    monkeypatch.setattr(clzoo.adaptation.distillation, "parts_of", mostly_copies)
    with pytest.raises(ClzooError, match=r"store: 15 images are left to train on.*clzoo curate duplicates STORE"):
        distil(store, student=STUDENT, out=tmp_path / "student", device="cpu")
    assert not (tmp_path / "student").exists()


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


@pytest.fixture
def no_graph(monkeypatch):
    """The export is held by other tests."""
    monkeypatch.setattr(Encoder, "export", lambda *_, **__: None)
    monkeypatch.setattr(clzoo.adaptation.distillation, "_EXPORTING", 0.0)


def test_minutes_are_kept_to_and_a_moved_end_is_recorded(store, tmp_path, monkeypatch, no_graph):
    """A machine that is slower than it was timed, by a clock that goes on each time that it is read."""
    each, minutes, out = 0.1, 0.1, tmp_path / "out"
    monkeypatch.setattr(clzoo.adaptation.distillation, "seconds_per_step", lambda *_: each)
    monkeypatch.setattr(clzoo.adaptation.distillation, "seconds_per_image", lambda *_: 0.0)
    monkeypatch.setattr(clzoo.adaptation.clock, "now", Ticking(1.5 * each))
    found = distil(store, student=STUDENT, minutes=minutes, out=out, device="cpu")
    plan, taken = read_json(out / "plan.json"), read_json(out / "time.json")
    assert sum(taken.values()) <= 1.1 * 60 * minutes + 30
    for who, steps in (("recipe", 54), ("control", 27)):  # 0.9 of half of 6 s each; a view is half of what was timed
        recipe = Recipe.model_validate(plan[who])
        asked, end = recipe.schedule.shortened[-1]
        assert asked <= end < steps
        assert recipe.schedule.epochs == pytest.approx(steps / (50 // recipe.schedule.batch_size), rel=0.05)
    ends = [Recipe.model_validate(plan[who]).schedule.shortened[-1][1] for who in ("recipe", "control")]
    limits = found.report["limits"]
    for end, who in zip(ends, ("the student", "the student without teacher"), strict=True):
        assert f"slower than it was timed, and stopped at step {end} for --minutes: {who} ended early" in limits
    assert read_json(out / "without_teacher" / "state.json")["step"] == ends[1]
    assert (out / f"checkpoint-{ends[0]:08d}.pt").is_file()
    weights = load(out, "cpu").weights_sha256
    distil(store, student=STUDENT, minutes=minutes, out=out, device="cpu")
    assert read_json(out / "plan.json") == plan  # the moved ends stay
    assert load(out, "cpu").weights_sha256 == weights


def test_time_for_less_than_an_epoch_or_more_than_can_be_used_is_a_stated_limit(store, tmp_path, monkeypatch):
    monkeypatch.setattr(clzoo.adaptation.distillation, "_train_student", lambda *_: False)
    monkeypatch.setattr(clzoo.adaptation.distillation, "seconds_per_step", lambda *_: 1.0)
    monkeypatch.setattr(clzoo.adaptation.distillation, "seconds_per_image", lambda *_: 0.0)
    monkeypatch.setattr(clzoo.adaptation.distillation, "_EXPORTING", 0.0)
    monkeypatch.setattr(clzoo.adaptation.distillation, "FEWEST_STEPS", 1)
    monkeypatch.setattr(clzoo.adaptation.clock, "now", lambda: 0.0)
    for minutes, whose, said in (
        (0.075, ["the student without teacher"], "2 steps, 67% of an epoch: not every image is seen"),
        (30, ["the student", "the student without teacher"], "the time is not used up"),
    ):
        out = tmp_path / str(minutes)
        assert distil(store, student=STUDENT, minutes=minutes, out=out, device="cpu").verdict is None
        limits = [limit for limit in read_json(out / "plan.json")["limits"] if said in limit]
        assert [limit.partition(": ")[0] for limit in limits] == whose


def test_a_student_that_is_not_smaller_than_its_teacher_is_a_stated_limit(store, tmp_path, monkeypatch):
    monkeypatch.setattr(clzoo.adaptation.distillation, "_train_student", lambda *_: False)
    for teacher_s, is_said in ((10**9, False), (1000, True), (None, False)):
        monkeypatch.setattr(clzoo.adaptation.distillation, "parameters_of", lambda _, known=teacher_s: known)
        distil(store, student=STUDENT, out=tmp_path / str(teacher_s), device="cpu")
        limits = read_json(tmp_path / str(teacher_s) / "plan.json")["limits"]
        assert any("it is not smaller" in limit for limit in limits) is is_said


def test_a_student_that_does_not_take_the_teacher_s_size_is_refused(store, tmp_path):
    with pytest.raises(ClzooError, match=r"--student vit_tiny_patch16_224 does not take images of 32 px.*resnet10_w16"):
        distil(store, student="vit_tiny_patch16_224", out=tmp_path / "out", device="cpu")


def test_another_store_is_another_distillation(store, distilled):
    with pytest.raises(ClzooError, match=r"is a distillation with minutes None, now 7.0. Choose another --out"):
        distil(store, student=STUDENT, minutes=7.0, out=distilled.folder, device="cpu")


def test_what_a_student_draws_is_a_function_of_the_step(store, tmp_path, monkeypatch):
    drawn = []

    def forward(self, views, vectors):
        drawn.append(torch.rand(1).item())
        torch.rand(further)  # as what was drawn before a stop and is not after it
        return 0 * self.head(self.backbone(views)).sum() + 1

    monkeypatch.setattr(clzoo.adaptation.student.Student, "forward", forward)
    monkeypatch.setattr(clzoo.adaptation.distillation, "_train_without_teacher", lambda *_: False)
    for further in (0, 5):
        distil(store, student=STUDENT, out=tmp_path / str(further), device="cpu")
    half = len(drawn) // 2
    assert drawn[:half] == drawn[half:]
    assert len(set(drawn)) == half > 1


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
        patch.setattr(clzoo.adaptation.student, "asked_to_stop", Asked)
        assert distil(store, student=STUDENT, out=out, device="cpu").verdict is None
    assert list(out.glob("checkpoint-*.pt"))
    again = distil(store, student=STUDENT, out=out, device="cpu")
    assert load(out, "cpu").weights_sha256 == load(distilled.folder, "cpu").weights_sha256
    assert again.report["measures"] == distilled.report["measures"]
