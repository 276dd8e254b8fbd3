"""clzoo embed and clzoo store, as they are typed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from warm_python import WarmPython

from clzoo import open_store
from clzoo.cli import main
from clzoo.embed import DEFAULT_MODEL


def run(*arguments: object) -> int:
    """Exit code of `clzoo ARGUMENTS`."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def here(images: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with images/ in it."""
    monkeypatch.chdir(images.parent)
    return images.parent


def test_model_output_and_counts_are_printed(
    here: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "images" / "notes.txt").touch()
    assert run("embed", "images/", "--model", f"{model_folder}/") == 0
    out, err = capsys.readouterr()
    name = open_store(here / "images-embeddings").manifest.model
    assert f"model: {name}" in err
    assert "output: images-embeddings" in err
    assert "embedded 24, unchanged 0, dropped 0, failed 0, ignored 1 (1 .txt)" in out


def test_the_store_remembers_how_to_load_the_model_from_anywhere(
    here: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model_folder.parent)
    assert run("embed", here / "images", "--model", f"./{model_folder.name}", "--out", here / "store") == 0
    assert open_store(here / "store").manifest.load == str(model_folder.resolve())


def test_the_default_model_is_the_bundled_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("embed", "--help") == 0
    assert DEFAULT_MODEL in capsys.readouterr().out


def test_an_index_is_built_with_the_store_and_again_when_the_store_has_changed(
    here: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")
    arguments = ("embed", "images/", "--model", model_folder, "--index", "faiss", "--json", "--quiet")
    assert run(*arguments) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["index"]["store_generation"] == first["generation"]
    assert (here / "images-embeddings" / "faiss.index").is_file()
    (here / "images" / "cats" / "000.jpg").unlink()
    assert run(*arguments) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["dropped"] == 1
    assert second["index"]["count"] == 23
    assert second["index"]["store_generation"] == second["generation"] > first["generation"]


def test_a_broken_image_is_exit_code_0_and_with_strict_1(
    here: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "images" / "broken.jpg").write_bytes(b"")
    assert run("embed", "images", "--model", model_folder) == 0
    assert "broken.jpg: empty file (zero bytes)" in capsys.readouterr().err
    assert run("embed", "images", "--model", model_folder, "--strict") == 1
    err = capsys.readouterr().err
    assert "error: 1 of 25 images failed (--strict)" in err
    assert "errors.parquet" in err


def test_a_missing_or_empty_folder_is_exit_code_1_before_the_model_is_loaded(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "nothing").mkdir()
    for source in ("nowhere", "nothing"):
        assert run("embed", source, "--model", "./no-such-model/") == 1
        assert source in capsys.readouterr().err


def test_wrong_usage_is_exit_code_2(here: Path) -> None:
    assert run("embed") == 2
    assert run("embed", "images", "--dtype", "int8") == 2
    assert run("embed", "images", "--batch-size", "0") == 2


def test_quiet_prints_nothing(here: Path, model_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # The card of a model without a license is a warning, and those are always printed.
    assert run("embed", "images", "--model", model_folder, "--quiet") == 0
    assert capfd.readouterr().out == ""


def test_no_bar_is_drawn_where_there_is_no_terminal(
    here: Path, model_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("embed", "images", "--model", model_folder) == 0
    assert "waiting for data" not in capfd.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals are POSIX")
def test_on_a_terminal_the_bar_shows_speed_waiting_and_eta(
    here: Path, model_folder: Path, warm_python: WarmPython
) -> None:
    import pty

    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    command = ("-m", "clzoo", "embed", "images", "--model", str(model_folder))
    process = warm_python.start(command, environment, timeout=300, stderr=os.ttyname(follower))
    shown = _read(leader)
    os.close(follower)  # now that the other process has it open
    while chunk := _read(leader):
        shown += chunk
    os.close(leader)
    assert process.wait() == 0
    for part in (b"24/24", b"img/s", b"waiting for data", b"0:00:00"):
        assert part in shown


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux's way of saying that the other end was closed
        return b""


def test_a_store_is_exported_compacted_and_described(
    here: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("embed", "images", "--model", model_folder, "--quiet") == 0
    for format in ("csv", "parquet", "npz"):
        assert run("store", "export", "images-embeddings", "--format", format) == 0
        assert (here / f"images-embeddings.{format}").stat().st_size > 0
    assert run("store", "compact", "images-embeddings") == 0
    capsys.readouterr()
    assert run("store", "info", "images-embeddings", "--json") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 24
    assert run("store", "info", "images-embeddings") == 0
    assert run("store", "export", "images-embeddings") == 2
    assert run("store", "compact", "images") == 1
    assert not (here / "images" / ".lock").exists()
