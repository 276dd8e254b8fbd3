"""The study that waits for a GPU: what it would run is there, and a CPU can rehearse it from start to end."""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from labelled_pictures import make_splits

from clzoo.files import read_json
from clzoo.pretrain.recipe_files import find_recipe, load_recipe

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "gpu_study.sh"
RUNS = [line.split() for line in re.findall(r'^    "(\w+ \w+_cifar10.*)"$', SCRIPT.read_text(), re.MULTILINE)]


def study(*arguments, **environment):
    variables = {**os.environ, "PYTHON": sys.executable, "REHEARSE": "1", **environment}
    command = ["bash", str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=variables)


@pytest.fixture
def pictures(tmp_path):
    return make_splits(tmp_path / "pictures", train=6, test=3)


def test_the_study_names_recipes_of_full_size_and_settings_that_they_take():
    assert [name for name, *_ in RUNS] == [
        *("mocov2", "simclr", "hydra", "hydra_open", "cacr_k1", "cacr_k4", "reco", "ps", "supcon", "mocov3")
    ]
    for name, recipe, *changes in RUNS:
        loaded = load_recipe(find_recipe(recipe), tuple(changes))
        assert loaded.backbone.name.startswith("resnet18"), name
        assert loaded.schedule.epochs == (50 if loaded.method.name == "hydra" else 200), name
        assert loaded.model_dump() != load_recipe(find_recipe(recipe)).model_dump() or not changes, name


def test_a_name_that_the_study_does_not_have_is_refused_before_anything_runs(tmp_path, pictures):
    refused = study(pictures, tmp_path / "runs", 1, "mocov4")
    assert refused.returncode == 2
    assert "no run is called mocov4; there are: mocov2 simclr" in refused.stderr
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.slow
def test_the_rehearsal_starts_stops_when_its_time_is_up_and_goes_on(tmp_path, pictures):
    runs = tmp_path / "runs"
    first = study(pictures, runs, 0, "hydra_open")
    assert first.returncode == 0, first.stderr
    assert "packed: " in first.stdout
    assert read_json(runs / "hydra_open" / "state.json")["step"] == 1
    assert load_recipe(runs / "hydra_open" / "recipe.yaml").method.gate is False
    with tarfile.open(runs / "results.tar.gz") as packed:
        assert "./hydra_open/recipe.yaml" in packed.getnames()
        assert not [name for name in packed.getnames() if name.endswith((".pt", ".safetensors"))]


@pytest.mark.slow
def test_the_whole_study_is_rehearsed_and_again_there_is_nothing_left_to_do(tmp_path, pictures):
    runs = tmp_path / "runs"
    for _ in range(2):
        done = study(pictures, runs, 60)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "all runs are done: the whole study" in done.stdout
    assert "pretrain" not in done.stderr
    for name, *_ in RUNS:
        measured = read_json(runs / name / "evaluation" / "metrics.json")
        assert {"knn", "linear"} <= {row["protocol"].partition(":")[0] for row in measured["results"]}
