"""How many sites are revealed when: plans are lists of steps, made on the host before the loop.

B rows, L sites, S steps.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from maskless.decoding.canvas import Canvas
from maskless.decoding.ends import Ends, even
from maskless.decoding.noise import PLAN, Noise


@dataclass(frozen=True)
class Step:
    """One call of the predictor.

    `counts[b]` sites of row b become known, `done[b]` were revealed by earlier steps of the plan; both are None where tokens decide
    (then `most` only bounds them). Before the call, `forget[b]` of the sites that were drawn become unknown again; None: none. `rows` are
    the rows with anything to reveal, None for all. `window` limits the step to sites start..stop-1.
    """

    index: int                          # place in the full grid, idle steps included: the noise depends on it
    total: int
    t: float = 1.0                      # diffusion time before the step, 1 = nothing known
    s: float = 0.0                      # and after it
    counts: tuple[int, ...] | None = None
    done: tuple[int, ...] | None = None
    most: int = 0
    window: tuple[int, int] | None = None
    rest: bool = False                  # reveal everything that is still open
    forget: tuple[int, ...] | None = None
    level: tuple[float, ...] | None = None      # share of each row's sites that is unknown at the call; None: t
    n: Tensor | None = None             # counts, done, forget, level and rows on the device
    begun: Tensor | None = None
    gone: Tensor | None = None
    unknown: Tensor | None = None
    rows: Tensor | None = None

    def noise_level(self, rows: Tensor | None, tokens: Tensor) -> Tensor:
        """(R,) what a time-conditioned model is told of the rows whose `tokens` (R, n) it reads: as in training, the share of hidden sites."""
        if self.unknown is None:
            return torch.full((len(tokens),), self.t, device=tokens.device)
        return self.unknown if rows is None else self.unknown.index_select(0, rows)

    @property
    def progress(self) -> float:
        """0 at the first step, 1 at the last."""
        return self.index / max(self.total - 1, 1)


def place(steps: Sequence[Step], device: torch.device | str) -> list[Step]:
    """The steps with `n`, `begun`, `gone`, `unknown` and `rows` on the device, moved there together before the loop."""
    if not steps or steps[0].counts is None:
        return list(steps)
    counts, done = (torch.tensor([getattr(step, name) for step in steps]).to(device) for name in ("counts", "done"))
    forget = torch.tensor([step.forget or [0] * counts.shape[1] for step in steps]).to(device)
    level = torch.tensor([step.level or [step.t] * counts.shape[1] for step in steps]).to(device)
    busy = [[b for b, n in enumerate(step.counts or ()) if n] for step in steps]
    rows = torch.tensor([b for some in busy for b in some]).to(device).split([len(some) for some in busy])
    return [replace(step, n=n, begun=begun, gone=gone if step.forget else None, unknown=unknown, rows=None if len(some) == len(n) else some)
            for step, n, begun, gone, unknown, some in zip(steps, counts, done, forget, level, rows)]


MOST = 64                               # steps of a row that was given none


@runtime_checkable
class Plan(Protocol):
    def __call__(self, canvas: Canvas, noise: Noise) -> list[Step]: ...


def times_of(steps: int) -> list[float]:
    return [1 - i / steps for i in range(steps + 1)]


def from_table(counts: Sequence[Sequence[int]], *, window: tuple[int, int] | None = None,
               forgets: Sequence[Sequence[int]] | None = None, levels: Sequence[Sequence[float]] | None = None) -> list[Step]:
    """Steps from counts[i][b], and from forgets[i][b]; steps that reveal nothing in any row vanish, the others keep their index.

    Args:
        levels: levels[i][b], the share of a row's sites that is unknown at the call; None: it falls evenly.
    """
    times, done, steps = times_of(len(counts)), [0] * (len(counts[0]) if counts else 0), []
    for i, row in enumerate(counts):
        if any(row):
            lost = tuple(forgets[i]) if forgets is not None and any(forgets[i]) else None
            level = None if levels is None else tuple(levels[i])
            steps.append(Step(i, len(counts), times[i], times[i + 1], tuple(row), tuple(done), max(row), window, forget=lost, level=level))
        done = [a + b for a, b in zip(done, row)]
    return steps


def _open_counts(canvas: Canvas, window: tuple[int, int] | None) -> list[int]:
    open_sites = canvas.open if window is None else canvas.open[:, window[0]:window[1]]
    return open_sites.sum(1).tolist()


def at_least_one(steps: int) -> None:
    if not isinstance(steps, Integral) or steps < 1:
        raise ValueError(f"steps {steps} is no whole number above 0; a plan needs at least one step")


def own_steps(steps: int | None, most: int | None, sites: Sequence[int]) -> list[int]:
    """Of every row: `steps`, or if None one for each of its open sites, at most `most`. So a row without a number of steps is what it is alone."""
    return [steps or max(1, n if most is None else min(most, n)) for n in sites]


@dataclass(frozen=True)
class Scheduled:
    """Numbers of sites per step from a table of `ends`: `even` (PGM's uniform-k, Algorithm 2), `arccos` and the others.

    Ragged rows all finish on the last step, or after as many steps as they have sites.

    Args:
        steps: S; None: of every row one for each open site, at most `most` (None: no bound).

    Example:
        >>> from maskless.decoding import Canvas, Noise
        >>> canvas = Canvas(torch.zeros(1, 7, dtype=torch.int64), torch.zeros(1, 7, dtype=torch.bool))
        >>> [step.counts for step in Scheduled(3)(canvas, Noise.of(0, 1))]
        [(2,), (2,), (3,)]
    """

    steps: int | None
    ends: Ends = even
    window: tuple[int, int] | None = None
    most: int | None = MOST

    def __post_init__(self) -> None:
        at_least_one(1 if self.steps is None else self.steps)

    def __call__(self, canvas: Canvas, noise: Noise) -> list[Step]:
        sites = _open_counts(canvas, self.window)
        tables = [[0, *self.ends(n, steps)] for n, steps in zip(sites, own_steps(self.steps, self.most, sites))]
        longest = max(map(len, tables), default=1)
        ends = [row + row[-1:] * (longest - len(row)) for row in tables]
        counts = [[row[i + 1] - row[i] for row in ends] for i in range(longest - 1)]
        return from_table(counts, window=self.window, levels=[[1 - row[i] / max(1, row[-1]) for row in ends] for i in range(longest - 1)])


@dataclass(frozen=True)
class Ancestral:
    """The counts of MDLM's ancestral sampler (Sahoo et al. 2024): every open site is revealed with probability (alpha_s - alpha_t) / (1 - alpha_t).

    When a site is revealed does not depend on any token, so the host draws the counts before the loop; with a random order the law is
    exactly MDLM's (and PGM's non-uniform sampler, Algorithms 3-5, with the exact binomial). The last step reveals what is left.

    Args:
        steps, most: as for `Scheduled`.

    Example:
        >>> from maskless.decoding import Canvas, Noise
        >>> canvas = Canvas(torch.zeros(1, 7, dtype=torch.int64), torch.zeros(1, 7, dtype=torch.bool))
        >>> sum(step.most for step in Ancestral(3)(canvas, Noise.of(0, 1)))
        7
    """

    steps: int | None
    alpha: Callable[[float], float] = lambda t: 1 - t
    window: tuple[int, int] | None = None
    most: int | None = MOST

    def __post_init__(self) -> None:
        at_least_one(1 if self.steps is None else self.steps)

    def __call__(self, canvas: Canvas, noise: Noise) -> list[Step]:
        sites = _open_counts(canvas, self.window)
        own = own_steps(self.steps, self.most, sites)
        hidden = {steps: [1 - self.alpha(t) for t in times_of(steps)] for steps in set(own)}
        unknown = {steps: torch.tensor([h / each[0] for h in each[1:-1]], dtype=torch.float64) for steps, each in hidden.items()}
        longest = max(own, default=1)                               # unknown: P(of a site, after each step but the last)
        levels = [[hidden[steps][min(i, steps)] for steps in own] for i in range(longest)]
        return _drawn(sites, noise, [unknown[steps] for steps in own], longest, self.window, levels)


def _drawn(sites: Sequence[int], noise: Noise, unknown: Sequence[Tensor], steps: int, window: tuple[int, int] | None = None,
           levels: Sequence[Sequence[float]] | None = None) -> list[Step]:
    """Steps whose counts are drawn: one of the `sites[b]` open sites of row b is still unknown after step i with probability unknown[b][i], which
    never rises with i."""
    table = []
    for row, n in enumerate(sites):
        u = noise.on_host(row, PLAN, n, first=window[0] if window else 0).to(torch.float64)    # every block has numbers of its own
        step = (u[:, None] < unknown[row].to(u)).sum(1)
        table.append(torch.bincount(step, minlength=steps)[:steps].tolist())
    return from_table([list(counts) for counts in zip(*table)], window=window, levels=levels)


@dataclass(frozen=True)
class Stretch:
    """Part of an ancestral decode: at step i every open site of row b is revealed with probability reveal[i][b]; what is left stays open.

    From t to s in equal steps of dt it is dt / t, dt / (t - dt), ...: the way that a distilled model learns to go in one step.

    Example:
        >>> from maskless.decoding import Canvas, Noise
        >>> canvas = Canvas(torch.zeros(1, 7, dtype=torch.int64), torch.zeros(1, 7, dtype=torch.bool))
        >>> [step.counts for step in Stretch(((0.0,), (1.0,)))(canvas, Noise.of(0, 1))]
        [(7,)]
    """

    reveal: tuple[tuple[float, ...], ...]

    def __call__(self, canvas: Canvas, noise: Noise) -> list[Step]:
        unknown = (1 - torch.tensor(self.reveal, dtype=torch.float64).view(len(self.reveal), canvas.rows)).cumprod(0)
        return _drawn(_open_counts(canvas, None), noise, list(unknown.T), len(self.reveal)) if self.reveal else []


@dataclass(frozen=True)
class Recorded:
    """Counts given as a table: counts[i][b] sites of row b at step i."""

    counts: tuple[tuple[int, ...], ...]

    def __call__(self, canvas: Canvas, noise: Noise) -> list[Step]:
        return from_table(self.counts)


@dataclass(frozen=True)
class Adaptive:
    """Up to `steps` steps (None: as many as there are sites) whose counts the order decides from the tokens; the last reveals the rest.

    Example:
        >>> from maskless.decoding import Canvas, Noise
        >>> canvas = Canvas(torch.zeros(1, 7, dtype=torch.int64), torch.zeros(1, 7, dtype=torch.bool))
        >>> [step.rest for step in Adaptive(3)(canvas, Noise.of(0, 1))]
        [False, False, True]
    """

    steps: int | None = None
    window: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        at_least_one(1 if self.steps is None else self.steps)

    def __call__(self, canvas: Canvas, noise: Noise) -> list[Step]:
        most = max(_open_counts(canvas, self.window))
        total = min(most, most if self.steps is None else self.steps)
        times = times_of(max(total, 1))
        return [Step(i, total, times[i], times[i + 1], most=most, window=self.window, rest=i == total - 1) for i in range(total)]


@dataclass(frozen=True)
class Blockwise:
    """Semi-autoregression inside L: blocks of `size` sites, left to right, each revealed by its own plan.

    Args:
        size: sites of a block; the last one may be shorter.
        inside: makes the plan of a block from its window, e.g. `lambda window: Scheduled(8, window=window)`.
        grid: steps that a block has room for in the numbering of steps, where rows have their own; None: those of the longest.

    Example:
        >>> from maskless.decoding import Canvas, Noise
        >>> canvas = Canvas(torch.zeros(1, 7, dtype=torch.int64), torch.zeros(1, 7, dtype=torch.bool))
        >>> plan = Blockwise(4, lambda window: Scheduled(1, window=window))
        >>> [step.window for step in plan(canvas, Noise.of(0, 1))]
        [(0, 4), (4, 7)]
    """

    size: int
    inside: Callable[[tuple[int, int]], Plan]
    grid: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"block size {self.size} is below 1; give the number of sites of a block")

    def __call__(self, canvas: Canvas, noise: Noise) -> list[Step]:
        size = self.size * canvas.per_site
        windows = [(start, min(start + size, canvas.length)) for start in range(0, canvas.length, size)]
        plans = [self.inside(window)(canvas, noise) for window in windows]
        grid = self.grid or max((step.total for plan in plans for step in plan), default=0)
        every, done, steps = _open_counts(canvas, None), [0] * canvas.rows, []
        for block, plan in enumerate(plans):
            inside = _open_counts(canvas, windows[block])
            for step in plan:
                earlier = None if step.done is None else tuple(a + b for a, b in zip(step.done, done))
                parts = zip(every, done, inside, step.level or [step.t] * canvas.rows)      # open in all blocks, in those before, in this one
                level = None if step.counts is None else tuple((n - before - here * (1 - part)) / max(1, n) for n, before, here, part in parts)
                steps.append(replace(step, index=block * grid + step.index, total=grid * len(plans), done=earlier, level=level))
            done = [a + b for a, b in zip(done, inside)]
        return steps
