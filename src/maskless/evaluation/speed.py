"""Sampling speed, side by side: interleaved repetitions in one process, median and extremes.

B rows, L sites.
"""
from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from maskless.allocator import keep_freed_memory
from maskless.checkpoints.reference.published import published_sampler
from maskless.data.batch import Batch
from maskless.decoding import Canvas, LeftToRight, Noise, Random, Sampler, Scheduled
from maskless.evaluation.machine import synchronise
from maskless.evaluation.memory import collect, peak
from maskless.models import Denoiser, PartitionConfig, build
from maskless.models.captured import Captured
from maskless.objectives import Partition, draws

Sampled = Denoiser | Captured
Generate = Callable[[Any, Canvas, Noise, int], Iterator[Any]]
"""A way of sampling: (model, canvas, noise, steps) -> something for every call of the predictor, made as it is asked for."""


def even_random(model: Sampled, canvas: Canvas, noise: Noise, steps: int) -> Iterator[Any]:
    return Sampler(Scheduled(steps), Random()).records(model, canvas, noise)


def left_to_right(model: Sampled, canvas: Canvas, noise: Noise, steps: int) -> Iterator[Any]:
    return Sampler(Scheduled(steps), LeftToRight()).records(model, canvas, noise)


def published(model: Sampled, canvas: Canvas, noise: Noise, steps: int) -> Iterator[Any]:
    return published_sampler(steps).records(model, canvas, noise)


def from_start(batch: int, length: int, device: torch.device, known: int = 1, bos: int = 0) -> Canvas:
    """Rows that know their BOS and, where asked, more sites after it."""
    sites = torch.arange(length).expand(batch, -1)
    return Canvas(torch.where(sites < 1, bos, 0), sites < known, anchor=sites < 1).to(device)


@dataclass(frozen=True)
class Spent:
    """Seconds of a generation's first call, with all that is made before it (plan, order), and of the `calls - 1` after it."""

    first: float
    rest: float
    calls: int

    def scaled(self, nfe: int) -> float:
        """Seconds of a generation of `nfe` calls, where those after the first cost the same: what is made once is counted once."""
        return self.first + self.rest * (nfe - 1) / max(1, self.calls - 1)


@dataclass(frozen=True)
class Contender:
    """A model and how it is sampled.

    Args:
        steps: what the plan is given.
        timed: how many calls are run, where all cost the same and the time can be scaled to the whole plan; None runs them all.
        noise: what draws its tokens.
        config: the model's; None where its cost is not asked for.
        bos: the id that rows begin with.

    Raises:
        ValueError: for one timed call of several, which does not tell what is made once from what every call costs.
    """

    name: str
    model: Sampled
    generate: Generate
    batch: int
    length: int
    steps: int
    timed: int | None = None
    noise: Callable[[Sequence[int], torch.device], Noise] = Noise
    config: Any = None
    bos: int = 0

    def __post_init__(self) -> None:
        if self.timed is not None and self.timed < min(2, self.steps):
            raise ValueError(f"{self.name}: timed {self.timed} of {self.steps} steps is too few, since the first call pays for what is made once; "
                             "time at least 2")

    def run(self, device: torch.device, seed: int, *, known: int = 1, calls: int | None = None) -> Spent:
        """A generation, ended after `calls` where given; `known` sites are given at the start."""
        noise = self.noise([seed + row for row in range(self.batch)], device)
        canvas, count = from_start(self.batch, self.length, device, known, self.bos), 0
        start = first = _now(device)
        for count, _ in enumerate(self.generate(self.model, canvas, noise, self.steps), 1):
            if count == 1:
                first = _now(device)
            if count == calls:
                break
        return Spent(first - start, _now(device) - first, count)

    def whole(self, device: torch.device, seed: int) -> tuple[float, int]:
        """(seconds, NFE) of a whole generation, scaled where only a part is run."""
        spent = self.run(device, seed, calls=self.timed)
        nfe = spent.calls if self.timed is None else min(self.steps, self.length - 1)
        return spent.scaled(nfe), nfe

    def release(self) -> None:
        """Forget what the model keeps for its next generation: captured calls and their caches."""
        if isinstance(self.model, Captured):
            self.model.release()


def _now(device: torch.device) -> float:
    synchronise(device)
    return time.perf_counter()


def last_calls(contender: Contender, calls: int) -> tuple[Contender, int]:
    """The contender with the last `calls` calls of its plan only, and how many sites are known before them."""
    size = math.ceil((contender.length - 1) / contender.steps)
    return replace(contender, steps=calls), max(1, contender.length - calls * size)


@dataclass(frozen=True)
class Timing:
    """Tokens per second of one contender: median of the repetitions, their extremes, and how it was timed."""

    name: str
    tokens_per_second: float
    slowest: float
    fastest: float
    nfe: int
    timed_steps: int                    # of nfe; where fewer, the time was scaled (its steps cost the same)
    parameters: int
    batch: int
    length: int
    seconds: tuple[float, ...]          # of a whole generation, repetition by repetition
    peak_bytes: int | None              # above what was there before, in the warm-up; None where it cannot be read

    @property
    def median_seconds(self) -> float:
        return statistics.median(self.seconds)


