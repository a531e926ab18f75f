"""What a suite is given: the model, where results go, how work is shared out, and whom to tell of progress."""
from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from maskless.config import tree_of
from maskless.evaluation.bench.setting import name_of
from maskless.evaluation.machine import versions
from maskless.evaluation.results import (
    Code,
    DataRecord,
    Kind,
    Precision,
    Result,
    Uncertainty,
    refuse_another,
    refuse_others,
)
from maskless.evaluation.settings import Suite, kind_of_suite
from maskless.suites.subject import Subject

T = TypeVar("T")
CHOICES = ("name", "metrics", "protocols", "files", "objective", "scorer", "retokenise", "window", "real")   # settings of some results only
Progress = Callable[[str, int, int], None]
"""Receives what is being done, how much of it is done, and how much there is (0: not known)."""


@dataclass(frozen=True)
class Shard:
    """This process's part of the drawing: number `index` of `count` equal processes.

    Attributes:
        joined: whether the processes were started together (torchrun), so that number 0 waits for the others and goes on alone.
    """

    index: int = 0
    count: int = 1
    joined: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"shard {self.index}/{self.count} does not exist; the shards of {self.count} are 0/{self.count} to "
                             f"{self.count - 1}/{self.count}")

    @property
    def alone(self) -> bool:
        """Whether this process only draws, and leaves the measuring to a later command or to process 0."""
        return self.count > 1 and not (self.joined and self.index == 0)


def shard_of(text: str | None) -> Shard:
    """A shard from `i/n`, or from torchrun's environment.

    Raises:
        ValueError: not two numbers, or no such shard.
    """
    if text is None:
        world = int(os.environ.get("WORLD_SIZE", "1"))
        return Shard(int(os.environ.get("RANK", "0")), world, joined=world > 1)
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise ValueError(f"shard {text!r} is not of the form i/n; the second of four processes is --shard 1/4")
    return Shard(int(index), int(count))


@dataclass(frozen=True)
class Session:
    """One suite on one model.

    Attributes:
        subject: the model.
        suite: the settings.
        out: the folder of results.
        batch_size: rows read and handed over at a time; results do not depend on it.
        shard: this process's part.
        say: receives lines for people.
        progress: receives how far it is.

    Raises:
        ValueError: the folder holds results of this name of another model, or that were measured in another way.
    """

    subject: Subject
    suite: Suite
    out: Path
    batch_size: int = 64
    shard: Shard = field(default_factory=Shard)
    say: Callable[[str], None] = lambda line: None
    progress: Progress = lambda what, done, total: None
    begun: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        refuse_others(self.out, kind_of_suite(self.suite), self.title, self.subject.record, self.question())

    @property
    def title(self) -> str:
        """What the names of this suite's results begin with."""
        return "-".join(part for part in (self.subject.record.name, self.suite.name) if part)

    def question(self, *choices: str) -> dict[str, Any]:
        """What every result of this suite depends on: its settings but for `CHOICES`, of which those that are named count as well."""
        return {key: value for key, value in tree_of(self.suite).items() if key not in CHOICES or key in choices}

    def refuse_another(self, metric: str, asked: dict[str, Any], data: DataRecord | None = None) -> None:
        """Raise ValueError if the folder holds a result of this name and metric of another question."""
        refuse_another(self.out / f"{kind_of_suite(self.suite)}-{self.title}-{metric}.json", self.subject.record, asked, data)

    def result(self, metric: str, value: float, error: float | None, samples: int, *, kind: Kind, unit: str = "",
               better: Literal["lower", "higher"] | None = "lower", **more: Any) -> Result:
        """A result of this suite; an error that is not finite (one row) is none.

        Args:
            error: the standard error; None: there is none.
            more: fields of `Result` that differ from what the subject and the machine say.
        """
        known = error is not None and math.isfinite(error)
        machine = versions(self.subject.opened.device)
        code = Code(machine.pop("maskless"), machine.pop("source"))
        fields: dict[str, Any] = {
            "uncertainty": Uncertainty("standard error", error) if known else Uncertainty(), "precision": self.scoring, "code": code,
            "tokenizer": self.subject.tokenizer, "hardware": machine, "wall_seconds": round(time.perf_counter() - self.begun, 3),
            "date": datetime.now(UTC).isoformat(timespec="seconds"), "asked": self.question(), **more}
        return Result(suite=kind_of_suite(self.suite), name=f"{self.title}-{metric}", metric=metric, value=value, samples=samples, unit=unit,
                      better=better, kind=kind, seed=self.suite.seed, model=self.subject.record, **fields)

    @property
    def scoring(self) -> Precision:
        """Of likelihoods: the weights as stored, logits in float32 at least."""
        weights = self.subject.opened.model.head.weight.dtype
        return Precision(name_of(weights), name_of(torch.promote_types(weights, torch.float32)))

    @property
    def sampling(self) -> Precision:
        """Of drawing: the weights that sample; sums and uniforms in float64 where the device has it."""
        opened = self.subject.opened
        draws = torch.float32 if opened.device.type == "mps" else torch.float64
        return Precision(name_of(opened.dtype), name_of(torch.promote_types(opened.dtype, torch.float32)), name_of(draws))

    def counted(self, what: str, items: Iterable[T], total: int, size: Callable[[T], int] = lambda item: 1) -> Iterator[T]:
        """The same items, with a word to `progress` when each was used; `total` 0: not known."""
        done = 0
        for item in items:
            yield item
            done += size(item)
            self.progress(what, done, total)
