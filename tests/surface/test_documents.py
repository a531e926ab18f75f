"""What the documents say runs: python blocks, docstring examples, shell lines, links, recipes."""
from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import shlex
import shutil
from pathlib import Path

import pytest

import maskless
from maskless.cli.main import app
from tests.training.runs import REPOSITORY

DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
CARDS = sorted((REPOSITORY / "src" / "maskless" / "pretrained").glob("*/README.md"))   # their blocks: tests/checkpoints/test_pretrained.py
BLOCK = re.compile(r"(<!-- not run[^>]*-->\n+)?```python\n(.*?)```", re.DOTALL)
QUICKER = {'"training.steps=100"': '"training.steps=2", "model.width=16", "model.heads=2", "validation.rows=16", "training.device=cpu"'}
VERBS = ("demo", "train", "distill", "encode-images", "sample", "infill", "score", "serve", "evaluate",
         "report", "convert", "inspect", "verify", "bench", "doctor", "image-statistics")
MODULES = ["maskless", *(module.name for module in pkgutil.walk_packages(maskless.__path__, "maskless."))]


def blocks(path: Path) -> list[str]:
    """The python blocks of a document that are meant to run, in order."""
    return [code for skipped, code in BLOCK.findall(path.read_text(encoding="utf-8")) if not skipped]


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if blocks(path)], ids=lambda path: path.name)
def test_blocks_run(path, model, tmp_path, monkeypatch, capsys):
    """One after the other in one namespace, beside a folder as `maskless demo` leaves it."""
    shutil.copytree(model, tmp_path / "maskless-demo" / "pgm")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "document"}
    for number, code in enumerate(blocks(path)):
        for slow, quick in QUICKER.items():
            code = code.replace(slow, quick)
        exec(compile(code, f"{path.name}, block {number + 1}", "exec"), names)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    examples = [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    for test in examples:
        runner.run(test)
    assert runner.failures == 0


@pytest.mark.parametrize("path", [*DOCUMENTS, *CARDS], ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target
    for name in re.findall(r"`((?:src/maskless|docs|tests|recipes)/[\w./-]+\.\w+)`", path.read_text(encoding="utf-8")):
        assert (REPOSITORY / name).exists(), name


def command_lines(path: Path) -> list[list[str]]:
    """Lines of code that begin with `maskless` and a word, comments left out."""
    lines = re.findall(r"^(?:    )?(maskless [a-z].*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("path", [path for path in [*DOCUMENTS, *CARDS] if command_lines(path)], ids=lambda path: path.name)
def test_command_lines_exist(path):
    import typer

    group = typer.main.get_command(app)
    for words in command_lines(path):
        verb = group.commands[words[1]]
        verb = verb.commands[words[2]] if hasattr(verb, "commands") else verb
        known = {option for parameter in verb.params for option in parameter.opts}
        used = {word.split("=")[0] for word in words[2:] if re.match(r"--?[a-z]", word)}
        assert used <= known | {"--help"}, words


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, call):
    ended = call(verb, "--help")
    assert ended.code == 0 and "Usage" in ended.out and len(ended.out.splitlines()) > 5


@pytest.mark.parametrize("verb", ("sampling", "training", "scaling", "memory"))
def test_every_bench_has_help(verb, call):
    ended = call("bench", verb, "--help")
    assert ended.code == 0 and "--preset" in ended.out


def test_every_verb_is_listed(call):
    ended = call("--help")
    assert ended.code == 0 and all(verb in ended.out for verb in VERBS)
    named = {command.callback.__name__.replace("_", "-") for command in app.registered_commands}
    assert named | {group.name for group in app.registered_groups} == set(VERBS)
