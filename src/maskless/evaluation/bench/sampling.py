"""`bench sampling`: contenders side by side at one setting, and the curves to either side of it.

B rows, L sites, k sites of a call, M rows of a product.
"""
from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from maskless.evaluation import cost
from maskless.evaluation.bench.batches import fitted
from maskless.evaluation.bench.contenders import CONTENDERS, Networks
from maskless.evaluation.bench.setting import Preset, Setting
from maskless.evaluation.machine import matrix_rate
from maskless.evaluation.speed import Contender, Timing, race_those_that_fit

LARGE = 4096                                                        # rows of a large product
MOST_ROWS = 1 << 14                                                 # of the largest batch that is tried
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One contender at one setting: what was measured, and what was counted. Times are seconds, and of a whole generation."""

    contender: str
    point: str                          # headline, steps, length or size: which curve it belongs to
    batch: int
    length: int
    steps: int
    nfe: int
    timed_calls: int                    # of nfe; where fewer, the time was scaled (they cost the same)
    repeats: int
    parameters: int
    tokens_per_second: float            # median of the repetitions
    slowest: float
    fastest: float
    seconds: tuple[float, ...]
    median_seconds: float
    peak_bytes: int | None
    flops: float | None                 # counted; None where they depend on predictions
    attention_flops: float | None
    bytes: float | None
    matrix_rows: int                    # M = batch x k where what is known stays in a cache, else a large product
    gflops_per_second: float | None     # counted operations / measured time
    matrix_rate: float | None = None    # GFLOP/s of a product of that many rows on this machine

    @property
    def size(self) -> int:
        """Tokens a call, k."""
        return math.ceil((self.length - 1) / self.nfe)

    @property
    def seconds_per_call(self) -> float:
        return self.median_seconds / self.nfe

    @property
    def seconds_per_token(self) -> float:
        return self.median_seconds / (self.batch * self.length)

    @property
    def share(self) -> float | None:
        return self.gflops_per_second / self.matrix_rate if self.gflops_per_second and self.matrix_rate else None


@dataclass(frozen=True)
class Sampling:
    """What a run of `bench sampling` found."""

    setting: Setting
    rows: list[Row]
    matrix_rates: dict[int, float]      # GFLOP/s by rows of the product
    weights: dict[str, str]             # where those of a kind of model come from, if they are trained

    def at(self, point: str) -> list[Row]:
        return [row for row in self.rows if row.point == point]


def run(preset: Preset, names: Sequence[str], networks: Networks, *, repeats: int, progress: Progress) -> Sampling:
    """Time the contenders at the preset's setting, then along its curves; one that does not fit into memory somewhere is left out there.

    Raises:
        ValueError: where a contender needs trained weights and has none, or if none fits into memory.
    """
    setting, device = networks.setting, networks.device
    until = time.monotonic() + 60 * preset.minutes
    field, beside = [networks.contender(name, setting) for name in names], curves(preset, setting)
    for _, changed in beside:
        for name in names:
            networks.check_length(name, changed.length)
    if preset.best_batch:
        field = [best for contender in field if (best := fitted(contender, device, MOST_ROWS, progress)) is not None]
    timings = race_those_that_fit(field, device=device, repeats=repeats, until=until, progress=progress)
    rows = rows_of(timings, [("headline", setting, contender) for contender in field])
    if not rows:
        raise ValueError(f"no contender fits into the memory of {device}; give a smaller --batch or --length")
    batches = {contender.name: contender.batch for contender in field}
    for point, changed in beside:
        if time.monotonic() > until:
            progress("out of time: the rest of the curves is left out")
            break
        some = [_beside(networks, name, changed, batch * setting.length) for name, batch in batches.items()
                if point == "length" or not CONTENDERS[name].one_each]
        timings = race_those_that_fit(some, device=device, repeats=min(2, repeats), until=until, progress=progress)
        rows += rows_of(timings, [(point, changed, contender) for contender in some])
    rates = matrix_rates(setting, device, {LARGE, *(row.matrix_rows for row in rows)}, progress)
    return Sampling(setting, [dataclasses.replace(row, matrix_rate=rates[row.matrix_rows]) for row in rows], rates, networks.weights)


def curves(preset: Preset, setting: Setting) -> list[tuple[str, Setting]]:
    """The settings beside the headline: other steps at its length, other lengths at its steps."""
    return [*(("steps", dataclasses.replace(setting, steps=steps)) for steps in preset.steps if steps != setting.steps),
            *(("length", dataclasses.replace(setting, length=length)) for length in preset.lengths if length != setting.length)]


def _beside(networks: Networks, name: str, setting: Setting, sites: int) -> Contender:
    """A contender at another setting, with about as many sites in its batch."""
    return networks.contender(name, dataclasses.replace(setting, batch=max(1, sites // setting.length)))


def rows_of(timings: Sequence[Timing | None], raced: Sequence[tuple[str, Setting, Contender]]) -> list[Row]:
    """The rows of what was timed, beside (point, setting, contender) of each; None: it did not fit."""
    return [row_of(timing, *entry) for timing, entry in zip(timings, raced, strict=True) if timing is not None]


def row_of(timing: Timing, point: str, setting: Setting, contender: Contender) -> Row:
    entry = CONTENDERS[timing.name]
    parts = entry.parts(contender.config, setting, timing.batch)
    counted = None if parts is None else cost.total(parts)
    attention = None if parts is None else cost.attention(parts).flops
    size = math.ceil((timing.length - 1) / timing.nfe)
    return Row(timing.name, point, timing.batch, timing.length, contender.steps, timing.nfe, timing.timed_steps, len(timing.seconds),
               timing.parameters, timing.tokens_per_second, timing.slowest, timing.fastest, timing.seconds, timing.median_seconds,
               timing.peak_bytes, counted and counted.flops, attention, counted and counted.bytes,
               timing.batch * size if entry.cached else LARGE, counted and counted.flops / timing.median_seconds / 1e9)


def matrix_rates(setting: Setting, device: torch.device, rows: set[int], progress: Progress) -> dict[int, float]:
    """GFLOP/s of (M, D) @ (D, 4D), the largest product of a layer, for every M."""
    progress(f"matrix rate at M = {', '.join(map(str, sorted(rows)))}")
    return {m: matrix_rate(setting.dtype, device, m, setting.width, 4 * setting.width) for m in sorted(rows)}
