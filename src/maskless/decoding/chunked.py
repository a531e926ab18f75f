"""Whole tokens first, single digits later: how models trained with a chunk point are sampled (MDM-Prime-v2). Slots are digits.

    t > c    a step reveals tokens, all their digits at once
    t <= c   a step reveals digits, each by itself, of the tokens that are left

Which tokens come whole is random and depends on no token: the host draws the counts before the loop, as for `Ancestral`.

B rows, L sites, l digits, S = L l slots, T steps, n open sites of a row.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from maskless.decoding.canvas import Canvas
from maskless.decoding.digits import DigitCanvas
from maskless.decoding.ends import even
from maskless.decoding.noise import ORDER, PLAN, Noise
from maskless.decoding.order import Permutation, Planned
from maskless.decoding.plan import Step, at_least_one, from_table, times_of


@dataclass(frozen=True)
class Chunked:
    """A plan for the order `WholeFirst`, as the released v2 sampler goes: `Ancestral`, or equal numbers a step, with a chunk point.

    No sampler that never hides again agrees with training at every time: there, a token that is whole above the chunk point may be half hidden
    below it. Above it, a model meets here what it met in training.

    Args:
        steps: T; each is one call of the model.
        chunk_point: c, the time above which tokens are revealed whole: 1 nowhere, 0 everywhere.
        alpha: of an ancestral plan: of time, 1 at t = 0 and 0 at t = 1; None: equal numbers a step.

    Raises:
        ValueError: steps below 1, a chunk point outside [0, 1]; when run, a site some of whose digits are known, factorised digits.

    Example:
        >>> from maskless.decoding import DigitCanvas, Noise
        >>> from maskless.subtokens import SubTokenCode
        >>> canvas = DigitCanvas(torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.bool), code=SubTokenCode.digits(9, 2))
        >>> [step.counts for step in Chunked(4, 0.5)(canvas, Noise.of(0, 1))]
        [(2,), (2,), (2,), (2,)]
        >>> [step.counts for step in Chunked(8, 0.5)(canvas, Noise.of(0, 1))]               # no half token in the first four steps
        [(2,), (2,), (1,), (1,), (1,), (1,)]
    """

    steps: int
    chunk_point: float
    alpha: Callable[[float], float] | None = None

    def __post_init__(self) -> None:
        at_least_one(self.steps)
        if not 0 <= self.chunk_point <= 1:
            raise ValueError(f"chunk_point is {self.chunk_point}; the time above which tokens are revealed whole lies in [0, 1]")

    def __call__(self, canvas: Canvas, noise: Noise) -> list[Step]:
        digits, whole = canvas.per_site, sum(above(t, self.chunk_point) for t in times_of(self.steps)[:-1])
        ends = [self._even(n, digits, whole) if self.alpha is None else self._drawn(n, digits, whole, self.alpha, noise, row)
                for row, n in enumerate(open_sites(canvas))]
        left = [[1 - before / max(1, row[-1]) for before in (0, *row[:-1])] for row in ends]
        counts = [[after - before for before, after in pairwise((0, *row))] for row in ends]
        return from_table(list(zip(*counts)), levels=list(zip(*left)))

    def _even(self, n: int, digits: int, whole: int) -> list[int]:
        """Slots that are known after each step, whole tokens in the first `whole` steps."""
        tokens = [digits * known for known in even(n, self.steps)[:whole]]
        return tokens + [max(known, *tokens[-1:], 0) for known in even(n * digits, self.steps)[whole:]]

    def _drawn(self, n: int, digits: int, whole: int, alpha: Callable[[float], float], noise: Noise, row: int) -> list[int]:
        """The same, drawn: a time for every token, and where that lies below the chunk point a time for each of its digits in place of it."""
        hidden = [1 - alpha(t) for t in times_of(self.steps)[1:-1]]
        later = torch.tensor(hidden, dtype=torch.float64) / (1 - alpha(1.0))                # P(still unknown after step i)
        u = noise.on_host(row, PLAN, n * (1 + digits)).to(torch.float64)
        at = (u[:n, None] < later).sum(1)
        tokens = at[at < whole]
        left = [1.0, *later.tolist(), 0.0][whole]                                           # P(still unknown after those steps)
        rest = left * u[n:n + (n - len(tokens)) * digits]
        slots = torch.cat([tokens.repeat_interleave(digits), (rest[:, None] < later).sum(1)])
        return torch.bincount(slots, minlength=self.steps)[:self.steps].cumsum(0).tolist()


@dataclass(frozen=True)
class WholeFirst(Planned):
    """Tokens in random order, whole ones while a step's time is above `chunk_point`, then the digits of the others in random order.

    Example:
        >>> from maskless.decoding import DigitCanvas, Noise
        >>> from maskless.subtokens import SubTokenCode
        >>> canvas = DigitCanvas(torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.bool), code=SubTokenCode.digits(9, 2))
        >>> slots = WholeFirst(0.5).start(canvas, Chunked(4, 0.5)(canvas, Noise.of(0, 1)), Noise.of(0, 1)).sites[0]
        >>> (slots[:4] // 2).tolist(), sorted((slots[4:] // 2).tolist())
        ([0, 0, 1, 1], [2, 2, 3, 3])
    """

    chunk_point: float

    def start(self, canvas: Canvas, steps: Sequence[Step], noise: Noise) -> Permutation:
        early = [step.counts for step in steps if above(step.t, self.chunk_point) and step.counts is not None]
        whole = torch.tensor([sum(row) for row in zip(*early)] or [0] * canvas.rows, device=canvas.count.device)    # slots, by row
        slot = torch.arange(canvas.length, device=canvas.count.device)[None]
        token = noise.at(ORDER, 0, slot // canvas.per_site)
        rank = torch.where(canvas.unknown, token, 2.0).argsort(dim=1, stable=True).argsort(dim=1)
        return Given(torch.where(rank < whole[:, None], token, 1 + noise.at(ORDER, 1, slot))).start(canvas, steps, noise)


@dataclass(frozen=True)
class Given(Planned):
    """A key as it is."""

    values: Float[Tensor, "B S"]

    def key(self, canvas: Canvas, noise: Noise) -> Float[Tensor, "B S"]:
        return self.values


def above(t: float, chunk_point: float) -> bool:
    """t > c, where t is a multiple of 1 / T as floats have it."""
    return t > chunk_point + 1e-9


def open_sites(canvas: Canvas) -> list[int]:
    """Of every row; all their digits must be open."""
    if not isinstance(canvas, DigitCanvas):
        raise ValueError("chunk_point is below 1, which is for models that write tokens in digits (Prime), and this one does not; leave it out")
    if canvas.factorised:
        raise ValueError("chunk_point is below 1, which reveals whole tokens, and digits are factorised, which may make codes of none; "
                         "leave one of the two out")
    unknown = canvas.open.unflatten(1, (-1, canvas.per_site))
    if bool((unknown.any(-1) & ~unknown.all(-1)).any()):
        raise ValueError("chunk_point is below 1 and a token is known in part, which cannot be revealed whole; "
                         "begin with whole tokens, or leave chunk_point out")
    return unknown.all(-1).sum(1).tolist()
