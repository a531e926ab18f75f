"""Losses of partial masking (MDM-Prime, arXiv 2505.18495): hide digits, predict tokens.

The published loss charges a half-hidden token -log p(token | known digits), for all hidden digits at once. In continuous time digits come
one at a time, and the joint law of several is never drawn from: so its value is no bound (the authors' errata of May 2026; one token of l
equal digits has entropy H and scores H / l). It may be trained on. The bounds here charge what is really revealed (docs/prime.md).

B rows, L sites, l digits of a site, b base, V vocabulary, n sites of a chunk, K known digits, T steps of a sampler.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskless.noise import uniform
from maskless.objectives.base import AnySchedule, Draws, Objective, Terms, Timed, check_low, presence, terms
from maskless.objectives.chunks import Piece
from maskless.objectives.draws import BELOW_ONE
from maskless.schedules import LogLinear
from maskless.subtokens import SubTokenCode

if TYPE_CHECKING:
    from maskless.data.batch import Batch

DIGITS = 108                            # purpose of the random numbers
STEEPEST = 80.0                         # of -log p in a gradient: exp of more would not fit a float
NO_BOUND = ("joint_ce is no likelihood bound: it scores several hidden digits of a token by their joint law, which no sampler of single digits "
            "draws from, and falls as digits are added (docs/prime.md); train on it, and report sub_nelbo or finite_steps")


# -- which digits are hidden ------------------------------------------------------------------------------------------------------------------


def digit_uniforms(u: Float[Tensor, "B L"], length: int) -> Float[Tensor, "B L l"]:
    """A uniform for each of `length` digits of a site, from the site's: the first is that one itself, the others are hashed from its bits."""
    bits = u.to(torch.float32).view(torch.int32).long()[..., None]
    more = uniform(DIGITS, bits, torch.arange(1, length, device=u.device)).to(u.dtype).clamp_max(BELOW_ONE)
    return torch.cat([u[..., None], more], -1)


@dataclass(frozen=True)
class Hidden:
    """A batch of which some digits are hidden, and the law of every site as the model sees it.

    Attributes:
        tokens: (B, L).
        digits, known: (B, L, l).
        states: (B, L, D).
    """

    tokens: Int[Tensor, "B L"]
    digits: Int[Tensor, "B L l"]
    known: Bool[Tensor, "B L l"]
    states: Float[Tensor, "B L D"]

    @staticmethod
    def of(model: Any, batch: Batch, unknown: Bool[Tensor, "B L l"], t: Float[Tensor, " B"]) -> Hidden:
        """Hide `unknown`; `t` is what a time-conditioned model is told."""
        digits, present = model.code.encode(batch.tokens), presence(batch)
        known = ~unknown | batch.given[..., None]
        slots = None if present is None else present.repeat_interleave(model.per_site, 1)
        states = model.hidden_of_digits(digits.flatten(1), known.flatten(1), cond=batch.labels, t=t, present=slots)
        return Hidden(batch.tokens, digits, known, states)


# -- what a site costs, and the slope of that in its logits -----------------------------------------------------------------------------------


def filtered(code: SubTokenCode, logits: Float[Tensor, "n V"], digits: Int[Tensor, "n l"], known: Bool[Tensor, "n l"]) -> Float[Tensor, "n V"]:
    """-inf at classes that disagree with the known digits."""
    return logits.masked_fill(~code.consistent(digits, known), -torch.inf)


def joint(code: SubTokenCode, seen: Hidden, observed: bool) -> Piece:
    """-log p(token | known digits): lse over the classes that agree with them, less the token's logit.

    Args:
        observed: filter by what is known; else the law is the unfiltered softmax.
    """
    tokens, digits, known = seen.tokens.flatten(), seen.digits.flatten(0, 1), seen.known.flatten(0, 1)

    def piece(logits: Float[Tensor, "n V"], at: Tensor | slice, slope: bool) -> tuple[Tensor, Tensor | None]:
        law = filtered(code, logits, digits[at], known[at]) if observed else logits
        log_z, target = law.logsumexp(-1, keepdim=True), tokens[at, None]
        nll = (log_z - law.gather(-1, target))[:, 0]
        if not slope:
            return nll, None
        p = torch.sub(law, log_z, out=law).exp_()
        return nll, p.scatter_add_(-1, target, p.new_full(target.shape, -1.0))
    return piece


def together(code: SubTokenCode, seen: Hidden, after: Bool[Tensor, "B L l"], observed: bool) -> Piece:
    """-log p(the digits known `after` and not before | the known digits): lse over the classes that agree with K, less those with K after.

    Args:
        observed: filter by what is known before; else the law is the unfiltered softmax.
    """
    digits, known, later = seen.digits.flatten(0, 1), seen.known.flatten(0, 1), after.flatten(0, 1)

    def piece(logits: Float[Tensor, "n V"], at: Tensor | slice, slope: bool) -> tuple[Tensor, Tensor | None]:
        y, before = digits[at], known[at]
        law = filtered(code, logits, y, before) if observed else logits
        told = filtered(code, law, y, later[at] if observed else later[at] & ~before)
        log_z, log_told = law.logsumexp(-1, keepdim=True), told.logsumexp(-1, keepdim=True)
        nll = (log_z - log_told)[:, 0]
        return nll, (law - log_z).exp_().sub_((told - log_told).exp_()) if slope else None
    return piece


