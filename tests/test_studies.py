"""The studies' recipes are valid, and docs/results.md says what studies/ holds."""

import importlib.util
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml

from clzoo.errors import ClzooError
from clzoo.files import read_json, write_json
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.recipe_files import find_recipe, load_recipe

STUDIES = Path(__file__).resolve().parent.parent / "studies"


@pytest.fixture(scope="module")
def table():
    return script("table")


@pytest.fixture(scope="module")
def tuned():
    return script("tuned")


def script(name):
    spec = importlib.util.spec_from_file_location(name, STUDIES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(STUDIES)  # they share studies/kept.py
        spec.loader.exec_module(module)
    return module


@pytest.fixture(params=sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def study(request):
    return request.param


def test_every_run_is_a_valid_recipe_and_every_kept_file_a_run_with_that_recipe(study, tuned):
    content = yaml.safe_load(study.read_text())
    for name, run in content["runs"].items():
        kept = study.with_suffix("") / f"{name}.json"
        choices = [tuned.winner]
        if "tuned" in run and not kept.exists():  # whatever its grid will choose
            grid = study.with_name(content["tuning"])
            choices = [partial(chosen, tuned, place) for place in range(len(tuned.candidates(grid, run["tuned"])))]
        for choose in choices:
            recipe = load_recipe(find_recipe(run["recipe"]), tuned.overrides_of(study, name, choose))
        if kept.exists():
            found = read_json(kept)
            trained = Recipe.model_validate({**found["recipe"], "seed": 0})  # a key added since has its default
            assert trained == recipe, f"{kept} is of another recipe"
            assert all(seed["results"] for seed in found["seeds"].values())
            whole = {
                seed["steps"] * recipe.schedule.batch_size == seed["images_seen"] for seed in found["seeds"].values()
            }
            assert whole == {True}, f"{kept} holds a run that was stopped"
    assert {path.stem for path in study.with_suffix("").glob("*.json")} <= set(content["runs"])


def test_no_two_runs_of_a_study_are_the_same(study, tuned):
    """As one would be that takes from its grid what it was to be compared in."""
    named: dict[str, str] = {}
    for name, run in yaml.safe_load(study.read_text())["runs"].items():
        what = resolved(study, name, tuned).to_yaml() + run.get("data", "")
        assert named.setdefault(what, name) == name


def test_runs_that_are_compared_have_one_network_and_the_same_images(study, tuned):
    """A recipe brings a stem of its own, which an override that is forgotten leaves in one of them."""
    content = yaml.safe_load(study.read_text())
    for comparison in content["comparisons"]:
        of, against = (comparison[key].split(" - ") for key in ("of", "against"))
        for one, other in zip(of, against, strict=True):
            recipes = [resolved(study, name, tuned) for name in (one, other)]
            ungrouped = [r.backbone.model_copy(update={"batchnorm_groups": 1}) for r in recipes]  # MoCo v2's own matter
            assert ungrouped[0] == ungrouped[1], f"{one} and {other} are of different networks"
            assert recipes[0].data == recipes[1].data
            assert len({content["runs"][name].get("data") for name in (one, other)}) == 1


def resolved(study, name, tuned):
    """The recipe of a run; of what its grid did not choose yet, one that it may choose."""

    def choose(grid, method):
        try:
            return tuned.winner(grid, method)
        except ClzooError:  # the grid is not whole
            return chosen(tuned, 0, grid, method)

    recipe = yaml.safe_load(study.read_text())["runs"][name]["recipe"]
    return load_recipe(find_recipe(recipe), tuned.overrides_of(study, name, choose))


def chosen(tuned, place, grid, method):
    return tuned.candidates(grid, method)[place]


@pytest.fixture
def grid(tmp_path):
    """A study tuned by a grid whose second method takes what the first one chose; and how to judge a run of it."""
    studies = {
        "grid": {
            "tuning": "grid.yaml",
            "all": ["a=0"],
            "shared": [],
            "runs": {
                "one": {"tunes": "host", "set": ["t=1", "lr=0.1"], "is": "the first"},
                "two": {"tunes": "host", "set": ["t=2", "lr=0.2"], "is": "the second"},
                "three": {"tunes": "guest", "tuned": "host", "set": ["form=x", "lr=0.3"], "is": "the third"},
            },
        },
        "long": {
            "tuning": "grid.yaml",
            "all": ["a=0"],
            "shared": ["b=0"],
            "runs": {"run": {"tuned": "guest", "set": ["epochs=5"]}, "alone": {"shared": False}},
        },
    }
    for name, study in studies.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(study, sort_keys=False))

    def judge(run, accuracy, rate):
        rows = [{"protocol": f"{kind}:v1(k=20)", "metric": "top-1", "value": accuracy} for kind in ("knn", "linear")]
        (tmp_path / "grid").mkdir(exist_ok=True)
        write_json(
            tmp_path / "grid" / f"{run}.json",
            {"recipe": {"optimizer": {"base_lr": rate}}, "seeds": {"100": {"results": rows}}},
        )

    return tmp_path, judge


def test_a_tuned_run_takes_what_won_its_grid_below_what_it_says_itself(tuned, grid):
    folder, judge = grid
    judge("one", 50.0, 0.1)
    judge("two", 51.0, 0.2)
    judge("three", 40.0, 0.3)
    assert tuned.overrides_of(folder / "grid.yaml", "three") == ["a=0", "t=2", "lr=0.2", "form=x", "lr=0.3"]
    expected = ["a=0", "b=0", "t=2", "lr=0.2", "form=x", "lr=0.3", "epochs=5"]
    assert tuned.overrides_of(folder / "long.yaml", "run") == expected
    assert tuned.overrides_of(folder / "long.yaml", "alone") == ["a=0"]


def test_of_equal_runs_of_a_grid_the_lower_rate_wins(tuned, grid):
    folder, judge = grid
    judge("two", 50.0, 0.2)
    judge("one", 50.0, 0.1)
    assert tuned.winner(folder / "grid.yaml", "host") == "one"


def test_a_grid_that_is_not_whole_chooses_nothing_and_says_what_to_run(tuned, grid):
    folder, judge = grid
    judge("two", 50.0, 0.2)
    judge("three", 40.0, 0.3)
    with pytest.raises(ClzooError, match=r"1 of 2 runs were judged.*--only one"):
        tuned.overrides_of(folder / "long.yaml", "run")
    with pytest.raises(ClzooError, match="tunes: nobody"):
        tuned.winner(folder / "grid.yaml", "nobody")


def test_the_tables_of_the_results_are_those_of_the_kept_files(table, study):
    content = yaml.safe_load(study.read_text())
    kept = {name: study.with_suffix("") / f"{name}.json" for name in content["runs"]}
    runs = {name: read_json(path)["seeds"] for name, path in kept.items() if path.exists()}
    results = table.RESULTS.read_text()
    if not runs:
        assert f"<!-- {study.stem} runs: written by studies/table.py -->\n<!-- end" in results, "a table of no runs"
        return
    told = f"run `python studies/table.py studies/{study.name}`"
    assert table.table_of_runs(content, runs) in results, told
    if "ranks" in content:
        assert table.table_of_ranks(content, runs) in results, told
    if content["comparisons"]:
        assert table.table_of_comparisons(content, runs) in results, told


def test_a_run_of_fewer_seeds_than_its_study_is_run_with_those_alone(tmp_path, monkeypatch):
    study = tmp_path / "study.yaml"
    runs = {"once": {"recipe": "simclr_cifar10", "seeds": [0]}, "twice": {"recipe": "cacr_cifar10"}}
    content = {
        "title": "",
        "protocols": ["knn"],
        "evaluation": [],
        "seeds": [0, 1],
        "all": [],
        "shared": [],
        "runs": runs,
    }
    study.write_text(yaml.safe_dump(content))
    module, folders = script("run"), []
    monkeypatch.setattr(module, "pretrain", lambda recipe, overrides, data, folder: folders.append(folder.name))
    monkeypatch.setattr(module, "evaluate", lambda *_: {})
    monkeypatch.setattr(module, "keep", lambda *_: None)
    for asked in ([], ["--only", "once", "--seeds", "1"]):
        monkeypatch.setattr(sys, "argv", ["run.py", str(study), "--data", "there", *asked])
        module.main()
    assert folders == ["once-seed0", "twice-seed0", "twice-seed1", "once-seed1"]


def test_a_run_with_images_of_its_own_is_trained_and_judged_on_them(tmp_path, monkeypatch):
    study = tmp_path / "study.yaml"
    runs = {"all": {"recipe": "simclr_tiny"}, "some": {"recipe": "simclr_tiny", "data": "20"}}
    common = {"title": "", "protocols": ["knn"], "evaluation": [], "seeds": [0], "all": [], "shared": []}
    study.write_text(yaml.safe_dump({**common, "runs": runs}))
    module, places = script("run"), []
    monkeypatch.setattr(module, "pretrain", lambda recipe, overrides, data, folder: places.append(data))
    monkeypatch.setattr(module, "evaluate", lambda study, missing, data, folder: places.append(data))
    monkeypatch.setattr(module, "keep", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["run.py", str(study), "--data", "there"])
    module.main()
    assert places == ["there", "there", "there/20", "there/20"]


def test_some_classes_are_spaced_evenly_and_linked_alike_in_every_part(tmp_path, monkeypatch):
    for part in ("train", "val"):
        for name in "abcdef":
            (tmp_path / "whole" / part / name).mkdir(parents=True)
            (tmp_path / "whole" / part / name / "0.png").touch()
    (tmp_path / "whole" / "test" / "images").mkdir(parents=True)  # without labels, as Tiny-ImageNet is published
    module, out = script("classes"), tmp_path / "some"
    arguments = ["classes.py", str(tmp_path / "whole"), "--classes", "2", "4", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    module.main()
    for part in ("train", "val"):
        assert [path.name for path in sorted((out / "2" / part).iterdir())] == ["a", "d"]
        assert [path.name for path in sorted((out / "4" / part).iterdir())] == ["a", "b", "d", "e"]
        assert (out / "4" / part / "e" / "0.png").is_file()
    assert not (out / "4" / "test").exists()
    with pytest.raises(SystemExit, match=r"exists already. Give another --out"):
        module.main()
    monkeypatch.setattr(sys, "argv", [*arguments[:3], "7", "--out", str(tmp_path / "other")])
    with pytest.raises(SystemExit, match=r"--classes 7: there are 6 classes"):
        module.main()
    assert not (tmp_path / "other").exists()


def test_a_run_that_was_stopped_is_not_judged(tmp_path, monkeypatch):
    module = script("run")
    monkeypatch.setattr(module, "clzoo", lambda *_: (tmp_path / "state.json").write_text('{"finished": false}'))
    with pytest.raises(SystemExit, match="was stopped before its end"):
        module.pretrain("simclr_cifar10", [], "there", tmp_path)
    monkeypatch.setattr(module, "clzoo", lambda *_: (tmp_path / "state.json").write_text('{"finished": true}'))
    module.pretrain("simclr_cifar10", [], "there", tmp_path)


def test_a_study_whose_seeds_share_augmentations_is_not_ended_with_code_where_they_do_not(tmp_path, monkeypatch):
    module, study = script("run"), {"seeds_share_draws": True}
    module.check_draws(tmp_path, study, 0)  # seed 0 draws what it drew
    module.check_draws(tmp_path, {}, 1)
    with pytest.raises(SystemExit, match=r"docs/study_protocol.md says how it is ended"):
        module.check_draws(tmp_path, study, 1)
    monkeypatch.setattr(module, "uniform", lambda seed, epoch, *_: float(seed + epoch))  # as the code it began with
    module.check_draws(tmp_path, study, 1)


def test_seeds_of_another_recipe_are_not_kept_beside_each_other(tmp_path):
    module = script("run")
    state = dict.fromkeys(("steps", "images_seen", "encoder_forwards", "minutes", "hardware", "versions"), 0)
    metrics = {"model": {"weights_sha256": "00"}, "data": images_of("A"), "results": []}
    for seed, rate in ((0, 0.12), (1, 0.12), (2, 0.24)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        recipe = load_recipe(find_recipe("simclr_cifar10"), [f"seed={seed}", f"optimizer.base_lr={rate}"])
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
        (folder / "state.json").write_text(json.dumps(state))
    module.keep(tmp_path / "kept", "run", 0, tmp_path / "0", metrics)
    module.keep(tmp_path / "kept", "run", 1, tmp_path / "1", metrics)
    with pytest.raises(SystemExit, match="is of another recipe than"):
        module.keep(tmp_path / "kept", "run", 2, tmp_path / "2", metrics)
    assert list(read_json(tmp_path / "kept" / "run.json")["seeds"]) == ["0", "1"]
    with pytest.raises(SystemExit, match=r"run\.json is of other images than B\. Name its --data"):
        module.keep(tmp_path / "kept", "run", 1, tmp_path / "1", {**metrics, "data": images_of("B")})


def images_of(place):
    return {part: {"sha256": place + part, "origin": place} for part in ("train", "test")}


@pytest.mark.parametrize("other", [{"images_seen": 9}, {"results": [{"protocol": "linear:v1", "metric": "top-1"}]}])
def test_a_table_is_not_made_of_seeds_that_were_judged_otherwise(tmp_path, monkeypatch, table, other):
    found = {"images_seen": 10, "results": [{"protocol": "knn:v1", "metric": "top-1"}]}
    (tmp_path / "study").mkdir()
    write_json(tmp_path / "study" / "run.json", {"seeds": {"0": found, "1": {**found, **other}}})
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"runs": {"run": {}}}))
    monkeypatch.setattr(sys, "argv", ["table.py", str(tmp_path / "study.yaml")])
    with pytest.raises(SystemExit, match=r"run\.json: not all seeds are as long, or judged alike"):
        table.main()


