"""What every loss receives (a model, a batch, times and uniforms) and what it gives back.

An objective draws nothing: `draws.py` does, so that a loss is a function that can be enumerated, replayed and cut over
ranks.
Letters: B rows, L sites, D width, V data vocabulary.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskless.objectives.chunks import Piece, sites_of_digits, weighted_sum
from maskless.objectives.cross_entropy import weighted_nll
from maskless.schedules import SCHEDULES, LogLinear, Schedule
from maskless.tagged import Tagged

if TYPE_CHECKING:
    from maskless.data.batch import Batch

AnySchedule = Annotated[Schedule, Tagged(SCHEDULES, default="linear")]


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


class Timed(Single):
    """Objectives that hide sites by a schedule, a share from `low` to all of them."""

    schedule: AnySchedule
    low: float

    @property
    def times(self) -> tuple[float, float]:
        return self.schedule.time(self.low), 1.0

    @property
    def bound_times(self) -> tuple[float, float]:
        return self.times

    @property
    def valid(self) -> bool:
        return self.schedule.exact

    def reported(self, length: int) -> Mapping[str, Objective]:
        """The bound, measured with the linear schedule: every exact schedule has the same one, and this one weighs most evenly."""
        objective = cast(Any, self)
        return {"bound": objective if isinstance(self.schedule, LogLinear) else replace(objective, schedule=LogLinear())}


@dataclass(frozen=True)
class TwoSided(Timed):
    """What losses share that predict both halves of a split: at time t one half, at 1 - t the other.

    Args:
        schedule: P(a site is in the first half) = 1 - alpha(t).
        weights: of the nlls in the loss; the bound that is reported stays what it is. "bound": those of the bound,
            -alpha' / (1 - alpha) and -alpha' / alpha, halved; "half": 1 / 2 each, the released text models' low-variance
            loss; "unit": 1 each, the published loss of image PGM, whose mean is a plain cross-entropy.
        low: the smallest share of sites in either half that is drawn (eps = 0): a linear schedule then has no weight
            above 1 / low.
    """

    schedule: AnySchedule = field(default_factory=LogLinear)
    weights: Literal["bound", "half", "unit"] = "bound"
    low: float = 1e-3

    def __post_init__(self) -> None:
        check_low(self.low)

    @property
    def times(self) -> tuple[float, float]:
        time = self.schedule.time
        return time(self.low), (time(1 - self.low) if self.valid else 1.0)

    @property
    def bound_times(self) -> tuple[float, float]:
        return 0.0, 1.0

    def site_weights(
        self, t: Float[Tensor, " B"], first: Bool[Tensor, "B L"], share: Float[Tensor, "#B 1"], *, alone: bool = False,
    ) -> tuple[Float[Tensor, "B L"], Float[Tensor, "B L"]]:
        """What the nll of every site weighs in the loss and in the bound, by the half it is in.

        Args:
            t: times.
            first: sites of the first half.
            share: what a half counts, 1 / 2 where the other one counts as well.
            alone: the bound is of the first half by itself, where the other one has another law.
        """
        schedule = self.schedule
        own = torch.where(first, schedule.hiding(t)[:, None], schedule.alpha(t)[:, None])
        whole = sides(own, self.low) * -schedule.rate(t)[:, None]
        bound = torch.where(first, whole, 0.0) if alone else share * whole
        if self.weights == "unit":
            return torch.ones_like(own), bound
        if self.weights == "half":
            return share.expand(own.shape).to(own), bound
        return share * torch.where(first, schedule.weight(t)[:, None], schedule.weight_of_known(t)[:, None]), bound


def two_laws(model: Any) -> bool:
    """Whether a model of two groups predicts each by a law of its own: a query sees the registers of the group it looks at."""
    return model.registers is not None


def check_low(low: float) -> None:
    """Raise ValueError for a smallest share that is none."""
    if not 0 <= low < 0.5:
        raise ValueError(f"low is {low}; the smallest share of hidden sites lies in [0, 0.5)")


def presence(batch: Batch) -> Bool[Tensor, "B L"] | None:
    """What a model is told about padding: None where there is none (the fast attention), else the sites that exist."""
    return batch.valid if batch.padded else None


def sides(own: Float[Tensor, "B L"], floor: float) -> Float[Tensor, "B L"]:
    """Bound weights, before -alpha', of the two halves of a site that is in its half with probability `own`.

    1 / own where own >= floor, scaled by 1 / (1 - floor): over `own` uniform on [0, 1] (t with the linear schedule)
    either side then has the mean of the masked bound over [floor, 1] (docs/objectives.md).
    """
    return torch.where(own >= floor, 1 / (own.clamp_min(floor) * (1 - floor)), 0.0)


def scatter_sites(values: Float[Tensor, "B L"], log: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """Values of log entries, put at their sites."""
    return torch.zeros_like(values).scatter(1, log, values)


def terms(
    model: Any, hidden: Float[Tensor, "B L D"], batch: Batch, *, wanted: Bool[Tensor, "B L"],
    loss_weight: Float[Tensor, "B L"], bound_weight: Float[Tensor, "B L"], piece: Piece | None = None,
) -> Terms:
    """The cross-entropies of the `wanted` sites (or another loss of theirs, `piece`), weighted twice: to train on and to report."""
    if piece is None:
        loss, nll = weighted_nll(model, hidden, batch.tokens, loss_weight, wanted=wanted)
    else:
        loss, nll = weighted_sum(model, hidden, loss_weight, piece, wanted=wanted, chunk=sites_of_digits(model))
    zero = torch.zeros_like(nll)
    return Terms(
        loss=loss,
        bound=torch.where(wanted, bound_weight * nll, zero).sum(1),
        tokens=batch.targets.sum(1),
        token_loss=torch.where(wanted, loss_weight * nll, zero),
    )
