"""Self-distillation through time: one step of the student learns what several steps of a teacher say (arXiv 2410.21035).

B rows, L sites, D and T widths of student and teacher.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from maskless.models import CausalPartitionConfig
from maskless.noise import hashed
from maskless.objectives.base import Draws, Single, Terms, presence
from maskless.objectives.divergence import Divergence, Targets, distance, kl_backward
from maskless.objectives.teacher import Teacher
from maskless.schedules import LogLinear

if TYPE_CHECKING:
    from maskless.data.batch import Batch

SLICES = 1 << 12                                                    # of the times, to take a mean over

View = Callable[[Any, "Batch", Bool[Tensor, "B L"], Tensor], Tensor]
"""(student, batch, known, rank) -> (B, L, D): the states of every site, from the other side of the split."""


def whole(model: Any, batch: Batch, known: Bool[Tensor, "B L"], rank: Tensor) -> Float[Tensor, "B L D"]:
    """A student that sees what is known as one set."""
    return model.hidden(batch.tokens, known, cond=batch.labels, present=presence(batch))


def one_by_one(model: Any, batch: Batch, known: Bool[Tensor, "B L"], rank: Tensor) -> Float[Tensor, "B L D"]:
    """A token-causal student: known tokens as its cache has them, each encoded with those of lower rank."""
    log = rank.argsort(dim=1, stable=True)
    return model.hidden_of_groups(batch.tokens, known, log, cond=batch.labels, present=presence(batch))


def first_site(x: Tensor) -> Bool[Tensor, " L"]:
    """True at site 0 alone, for any x (B, L)."""
    return torch.arange(x.shape[1], device=x.device) == 0


@dataclass(frozen=True)
class SDTT(Single):
    """E_t of the divergence, at the sites hidden at time t, of the student's laws from what the teacher says on its way to t - k dt.

    As published: one group of sites is distilled, from the other; no weights by time. The loss is divided by the expected number
    of hidden sites, not by the drawn one, so that how a batch is cut over processes changes nothing.

    Args:
        teacher: the walk.
        divergence: see `divergence`.
        view: how the student looks at what is known.
        low: times are drawn from [low, 1].
        anchor: site 0 (BOS) is always known and comes first, as when sampling; False hides it as any other (the released code).
        from_nothing: a decode begins from nothing at all (images): such predictions are taught as any other. False: they are left out,
            since behind a BOS they are never asked for.
        reading: known tokens are ranked from left to right, for token-causal models trained so, instead of at random.

    Source: spec of the released code, section 6; its deviations are in `checkpoints.reference.quirks`.
    """

    teacher: Teacher
    divergence: Divergence = kl_backward
    view: View = whole
    low: float = 1e-5
    anchor: bool = True
    from_nothing: bool = False
    reading: bool = False

    @property
    def times(self) -> tuple[float, float]:
        return self.low, 1.0

    @property
    def bound_times(self) -> tuple[float, float]:
        return self.times

    @property
    def valid(self) -> bool:
        return False

    def __call__(self, model: Any, batch: Batch, draws: Draws) -> Terms:
        hidden = self.split(batch, draws)
        targets = self.targets(batch, ~hidden, draws, draws.t, 1)
        weights = torch.full_like(draws.u, 1 / self.mean_share)
        return self.terms(model, batch, ~hidden, draws, targets, wanted=hidden & batch.valid, weights=weights)

    def split(self, batch: Batch, draws: Draws) -> Bool[Tensor, "B L"]:
        """The hidden sites, group 1."""
        hidden = (draws.u < self.share(draws)) & ~batch.given
        return hidden & ~first_site(hidden) if self.anchor else hidden

    def share(self, draws: Draws) -> Float[Tensor, "B 1"]:
        """The probability of a site to be hidden at the time of its row."""
        return self.teacher.schedule.hiding(draws.t)[:, None]

    @property
    def mean_share(self) -> float:
        """Of the sites, over all times."""
        low, high = self.times
        middles = low + (high - low) * (torch.arange(SLICES, dtype=torch.float64) + 0.5) / SLICES
        return float(self.teacher.schedule.hiding(middles).mean())

    def rank(self, draws: Draws, *, reading: bool = False) -> Float[Tensor, "B L"]:
        """In which order a token-causal model reads what is known; inside a group, the uniforms say nothing of the split."""
        length = draws.u.shape[1]
        if reading:
            return (torch.arange(length, device=draws.u.device, dtype=draws.u.dtype) / length).expand_as(draws.u)
        return draws.u.masked_fill(first_site(draws.u), 0.0) if self.anchor else draws.u

    def targets(self, batch: Batch, known: Bool[Tensor, "B L"], draws: Draws, t: Float[Tensor, " B"], side: int) -> Targets:
        """The teacher's words on what is not known, starting at time `t`; `side` sets the noise of two walks apart."""
        assert draws.seeds is not None, "distillation needs seeds for the teacher's walks; take the draws from objectives.draws"
        return self.teacher.targets(batch, known, t=t, rank=self.rank(draws), seeds=hashed(draws.seeds, side))

    def informed(self, known: Bool[Tensor, "B L"], valid: Bool[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
        """Sites that are predicted from anything: behind a BOS, a prediction from nothing is never asked for, nor trained by every loss."""
        return torch.where(known, (valid & ~known).any(1)[:, None], known.any(1)[:, None])

    def terms(
        self, model: Any, batch: Batch, known: Bool[Tensor, "B L"], draws: Draws, targets: Targets, *, wanted: Bool[Tensor, "B L"],
        weights: Float[Tensor, "B L"],
    ) -> Terms:
        if not self.from_nothing:
            wanted = wanted & self.informed(known & batch.valid, batch.valid)
        states = self.view(model, batch, known, self.rank(draws, reading=self.reading))
        loss, each = distance(model, states, targets, weights, self.divergence, wanted=wanted)
        weighted = torch.where(wanted, weights * each, 0.0)
        return Terms(loss, weighted.sum(1), batch.targets.sum(1), weighted)


@dataclass(frozen=True)
class PartitionSDTT(SDTT):
    """Both groups of a split, each distilled from the other: one pass of a partition student, two walks of the teacher.

        group             0  1  0  1  1
        walk of group 1   a  ?  c  ?  ?      from time t:      targets of b d e, given a c and what the teacher draws itself
        walk of group 0   ?  b  ?  d  e      from time 1 - t:  targets of a c, given b d e and what the teacher draws itself
        student           every site from the other group, in one pass: every site is a target

    Site 0 is on the side that knows less, where a decode begins: group 1 while t < 1/2. The side that knows more learns it as any other.
    A site's own token, and its group's, are on neither canvas that its target comes from. Rows with given sites are distilled in
    group 1 alone, as in `Partition`. Args are those of `SDTT`; times are drawn from [low, 1 - low].
    """

    @property
    def times(self) -> tuple[float, float]:
        return self.low, 1 - self.low

    def split(self, batch: Batch, draws: Draws) -> Bool[Tensor, "B L"]:
        group = (draws.u < self.share(draws)) & ~batch.given
        less = (self.share(draws) < 0.5) & ~batch.given
        return torch.where(first_site(group), less, group) if self.anchor else group

    def other_time(self, draws: Draws) -> Float[Tensor, " B"]:
        """When as much is hidden as is known at t: 1 - t, where alpha is linear."""
        schedule = self.teacher.schedule
        if isinstance(schedule, LogLinear):
            return 1 - draws.t
        return torch.tensor([schedule.time(share) for share in schedule.alpha(draws.t).tolist()]).to(draws.t)

    def __call__(self, model: Any, batch: Batch, draws: Draws) -> Terms:
        group = self.split(batch, draws)                                                        # (B, L) True: group 1
        one, zero = self.targets(batch, ~group, draws, draws.t, 1), self.targets(batch, group, draws, self.other_time(draws), 0)
        targets = replace(one, hidden=torch.where(group[..., None], one.hidden, zero.hidden))
        one_sided = batch.given[:, 1:].any(1)[:, None]                                          # (B, 1)
        weights = torch.where(one_sided, 1 / self.mean_share, 1.0).to(draws.u).expand_as(draws.u)
        wanted = batch.targets & (group | ~one_sided)
        return self.terms(model, batch, ~group, draws, targets, wanted=wanted, weights=weights)


def view_of(config: Any) -> tuple[View, bool]:
    """How a student of this configuration looks at what is known, and whether it reads from left to right."""
    if isinstance(config, CausalPartitionConfig) and config.causal == "token":
        return one_by_one, config.prompt == "reading"
    return whole, False
