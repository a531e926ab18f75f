"""`tasks`: questions with answers to choose from and last words from local files, scored by `evaluation/harness.py`.

    TASK_accuracy             share of questions whose likeliest answer is right, or whose last word greedy decoding writes
    TASK_accuracy_per_byte    the same, scores divided by the bytes of an answer
    TASK_target_nats          -log p of the last word, a bound or exact
"""
from __future__ import annotations

from collections.abc import Iterator

from maskless.api.text import TextModel
from maskless.evaluation.harness import Harness, Scoring
from maskless.evaluation.results import DataRecord, Result
from maskless.evaluation.settings import Tasks
from maskless.evaluation.tasks import figures, find_tasks, read_task, score_task
from maskless.suites.session import Session


def evaluate_tasks(session: Session, settings: Tasks) -> Iterator[Result]:
    """The figures of every task file, file by file; all are read before the first is scored.

    Raises:
        ValueError: a model of images, files that are no tasks, questions that do not fit where that is refused, or scores that are not finite.
    """
    opened = session.subject.opened
    if not isinstance(opened, TextModel):
        raise ValueError(f"{session.subject.record.path} is a model of images, which reads no questions; measure it with the suite images")
    scoring = Scoring(settings.score, settings.budget, settings.seed, settings.overlong, decoding=settings.decoding)
    harness = Harness(opened.model, opened.tokenizer, scoring)
    part = "all" if settings.rows is None else f"first {settings.rows}"
    tasks = [read_task(path, settings.rows) for path in find_tasks(settings.files)]
    read = [DataRecord(task.name, part, task.hash, len(task.questions)) for task in tasks]
    for data in read:
        session.refuse_another(f"{data.name}_accuracy", session.question(), data)
    for task, data in zip(tasks, read):
        scores = score_task(harness, task, lambda done, total, name=task.name: session.progress(name, done, total))
        for found in figures(task, scores):
            details = {**found.details, "score": settings.score, "overlong": settings.overlong, "decoding": settings.decoding,
                       "draws_per_answer": 1 if opened.model.left_to_right else settings.budget}
            yield session.result(f"{task.name}_{found.metric}", found.value, found.standard_error, found.count, kind=found.kind, unit=found.unit,
                                 better=found.better, data=data, details=details)
