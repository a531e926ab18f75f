"""The partition loss: two groups, each predicted from the other, in one pass (arXiv 2505.18883, section 4)."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool
from torch import Tensor

from maskless.objectives.base import Draws, Terms, TwoSided, presence, terms, two_laws

if TYPE_CHECKING:
    from maskless.data.batch import Batch


@dataclass(frozen=True)
class Partition(TwoSided):
    """E_t 1/2 [ sum over group 1 of nll / t + sum over group 0 of nll / (1 - t) ], with P(group 1) = 1 - alpha(t) = t.

    Other schedules have -alpha' / (1 - alpha) and -alpha' / alpha in place of 1 / t and 1 / (1 - t). Image PGM's
    published loss is `weights: unit` with the schedule `arccos`: the plain cross-entropy of all sites, each from the other
    group (spec of the image models, section 2).

    Group 1 plays the unknown sites and group 0 the known ones (`known` of the model); either is predicted from the
    other. The paper's equation 8 names the two cases the other way round from its own text; this follows the text.

    With registers either side has a law of its own, since each sees the registers of the other group; group 0 is what is known when a model
    samples, so the bound is then that of group 1 alone. The loss trains both.

    Rows with given sites (Sudoku) put them in group 0 and train group 1 alone, with weight 1 / t not halved: group 0
    would be predicted without the givens, which is another question. A row whose only given site is site 0, an anchor
    such as BOS, is trained on both sides; the anchor then sits in group 0 and is no target.

    Args:
        schedule: `LogLinear()` is symmetric: P(group 1) = t with t in [low, 1 - low], weights exactly 1 / t and
            1 / (1 - t), none above 1 / low. `LogLinear(eps=1e-3)` is the released code: t in [low, 1), where the weight
            of group 0 has a second moment that explodes at t -> 1 and the mean is 0.1 % short of a bound.
        weights, low: see `TwoSided`.

    Source: spec of the released code, sections 2.4 and 2.6. Why the mean of the two sides is a
    bound: docs/objectives.md.
    """

    def states(self, model: Any, batch: Batch, group: Bool[Tensor, "B L"], draws: Draws, present: Bool[Tensor, "B L"] | None) -> Tensor:
        """(B, L, D): every site from the other group."""
        return model.hidden(batch.tokens, ~group, cond=batch.labels, t=self.schedule.linear(draws.t), present=present)

    def __call__(self, model: Any, batch: Batch, draws: Draws) -> Terms:
        group = (draws.u < self.schedule.hiding(draws.t)[:, None]) & ~batch.given  # (B, L) True: group 1
        states = self.states(model, batch, group, draws, presence(batch))
        one_sided = batch.given[:, 1:].any(1)[:, None]  # (B, 1)
        loss, bound = self.site_weights(draws.t, group, torch.where(one_sided, 1.0, 0.5), alone=two_laws(model))
        wanted = batch.targets & (group | ~one_sided)
        return terms(model, states, batch, wanted=wanted, loss_weight=loss, bound_weight=bound)