def test_a_comparison_takes_the_seeds_that_all_its_runs_have(table):
    def seeds(**accuracy):
        row = {"protocol": "knn:v1(k=20)", "metric": "top-1"}
        return {seed: {"results": [{**row, "value": value}]} for seed, value in accuracy.items()}

    runs = {"a": seeds(s0=5.0, s1=7.0), "b": seeds(s0=4.0, s1=4.0, s2=9.0), "c": seeds(s1=1.0, s2=1.0)}
    assert table.difference(runs, "a", "b", table.KNN) == {"s0": 1.0, "s1": 3.0}
    assert table.difference(runs, "a - b", "b - c", table.KNN) == {"s1": 0.0}
    assert table.difference(runs, "a", "missing", table.KNN) == {}
    assert table.spread([1.0, 3.0], 1, sign=True) == "+2.0 ± 1.4"


@pytest.mark.parametrize(
    ("points", "counts", "called"),
    [
        ([4.0, 4.4, 4.2], "higher", "shown: higher"),
        ([0.6, 0.7, 0.65], "higher", "no evidence"),  # surely above 0, yet less than a point
        ([9.0, 1.0, 5.0], "higher", "no evidence"),  # many points, yet scattered
        ([-3.0, -3.2, -2.9], "higher", "refuted: higher"),
        ([-0.5, -0.6, -0.4], "not lower", "shown: not lower"),
        ([-3.0, -3.2, -2.9], "not lower", "refuted: not lower"),
        ([-2.5, -1.0, -2.0], "not lower", "no evidence"),
        ([30.0, 31.0], "higher", "none (2 of 3 seeds)"),
    ],
)
def test_the_verdict_is_the_rule_of_the_protocol(table, points, counts, called):
    assert table.verdict(points, counts)[1] == called


