"""What holds for every command alike."""

import os
import subprocess

import pytest

from clzoo.cli import _COMMANDS


@pytest.fixture
def run(warm_python):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        return warm_python.run(("-m", "clzoo", *arguments), os.environ, timeout=300)

    return run


@pytest.mark.parametrize("name", list(_COMMANDS))
def test_every_command_of_the_list_exists_and_explains_itself(name, run):
    result = run(name, "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"Usage: clzoo {name}")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["list"], 0),
        (["info", "no-such-model"], 1),
        (["info"], 2),
        (["list", "--no-such-option"], 2),
        (["no-such-command"], 2),
        (["pretrain", "no_such_recipe"], 1),
    ],
)
def test_exit_codes_tell_done_from_bad_input_from_wrong_usage(arguments, code, run):
    result = run(*arguments)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr


def test_a_traceback_is_shown_only_with_debug(run):
    assert "Traceback" not in run("pretrain", "no_such_recipe").stderr
    assert "Traceback" in run("pretrain", "no_such_recipe", "--debug").stderr


def test_missing_data_is_an_error_with_the_exact_command(run):
    result = run("pretrain", "cacr_cifar10")
    assert result.returncode == 1
    assert "clzoo pretrain cacr_cifar10 --data DIR" in result.stderr


@pytest.mark.parametrize(
    "models",
    [["evaluate", "supcon-resnet10_w48-tiny"], ["compare", "supcon-resnet10_w48-tiny", "supcon-resnet10_w32-tiny"]],
)
def test_a_folder_that_cannot_take_the_report_is_refused_before_anything_is_measured(models, run, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.tex").touch()
    for out, reason in ((own, "own holds thesis.tex"), (own / "thesis.tex" / "report", "thesis.tex is no folder")):
        result = run(*models, "--data", str(tmp_path / "not-looked-at"), "--out", str(out))
        assert result.returncode == 1
        assert reason in result.stderr
        assert "not-looked-at" not in result.stderr
    assert [path.name for path in own.iterdir()] == ["thesis.tex"]
