"""Sampling speed, side by side: interleaved repetitions in one process, median and spread.

B rows, L sites.
"""
from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from maskless.allocator import keep_freed_memory
from maskless.checkpoints.reference.published import Race, published_sampler
from maskless.data.batch import Batch
from maskless.decoding import Canvas, LeftToRight, Noise, Random, Sampler, Scheduled
from maskless.evaluation.machine import synchronise
from maskless.models import AutoregressiveConfig, Denoiser, MaskedConfig, PartitionConfig, build, fold
from maskless.objectives import Partition, draws


@dataclass(frozen=True)
class Setting:
    """What is timed. `cpu_small` is the configuration of the project's CPU figures (random weights: the cost does not depend on them)."""

    batch: int
    length: int
    steps: int
    vocab_size: int
    width: int
    heads: int
    layers: int                         # of the masked and autoregressive models; half of them each in encoder and decoder
    dtype: torch.dtype

    @property
    def tokens(self) -> int:
        return self.batch * self.length


PRESETS = {
    "cpu-small": Setting(batch=4, length=1024, steps=64, vocab_size=8192, width=256, heads=4, layers=12, dtype=torch.bfloat16),
    "toy": Setting(batch=2, length=64, steps=8, vocab_size=64, width=32, heads=2, layers=4, dtype=torch.float32),
}


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

    def line(self) -> str:
        scaled = f", timed on {self.timed_steps} steps and scaled" if self.timed_steps < self.nfe else ""
        return f"{self.name:>16} {self.tokens_per_second:12,.1f} tokens/s  [{self.slowest:,.1f} .. {self.fastest:,.1f}]  {self.nfe} NFE{scaled}"


def blank(batch: int, length: int, device: torch.device) -> Canvas:
    """Rows that know their BOS only."""
    known = (torch.arange(length) < 1).expand(batch, -1)
    return Canvas(torch.zeros(batch, length, dtype=torch.int64), known, anchor=known).to(device)


@dataclass(frozen=True)
class Contender:
    """A model and its sampler; `steps` of `nfe` are run, on a canvas of `rows` x `length`."""

    name: str
    model: Denoiser
    sampler: Callable[[int], Sampler]
    nfe: int
    steps: int
    race: bool = False

    def seconds(self, batch: int, length: int, device: torch.device, seed: int) -> float:
        """Wall time of a whole generation (scaled where only a part is run)."""
        noise = (Race if self.race else Noise)([seed + row for row in range(batch)], device)
        canvas = blank(batch, length, device)
        synchronise(device)
        start = time.perf_counter()
        for count, _ in enumerate(self.sampler(self.nfe).records(self.model, canvas, noise), 1):
            if count == self.steps:
                break
        synchronise(device)
        return (time.perf_counter() - start) * self.nfe / self.steps


def even_random(steps: int) -> Sampler:
    return Sampler(Scheduled(steps), Random())


def left_to_right(steps: int) -> Sampler:
    return Sampler(Scheduled(steps), LeftToRight())


def contenders(setting: Setting, names: Sequence[str], device: torch.device) -> list[Contender]:
    """The models of a setting, with random weights, folded, in its dtype.

    Raises:
        ValueError: for a name that is not known.
    """
    sizes: dict[str, Any] = {"vocab_size": setting.vocab_size, "length": setting.length, "width": setting.width, "heads": setting.heads}
    half, few = setting.layers // 2, min(4, setting.steps)
    made: dict[str, Denoiser] = {}

    def network(kind: str) -> Denoiser:
        if kind not in made:
            torch.manual_seed(0)
            config = {"pgm": PartitionConfig(**sizes, encoder_layers=half, decoder_layers=half), "mdlm": MaskedConfig(**sizes, layers=setting.layers),
                      "ar": AutoregressiveConfig(**sizes, layers=setting.layers)}[kind]
            made[kind] = fold(build(config).eval()).to(device=device, dtype=setting.dtype)
        return made[kind]

    table: dict[str, Callable[[], Contender]] = {
        "pgm": lambda: Contender("pgm", network("pgm"), even_random, setting.steps, setting.steps),
        "mdlm-fair": lambda: Contender("mdlm-fair", network("mdlm"), even_random, setting.steps, few),
        "mdlm-published": lambda: Contender("mdlm-published", network("mdlm"), published_sampler, setting.steps, min(2, few), race=True),
        "ar": lambda: Contender("ar", network("ar"), left_to_right, setting.length - 1, setting.length - 1),
    }
    if unknown := [name for name in names if name not in table]:
        raise ValueError(f"there is no contender {unknown[0]}; choose from {', '.join(table)}")
    return [table[name]() for name in names]


def race_them(contenders: Sequence[Contender], batch: int, length: int, *, device: torch.device, repeats: int,
              progress: Callable[[str], None] = lambda line: None) -> list[Timing]:
    """Time contenders in turn, `repeats` times, after one warm-up each; freed memory stays in the process, for all of them alike."""
    keep_freed_memory()
    for contender in contenders:
        contender.seconds(batch, length, device, seed=0)
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for repeat in range(repeats):
        for contender in contenders:
            seconds[contender.name].append(contender.seconds(batch, length, device, seed=1000 * (repeat + 1)))
            progress(f"repetition {repeat + 1}/{repeats}: {contender.name} {batch * length / seconds[contender.name][-1]:,.1f} tokens/s")
    return [_timing(contender, [batch * length / s for s in seconds[contender.name]]) for contender in contenders]


def _timing(contender: Contender, rates: list[float]) -> Timing:
    return Timing(contender.name, statistics.median(rates), min(rates), max(rates), contender.nfe, contender.steps, contender.model.parameter_count())


def expected(device: torch.device) -> dict[str, str]:
    """What a model of the demo's size (1.5M weights, 64 sites, batch 32) does on this machine, measured now in a few seconds."""
    rows, length, vocab_size = 32, 64, 1024
    torch.manual_seed(0)
    config = PartitionConfig(vocab_size, length=length, width=128, heads=4, encoder_layers=3, decoder_layers=3, cond_dim=0, dropout=0.0)
    model, objective = build(config).to(device), Partition(low_var=True)
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
    sampled = race_them([Contender("pgm", model.eval(), even_random, 16, 16)], rows, length, device=device, repeats=3)[0]
    return {"training, PGM 1.5M": f"{rows * length / statistics.median(seconds[2:]):,.0f} tokens/s",
            "sampling, 16 steps": f"{sampled.tokens_per_second:,.0f} tokens/s"}
