"""The validation bound: nats per token, with its Monte-Carlo standard error.

Letters: B rows of a batch, L sites, S samples (times) per row, R rows in all.
"""
from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskless.data.batch import Batch
from maskless.evaluation.micro import micro_batches
from maskless.noise import uniform
from maskless.objectives.any_order import AnyOrder
from maskless.objectives.base import Draws, Objective
from maskless.objectives.draws import EVALUATION, SITES, TIMES

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
BELOW_ONE = 1 - 2.0**-24
LARGEST_EXPONENT = math.log(sys.float_info.max)


@dataclass(frozen=True)
class Bound:
    """An estimate of an upper bound on -log p, over some rows.

    Attributes:
        nats: sum over all target tokens, mean over samples.
        tokens: target tokens.
        rows: rows measured.
        samples: times drawn for each row.
        standard_error: of `nats_per_token`, from the spread between rows (the clusters: the samples of one row are
            averaged first). Times are spread evenly over rows, which only makes the true error smaller.
        valid: whether the objective is a bound; if not, no perplexity is reported.
    """

    nats: float
    tokens: int
    rows: int
    samples: int
    standard_error: float
    valid: bool

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens

    @property
    def bits_per_token(self) -> float:
        return self.nats_per_token / math.log(2)

    @property
    def perplexity(self) -> float | None:
        """exp(nats per token), infinite beyond float64; None where the objective is not a bound."""
        if not self.valid:
            return None
        return math.exp(self.nats_per_token) if self.nats_per_token < LARGEST_EXPONENT else math.inf

    def bits_per(self, units: int) -> float:
        """Bits per byte, character or word, given how many of them the measured tokens spell."""
        if units < 1:
            raise ValueError(f"units is {units}; give the number of bytes, characters or words in the measured text")
        return self.nats / math.log(2) / units


def times(
    seed: int, rows: Int[Tensor, " B"], sample: int, samples: int, interval: tuple[float, float],
) -> Float[Tensor, " B"]:
    """Time of sample `sample` of `samples` for rows of a data set of any size, a pure function of the row's number.

    A row's samples lie in S equal parts. From row to row the start moves by the golden ratio from one random origin, so
    each time is uniform by itself (the estimate is unbiased) and all of them together cover the interval evenly.
    """
    origin = uniform(seed, EVALUATION, TIMES, rows * 0)
    start = (origin + rows.to(origin.dtype) * GOLDEN_RATIO) % 1
    low, high = interval
    return low + (high - low) * ((start + sample) / samples)


def _draws(seed: int, rows: Tensor, sample: int, samples: int, batch: Batch, objective: Objective) -> Draws:
    t = times(seed, rows, sample, samples, objective.bound_times)
    sites = torch.arange(batch.tokens.shape[1], device=rows.device)
    u = uniform(seed, EVALUATION, SITES, sample, rows[:, None], sites)
    t, u = (x.to(torch.float32).clamp(2.0**-24, BELOW_ONE) for x in (t, u))
    return Draws(t, u)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout), and back."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@torch.inference_mode()
def bound(
    model: nn.Module, objective: Objective, batches: Iterable[Batch], *, seed: int = 0, samples: int = 1, micro: int | None = None,
) -> Bound:
    """The objective's bound over a validation set.

    Args:
        model: any denoiser the objective fits; put into evaluation mode and back.
        objective: its `Terms.bound` is averaged at its `bound_times`.
        batches: the rows in order; how they are cut into batches does not change the result.
        seed: of times and hidden sites. The same seed measures every checkpoint with the same noise.
        samples: times per row; the error falls slowly with it when there are many rows.
        micro: rows that are computed at once, in batches of this one shape whatever the `batches` are, so that not a bit depends on them;
            None: as they come.

    Raises:
        ValueError: no target tokens at all, `samples` < 1, or an objective that has no bound and says why (`JointCE`).

    Example:
        >>> from maskless.evaluation.likelihood import Bound
        >>> found = Bound(nats=150.0, tokens=100, rows=10, samples=1, standard_error=0.02, valid=True)
        >>> round(found.perplexity, 2)
        4.48
    """
    if samples < 1:
        raise ValueError(f"samples is {samples}; at least one time per row is needed")
    if (reason := getattr(objective, "no_bound", None)) is not None:
        raise ValueError(reason)
    each, tokens = _each_draw(model, objective, batches, samples, seed, micro)
    return _summary(each.mean(0), tokens, samples, objective.valid)


