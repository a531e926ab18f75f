"""Which token: temperature, top-k, nucleus, and the draw, on the queried sites only; the same at every step, or not.

B rows, Q queried sites, D width, V vocabulary, n queries of a chunk.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskless.decoding.canvas import Allowed, allowed_at
from maskless.decoding.noise import Pick
from maskless.decoding.plan import Step

FIRST = 32                              # queries of the first piece of a draw
COLDEST = 1e-30                         # logits divided by less are not finite

Head = Callable[[Float[Tensor, "n D"]], Float[Tensor, "n V"]]
Measure = Callable[[Float[Tensor, "n V"]], Float[Tensor, " n"]]     # what an order wants to know of each law (margin, entropy)


class Draw(NamedTuple):
    """The tokens drawn, the log-probability of each under the law it was drawn from, and the order's measure of that law."""

    token: Int[Tensor, "B Q"]
    logp: Float[Tensor, "B Q"]
    measure: Float[Tensor, "B Q"] | None
    trouble: Bool[Tensor, ""]                                       # a law was not finite or allowed no token


def top_k(logits: Float[Tensor, "n V"], k: int) -> Float[Tensor, "n V"]:
    """-inf below the k-th largest logit of each row (ties with it stay)."""
    least = logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def nucleus(logits: Float[Tensor, "n V"], p: float) -> Float[Tensor, "n V"]:
    """-inf outside the smallest prefix of the descending sort whose probability exceeds p (Holtzman et al. 2020; the crossing token stays)."""
    best, order = logits.sort(dim=-1, descending=True)
    drop = best.softmax(-1).cumsum(-1).roll(1, -1) > p              # those before it suffice
    drop[:, 0] = False
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -torch.inf)


