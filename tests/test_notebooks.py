"""Notebooks run from their first cell to the last, as a reader would run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))

# Runs in a process of its own: kernels start event loops and sockets whose warnings are not ours.
EXECUTE = """
import sys
import jupytext
from nbclient import NotebookClient

notebook = jupytext.read(sys.argv[1], fmt="py:percent")
notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
where = {"metadata": {"path": sys.argv[2]}}
NotebookClient(notebook, timeout=240, kernel_name="python3", resources=where).execute()
jupytext.write(notebook, sys.argv[3])
"""


def test_there_are_notebooks() -> None:
    assert {"quickstart", "own_policy", "offloading"} <= {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_compiles_without_jupyter_magic(path: Path) -> None:
    compile(path.read_text(encoding="utf-8"), str(path), "exec")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_shows_something(path: Path, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs the extra 'notebooks'")
    pytest.importorskip("jupytext", reason="needs the extra 'notebooks'")
    out = tmp_path / f"{path.stem}.ipynb"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path / "ipython")}
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(path), str(ROOT / "notebooks"), str(out)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    cells = [cell for cell in nbformat.read(out, as_version=4).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"text/html", "image/png"} <= kinds, "a table and a plot"
    assert not [output for output in outputs if output.output_type == "error"]
