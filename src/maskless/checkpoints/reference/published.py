"""The sampler of the published MDLM code, as a baseline: head and float64 race on every site at every step (spec 3.4, 9.3).

Its output law is that of any other decode in the same order; only its cost differs. It exists so that speeds can be compared with what
the papers compare with. B rows, L sites, V vocabulary.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from maskless.decoding import Canvas, Choice, Draw, Noise, Order, Random, Sampler, Scheduled, Sites, Step
from maskless.decoding.noise import Pick
from maskless.decoding.order import Started


@dataclass(frozen=True)
class Everywhere:
    """Looks at every site, known or not, and keeps those that `order` planned."""

    order: Order
    left_to_right: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False

    def start(self, canvas: Canvas, steps: Sequence[Step], noise: Noise) -> Looking:
        return Looking(self.order.start(canvas, steps, noise))


@dataclass
class Looking:
    planned: Started

    @property
    def measure(self) -> None:
        return None

    def propose(self, canvas: Canvas, step: Step) -> Sites:
        mine = self.planned.propose(canvas, step)
        everywhere = torch.arange(canvas.length, device=mine.index.device).expand(canvas.rows, -1)
        self.kept = torch.zeros_like(everywhere, dtype=torch.bool).scatter(1, mine.index, mine.valid)
        return Sites(everywhere, torch.ones_like(self.kept))

    def keep(self, sites: Sites, draw: Draw, step: Step) -> Bool[Tensor, "B L"]:
        return self.kept


class Race(Noise):
    """Tokens by an exponential race over V float64 uniforms a site: argmax_v p_v / (1e-10 - ln(u_v + 1e-10))."""

    def picker(self, sites: Sites, step: int) -> Pick:
        return lambda logp, span: race(logp, torch.rand(logp.shape, dtype=torch.float64, device=logp.device))


def race(logp: Float[Tensor, "n V"], u: Float[Tensor, "n V"]) -> Tensor:
    """The winner of the race under recorded or fresh uniforms, (n,)."""
    return (logp.to(u.dtype).exp() / (1e-10 - (u + 1e-10).log())).argmax(-1)


def published_sampler(steps: int) -> Sampler:
    """MDLM's sampler as published, at a fixed number of sites per step; use it with `Race` noise."""
    return Sampler(Scheduled(steps), Everywhere(Random()), Choice(chunk=1 << 30))
