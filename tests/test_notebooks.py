"""Notebooks open with a question, run from a fresh kernel without a network, and end with what to try next."""

from __future__ import annotations

import re
from pathlib import Path

import jupytext
import nbclient
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.py"))
SECONDS = 300  # for a cell on a busy machine; alone a whole notebook takes less than twenty


def test_there_are_seven():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{number:02d}" for number in range(1, 8)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opens_with_its_question_and_ends_with_what_to_try(path):
    cells = jupytext.read(path).cells
    assert re.match(r"# \d\. .*\?$", cells[0].source.splitlines()[0])
    assert cells[-1].source.startswith("## What to try next")
    links = re.findall(r"\]\((\w[^)]*)\)", "\n".join(cell.source for cell in cells if cell.cell_type == "markdown"))
    assert [link for link in links if "://" not in link and not (FOLDER / link).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    """In an empty folder; it shows at least one figure, and nothing is written beside it."""
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    notebook = jupytext.read(path)
    nbclient.NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    said = "".join(output.get("text", "") for output in outputs if output.get("name") == "stderr")
    assert said == "", said
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_a_cell_is_not_swallowed(tmp_path):
    notebook = jupytext.reads("# %%\n1 / 0\n", fmt="py:percent")
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ZeroDivisionError"):
        nbclient.NotebookClient(notebook, timeout=SECONDS).execute()
