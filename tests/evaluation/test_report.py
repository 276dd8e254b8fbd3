"""The page of an evaluation: what it opens with, which classes it shows, and that names stay text."""

import re
import shutil
import sys

import numpy as np
import pytest
from labelled_pictures import CLASSES, make_splits
from scipy.cluster.hierarchy import average
from scipy.spatial.distance import pdist
from small_models import small_encoder

from clzoo.evaluation import evaluate, figures
from clzoo.evaluation.class_titles import class_titles
from clzoo.evaluation.report_parts import class_dots, headlines_of, pairs_of
from clzoo.files import read_json

HOSTILE = "<img src=x onerror=alert(1)>$\\frac$"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_splits(tmp_path_factory.mktemp("data") / "animals")


@pytest.fixture(scope="module")
def evaluation(pictures, tmp_path_factory):
    return evaluate(small_encoder(), pictures, "knn,linear", seeds=2, cache_dir=tmp_path_factory.mktemp("cache"))


def test_the_page_opens_with_the_numbers_and_what_they_are_held_against(evaluation, tmp_path):
    headlines = headlines_of(evaluation.metrics, evaluation.arrays["test_labels"])
    assert [headline.title for headline in headlines] == ["knn:v1", "linear:v1"]
    knn = headlines[0]
    assert knn.value == evaluation.value("knn:v1")
    assert knn.low < knn.value <= knn.high
    assert "24 test images" in knn.note
    assert "2 seeds" in headlines[1].note
    assert dict(knn.others) == {
        "chance": pytest.approx(100 / 6),
        "random initialisation": None,
        "raw pixels": None,
    }
    page = (evaluation.write(tmp_path / "report") / "report.html").read_text()
    assert page.index("knn:v1") < page.index("worst first") < page.index("<details>")
    assert "not measured (--controls)" in page  # what to type to have them


def test_a_report_is_replaced_whatever_lies_hidden_beside_it(evaluation, tmp_path):
    folder = tmp_path / "report"
    (folder / ".tmp-killed").mkdir(parents=True)
    (folder / ".DS_Store").touch()
    for _ in range(2):
        evaluation.write(folder)
    assert {".DS_Store", "metrics.json", "report.html"} <= {path.name for path in folder.iterdir()}
    (folder / "plots").mkdir(exist_ok=True)
    (folder / "plots" / "spectrum.png").touch()  # of an earlier one, by another protocol
    evaluation.write(folder)
    assert not (folder / "plots" / "spectrum.png").exists()


def test_controls_stand_beside_the_number_of_their_protocol(evaluation):
    (row,) = [row for row in evaluation.results if row["protocol"].startswith("knn") and row["metric"] == "top-1"]
    rows = [*evaluation.results, {**row, "of": "raw pixels", "value": 39.8}]
    knn, linear = headlines_of({**evaluation.metrics, "results": rows}, None)
    assert dict(knn.others)["raw pixels"] == 39.8
    assert dict(linear.others)["raw pixels"] is None


def test_predictions_are_kept_and_agree_with_the_accuracy(evaluation):
    arrays = evaluation.arrays
    right = arrays["predicted_knn_v1"] == arrays["test_labels"]
    assert 100 * right.mean() == pytest.approx(evaluation.value("knn:v1"), abs=0.01)
    assert arrays["test_rows"].tolist() == list(range(24))


def test_of_many_classes_the_worst_and_the_best_are_shown():
    values = [float(number % 100) for number in range(60)]
    dots = class_dots(values, [f"class {number}" for number in range(60)])
    assert [value for _, value in dots.lines] == [*range(15), *range(45, 60)]
    assert dots.dropped == 30
    all_of_them = class_dots([5.0, None, 1.0], ["a", "no images", "b"])
    assert list(all_of_them.lines) == [("b", 1.0), ("a", 5.0)]
    assert all_of_them.dropped == 0


def test_confused_pairs_have_the_pictures_that_were_mistaken(evaluation):
    arrays = evaluation.arrays
    predicted = arrays["test_labels"].copy()
    predicted[:2] = 1  # two ants are taken for bees
    (pair,) = pairs_of(arrays["test_labels"], predicted, CLASSES, evaluation.test_images, arrays["test_rows"])
    (there, back) = pair.directions
    assert there[:3] == (2, "ant", "bee")
    assert len(there[3]) == 2
    assert all(uri.startswith("data:image/jpeg") for uri in there[3])
    assert back[0] == 0


def test_a_class_with_a_hostile_name_stays_text(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "data")
    name = HOSTILE.replace("/", "")
    for split in ("train", "test"):
        (tmp_path / "data" / split / "ant").rename(tmp_path / "data" / split / name)
    evaluation = evaluate(small_encoder(), tmp_path / "data", "knn,relations", cache_dir=tmp_path / "cache")
    page = (evaluation.write(tmp_path / "report") / "report.html").read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page
    assert "frac$" in page  # not read as mathematics


def test_figures_in_a_page_take_its_colors_and_hold_their_text():
    curves = {"knn": [10.0, None, 90.0]}
    drawn = figures.svg(figures.long_tail_figure([1, 20, 300], curves, "probed", limits=(1, 500)))
    assert drawn.startswith("<svg")
    assert "var(--accent)" in drawn
    assert "currentColor" in drawn
    assert not re.search(r"(fill|stroke): #(000000|1f77b4|ffffff)", drawn)
    assert ">probed</text>" in drawn
    assert "xmlns" not in drawn
    assert "http" not in drawn
    assert drawn == figures.svg(figures.long_tail_figure([1, 20, 300], curves, "probed", limits=(1, 500)))


def test_panels_of_the_same_limits_share_their_axes():
    rng = np.random.default_rng(0)
    axes = [
        figures.long_tail_figure(kept, {"knn": rng.uniform(0, 100, 3).tolist()}, "t", limits=(2, 900)).axes[0]
        for kept in ([2, 5, 9], [100, 500, 900])
    ]
    assert axes[0].get_xlim() == axes[1].get_xlim()
    assert axes[0].get_ylim() == axes[1].get_ylim()


def test_wordnet_ids_have_names_from_the_data_set_or_the_shipped_list(tmp_path):
    assert class_titles(("cat", "dog"), tmp_path) == {}
    assert class_titles(("n01443537", "n99999999", "cat"), tmp_path) == {"n01443537": "goldfish"}
    (tmp_path / "train").mkdir()
    (tmp_path / "words.txt").write_text("n01443537\tgold fish, Carassius\nn02012849\tcrane\nn03126707\tcrane\n")
    found = class_titles(("n01443537", "n02012849", "n03126707"), tmp_path / "train")
    assert found["n01443537"] == "gold fish"
    assert found["n02012849"] == "crane (n02012849)"  # two classes have this name


def test_the_tree_of_a_thousand_equal_classes_is_drawn():
    linkage = average(pdist(np.ones((1000, 4)), "cosine"))
    limit = sys.getrecursionlimit()
    assert figures.tree_figure(linkage, [f"class {number}" for number in range(1000)]).axes
    assert sys.getrecursionlimit() == limit


def test_the_numbers_are_kept_where_the_page_fails(evaluation, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise RecursionError

    monkeypatch.setattr("clzoo.evaluation.report.render", fails)
    with pytest.raises(RecursionError):
        evaluation.write(tmp_path / "out")
    assert read_json(tmp_path / "out" / "metrics.json")["results"] == evaluation.metrics["results"]
    assert (tmp_path / "out" / "arrays.npz").is_file()