def race_them(contenders: Sequence[Contender], *, device: torch.device, repeats: int, until: float = float("inf"),
              progress: Callable[[str], None] = lambda line: None) -> list[Timing]:
    """Time contenders in turn, `repeats` times, after one warm-up each; freed memory stays in the process, for all of them alike.

    What models keep from one generation to the next (`Captured`) is given back before and after.

    Args:
        until: a time of `time.monotonic` after which no further repetition is begun; there is always one.

    Raises:
        ValueError: if there is nothing to repeat, or if memory is not enough for one of them.
    """
    found = race_those_that_fit(contenders, device=device, repeats=repeats, until=until, progress=progress)
    for contender, timing in zip(contenders, found):
        if timing is None:
            raise ValueError(f"{_described(contender)} does not fit into the memory of {device}; give a smaller batch or fewer sites")
    return [timing for timing in found if timing is not None]


def race_those_that_fit(contenders: Sequence[Contender], *, device: torch.device, repeats: int, until: float = float("inf"),
                        progress: Callable[[str], None] = lambda line: None) -> list[Timing | None]:
    """`race_them`, going on without those for whom memory is not enough: None in their places, and a line of progress.

    Raises:
        ValueError: if there is nothing to repeat.
    """
    if repeats < 1:
        raise ValueError(f"repeats {repeats} is below 1; a median needs at least one repetition")
    keep_freed_memory()
    race = Race(contenders, device, progress)
    race.release()
    try:
        for racer in race.left():
            progress(f"warm-up: {_described(racer.contender)}, {racer.contender.steps} steps")
            race.turn(racer, racer.warm_up)
        for repeat in range(repeats):
            if repeat and time.monotonic() > until:
                progress(f"out of time: {repeat} of {repeats} repetitions")
                break
            for racer in race.left():
                if race.turn(racer, lambda racer=racer, repeat=repeat: racer.repeat(seed=1000 * (repeat + 1))):
                    rate = racer.contender.batch * racer.contender.length / racer.found[-1][0]
                    progress(f"repetition {repeat + 1}/{repeats}: {racer.contender.name} {rate:,.1f} tokens/s")
        return [None if racer.out else racer.timing() for racer in race.racers]
    finally:
        race.release()


def _described(contender: Contender) -> str:
    return f"{contender.name}, batch {contender.batch}, length {contender.length}"


@dataclass
class Racer:
    """A contender in a race, and what was found of it; warm while what it keeps is there."""

    contender: Contender
    device: torch.device
    peak_bytes: int | None = None
    warm: bool = False
    out: bool = False

    def __post_init__(self) -> None:
        self.found: list[tuple[float, int]] = []

    def warm_up(self) -> None:
        self.peak_bytes = peak(self.device, lambda: self.contender.whole(self.device, seed=0))
        self.warm = True

    def repeat(self, seed: int) -> None:
        if not self.warm:
            self.contender.whole(self.device, seed=0)
            self.warm = True
        self.found.append(self.contender.whole(self.device, seed))

    def timing(self) -> Timing:
        contender, seconds, nfe = self.contender, tuple(s for s, _ in self.found), round(statistics.median(n for _, n in self.found))
        rates = [contender.batch * contender.length / s for s in seconds]
        return Timing(contender.name, statistics.median(rates), min(rates), max(rates), nfe, min(nfe, contender.timed or nfe),
                      contender.model.parameter_count(), contender.batch, contender.length, seconds, self.peak_bytes)


class Race:
    """Contenders that share a device: what each keeps stays there while memory is enough for all, and else is given back."""

    def __init__(self, contenders: Sequence[Contender], device: torch.device, progress: Callable[[str], None]):
        self.racers = [Racer(contender, device) for contender in contenders]
        self.device, self.progress = device, progress

    def left(self) -> list[Racer]:
        return [racer for racer in self.racers if not racer.out]

    def turn(self, racer: Racer, work: Callable[[], None]) -> bool:
        """Do a racer's work, once more alone on the device if memory ends; False if it ends then too, and the racer is out."""
        for _ in range(2):
            try:
                work()
                return True
            except torch.OutOfMemoryError:
                pass
            self.release()                                          # here the error is gone, and the tensors of its frames with it
        racer.out = True
        self.progress(f"left out: {_described(racer.contender)} does not fit into memory")
        return False

    def release(self) -> None:
        for racer in self.racers:
            racer.contender.release()
            racer.warm = False
        collect(self.device)


def expected(device: torch.device) -> dict[str, str]:
    """What a model of the demo's size (1.5M weights, 64 sites, batch 32) does on this machine, measured now in a few seconds."""
    rows, length, vocab_size = 32, 64, 1024
    torch.manual_seed(0)
    config = PartitionConfig(vocab_size, length=length, width=128, heads=4, encoder_layers=3, decoder_layers=3, cond_dim=0, dropout=0.0)
    model, objective = build(config).to(device), Partition(weights="half")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    low, high = objective.times
    batch, seconds = Batch.of(torch.randint(vocab_size, (rows, length))).to(device), []
    for step in range(7):
        start = time.perf_counter()
        noise = draws(0, step, torch.arange(rows, device=device), rows, length, low=low, high=high)
        (objective(model, batch, noise).loss / (rows * length)).backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    sampled = race_them([Contender("pgm", model.eval(), even_random, rows, length, steps=16)], device=device, repeats=3)[0]
    return {"training, PGM 1.5M": f"{rows * length / statistics.median(seconds[2:]):,.0f} tokens/s",
            "sampling, 16 steps": f"{sampled.tokens_per_second:,.0f} tokens/s"}