def single(code: SubTokenCode, seen: Hidden, observed: bool) -> Piece:
    """sum over the hidden digits j of -log p(y_j | known digits), p(y_j = d) being the sum of p(v) over the classes v with digit_j(v) = d."""
    digits, known = seen.digits.flatten(0, 1), seen.known.flatten(0, 1)

    def piece(logits: Float[Tensor, "n V"], at: Tensor | slice, slope: bool) -> tuple[Tensor, Tensor | None]:
        y, hidden = digits[at], ~known[at]
        law = filtered(code, logits, y, ~hidden) if observed else logits
        log_z = law.logsumexp(-1, keepdim=True)
        each = torch.where(hidden, log_z - code.log_marginals(law).gather(2, y[..., None])[..., 0], 0.0)             # (n, l)
        if not slope:
            return each.sum(1), None
        # d/dz_v of sum_j (lse over all - lse over the classes with digit j) = p_v sum_j (1 - [digit_j(v) = y_j] / p(y_j))
        inverse = torch.where(hidden, each.clamp(max=STEEPEST).exp(), 0.0)
        own = torch.zeros(*y.shape, code.base, dtype=law.dtype, device=law.device).scatter_(2, y[..., None], inverse[..., None])
        return each.sum(1), (law - log_z).exp_().mul_(hidden.sum(1, keepdim=True) - code.of_digits(own))
    return piece


# -- the objectives ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SubNelbo(Timed):
    """The bound of partial masking: E_t w(t) sum over hidden digits of -log p(y_ij | known digits), in nats per token.

    w(t) = -alpha' / (1 - alpha), 1 / t with the linear schedule. Each hidden digit is charged its marginal under the V-way law. To train on
    and to report; with l = 1 it is `Masked`. With the exact posterior it equals the entropy, whatever the code.

    Args:
        schedule: alpha(t), of digits.
        chunk_point: 1 hides digits independently; 0 hides whole tokens, which are then charged their law over V: MDLM's bound. Values
            between train only (`JointCE`): no bound covers a process that would have to hide known digits again.
        filter_observed: charge the law filtered by the known digits; False charges the plain softmax, also a bound.
        low: the smallest share of hidden digits that is drawn; caps the weight of the linear schedule at 1 / low.

    Raises:
        ValueError: for values out of range.

    Source: the errata of arXiv 2505.18495; the specification's sections 2.4 and 9.1.
    """

    schedule: AnySchedule = field(default_factory=LogLinear)
    chunk_point: float = 1.0
    filter_observed: bool = True
    low: float = 1e-3

    def __post_init__(self) -> None:
        check_low(self.low)
        if self.chunk_point not in (0, 1):
            raise ValueError(f"chunk_point is {self.chunk_point} and sub_nelbo is a bound for 0 (whole tokens) and 1 (single digits) only; "
                             "train with joint_ce at values between")

    def __call__(self, model: Any, batch: Batch, draws: Draws) -> Terms:
        return self.scored(model, batch, _unknown(model, draws, self.schedule.hiding(draws.t), self.chunk_point), draws.t)

    def scored(self, model: Any, batch: Batch, unknown: Bool[Tensor, "B L l"], t: Float[Tensor, " B"]) -> Terms:
        """The terms with these digits hidden, at these times."""
        seen = Hidden.of(model, batch, unknown, self.schedule.linear(t))
        piece = (single if self.chunk_point else joint)(model.code, seen, self.filter_observed)
        weight = self.schedule.weight(t)[:, None].expand(batch.tokens.shape)
        bound = weight * ((1 - self.times[0]) / (1 - self.low))     # as in `Masked`
        wanted = batch.targets & ~seen.known.all(-1)
        return terms(model, seen.states, batch, wanted=wanted, loss_weight=weight, bound_weight=bound, piece=piece)


