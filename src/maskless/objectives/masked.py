"""MDLM: hide sites at random, predict them from the rest (Sahoo et al., arXiv 2406.07524, eq. 10)."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from maskless.objectives.base import AnySchedule, Draws, Terms, Timed, check_low, presence, terms
from maskless.schedules import LogLinear

if TYPE_CHECKING:
    from maskless.data.batch import Batch


@dataclass(frozen=True)
class Masked(Timed):
    """The masked-diffusion bound: E_t w(t) sum over hidden sites of -log p(x_i | known), P(hidden) = 1 - alpha(t).

    w(t) = -alpha' / (1 - alpha), 1 / t with the linear schedule. BOS and EOS can be hidden as any other token; padding
    never counts and given sites are always known. MaskGIT's published loss is `weights: unit, targets: all` with the
    schedule `arccos`: the plain cross-entropy of all sites (spec of the image models, section 2).

    Args:
        schedule: alpha(t); if it is exact, the mean of `Terms.bound` over `bound_times` is a bound.
        weights: of the nlls in the loss: "bound": w(t); "unit": 1 (less variance, no longer the bound, which is still reported).
        targets: "hidden": hidden sites; "all": known ones as well, which a model reads off its input (unit weights only).
        low: the smallest share of hidden sites that is drawn; caps the weight of the linear schedule at 1 / low.

    Raises:
        ValueError: known sites as targets under the weights of the bound, which have none for them.

    Source: spec of the released code, section 2.3.
    """

    schedule: AnySchedule = field(default_factory=LogLinear)
    weights: Literal["bound", "unit"] = "bound"
    targets: Literal["hidden", "all"] = "hidden"
    low: float = 1e-3

    def __post_init__(self) -> None:
        check_low(self.low)
        if self.targets == "all" and self.weights != "unit":
            raise ValueError("targets is all and weights is bound, and the bound has no weight for known sites; use weights=unit")

    def __call__(self, model: Any, batch: Batch, draws: Draws) -> Terms:
        schedule, t = self.schedule, draws.t
        hidden = (draws.u < schedule.hiding(t)[:, None]) & ~batch.given  # (B, L)
        states = model.hidden(batch.tokens, ~hidden, cond=batch.labels, t=schedule.linear(t), present=presence(batch))
        weight = schedule.weight(t)[:, None].expand(batch.tokens.shape)
        # over the times drawn, P(hidden) is the mean of [low, 1] and not of [0, 1]: less context, so still a bound
        bound = weight * ((1 - self.times[0]) / (1 - self.low))
        return terms(
            model, states, batch, wanted=batch.targets if self.targets == "all" else hidden & batch.valid,
            loss_weight=torch.ones_like(weight) if self.weights == "unit" else weight,
            bound_weight=torch.where(hidden, bound, 0.0),
        )
