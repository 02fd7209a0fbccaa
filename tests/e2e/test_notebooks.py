"""The notebooks in docs/notebooks, cell by cell, with their numbers made small."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from gan_dist.artifacts.records import read_records
from tests.support.heads import ROOT, Head

NOTEBOOKS = ROOT / "docs/notebooks"
SMALL = {"kimg": "0.128", "trials": "2"}
SETTINGS = " eval.every_kimg=0.064 eval.samples=64 train.batch_size=32 model.width=4 model.max_width=8"
"""Added to the commands that train: the shortest runs with two evaluations each."""


def shortened(source: str) -> str:
    for name, value in SMALL.items():
        source = re.sub(rf"^{name} = \d+$", f"{name} = {value}", source, flags=re.MULTILINE)
    return re.sub(r"(?m)^(!gan-dist (?:train|tune) .*)$", rf"\1{SETTINGS}", source)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
def test_every_cell_of_a_notebook_works(
    name: str, head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in {**head.env, "RAY_ADDRESS": head.address}.items():
        monkeypatch.setenv(variable, value)
    notebook: Any = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    assert [cell for cell in notebook.cells if cell.get("outputs")] == []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            # A command that fails does not fail its cell, unless it is asked.
            cell.source = "\n".join(
                f"{line}\nassert _exit_code == 0" if line.startswith("!") else line
                for line in shortened(cell.source).splitlines()
            )
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = str([cell.get("outputs") for cell in notebook.cells])
    assert {"first_run": "torch.Size([16, 1, 8, 8])", "a_search": "gan-dist best runs/search-"}[
        name
    ] in printed, printed
    if name == "a_search":
        (promoted,) = tmp_path.glob("runs/search-*")
        measured = [one["images"] for one in read_records(str(promoted)) if "fd_digits" in one]
        assert measured == [64, 128, 192, 256]
