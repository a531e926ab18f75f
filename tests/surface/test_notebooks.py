"""The notebooks run from top to bottom at toy size, in a process of their own without network, and are kept without outputs."""
from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.training.runs import REPOSITORY, environment

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
LEAVES = {"text": ["runs-text/report.html", "runs-text/results/likelihood-pgm-nelbo.json", "runs-text/results/samples-mdlm.jsonl"],
          "images": ["runs-images/report.html", "runs-images/results/likelihood-maskgit-nelbo.json", "runs-images/making.gif"]}
ALONE = """
import json, socket, sys

def refuse(*arguments, **named):
    raise OSError("a notebook reached for the network")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
names = {"__name__": "__main__"}
for number, cell in enumerate(json.load(open(sys.argv[1], encoding="utf-8"))["cells"]):
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
"""


def test_both_are_there():
    assert {path.stem for path in NOTEBOOKS} == set(LEAVES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    book = json.loads(path.read_text(encoding="utf-8"))
    assert (book["nbformat"], book["metadata"]["kernelspec"]["name"]) == (4, "python3")
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    for cell in book["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path, cache):
    told = {**environment(), "MASKLESS_NOTEBOOK": "toy", "MASKLESS_CACHE": str(cache), "MPLBACKEND": "Agg"}
    command = [sys.executable, "-W", "ignore", "-c", ALONE, str(path)]
    ended = subprocess.run(command, cwd=tmp_path, env=told, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for name in LEAVES[path.stem]:
        assert (tmp_path / name).is_file(), name
