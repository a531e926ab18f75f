"""The live line of `maskless evaluate`: what is being done, how much of how much, and the time that is left."""
from __future__ import annotations

import re

import pytest
from rich.console import Console

from maskless.cli.evaluate import Progress

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def terminal(monkeypatch):
    """Output that is drawn on, a hundred columns wide."""
    for variable, word in {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1", "TERM": "xterm", "COLUMNS": "100"}.items():
        monkeypatch.setenv(variable, word)
    monkeypatch.delenv("NO_COLOR", raising=False)


def line(progress: Progress) -> list[str]:
    """The words of the live line, without its bar."""
    console = Console(color_system=None)
    with console.capture() as drawn:
        console.print(progress.bar.get_renderable())
    return drawn.get().translate({ord(part): None for part in "━╸╺"}).split()


@pytest.fixture
def clock():
    """Seconds that pass when a test says so."""
    return [0.0]


@pytest.fixture
def progress(terminal, clock):
    with Progress(quiet=False) as made:
        made.bar.get_time = lambda: clock[0]
        yield made


def test_how_much_is_done_and_the_time_left(progress, clock):
    told = []
    for done in (0, 5, 10, 20):
        clock[0] = 2.0 * done                                       # two seconds each
        progress("samples", done, 20)
        told.append(line(progress))
    assert told == [["samples", "0/20", "-:--:--"], ["samples", "5/20", "-:--:--"],         # two points make a speed
                    ["samples", "10/20", "0:00:20"], ["samples", "20/20", "0:00:40"]]       # at the end: how long it took


def test_what_comes_next_takes_the_line(progress, clock):
    for what, done, total in (("samples", 4, 4), ("rows", 1, 8), ("rows", 0, 3)):
        progress(what, done, total)
        assert line(progress)[:2] == [what, f"{done}/{total}"]
        assert len(progress.bar.tasks) == 1
    progress("documents", 7, 0)                                     # nobody knows how many there are
    assert line(progress)[:2] == ["documents", "7/?"]


def test_the_command_draws_it_on_a_terminal(terminal, models, tmp_path, call):
    ended = call("evaluate", models / "pgm", "generative", "--samples", 3, "--sampler", "steps=4", "--out", tmp_path, "--device", "cpu")
    assert ended.code == 0, ended.err
    drawn = ESCAPES.sub("", ended.out)
    assert re.search(r"samples\W+3/3 \d:\d\d:\d\d", drawn) and "unigram_entropy" in drawn
