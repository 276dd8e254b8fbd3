"""The notebooks in docs/ run from start to end."""

import os
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((DOCS / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # for `!clzoo`
    monkeypatch.setenv("CLZOO_CACHE", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any(output.output_type in ("display_data", "execute_result") for output in shown)


def test_there_is_one_notebook_for_each_road_and_none_shows_where_it_was_made():
    notebooks = {path.stem: path.read_text(encoding="utf-8") for path in (DOCS / "notebooks").glob("*.ipynb")}
    assert set(notebooks) == {"load", "embed_and_search", "pretrain", "adapt", "evaluate"}
    for name, text in notebooks.items():
        assert str(Path.home()) not in text, name
        assert "/tmp/" not in text, name
        assert str(DOCS.parent) not in text, name
