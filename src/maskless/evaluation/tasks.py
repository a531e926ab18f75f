"""Questions from local files, without lm-eval and without a network: which of several continuations is likeliest, and which word comes last.

    {"query", "choices", "gold"}                    answers    score each answer after the query
    {"context", "question", "choices", "gold"}      answers    Social IQA
    {"context_options", "continuation", "gold"}     schema     score the continuation after each context (Winograd)
    {"context", "continuation"}                     cloze      is the continuation what greedy decoding writes (LAMBADA)?

Prompts, and how they differ from other harnesses: docs/tasks.md.
"""
from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from maskless.data.files import find_files, read_records
from maskless.evaluation.harness import Harness, Progress, Request, Score
from maskless.evaluation.results import NAME

SUFFIXES = (".jsonl", ".jsonl.gz")
ASKED = ("Question:", "Passage:")                                   # a query that begins so is followed by "Answer:"
NEAR = 2.0                                                          # standard errors within which two scores are not told apart

Form = Literal["answers", "schema", "cloze"]


@dataclass(frozen=True)
class Question:
    """Continuation i follows context i; `gold` is the right one, None where there is only one."""

    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    gold: int | None = None

    def read(self, place: int) -> str:
        """The whole text of one answer."""
        return self.contexts[place] + self.continuations[place]


@dataclass(frozen=True)
class Task:
    """A file of questions.

    Attributes:
        name: of the file, without its endings.
        form: see the head of the module.
        hash: sha256 of the questions as they are asked.
    """

    name: str
    form: Form
    questions: tuple[Question, ...]
    hash: str


@dataclass(frozen=True)
class Figure:
    """One number of a task.

    Attributes:
        metric: accuracy; accuracy_per_byte, where scores are divided by the bytes of an answer; target_nats of a cloze.
        standard_error: over questions; None of one question.
        kind: "estimate", or that of the scores for target_nats.
        better: "higher" or "lower".
    """

    metric: str
    value: float
    standard_error: float | None
    count: int
    kind: Literal["estimate", "bound", "exact"]
    better: Literal["higher", "lower"]
    unit: str = ""
    details: dict[str, Any] = field(default_factory=dict)


# ---------------------------------------------------------------------------------------------------------- reading


def find_tasks(places: Sequence[str]) -> list[Path]:
    """The task files at some places, files or folders, in order.

    Raises:
        ValueError: none was named, one is not there, of another kind or of a name that a result cannot have, or two have one name.
    """
    if not places:
        raise ValueError("no task files were named; give files (.jsonl, .jsonl.gz) or folders of them")
    found = [path for place in places for path in find_files(place, SUFFIXES)]
    names = [name_of(path) for path in found]
    if strange := [path for path, name in zip(found, names) if NAME.fullmatch(name) is None]:
        raise ValueError(f"the task file {strange[0]} cannot give a result its name; rename it to letters, digits and . _ + = -")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two task files are called {twice[0]}; give each a name of its own")
    return found


def name_of(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".jsonl")


def read_task(path: Path, limit: int | None = None) -> Task:
    """The first `limit` questions of a file.

    Raises:
        ValueError: no questions, a record of an unknown or of another form than the first, a gold answer that is not there, or an empty text.
    """
    forms, questions = [], []
    for where, record in islice(read_records(path), limit):
        form, question = _asked(record if isinstance(record, Mapping) else {}, where)
        forms.append(form)
        questions.append(question)
        if form != forms[0]:
            raise ValueError(f"{where} is of the form {form} and those before it are of the form {forms[0]}; give each form a file of its own")
    if not questions:
        raise ValueError(f"{path} holds no questions; give a file with one JSON record a line")
    digest = hashlib.sha256(json.dumps([[each.contexts, each.continuations, each.gold] for each in questions]).encode())
    return Task(name_of(path), forms[0], tuple(questions), digest.hexdigest())


def _asked(record: Mapping[str, Any], where: str) -> tuple[Form, Question]:
    keys = set(record)
    if keys >= {"query", "choices", "gold"}:
        return "answers", _answers(prompt(_text(record, "query", where)), record, where)
    if keys >= {"context", "question", "choices", "gold"}:
        return "answers", _answers(f"Q: {_text(record, 'context', where)} {_text(record, 'question', where)}\nA:", record, where)
    if keys >= {"context_options", "continuation", "gold"}:
        options = _texts(record, "context_options", where)
        return "schema", Question(options, (f" {_text(record, 'continuation', where)}",) * len(options), _gold(record, len(options), where))
    if keys >= {"context", "continuation"}:
        return "cloze", Question((_text(record, "context", where),), (f" {_text(record, 'continuation', where)}",))
    raise ValueError(f"{where} has the fields {', '.join(sorted(keys)) or 'of no record'}, which is no known form; give query, choices and gold; "
                     "context_options, continuation and gold; or context and continuation")


