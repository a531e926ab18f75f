"""The first cell of a notebook: installs the library from the clone it lies in, and says how to get it where there is none."""
from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.training.runs import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def opening(path) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "".join(next(cell["source"] for cell in cells if cell["cell_type"] == "code"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("there, clone", [(True, False), (False, True), (False, False)])
def test_the_library_is_found_installed_or_missed(path, there, clone, tmp_path, monkeypatch, capsys):
    ran = []
    (tmp_path / "notebooks").mkdir()
    if clone:
        (tmp_path / "src" / "maskless").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if there else None)
    monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append(command))
    exec(compile(opening(path), path.name, "exec"), {"__name__": "__main__"})
    said = capsys.readouterr().out
    assert ran == ([[sys.executable, "-m", "pip", "install", "--quiet", ".."]] if clone else [])
    assert ("copy one, run %pip install FOLDER_OF_THE_CLONE" in said and said.count("\n") == 1) if not (there or clone) else not said
