"""How probable a span is, given the rest: one bound for every model, with its Monte-Carlo error.

B rows, L sites, S samples.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from maskless.data.batch import Batch
from maskless.models import Denoiser, kind_of
from maskless.objectives import own
from maskless.objectives.base import Draws
from maskless.objectives.draws import draws

TINY = 2.0**-24


@dataclass(frozen=True)
class LogProb:
    """log p(of | given) in nats.

    Attributes:
        nats: the value; for kind "bound" the true log-probability is at least this, up to the Monte-Carlo error.
        standard_error: of `nats`; 0 for an exact value.
        tokens: how many tokens were scored.
        kind: "bound" (expectation over random orders; masked and partition models) or "exact" (the chain rule of an autoregressive model).

    Example:
        >>> LogProb(nats=-6.0, standard_error=0.1, tokens=3, kind="bound").nats_per_token
        -2.0
    """

    nats: float
    standard_error: float
    tokens: int
    kind: Literal["bound", "exact"]

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens


@torch.inference_mode()
def conditional_bounds(model: Denoiser, batch: Batch, *, samples: int, seed: int = 0, chunk: int = 64) -> Float[Tensor, "B S"]:
    """Estimates of a lower bound on log p(targets | given) of every row, one per sample; their mean is the bound.

    Each row is scored at `samples` stratified times: hidden targets are predicted from the given sites and the targets not hidden.
    """
    objective = own(kind_of(model.config))
    rows, length = batch.tokens.shape
    low, high = objective.bound_times
    numbers = torch.arange(rows * samples)
    each = [draws(seed, row, torch.arange(samples), samples, length, low=low, high=high) for row in range(rows)]
    t, u = (torch.cat(parts).clamp(TINY, 1 - TINY) for parts in zip(*((d.t, d.u) for d in each)))
    device, found = model.head.weight.device, []
    for some in numbers.split(chunk):
        source = some // samples
        part = Batch(batch.tokens[source], batch.valid[source], batch.given[source]).to(device)
        found.append(-objective(model, part, Draws(t[some], u[some]).to(device)).bound.double().cpu())
    return torch.cat(found).view(rows, samples)


def log_prob(model: Denoiser, batch: Batch, *, samples: int, seed: int = 0) -> LogProb:
    """log p(targets | given) of a batch of one row."""
    tokens = int(batch.targets.sum())
    if model.left_to_right:
        return LogProb(float(conditional_bounds(model, batch, samples=1)[0, 0]), 0.0, tokens, "exact")
    values = conditional_bounds(model, batch, samples=samples, seed=seed)[0]
    return LogProb(float(values.mean()), float(values.std(correction=1)) / math.sqrt(samples), tokens, "bound")