def prompt(query: str) -> str:
    """What stands before an answer: the query, and where it is a question, a new line with "Answer:"."""
    return f"{query.rstrip()}\nAnswer:" if query.startswith(ASKED) else query


def _answers(context: str, record: Mapping[str, Any], where: str) -> Question:
    choices = _texts(record, "choices", where)
    return Question((context,) * len(choices), tuple(f" {choice}" for choice in choices), _gold(record, len(choices), where))


def _text(record: Mapping[str, Any], key: str, where: str) -> str:
    return _checked(record[key], key, where)


def _texts(record: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    found = record[key]
    if not isinstance(found, list) or len(found) < 2:
        raise ValueError(f"{key} of {where} is no list of at least 2 texts; correct it")
    return tuple(_checked(each, key, where) for each in found)


def _checked(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} of {where} holds {value!r}, which is no text; correct it")
    return value


def _gold(record: Mapping[str, Any], count: int, where: str) -> int:
    gold = record["gold"]
    if not isinstance(gold, int) or not 0 <= gold < count:
        raise ValueError(f"gold of {where} is {gold!r}; it must be the number of one of {count} choices, from 0")
    return gold


# ---------------------------------------------------------------------------------------------------------- scoring


def score_task(harness: Harness, task: Task, progress: Progress | None = None) -> list[list[Score]]:
    """The scores of every question's continuations, which draw the same noise."""
    requests = [Request(context, continuation, number) for number, question in enumerate(task.questions)
                for context, continuation in zip(question.contexts, question.continuations)]
    found = iter(harness.score(requests, decode=task.form == "cloze", progress=progress))
    return [list(islice(found, len(question.contexts))) for question in task.questions]


def figures(task: Task, scores: Sequence[Sequence[Score]]) -> list[Figure]:
    """What the scores of a task come to."""
    every = [score for each in scores for score in each]
    shared = {"form": task.form, "cut_contexts": sum(score.dropped > 0 for score in every),
              "cut_continuations": sum(score.windows > 1 for score in every)}
    if task.form == "cloze":
        return _cloze([each[0] for each in scores], shared)
    rules: dict[str, Callable[[Score, str], float]] = {"accuracy": lambda score, text: score.nats}
    if task.form == "answers":                                       # of a schema the continuations are equal
        rules["accuracy_per_byte"] = lambda score, text: score.nats / len(text.strip().encode())
    chance = math.fsum(1 / len(each) for each in scores) / len(scores)
    found = []
    for metric, rule in rules.items():
        right = [_right(question, each, rule) for question, each in zip(task.questions, scores)]
        details = {**shared, "chance": chance}
        if metric == "accuracy":
            details["undecided"] = sum(map(_undecided, task.questions, scores)) / len(scores)
        found.append(_share(metric, right, details))
    return found


def _right(question: Question, scores: Sequence[Score], rule: Callable[[Score, str], float]) -> bool:
    """Whether the best answer reads as the right one (an answer may stand there twice); of equal ones the first is taken."""
    assert question.gold is not None
    values = [rule(score, text) for score, text in zip(scores, question.continuations)]
    best = values.index(max(values))
    return question.read(best) == question.read(question.gold)


def _undecided(question: Question, scores: Sequence[Score]) -> bool:
    """Whether another answer is so near the best one that Monte-Carlo noise may have decided."""
    best = max(range(len(scores)), key=lambda place: scores[place].nats)
    return any(question.read(place) != question.read(best)
               and scores[best].nats - score.nats < NEAR * math.hypot(scores[best].standard_error, score.standard_error)
               for place, score in enumerate(scores))


def _share(metric: str, right: Sequence[bool], details: dict[str, Any]) -> Figure:
    count, share = len(right), sum(right) / len(right)
    error = math.sqrt(share * (1 - share) / (count - 1)) if count > 1 else None
    return Figure(metric, share, error, count, "estimate", "higher", details=details)


def _cloze(scores: Sequence[Score], shared: dict[str, Any]) -> list[Figure]:
    found = [_share("accuracy", [bool(score.greedy) for score in scores], shared)]
    kind = scores[0].kind
    if kind == "mean_joint":                                        # of the whole row: no measure of the last word
        return found
    nats = [-score.nats for score in scores]
    mean = math.fsum(nats) / len(nats)
    error = math.sqrt(math.fsum((each - mean) ** 2 for each in nats) / (len(nats) - 1) / len(nats)) if len(nats) > 1 else None
    details = {**shared, "tokens": sum(score.tokens for score in scores)}
    if mean < 700:
        details["perplexity"] = math.exp(mean)
    return [*found, Figure("target_nats", mean, error, len(nats), kind, "lower", "nats per continuation", details)]
