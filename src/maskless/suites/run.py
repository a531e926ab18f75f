"""One model, several suites: every result is written as soon as it is there.

    results = evaluate(open_subject("runs/pgm"), [Likelihood(budget=8)], out="results")
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from maskless.evaluation.results import Result, write
from maskless.evaluation.settings import SUITES, Suite, kind_of_suite
from maskless.suites.generative import evaluate_generative
from maskless.suites.images import evaluate_images
from maskless.suites.likelihood import evaluate_likelihood
from maskless.suites.parity import evaluate_parity
from maskless.suites.session import Progress, Session, Shard
from maskless.suites.speed import evaluate_speed
from maskless.suites.subject import Subject
from maskless.suites.tasks import evaluate_tasks

Measure = Callable[[Session, Any], Iterator[Result]]

MEASURES: dict[str, Measure] = {
    "likelihood": evaluate_likelihood, "generative": evaluate_generative, "images": evaluate_images, "tasks": evaluate_tasks,
    "speed": evaluate_speed, "parity": evaluate_parity,
}
DRAWN = ("generative", "images")                                    # suites in which several processes share the work


def evaluate(subject: Subject, suites: Iterable[Suite], *, out: str | Path, batch_size: int = 64, shard: Shard | None = None,
             say: Callable[[str], None] = lambda line: None, progress: Progress = lambda what, done, total: None) -> list[Result]:
    """Run suites on a model, in order.

    Args:
        out: the folder of results and samples, made if need be.
        batch_size: rows read and handed over at a time; no result depends on it.
        shard: this process's part of the drawing of samples; other suites are left to process 0.
        say, progress: see `Session`.

    Returns:
        The results, each of which lies in the folder already.

    Raises:
        ValueError: a suite that does not fit the model, or a measurement that failed; results before it stay.
    """
    assert {*MEASURES} == {*SUITES}, "a suite has settings and no measure, or the other way round"
    share, found = shard or Shard(), []
    for suite in suites:
        kind = kind_of_suite(suite)
        if share.alone and kind not in DRAWN:
            continue
        session = Session(subject, suite, Path(out), batch_size, share, say, progress)
        for result in MEASURES[kind](session, suite):
            path = write(result, out)
            say(f"{line_of(result)}  {path}")
            found.append(result)
    return found


def line_of(result: Result) -> str:
    """A result in one line for people."""
    error = "" if result.uncertainty.value is None else f" +- {result.uncertainty.value:.2g}"
    unit = f" {result.unit}" if result.unit else ""
    return f"{result.model.name} {result.suite} {result.metric} {result.value:.6g}{error}{unit} ({result.kind}, {result.samples})"