def test_the_interval_is_the_one_that_the_protocol_states(table):
    points = [1.0, 2.0, 4.5]  # standard deviation 1.803
    assert table.verdict(points, "higher") == ("[-1.98, +6.98]", "no evidence")  # 2.5 ± 2.484 * 1.803
    assert table.verdict([4.0, 4.4, 4.2], "higher")[0] == "[+3.70, +4.70]"


def test_the_picture_groups_the_runs_of_a_method_and_sorts_by_accuracy(table, tmp_path):
    def seeds(value):
        return {"0": {"results": [{"protocol": "knn:v1(k=20)", "metric": "top-1", "value": value}]}}

    named = {"a": "simclr_cifar10", "b": "hydra_moco_cifar10", "c": "simclr_cifar10", "d": "hydra_cifar10"}
    study = {
        "title": "t",
        "runs": {name: {"recipe": recipe, "is": f"in words {name}"} for name, recipe in named.items()},
    }
    runs = {"a": seeds(50.0), "b": seeds(60.0), "c": seeds(70.0), "d": seeds(55.0)}
    assert table.grouped(study, runs) == [["c", "a"], ["b"], ["d"]]
    assert table.label(study["runs"]["b"]) == "Hydra moco: in words b"
    assert table.label({"recipe": "simclr_cifar10", "is": "SimCLR, T = 0.5"}) == "SimCLR, T = 0.5"
    table.draw(tmp_path / "picture.png", study, runs)
    assert (tmp_path / "picture.png").stat().st_size > 5000


def test_a_made_up_run_gains_on_average_what_it_is_meant_to():
    verdict = script("verdict")
    right = np.random.default_rng(0).beta(*verdict.DIFFICULTY, size=1000)
    own = verdict.moved(right, np.array([[0.02], [0.0], [-0.02]]))
    assert own.mean(axis=1) - right.mean() == pytest.approx([0.02, 0.0, -0.02])
    assert 0 <= own.min() <= own.max() <= 1
