"""The house rules that can be counted: small files, small functions, no places of one machine, docs for every public name."""
from __future__ import annotations

import ast
import re
import subprocess

import pytest

import maskless
from tests.training.runs import REPOSITORY

FILES = sorted((REPOSITORY / "src").rglob("*.py"))
PLACES = re.compile(r"(?<![\w.])/(work|tmp|root|home|mnt|Users)/")
WRITTEN = (".py", ".md", ".yaml", ".toml", ".cff", ".cfg")


def functions(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(REPOSITORY / "src").as_posix())
def test_files_and_functions_are_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500
    for function in functions(path):
        assert function.end_lineno - function.lineno < 60, function.name
        arguments = [a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs) if a.arg not in ("self", "cls")]
        if path.parent.name != "cli":                               # a verb has as many options as it has
            assert len(arguments) <= 10, function.name


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return listed.stdout.splitlines()


def test_no_places_of_one_machine():
    for name in tracked():
        if name.startswith(("src/", "docs/", "recipes/", ".ci/")) or ("/" not in name and name.endswith(WRITTEN)):
            text = (REPOSITORY / name).read_text(encoding="utf-8", errors="replace")        # weights, too
            assert not PLACES.search(text), f"{name}: {PLACES.search(text)}"
            assert "://" not in text or not re.search(r"https?://[^\s)\"'>]*(pypi|registry|mirror|proxy)", text), name


@pytest.mark.parametrize("name", [name for name in maskless.__all__ if name != "__version__"])
def test_every_public_name_is_documented(name):
    doc = getattr(maskless, name).__doc__ or ""
    assert len(doc.split()) > 5 and ">>>" in doc, f"{name} needs a docstring with an example"


def test_versions_agree():
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == maskless.__version__
    assert f"version: {maskless.__version__}" in (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {maskless.__version__}" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
