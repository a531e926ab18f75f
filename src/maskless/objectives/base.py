"""What every loss receives (a model, a batch, times and uniforms) and what it gives back.

An objective draws nothing: `draws.py` does, so that a loss is a function that can be enumerated, replayed and cut over
ranks.
Letters: B rows, L sites, D width, V data vocabulary.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskless.objectives.cross_entropy import weighted_nll
from maskless.schedules import LogLinear

if TYPE_CHECKING:
    from maskless.data.batch import Batch


@dataclass(frozen=True)
class Draws:
    """The randomness of one loss.

    Attributes:
        t: (B,) times in (0, 1).
        u: (B, L) uniforms in [0, 1) that hide sites, or order them.
        shared: two uniforms on the host that the whole global batch shares (which kind of batch it is).
        seeds: (B,) of the decodes that a loss makes itself; None: such a loss refuses.
    """

    t: Float[Tensor, " B"]
    u: Float[Tensor, "B L"]
    shared: tuple[float, float] = (0.0, 0.0)
    seeds: Int[Tensor, " B"] | None = None

    def to(self, device: torch.device | str) -> Draws:
        return Draws(self.t.to(device), self.u.to(device), self.shared, None if self.seeds is None else self.seeds.to(device))


@dataclass(frozen=True)
class Terms:
    """One evaluation of an objective.

    Attributes:
        loss: () differentiable SUM over target tokens of the weighted nll; divide by the number of target tokens of the
            global batch, not of the rank.
        bound: (B,) detached nats per row: a one-draw estimate of a bound on -log p(row).
        tokens: (B,) int64, target tokens of each row: valid, not given.
        token_loss: (B, L) detached; its sum is `loss`.
    """

    loss: Float[Tensor, ""]
    bound: Float[Tensor, " B"]
    tokens: Int[Tensor, " B"]
    token_loss: Float[Tensor, "B L"]


@runtime_checkable
class Objective(Protocol):
    """A loss to train on and a bound to report."""

    @property
    def times(self) -> tuple[float, float]:
        """(low, high) of the times to train at: `draws(..., low=low, high=high)`."""
        ...

    @property
    def bound_times(self) -> tuple[float, float]:
        """(low, high) of the times at which the mean of `Terms.bound` is a bound."""
        ...

    @property
    def valid(self) -> bool:
        """Whether that mean is a bound on -log p, so that its exponential may be called a perplexity."""
        ...

    def __call__(self, model: Any, batch: Batch, draws: Draws) -> Terms: ...

    def count(self, batch: Batch) -> Int[Tensor, " B"]:
        """Target tokens of each row, without the model."""
        ...

    def reported(self, length: int) -> Mapping[str, Objective]:
        """What to measure on held-out rows, by the name under which it is reported: "bound" for the objective's own."""
        ...


class Single:
    """Objectives with one bound to report, their own."""

    def count(self, batch: Batch) -> Int[Tensor, " B"]:
        return batch.targets.sum(1)

    def reported(self: Objective, length: int) -> Mapping[str, Objective]:
        return {"bound": self}


class Untimed(Single):
    """Objectives that look at no time."""

    @property
    def times(self) -> tuple[float, float]:
        return 0.0, 1.0

    @property
    def bound_times(self) -> tuple[float, float]:
        return self.times

    @property
    def valid(self) -> bool:
        return True


@dataclass(frozen=True)
class TwoSided(Single):
    """What losses share that predict both halves of a split: at time t one half, at 1 - t the other.

    Args:
        schedule: P(a site is in the first half) = 1 - alpha(t).
        low_var: train with unit weights in place of 1 / t and 1 / (1 - t).
        low: times are drawn from [low, 1 - low] (eps = 0), so that no weight exceeds 1 / low.
    """

    schedule: LogLinear = field(default_factory=LogLinear)
    low_var: bool = False
    low: float = 1e-3

    @property
    def times(self) -> tuple[float, float]:
        return self.low, (1 - self.low if self.schedule.eps == 0 else 1.0)

    @property
    def bound_times(self) -> tuple[float, float]:
        return 0.0, 1.0

    @property
    def valid(self) -> bool:
        return self.schedule.eps == 0


def presence(batch: Batch) -> Bool[Tensor, "B L"] | None:
    """What a model is told about padding: None where there is none (the fast attention), else the sites that exist."""
    return batch.valid if batch.padded else None


def sides(own: Float[Tensor, "B L"], floor: float) -> Float[Tensor, "B L"]:
    """Bound weights of the two halves of a site that is hidden with probability `own` = t or 1 - t.

    1 / own where own >= floor, scaled by 1 / (1 - floor): over t uniform on [0, 1] either side then has the mean of the
    masked bound over [floor, 1] (docs/objectives.md), and no weight exceeds 1 / floor.
    """
    return torch.where(own >= floor, 1 / (own.clamp_min(floor) * (1 - floor)), 0.0)


def scatter_sites(values: Float[Tensor, "B L"], log: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """Values of log entries, put at their sites."""
    return torch.zeros_like(values).scatter(1, log, values)


def terms(
    model: Any, hidden: Float[Tensor, "B L D"], batch: Batch, *, wanted: Bool[Tensor, "B L"],
    loss_weight: Float[Tensor, "B L"], bound_weight: Float[Tensor, "B L"],
) -> Terms:
    """The cross-entropies of the `wanted` sites, weighted twice: to train on and to report."""
    loss, nll = weighted_nll(model, hidden, batch.tokens, loss_weight, wanted=wanted)
    zero = torch.zeros_like(nll)
    return Terms(
        loss=loss,
        bound=torch.where(wanted, bound_weight * nll, zero).sum(1),
        tokens=batch.targets.sum(1),
        token_loss=torch.where(wanted, loss_weight * nll, zero),
    )
