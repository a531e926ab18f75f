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
from maskless.decoding.ends import Ends
from maskless.decoding.noise import ORDER, PLAN, Noise
from maskless.decoding.order import Permutation, Planned
from maskless.decoding.plan import Step, at_least_one, from_table, times_of


@dataclass(frozen=True)
class Chunked:
    """A plan for the order `WholeFirst`: `Ancestral`, or `Scheduled` where there is a table of ends, with a chunk point.

    Args:
        steps: T; each is one call of the model.
        chunk_point: c, the time above which tokens are revealed whole: 1 nowhere, 0 everywhere.
        ends: how many at which step; None: as many as an ancestral sampler draws.
        alpha: of an ancestral plan: of time, 1 at t = 0 and 0 at t = 1.

    Raises:
        ValueError: steps below 1, a chunk point outside [0, 1]; when run, a site some of whose digits are given.

    Example:
        >>> from maskless.decoding import DigitCanvas, Noise
        >>> from maskless.subtokens import SubTokenCode
        >>> canvas = DigitCanvas(torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.bool), code=SubTokenCode.digits(9, 2))
        >>> from maskless.decoding.ends import even
        >>> [step.counts for step in Chunked(4, 0.5, even)(canvas, Noise.of(0, 1))]
        [(2,), (2,), (2,), (2,)]
        >>> [step.counts for step in Chunked(8, 0.5, even)(canvas, Noise.of(0, 1))]         # no half token in the first four steps
        [(2,), (2,), (1,), (1,), (1,), (1,)]
    """

    steps: int
    chunk_point: float
    ends: Ends | None = None
    alpha: Callable[[float], float] = lambda t: 1 - t

    def __post_init__(self) -> None:
        at_least_one(self.steps)
        if not 0 <= self.chunk_point <= 1:
            raise ValueError(f"chunk_point is {self.chunk_point}; the time above which tokens are revealed whole lies in [0, 1]")

    def __call__(self, canvas: Canvas, noise: Noise) -> list[Step]:
        digits = canvas.per_site
        whole = sum(t > self.chunk_point for t in times_of(self.steps)[:-1])                # steps that reveal whole tokens
        ends = [self._ends(n, digits, whole, noise, row) for row, n in enumerate(open_sites(canvas))]
        left = [[1 - before / max(1, row[-1]) for before in (0, *row[:-1])] for row in ends]
        counts = [[after - before for before, after in pairwise((0, *row))] for row in ends]
        return from_table(list(zip(*counts)), levels=list(zip(*left)))

    def _ends(self, n: int, digits: int, whole: int, noise: Noise, row: int) -> list[int]:
        """Slots that are known after each step."""
        if self.ends is None:
            return self._drawn(n, digits, whole, noise, row)
        tokens = [digits * known for known in self.ends(n, self.steps)[:whole]]
        return tokens + [max(known, *tokens[-1:], 0) for known in self.ends(n * digits, self.steps)[whole:]]

    def _drawn(self, n: int, digits: int, whole: int, noise: Noise, row: int) -> list[int]:
        """A token's time is drawn, and where that lies below the chunk point a time for each of its digits in place of it."""
        hidden = [1 - self.alpha(t) for t in times_of(self.steps)[1:-1]]
        later = torch.tensor(hidden, dtype=torch.float64) / (1 - self.alpha(1.0))           # P(still unknown after step i)
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
        >>> from maskless.decoding.ends import even
        >>> from maskless.subtokens import SubTokenCode
        >>> canvas = DigitCanvas(torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.bool), code=SubTokenCode.digits(9, 2))
        >>> slots = WholeFirst(0.5).start(canvas, Chunked(4, 0.5, even)(canvas, Noise.of(0, 1)), Noise.of(0, 1)).sites[0]
        >>> (slots[:4] // 2).tolist(), sorted((slots[4:] // 2).tolist())
        ([0, 0, 1, 1], [2, 2, 3, 3])
    """

    chunk_point: float

    def start(self, canvas: Canvas, steps: Sequence[Step], noise: Noise) -> Permutation:
        early = [step.counts for step in steps if step.t > self.chunk_point and step.counts is not None]
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


def open_sites(canvas: Canvas) -> list[int]:
    """Of every row; all their digits must be open."""
    if not isinstance(canvas, DigitCanvas):
        raise ValueError("chunk_point is below 1, which is for models that write tokens in digits (Prime), and this one does not; leave it out")
    unknown = canvas.open.unflatten(1, (-1, canvas.per_site))
    if bool((unknown.any(-1) & ~unknown.all(-1)).any()):
        raise ValueError("chunk_point is below 1 and single digits of a token are given, which such a model has not seen beside whole tokens; "
                         "give whole tokens, or leave chunk_point out")
    return unknown.all(-1).sum(1).tolist()
