"""Ancestral sampling that goes back before it goes on: some of what was drawn is forgotten and drawn again with more in sight.

    back   to t' with alpha(t') = alpha(t) (alpha(t) / alpha(s))^c:   every site drawn is forgotten with probability 1 - (alpha(t) / alpha(s))^c
    on     to s:   every unknown site is revealed with probability (alpha(s) - alpha(t')) / (1 - alpha(t'))

Both are steps of the process itself, one in its own direction and one against it, so whatever c is, a site is known at s with probability
alpha(s). Which sites go and come does not depend on any token: the host draws both numbers before the loop.

B rows, L sites, S steps, n sites of a row.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskless.decoding.canvas import Canvas, Sites
from maskless.decoding.choice import Draw
from maskless.decoding.noise import ORDER, PLAN, Noise
from maskless.decoding.plan import Step, at_least_one, from_table, times_of

WIDE, FEW = 9.0, 20                     # a count lies within 9 standard deviations and 20 of its mean, but for 1e-18 of all draws


@dataclass(frozen=True)
class Corrected:
    """`Ancestral`, with a step back before every step on; goes with the order `Anew`.

    Args:
        steps: S; each is one call of the model.
        alpha: of time, 1 at t = 0 and 0 at t = 1.
        strength: c of time, in units of the noise that the step takes away; 0 everywhere is `Ancestral` in law.

    Raises:
        ValueError: when run, for a strength that is negative.

    Example:
        >>> from maskless.decoding import Canvas, Noise
        >>> canvas = Canvas(torch.zeros(1, 70, dtype=torch.int64), torch.zeros(1, 70, dtype=torch.bool))
        >>> steps = Corrected(9, strength=lambda t: 2.0)(canvas, Noise.of(0, 1))
        >>> sum(step.most for step in steps) == 70 + sum(sum(step.forget or ()) for step in steps)
        True

    Source: the corrector of arXiv 2505.18495 (after Gat et al. 2024, arXiv 2407.15595), without the forward velocity that its code counts twice.
    """

    steps: int
    alpha: Callable[[float], float] = lambda t: 1 - t
    strength: Callable[[float], float] = lambda t: 0.0
    window: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        at_least_one(self.steps)

    def __call__(self, canvas: Canvas, noise: Noise) -> list[Step]:
        inside = canvas.open if self.window is None else canvas.open[:, self.window[0]:self.window[1]]
        unknown = inside.sum(1)
        known, waiting = torch.zeros_like(unknown), torch.zeros_like(unknown)
        first = 2 * self.steps * (self.window[0] if self.window else 0)                                         # every block has its own
        u = torch.stack([noise.on_host(row, PLAN, 2 * self.steps, first=first).double() for row in range(canvas.rows)])     # (B, 2 S)
        counts, forgets = [], []
        chances, levels = self._chances()
        for i, (back, on) in enumerate(chances):
            gone = binomial(known, back, u[:, 2 * i])
            known, unknown, waiting = known - gone, unknown + gone, waiting + gone
            come = binomial(unknown, on, u[:, 2 * i + 1])
            known, unknown = known + come, unknown - come
            counts.append(come.tolist())
            forgets.append(torch.where(come > 0, waiting, 0).tolist())          # a row that reveals nothing now forgets when it does
            waiting = torch.where(come > 0, 0, waiting)
        return from_table(counts, window=self.window, forgets=forgets, levels=[[level] * canvas.rows for level in levels])

    def _chances(self) -> tuple[list[tuple[float, float]], list[float]]:
        """For every step, the probabilities that a site that was drawn is forgotten, and that an unknown one is revealed; and 1 - alpha(t')."""
        times, chances, levels = times_of(self.steps), [], []
        for t, s in pairwise(times):
            now, then, strength = self.alpha(t), self.alpha(s), self.strength(t)
            if not strength >= 0:
                raise ValueError(f"the strength of the corrector is {strength} at time {t:g}; it must be at least 0")
            stays = (now / then) ** strength if now > 0 else 1.0
            left = now * stays
            chances.append((1 - stays, 1.0 if s <= 0 else (then - left) / (1 - left)))
            levels.append(1 - left)
        return chances, levels


def binomial(n: Int[Tensor, " B"], p: float, u: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """How many of n happen, each with probability p, by inverse CDF from a uniform number in [0, 1)."""
    if p <= 0 or p >= 1:
        return n * int(p >= 1)
    size, wide = n.double()[:, None], torch.tensor(p, dtype=torch.float64)
    reach = WIDE * (size * wide * (1 - wide)).sqrt() + FEW
    low = (size * wide - reach).floor().clamp(min=0)
    high = torch.minimum((size * wide + reach).ceil(), size)
    k = low + torch.arange(int((high - low).max()) + 1, dtype=torch.float64)                                # (B, W)
    inside = torch.minimum(k, high)
    ways = torch.lgamma(size + 1) - torch.lgamma(inside + 1) - torch.lgamma(size - inside + 1)
    log = ways + inside * wide.log() + (size - inside) * (-wide).log1p()
    sums = torch.where(k <= high, log.exp(), 0.0).cumsum(1)
    at = torch.searchsorted(sums, u[:, None].double() * sums[:, -1:], right=True)[:, 0]
    return torch.minimum(low[:, 0] + at, high[:, 0]).long()


@dataclass(frozen=True)
class Anew:
    """A uniformly random choice among the unknown sites, drawn anew at every step: `Random` for plans that forget.

    Example:
        >>> from maskless.decoding import Sampler
        >>> corrected = Sampler(Corrected(64, strength=lambda t: 1.0), Anew())
    """

    left_to_right: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False

    def start(self, canvas: Canvas, steps: Sequence[Step], noise: Noise) -> Drawing:
        return Drawing(noise)


@dataclass(frozen=True)
class Drawing:
    noise: Noise

    @property
    def measure(self) -> None:
        return None

    def propose(self, canvas: Canvas, step: Step) -> Sites:
        assert step.n is not None, "this order needs a plan with counts"
        start, stop = step.window or (0, canvas.length)
        rank = self.noise.at(ORDER, step.index, torch.arange(start, stop, device=canvas.count.device)[None])
        inside = Sites.of(canvas.unknown[:, start:stop], step.most, rank.expand(canvas.rows, -1))
        return Sites(inside.index + start, inside.valid & (torch.arange(inside.index.shape[1], device=rank.device) < step.n[:, None]))

    def keep(self, sites: Sites, draw: Draw, step: Step) -> Bool[Tensor, "B Q"]:
        return sites.valid