@dataclass(frozen=True)
class JointCE(Timed):
    """The published loss of MDM-Prime: E_t w(t) sum over tokens of -log p(x_i | known digits). To train on, never to report.

    The true posterior minimises it, so a model may learn from it; its value is below the entropy wherever digits depend on each other.
    `reported` names the bounds to measure instead, and asking for the bound of this one is an error.

    Args:
        schedule: alpha(t), of digits.
        weights: "schedule": -alpha' / (1 - alpha), as for text; "unit": 1, as for images.
        chunk_point: at t above it digits of a token are hidden together, below it independently: 1 independently everywhere (v1), 0 whole
            tokens everywhere.
        filter_observed: -inf at classes that disagree with a token's known digits (`carry_over` of the released text code). Without it
            tokens that are known are charged as well.
        low: as for `SubNelbo`.

    Raises:
        ValueError: for values out of range.
    """

    schedule: AnySchedule = field(default_factory=LogLinear)
    weights: Literal["schedule", "unit"] = "schedule"
    chunk_point: float = 1.0
    filter_observed: bool = True
    low: float = 1e-3
    no_bound: ClassVar[str] = NO_BOUND

    def __post_init__(self) -> None:
        check_low(self.low)
        if not 0 <= self.chunk_point <= 1:
            raise ValueError(f"chunk_point is {self.chunk_point}; the time below which digits are hidden independently lies in [0, 1]")

    @property
    def valid(self) -> bool:
        return False

    def reported(self, length: int) -> Mapping[str, Objective]:
        """The bound of the process that is trained; between the two processes both: of digits, and of whole tokens."""
        bound = SubNelbo(chunk_point=0 if self.chunk_point == 0 else 1, filter_observed=self.filter_observed, low=self.low)
        return {"bound": bound, "bound_of_tokens": replace(bound, chunk_point=0)} if 0 < self.chunk_point < 1 else {"bound": bound}

    def __call__(self, model: Any, batch: Batch, draws: Draws) -> Terms:
        return self.scored(model, batch, _unknown(model, draws, self.schedule.hiding(draws.t), self.chunk_point), draws.t)

    def scored(self, model: Any, batch: Batch, unknown: Bool[Tensor, "B L l"], t: Float[Tensor, " B"]) -> Terms:
        """The terms with these digits hidden, at these times; `Terms.bound` is NaN."""
        seen = Hidden.of(model, batch, unknown, self.schedule.linear(t))
        weight = self.schedule.weight(t)[:, None].expand(batch.tokens.shape)
        weight = torch.ones_like(weight) if self.weights == "unit" else weight
        wanted = batch.targets & ~seen.known.all(-1) if self.filter_observed else batch.targets
        piece = joint(model.code, seen, self.filter_observed)
        found = terms(model, seen.states, batch, wanted=wanted, loss_weight=weight, bound_weight=weight, piece=piece)
        return replace(found, bound=torch.full_like(found.bound, torch.nan))


@dataclass(frozen=True)
class FiniteSteps(Timed):
    """The exact bound of a sampler of T steps that draws tokens jointly: sum over steps of E -log p(the digits it reveals | known digits).

    The digits that a step reveals at once are charged their joint law, which is what the sampler draws them from. From the unigram-like
    bound at T = 1 it comes down to `SubNelbo` as T grows. One step in T is drawn for each row, the times say which.

    Args:
        steps: T, the last of which reveals whatever is left.
        schedule: alpha(t), of digits; the times are 1, 1 - 1/T, ..., 0.
        filter_observed: as the sampler does.

    Raises:
        ValueError: fewer than 1 step.
    """

    steps: int = 64
    schedule: AnySchedule = field(default_factory=LogLinear)
    filter_observed: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1 or self.steps != int(self.steps):
            raise ValueError(f"steps is {self.steps}; a sampler takes a whole number, at least 1")

    @property
    def times(self) -> tuple[float, float]:
        return 0.0, 1.0

    def reported(self, length: int) -> Mapping[str, Objective]:
        return {f"bound_of_{self.steps}_steps": self}

    def __call__(self, model: Any, batch: Batch, draws: Draws) -> Terms:
        s = (draws.t * self.steps).floor().clamp(max=self.steps - 1) / self.steps
        t = s + 1 / self.steps
        before, after = (_unknown(model, draws, self.schedule.hiding(time), 1.0) for time in (t, s))
        return self.scored(model, batch, before, after, t)

    def scored(self, model: Any, batch: Batch, before: Bool[Tensor, "B L l"], after: Bool[Tensor, "B L l"], t: Float[Tensor, " B"]) -> Terms:
        """The terms of a step at `t` before which the digits `before` are hidden, and after it `after`."""
        seen = Hidden.of(model, batch, before, self.schedule.linear(t))
        later = ~after | batch.given[..., None]
        weight = torch.full_like(t, float(self.steps))[:, None].expand(batch.tokens.shape)
        wanted = batch.targets & (later & ~seen.known).any(-1)
        piece = together(model.code, seen, later, self.filter_observed)
        return terms(model, seen.states, batch, wanted=wanted, loss_weight=weight, bound_weight=weight, piece=piece)


def _unknown(model: Any, draws: Draws, hiding: Float[Tensor, " B"], chunk_point: float) -> Bool[Tensor, "B L l"]:
    u = digit_uniforms(draws.u, model.per_site)
    together = (draws.t > chunk_point) if chunk_point else torch.ones_like(draws.t, dtype=torch.bool)
    return torch.where(together[:, None, None], u[..., :1], u) < hiding[:, None, None]
