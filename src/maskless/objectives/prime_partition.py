"""The bound of partial masking on both sides of a split of digits, in one pass (ours)."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from maskless.objectives.base import Draws, Terms, TwoSided, presence, two_laws
from maskless.objectives.chunks import sites_of_digits, weighted_sum
from maskless.objectives.prime import Hidden, digit_uniforms, joint, single

if TYPE_CHECKING:
    from maskless.data.batch import Batch


@dataclass(frozen=True)
class PrimePartition(TwoSided):
    """E_t 1/2 [ sum over digits of group 1 of nll / t + sum over digits of group 0 of nll / (1 - t) ], P(a digit is in group 1) = t.

    The nll of a digit is that of its marginal under the law of its token given the digits of the other group, as in `SubNelbo`; each side is that
    bound, at complementary times, so their mean is one; with registers it is that of group 1 alone, as in `Partition`. Every digit is supervised
    once. With one digit it is `Partition`.

    Args:
        schedule, weights, low: as for `Partition`.
        token_groups: share of batches in which tokens go to a group whole and are charged their law over V, as in `Partition`: for late fusion,
            to which few tokens are whole otherwise. What is reported is the bound of single digits, if not all batches are such.
        filter_observed: filter by the digits of the other group.

    Raises:
        ValueError: for values out of range.

    Source: the specification of Prime, section 10.
    """

    token_groups: float = 0.0
    filter_observed: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.token_groups <= 1:
            raise ValueError(f"token_groups is {self.token_groups}; a share of rows lies in [0, 1]")

    @property
    def valid(self) -> bool:
        return self.schedule.exact and self.token_groups in (0, 1)

    def reported(self, length: int) -> dict[str, PrimePartition]:
        """The bound of single digits, or of whole tokens where nothing else was trained, with the linear schedule."""
        bound = PrimePartition(low=self.low, filter_observed=self.filter_observed, token_groups=float(self.token_groups == 1))
        return {"bound": bound, "bound_of_tokens": replace(bound, token_groups=1.0)} if 0 < self.token_groups < 1 else {"bound": bound}

    def __call__(self, model: Any, batch: Batch, draws: Draws) -> Terms:
        whole = draws.shared[0] < self.token_groups
        u = draws.u[..., None].expand(-1, -1, model.per_site) if whole else digit_uniforms(draws.u, model.per_site)
        group = u < self.schedule.hiding(draws.t)[:, None, None]
        return self.scored(model, batch, group & ~batch.given[..., None], draws.t, whole=whole)

    def scored(self, model: Any, batch: Batch, group: Bool[Tensor, "B L l"], t: Float[Tensor, " B"], *, whole: bool = False) -> Terms:
        """The terms with these digits in group 1, at these times; `whole` says that no token is in both."""
        digits, here = model.code.encode(batch.tokens), presence(batch)
        slots = None if here is None else here.repeat_interleave(model.per_site, 1)
        states = model.hidden_of_digit_groups(digits.flatten(1), ~group.flatten(1), cond=batch.labels, t=self.schedule.linear(t), present=slots)
        # for each site first the query of group 0, which sees the digits of group 1, then the reverse
        tokens = batch.tokens.repeat_interleave(2, 1)
        seen = Hidden(tokens, digits.repeat_interleave(2, 1), torch.stack([group, ~group], 2).flatten(1, 2), states.flatten(1, 2))
        one_sided = batch.given[:, 1:].any(1)[:, None]
        second = torch.arange(2, device=t.device).bool().repeat(batch.tokens.shape[1]).expand(len(t), -1)             # True: group 1
        loss, bound = self.site_weights(t, second, torch.where(one_sided, 1.0, 0.5), alone=two_laws(model))
        wanted = batch.targets.repeat_interleave(2, 1) & ~seen.known.all(-1) & (second | ~one_sided)
        piece = (joint if whole else single)(model.code, seen, self.filter_observed)
        total, nll = weighted_sum(model, seen.states, loss, piece, wanted=wanted, chunk=sites_of_digits(model))
        zero = torch.zeros_like(nll)
        by_token = torch.where(wanted, loss * nll, zero).unflatten(1, (-1, 2)).sum(2)
        return Terms(total, torch.where(wanted, bound * nll, zero).sum(1), batch.targets.sum(1), by_token)
