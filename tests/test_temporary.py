"""Temporary folders: what a dead process left is deleted by the next of its kind; nothing else ever is."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from test_security import PACKAGE

from clzoo import temporary
from clzoo.errors import ClzooError
from clzoo.files import atomic_path, filled_folder, write_text
from clzoo.temporary import TEMPORARY, is_temporary, sweep, temporary_folder, was_left

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def left_by_a_kill(write: object, at: str | None = None) -> None:
    """Run `write` in a child that kills itself: at the first audited event of that name, or at its end."""
    if (child := os.fork()) == 0:
        if at is not None:

            def die(event: str, arguments: tuple[object, ...]) -> None:
                if event == at:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(die)
        write()  # type: ignore[operator]
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def killed_while_writing(path: Path) -> None:
    with atomic_path(path) as place:
        place.write_bytes(bytes(1000))
        os.kill(os.getpid(), signal.SIGKILL)


def killed_while_filling(path: Path) -> None:
    with filled_folder(path) as place:
        (place / "sub").mkdir()
        (place / "sub" / "half").write_bytes(bytes(1000))
        os.kill(os.getpid(), signal.SIGKILL)


@needs_fork
def test_what_a_killed_process_left_of_a_file_goes_with_the_next_write_of_it(tmp_path: Path) -> None:
    left_by_a_kill(lambda: killed_while_writing(tmp_path / "a.txt"))
    assert len(list(tmp_path.iterdir())) == 1
    write_text(tmp_path / "b.txt", "another file: not its predecessor")
    assert len(list(tmp_path.iterdir())) == 2
    write_text(tmp_path / "a.txt", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]


@needs_fork
def test_what_a_killed_process_left_of_a_folder_goes_with_the_next_that_fills_it(tmp_path: Path) -> None:
    left_by_a_kill(lambda: killed_while_filling(tmp_path / "folder"))
    with filled_folder(tmp_path / "folder") as place:
        (place / "whole").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["whole"]


@needs_fork
@pytest.mark.parametrize("event", ["os.mkdir", "open", "os.rename", "os.remove", "os.rmdir"])
def test_killed_at_any_event_the_next_write_leaves_the_file_alone(tmp_path: Path, event: str) -> None:
    left_by_a_kill(lambda: write_text(tmp_path / "a.txt", "old"), at=event)
    write_text(tmp_path / "a.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "new"


@needs_fork
def test_a_mark_is_there_at_any_instant_of_a_series_of_kills(tmp_path: Path) -> None:
    def begin_and_die() -> None:
        with temporary_folder(tmp_path, "begun"):
            os.kill(os.getpid(), signal.SIGKILL)

    left_by_a_kill(begin_and_die)
    for event in ("os.mkdir", "open", "os.remove", "os.rmdir", "shutil.rmtree", "os.scandir"):
        left_by_a_kill(begin_and_die, at=event)
        assert was_left(tmp_path, "begun"), event
    with temporary_folder(tmp_path, "begun"):
        assert len(list(tmp_path.iterdir())) == 1


@needs_fork
def test_a_sweep_of_a_folder_of_our_own_deletes_what_is_dead_and_nothing_else(tmp_path: Path) -> None:
    left_by_a_kill(lambda: killed_while_writing(tmp_path / "a.txt"))
    (dead,) = tmp_path.iterdir()
    thesis = tmp_path / ".tmp-thesis"
    unmarked = tmp_path / f"{TEMPORARY}{16 * 'a'}-0"
    copied = tmp_path / f"{TEMPORARY}{16 * 'b'}-0"  # its mark is that of another folder
    for folder in (thesis, unmarked, copied):
        folder.mkdir()
        (folder / "chapter").write_text("mine")
    (copied / ".clzoo-mark").write_bytes((dead / ".clzoo-mark").read_bytes())
    linked = tmp_path / f"{TEMPORARY}{16 * 'c'}-0"
    linked.symlink_to(thesis)
    with temporary_folder(tmp_path, "alive") as alive:
        sweep(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([thesis, unmarked, copied, linked, alive])
        if (child := os.fork()) == 0:  # another process sees the lock
            temporary._LIVE.clear()
            sweep(tmp_path)
            os._exit(0)
        os.waitpid(child, 0)
        assert is_temporary(alive)
    assert (thesis / "chapter").read_text() == (unmarked / "chapter").read_text() == "mine"


def test_a_folder_of_the_users_own_under_our_name_is_left_and_another_is_taken(tmp_path: Path) -> None:
    with temporary_folder(tmp_path, "x") as place:
        name = place.name
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").touch()
    with temporary_folder(tmp_path, "x") as place:
        assert place.name != name
    assert [path.name for path in tmp_path.rglob("*")] == [name, "mine"]


def test_two_at_once_have_places_of_their_own_or_the_second_is_refused(tmp_path: Path) -> None:
    with temporary_folder(tmp_path, "x") as first, temporary_folder(tmp_path, "x") as second:
        assert first != second
        with pytest.raises(ClzooError, match="busy"), temporary_folder(tmp_path, "x", refusal="busy"):
            pass
        assert was_left(tmp_path, "x")
    assert not was_left(tmp_path, "x")
    assert list(tmp_path.iterdir()) == []


def test_folders_are_deleted_in_few_places_that_all_know_what_they_delete() -> None:
    deleting = {path.name for path in PACKAGE.rglob("*.py") if "rmtree(" in path.read_text(encoding="utf-8")}
    assert deleting == {"temporary.py", "planning.py"}  # the latter the pilots of an adaptation, in its own folder
