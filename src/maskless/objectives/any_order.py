"""One pass, every token, any order: losses of the order-causal partition transformer.

An order cut into commits, `b | d | a | c` or `b d | a c`: a token is predicted from earlier commits, each token once, each at its own level
of masking, with weight 1. Over random orders in commits of one the mean is the masked bound without its 1 / t (docs/objectives.md).

B rows, L sites, D width.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from maskless.objectives.base import Draws, Objective, Single, Terms, Untimed, scatter_sites, terms
from maskless.objectives.partition import Partition

if TYPE_CHECKING:
    from maskless.data.batch import Batch


def _never_all(name: str, commit: int, length: int) -> None:
    if commit >= length:
        raise ValueError(f"{name} is {commit} and rows have {length} sites: every token would be predicted from nothing; "
                         f"make it smaller (an eighth of the row is {max(1, length // 8)})")


@dataclass(frozen=True)
class AnyOrder(Untimed):
    """E over orders of sum_r -log p(x at log r | earlier commits), r over the entries of the log; no times, no weights.

    With `commit` = 1 the mean is the absorbing-diffusion NELBO, for a model whose predictions do not depend on the order of what they see.
    With more it bounds -log p under the sampler that reveals `commit` sites a step, and is reported under that name only. As on a `Canvas`
    the anchor is the first commit and the given sites are the second; padding is the last, and neither it nor what is given is a target.

    Args:
        commit: sites of a commit; the last may have fewer.
        left_to_right: share of rows that are trained from left to right instead of in random order; no bound counts them.
        anchor: site 0 (BOS) opens every order, as when sampling; it stays a target.

    Raises:
        ValueError: for values out of range, and when run, for a commit of the whole row: every token would be predicted from nothing; and
            for a model that is not order-causal.
    """

    commit: int = 1
    left_to_right: float = 0.0
    anchor: bool = True

    def __post_init__(self) -> None:
        if self.commit < 1:
            raise ValueError(f"commit is {self.commit}; a commit has at least 1 site")
        if not 0 <= self.left_to_right <= 1:
            raise ValueError(f"left_to_right is {self.left_to_right}; a share of rows lies in [0, 1]")

    def check_length(self, length: int, where: str = "") -> None:
        """Raise ValueError where a commit is the whole row; `where` is what a reader of the error knows this objective by."""
        _never_all(f"{where}commit", self.commit, length)

    def reported(self, length: int) -> Mapping[str, Objective]:
        return {"bound" if self.commit == 1 else f"bound_of_{self.commit}_a_step": replace(self, left_to_right=0.0)}

    def __call__(self, model: Any, batch: Batch, draws: Draws) -> Terms:
        self.check_length(batch.tokens.shape[1])
        if not hasattr(model, "hidden_in_order"):
            raise ValueError(f"a {type(model).__name__} does not read tokens one after the other; orders are of order-causal partition models")
        log = self.order(batch, draws)
        ordered = batch.in_order(log)
        states = model.hidden_in_order(batch.tokens, log, self.commits(ordered), cond=batch.labels)                # (B, L, D)
        ones = torch.ones_like(log, dtype=torch.float32)
        found = terms(model, states, ordered, wanted=ordered.targets, loss_weight=ones, bound_weight=ones)
        return Terms(found.loss, found.bound, found.tokens, scatter_sites(found.token_loss, log))

    def order(self, batch: Batch, draws: Draws) -> Int[Tensor, "B L"]:
        """The log: the anchor first, then given sites, the others by their uniforms (or left to right), padding last."""
        site = torch.arange(draws.u.shape[1], device=draws.u.device)
        key = torch.where((draws.t < self.left_to_right)[:, None], (site / len(site)).to(draws.u), draws.u)
        key = torch.where(batch.given, key - 1, key)
        if self.anchor:
            key = torch.where(site == 0, key - 3, key)
        return torch.where(batch.valid, key, key + 5).argsort(dim=1, stable=True)

    def commits(self, ordered: Batch) -> Int[Tensor, "#B L"] | None:
        """The commit of every log entry; None where each is its own."""
        if self.commit == 1 and not ordered.prompted:
            return None
        entry = torch.arange(ordered.tokens.shape[1], device=ordered.tokens.device)[None]
        opening = int(self.anchor)
        first = opening + ordered.given[:, opening:].sum(1, keepdim=True) if ordered.prompted else opening
        return torch.where(entry < opening, 0, torch.where(entry < first, 1, 2 + (entry - first) // self.commit))


@dataclass(frozen=True)
class OrderedPartition(Partition):
    """The two-group loss for an order-causal model: a token looks at its own group no later than itself, a query at all of the other group.

    Args, times and weights are those of `Partition`; the order inside a group is that of the uniforms, which say nothing of the split.
    """

    def states(self, model: Any, batch: Batch, group: Tensor, draws: Draws, present: Tensor | None) -> Tensor:
        log = draws.u.argsort(dim=1, stable=True)
        return model.hidden_of_groups(batch.tokens, ~group, log, cond=batch.labels, present=present)


@dataclass(frozen=True)
class Dial(Single):
    """A share of two-group batches, and between them one-pass batches whose commit size turns: 1, 2, 4, ... `largest`.

    One checkpoint then decodes in two modes: with its cache, in commits of any of these sizes, and by encoding everything known as one
    bidirectional commit. Sizes and kinds of batch are drawn once per global batch. The bound of each mode is reported by itself.

    Args:
        largest: largest commit; 0 for an eighth of the row.
        p_two_group: share of batches with the two-group loss.
        two_group: that loss.
        left_to_right, anchor: as in `AnyOrder`.

    Raises:
        ValueError: for values out of range.
    """

    largest: int = 0
    p_two_group: float = 0.25
    two_group: Partition = field(default_factory=Partition)
    left_to_right: float = 0.0
    anchor: bool = True

    def __post_init__(self) -> None:
        if self.largest < 0:
            raise ValueError(f"largest is {self.largest}; give the largest commit, or 0 for an eighth of the row")
        if not 0 <= self.p_two_group <= 1:
            raise ValueError(f"p_two_group is {self.p_two_group}; a share of batches lies in [0, 1]")
        AnyOrder(1, self.left_to_right, self.anchor)                # refuses what its batches would

    def check_length(self, length: int, where: str = "") -> None:
        """Raise ValueError where the largest commit is the whole row; `where` is what a reader of the error knows this objective by."""
        _never_all(f"{where}largest", self.largest, length)

    @property
    def times(self) -> tuple[float, float]:
        return self.two_group.times

    @property
    def bound_times(self) -> tuple[float, float]:
        return self.two_group.bound_times

    @property
    def valid(self) -> bool:
        return False                                                # a mixture of several bounds

    def sizes(self, length: int) -> list[int]:
        """The commit sizes 1, 2, 4, ... that rows of `length` sites are trained with."""
        largest = self.largest or max(1, length // 8)
        return [1 << n for n in range(largest.bit_length()) if 1 << n <= largest]

    def mode(self, shared: tuple[float, float], length: int) -> Objective:
        """The loss of a batch, from two uniforms that the whole global batch shares."""
        kind, size = shared
        if kind < self.p_two_group:
            return self.two_group
        sizes = self.sizes(length)
        return AnyOrder(sizes[int(size * len(sizes))], self.left_to_right, self.anchor)

    def reported(self, length: int) -> Mapping[str, Objective]:
        one_pass = [AnyOrder(size, 0.0, self.anchor) for size in self.sizes(length)]
        modes = {name: each for objective in one_pass for name, each in objective.reported(length).items()}
        return {**modes, "bound_of_two_groups": self.two_group} if self.p_two_group else modes

    def __call__(self, model: Any, batch: Batch, draws: Draws) -> Terms:
        return self.mode(draws.shared, batch.tokens.shape[1])(model, batch, draws)
