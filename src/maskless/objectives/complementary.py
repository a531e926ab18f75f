"""Complementary masking: every row twice, hiding some sites, then exactly the others (arXiv 2505.18883, section 5)."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from maskless.objectives.base import Draws, Terms, TwoSided, presence, terms

if TYPE_CHECKING:
    from maskless.data.batch import Batch


@dataclass(frozen=True)
class Complementary(TwoSided):
    """Half the sum of two masked losses: at t, and at 1 - t with the complementary mask. One batch of 2B rows.

    What a partition model gets from one pass over B rows, a masked model gets here from two: the fair comparison in
    training signal. Weights 1 / t and 1 / (1 - t), halved (`low_var`: 1 / 2 each).

    Args:
        schedule: eps = 0 hides with probabilities t and 1 - t exactly and draws t in [low, 1 - low]; the released code
            has eps = 1e-3 and t in [low, 1).

    Source: spec of the released code, section 2.5. Why the mean of the two halves is a bound: docs/objectives.md.
    """

    def __call__(self, model: Any, batch: Batch, draws: Draws) -> Terms:
        first = draws.u < self.schedule.hiding(draws.t)[:, None]  # (B, L) hidden in the first of the two rows
        known = torch.cat([~first, first]) | batch.given.repeat(2, 1)
        time = self.schedule.linear(draws.t)
        present, t = presence(batch), torch.cat([time, 1 - time])
        present = None if present is None else present.repeat(2, 1)
        labels = None if batch.labels is None else batch.labels.repeat(2)
        states = model.hidden(batch.tokens.repeat(2, 1), known, cond=labels, t=t, present=present)  # (2B, L, D)
        states = torch.where(first[..., None], *states.chunk(2))  # each site from the row that hides it
        loss, bound = self.site_weights(draws.t, first, torch.full_like(draws.t, 0.5)[:, None])
        return terms(model, states, batch, wanted=batch.targets, loss_weight=loss, bound_weight=bound)
