"""MDLM: hide sites at random, predict them from the rest (Sahoo et al., arXiv 2406.07524, eq. 10)."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from maskless.objectives.base import Draws, Single, Terms, presence, terms
from maskless.schedules import LogLinear

if TYPE_CHECKING:
    from maskless.data.batch import Batch


@dataclass(frozen=True)
class Masked(Single):
    """The masked-diffusion bound: E_t (1 / t) sum over hidden sites of -log p(x_i | known), P(hidden) = 1 - alpha(t).

    BOS and EOS can be hidden as any other token; padding never counts and given sites are always known.

    Args:
        schedule: alpha(t); with eps = 0 the mean of `Terms.bound` over `bound_times` is a bound.
        low_var: train with weight 1 in place of 1 / t (less variance, no longer the bound, which is still reported).
        low: the shortest time drawn, the cap of the weight at 1 / low.

    Source: spec of the released code, section 2.3.
    """

    schedule: LogLinear = field(default_factory=LogLinear)
    low_var: bool = False
    low: float = 1e-3

    @property
    def times(self) -> tuple[float, float]:
        return self.low, 1.0

    @property
    def bound_times(self) -> tuple[float, float]:
        return self.times

    @property
    def valid(self) -> bool:
        return self.schedule.eps == 0

    def __call__(self, model: Any, batch: Batch, draws: Draws) -> Terms:
        hidden_sites = (draws.u < self.schedule.hiding(draws.t)[:, None]) & ~batch.given  # (B, L)
        states = model.hidden(batch.tokens, ~hidden_sites, t=draws.t, present=presence(batch))
        weight = self.schedule.weight(draws.t)[:, None].expand(batch.tokens.shape)
        return terms(
            model, states, batch, wanted=hidden_sites & batch.valid,
            loss_weight=torch.ones_like(weight) if self.low_var else weight, bound_weight=weight,
        )
