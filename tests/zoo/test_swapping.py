"""A model folder is replaced as a whole: killed at any instant, it is the old one or the new one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_models import small_encoder

import clzoo
from clzoo.errors import ClzooError
from clzoo.temporary import sweep
from clzoo.zoo.saving import save_entry
from clzoo.zoo.swapping import settle, swapped_folder

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def make(folder: Path, state: str) -> None:
    """Replace `folder` by two files that say the same."""
    with swapped_folder(folder, ("model", "state", "only-old")) as new:
        for name in ("model", "state", *(["only-old"] if state == "old" else [])):
            (new / name).write_text(state)


def killed_before(step: int, inside: Path, action: Callable[[], None]) -> bool:
    """Run the action in a child that is killed before this change of files inside a folder; whether it ended."""
    if (child := os.fork()) == 0:
        seen = 0

        def die(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            if event in EVENTS and str(arguments[0]).startswith(str(inside)):
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(die)
        action()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@needs_fork
@pytest.mark.parametrize("next_one", ["a reader", "a writer"])
def test_killed_before_every_step_a_replacement_is_the_old_folder_or_the_new_one(tmp_path: Path, next_one: str) -> None:
    step, states, finished = 0, set(), False
    while not finished:
        step += 1
        place = tmp_path / str(step)
        folder = place / "entry"
        make(folder, "old")
        (folder / "thesis.tex").write_text("mine")
        finished = killed_before(step, place, lambda folder=folder: make(folder, "new"))
        sweep(place)  # whatever is swept meanwhile, nothing is lost
        if next_one == "a reader":
            settle(folder)
            states.add(found := (folder / "state").read_text())
            assert (folder / "model").read_text() == found
            assert (folder / "only-old").exists() == (found == "old")
        make(folder, "third")
        assert {path.name: path.read_text() for path in folder.iterdir()} == {
            "model": "third",
            "state": "third",
            "thesis.tex": "mine",
        }
        assert [path.name for path in place.iterdir()] == ["entry"]
    assert step > 15
    assert next_one == "a writer" or states == {"old", "new"}


def test_an_error_on_the_way_leaves_the_old_folder(tmp_path: Path) -> None:
    make(tmp_path / "entry", "old")

    def fails() -> None:
        with swapped_folder(tmp_path / "entry", ("model", "state")) as new:
            (new / "model").write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fails()
    assert (tmp_path / "entry" / "model").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_two_replacements_at_once_are_refused(tmp_path: Path) -> None:
    with (
        swapped_folder(tmp_path / "entry", ()),
        pytest.raises(ClzooError, match="another clzoo process is writing"),
        swapped_folder(tmp_path / "entry", ()),
    ):
        pass


@pytest.mark.skipif(os.name == "nt", reason="links as on POSIX")
def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    make(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    make(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "state").read_text() == "new"


@needs_fork
def test_a_saved_entry_killed_between_two_renames_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "entry"
    first, second = small_encoder(seed=0), small_encoder(seed=1)
    save_entry(first, folder)
    (folder / "notes.md").write_text("mine")
    (folder / ".eval_results").mkdir(exist_ok=True)
    (folder / ".eval_results" / "theirs.yaml").write_text("theirs")
    if (child := os.fork()) == 0:
        real = Path.rename

        def rename(self: Path, target: Path) -> Path:
            if self.name == "new":
                os.kill(os.getpid(), signal.SIGKILL)
            return real(self, target)

        Path.rename = rename  # type: ignore[method-assign, assignment]
        save_entry(second, folder)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not folder.exists()
    assert clzoo.load(folder, "cpu").weights_sha256 == second.weights_sha256
    save_entry(second, folder)
    assert (folder / "notes.md").read_text() == "mine"
    assert (folder / ".eval_results" / "theirs.yaml").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_what_speaks_of_other_weights_goes_and_what_is_the_users_stays(tmp_path: Path) -> None:
    folder = save_entry(small_encoder(seed=0), tmp_path / "entry", recipe="seed: 0\n")
    for name in ("pretrain.safetensors", "model.onnx", "mine.txt"):
        (folder / name).write_text("of the first")
    save_entry(small_encoder(seed=0), folder)
    assert {"pretrain.safetensors", "model.onnx", "recipe.yaml", "mine.txt"} <= {p.name for p in folder.iterdir()}
    save_entry(small_encoder(seed=1), folder)
    assert {"pretrain.safetensors", "model.onnx", "recipe.yaml"}.isdisjoint(p.name for p in folder.iterdir())
    assert (folder / "mine.txt").read_text() == "of the first"


def test_who_stands_in_the_folder_stands_in_the_new_one_and_is_told(tmp_path: Path, monkeypatch, caplog) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    save_entry(small_encoder(), Path())
    assert "Type in your shell: cd ." in caplog.text
    assert Path.cwd() == folder
    (folder / "notes.txt").write_text("mine")
    save_entry(small_encoder(seed=1), Path())
    assert Path("notes.txt").read_text() == "mine"
    assert clzoo.load(Path(), device="cpu").weights_sha256 == small_encoder(seed=1).weights_sha256