@dataclass(frozen=True)
class Choice:
    """How a token is drawn from its logits.

    Args:
        temperature: divides the logits; 0 takes the most probable token.
        top_k: keep the k most probable tokens; 0 keeps all.
        top_p: nucleus mass; 1 keeps all.
        forbid: ids never drawn, beside those the model forbids (BOS and padding when a gap is filled).
        chunk: logits held at once (their float64 sums beside them), so that (B, Q, V) never exists: a draw takes about 24 bytes for each.

    Raises:
        ValueError: for values out of range.

    Example:
        >>> Choice(top_k=2).law(torch.tensor([[0.0, 0.0, -1.0]]), None).exp().round(decimals=3).tolist()
        [[0.5, 0.5, 0.0]]
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    forbid: tuple[int, ...] = ()
    chunk: int = 1 << 21

    def __post_init__(self) -> None:
        if not (self.temperature == 0 or COLDEST <= self.temperature < float("inf")):
            raise ValueError(f"temperature {self.temperature} is not 0 or a finite number of at least {COLDEST:g}; "
                             "1 samples the model's own law, 0 takes the most probable token")
        if self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"top_k {self.top_k} must be >= 0 (0 keeps all) and top_p {self.top_p} in (0, 1] (1 keeps all)")

    def at(self, step: Step) -> Choice:
        """The choice of a step: this one (`Choices` has others)."""
        return self

    def law(self, logits: Float[Tensor, "n V"], allowed: Bool[Tensor, "... V"] | None) -> Float[Tensor, "n V"]:
        """Log-probabilities after allowed ids, temperature, top-k and nucleus, in float32 at least."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if allowed is not None:
            logits = logits.masked_fill(~allowed, -torch.inf)
        if self.forbid:
            logits = logits.clone()
            for id in self.forbid:
                logits[:, id] = -torch.inf
        if self.temperature not in (0, 1):
            logits = logits / self.temperature
        if self.top_k:
            logits = top_k(logits, self.top_k)
        if self.top_p < 1:
            logits = nucleus(logits, self.top_p)
        return logits.log_softmax(-1)

    def law_of(self, logits: Float[Tensor, "n V"], allowed: Bool[Tensor, "... V"] | None) -> Float[Tensor, "n V"]:
        """Log-probabilities of what is really drawn: `law`, or at temperature 0 the most probable token alone."""
        logp = self.law(logits, allowed)
        if self.temperature:
            return logp
        best = logp.argmax(-1, keepdim=True)
        return torch.where(logp.isnan(), logp, torch.full_like(logp, -torch.inf).scatter(-1, best, 0.0))

    def score(self, hidden: Float[Tensor, "B Q D"], head: Head, *, allowed: Allowed | None,
              tokens: Int[Tensor, "B Q"]) -> Float[Tensor, "B Q"]:
        """Log-probabilities of given tokens under what is really drawn, in chunks of rows."""
        flat, wanted = hidden.flatten(0, 1), tokens.flatten()[:, None]
        pieces = [self.law_of(logits, allowed_at(allowed, span)).gather(-1, wanted[span])[:, 0] for span, logits in self._pieces(flat, head)]
        return torch.cat(pieces).view(tokens.shape)

    def _pieces(self, flat: Float[Tensor, "N D"], head: Head) -> Iterator[tuple[slice, Float[Tensor, "n V"]]]:
        """Logits of the queries, in pieces of about `chunk` numbers; the first piece is small and tells how many ids there are."""
        start, rows = 0, FIRST
        while start < len(flat):
            span = slice(start, start + rows)
            logits = head(flat[span])
            yield span, logits
            start, rows = span.stop, max(1, self.chunk // logits.shape[-1])

    def __call__(self, hidden: Float[Tensor, "B Q D"], head: Head, *, allowed: Allowed | None, pick: Pick,
                 measure: Measure | None = None) -> Draw:
        """Draw a token for every query, in chunks of rows of the flattened (B * Q, D)."""
        flat = hidden.flatten(0, 1)
        tokens, logps, measures = [], [], []
        for span, logits in self._pieces(flat, head):
            logp = self.law(logits, allowed_at(allowed, span))
            token = logp.argmax(-1) if self.temperature == 0 else pick(logp, span)
            tokens.append(token)
            logps.append(logp.gather(-1, token[:, None].clamp(max=logp.shape[-1] - 1))[:, 0])
            if measure is not None:
                measures.append(measure(logp))
        shape, drawn = hidden.shape[:2], torch.cat(logps)
        # A law with one NaN, or with no allowed token, is NaN everywhere after log-softmax: the drawn token's entry tells.
        return Draw(torch.cat(tokens).view(shape), drawn.view(shape), torch.cat(measures).view(shape) if measures else None, drawn.isnan().any())


@dataclass(frozen=True)
class Choices:
    """A choice that changes from step to step.

    Args:
        choice: what stays the same.
        temperature: of a step, in place of the choice's; None for that. A choice of temperature 0 keeps it.
        top_k: of a step, in place of the choice's; None for that.

    Example:
        >>> choices = Choices(Choice(top_k=5), temperature=inverse_linear(1.0, 2.0))
        >>> [choices.at(Step(i, 3)).temperature for i in (0, 2)], choices.at(Step(0, 3)).top_k
        ([1.0, 0.5], 5)
    """

    choice: Choice = field(default_factory=Choice)
    temperature: Callable[[Step], float] | None = None
    top_k: Callable[[Step], int] | None = None

    def at(self, step: Step) -> Choice:
        heat = self.choice.temperature if self.temperature is None or not self.choice.temperature else self.temperature(step)
        return replace(self.choice, temperature=heat, top_k=self.choice.top_k if self.top_k is None else self.top_k(step))


def inverse_linear(first: float, last: float, *, power: float = 1.0, warmup: int = 0) -> Callable[[Step], float]:
    """Temperatures whose inverse goes from `first` at step 0 to `last` at the last step in equal parts, each raised to `power`.

    In the first `warmup` steps the inverse is halved: the law is flatter there (Halton-MaskGIT has one such step).

    Raises:
        ValueError: an inverse that is not positive, or a negative number of steps.
    """
    if not (0 < first < math.inf and 0 < last < math.inf and math.isfinite(power)) or warmup < 0:
        raise ValueError(f"inverse temperatures {first} to {last}, power {power} and warmup {warmup}: the inverses must be positive numbers, "
                         "the power a number, and the warm-up 0 steps or more")
    return lambda step: (2.0 if step.index < warmup else 1.0) / (first + (last - first) * step.progress) ** power


def rising(base: float, rise: float, power: float = 1.0) -> Callable[[Step], float]:
    """Temperatures base + rise (1 - t)^power, t the time, from 1 at the first step: of MDM-Prime's images, where 1 - t is called t. Steps are
    counted over the whole decode, blocks or none.

    Raises:
        ValueError: if that is not positive everywhere.
    """
    if not (0 < base < math.inf and 0 < base + rise < math.inf and 0 < power < math.inf):
        raise ValueError(f"a temperature from {base} to {base + rise:g} with power {power}: all three must be positive numbers")
    return lambda step: base + rise * (step.index / step.total) ** power


def linear_top_k(first: int, last: int) -> Callable[[Step], int]:
    """Whole numbers from `first` at step 0 to `last` at the last step."""
    return lambda step: round(first + (last - first) * step.progress)