def _each_draw(
    model: nn.Module, objective: Objective, batches: Iterable[Batch], samples: int, seed: int, micro: int | None,
) -> tuple[Float[Tensor, "S R"], Int[Tensor, " R"]]:
    """Nats of every draw and row, and the target tokens of every row."""
    device = next(model.parameters()).device
    cuts = ((batch, len(batch)) for batch in batches) if micro is None else micro_batches(batches, micro)
    nats, tokens, first = [], [], 0
    with evaluating(model):
        for cut, real in cuts:
            batch = cut.to(device)
            rows = torch.arange(first, first + len(batch.tokens), device=device)
            first += real
            draws = (_draws(seed, rows, k, samples, batch, objective) for k in range(samples))
            nats.append(torch.stack([objective(model, batch, each).bound.double().cpu()[:real] for each in draws]))
            tokens.append(objective.count(batch).cpu()[:real])
    if not nats:
        raise ValueError("the validation set has no rows; check its split")
    return torch.cat(nats, 1), torch.cat(tokens)


def ratio_error(totals: Float[Tensor, " R"], counts: Int[Tensor, " R"]) -> float:
    """The standard error of sum(totals) / sum(counts) from the spread between rows; infinite for one row."""
    rows, total = len(totals), int(counts.sum())
    residual = totals - float(totals.sum()) / total * counts        # of the ratio estimator, one per row
    return math.sqrt(float(residual.square().sum()) * rows / (rows - 1)) / total if rows > 1 else math.inf


def _summary(nats: Float[Tensor, " R"], tokens: Int[Tensor, " R"], samples: int, valid: bool) -> Bound:
    total = int(tokens.sum())
    if total == 0:
        raise ValueError("the validation set has 0 target tokens; check its split and its given sites")
    return Bound(float(nats.sum()), total, len(nats), samples, ratio_error(nats, tokens), valid)


@dataclass(frozen=True)
class OrderBounds:
    """The one-pass any-order bounds of an order-causal model; exact is neither of them.

    Attributes:
        average: the mean over orders of -log p along an order (`AnyOrder`); its standard error is over rows.
        weighted: -log of the mean over the same orders of p: tighter, and tighter with more orders, but no mean of independent draws.
        orders: orders per row.
        order_error: standard error of `average.nats_per_token` over orders, the rows fixed.
    """

    average: Bound
    weighted: Bound
    orders: int
    order_error: float


@torch.inference_mode()
def any_order_bound(
    model: nn.Module, batches: Iterable[Batch], *, orders: int = 8, seed: int = 0, anchor: bool = True, micro: int | None = None,
) -> OrderBounds:
    """Both any-order bounds of a validation set, from `orders` passes over every row.

    Args:
        model: order-causal; put into evaluation mode and back.
        batches: the rows in order.
        orders: random orders per row, K of the importance-weighted bound.
        seed: of the orders.
        anchor: site 0 opens every order.
        micro: as in `bound`.

    Raises:
        ValueError: `orders` < 2, or no target tokens.
    """
    if orders < 2:
        raise ValueError(f"orders is {orders}; a standard error over orders needs at least 2")
    nats, counts = _each_draw(model, AnyOrder(anchor=anchor), batches, orders, seed, micro)
    weighted = math.log(orders) - torch.logsumexp(-nats, 0)
    error = float(nats.var(0).div(orders).sum().sqrt()) / max(int(counts.sum()), 1)
    return OrderBounds(_summary(nats.mean(0), counts, orders, True), _summary(weighted, counts, orders, True), orders, error)
