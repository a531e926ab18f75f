"""How probable some sites are, given others: one bound for every any-order model, with its Monte-Carlo error; exact from left to right.

An any-order model factorises the target sites along any order. The mean over random orders of -log p is a bound on -log p(targets | given), and

    sum over orders' entries  =  E over k uniform in 1..n, over subsets H of k targets:  (n / k) sum over i in H of -log p(x_i | all but H)

so one pass with k of n targets hidden (of n digits, where a model writes tokens in digits) is an unbiased draw of it (Uria et al.,
arXiv 1310.1757, eq. 8; Nie et al., arXiv 2502.09992, eq. 6). With n = 1 every draw is the value itself. An order-causal model runs a whole
order in one pass. Which tokens a draw happens to hide is most of its noise, and is taken out (`controlled`). Why this and not a random time t:
docs/tasks.md.

Letters: B rows, L sites, S samples, n target sites of a row, P rows of a pass.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskless.data.batch import Batch
from maskless.models import Denoiser, kind_of
from maskless.noise import uniform
from maskless.objectives import AnyOrder, Masked, Objective, Partition, PrimePartition, SubNelbo, own
from maskless.objectives.base import Draws, Timed, presence
from maskless.objectives.chunks import sites_of_digits, weighted_sum
from maskless.objectives.cross_entropy import weighted_nll
from maskless.objectives.prime import Hidden, digit_uniforms, single

COUNTS, ORDERS, PROMPTS = 0x434F554E, 0x4F524452, 0x50524F4D        # purpose words: how many targets are hidden, which; the order of a prompt


@dataclass(frozen=True)
class LogProb:
    """log p(of | given) in nats.

    Attributes:
        nats: the value; for kind "bound" the true log-probability is at least this, up to the Monte-Carlo error.
        standard_error: of `nats`; 0 for an exact value. Counts of hidden sites are spread evenly over samples, so the true error is smaller.
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
def conditional_bounds(
    model: Denoiser, batch: Batch, *, samples: int, seed: int = 0, keys: Sequence[int] | None = None, chunk: int = 64, anchor: bool = True,
) -> Float[Tensor, "B S"]:
    """Estimates of a lower bound on log p(targets | given) of every row, one per sample; their mean is the bound.

    Args:
        model: any; from left to right a single sample says all, and targets must be followed by no given site.
        batch: its given sites are seen, its targets scored, its padding neither.
        samples: S.
        seed: of counts and orders.
        keys: which noise each row draws; rows with equal keys and equally many targets hide the same ones, so that their difference has less
            error than either. None: every row its own.
        chunk: P; the last pass is filled up, so that every pass has the same shape and a row's value does not depend on how many rows there are.
        anchor: site 0 (BOS) opens every order; read by order-causal models.
    """
    rows = len(batch)
    key = torch.arange(rows) if keys is None else torch.tensor(list(keys), dtype=torch.int64)
    parts = []
    for some in torch.arange(rows * samples).split(chunk):
        full = torch.cat([some, some[-1:].expand(chunk - len(some))])
        source = full // samples
        part = _rows(batch, source)
        position, u = _draws(part, key[source], full % samples, samples, seed, model.shuffle_prompt)
        device = model.head.weight.device
        found = _one_pass(model, part.to(device), Draws(position, u).to(device), anchor)
        parts.append([each[:len(some)].cpu() for each in found])
    nll, weight = (torch.cat(each).unflatten(0, (rows, samples)) for each in zip(*parts))
    return -controlled(nll.double(), weight.double(), batch.targets)


def controlled(nll: Float[Tensor, "B S L"], weight: Float[Tensor, "B S L"], targets: Bool[Tensor, "B L"]) -> Float[Tensor, "B S"]:
    """Sums over sites of weight * nll, with the noise of which sites a draw weighs taken out; as unbiased as the plain sums.

    Where a_i is any guess of the nll of site i, sum_i weight_i (nll_i - a_i) + sum_i a_i has the same mean, because every target's weight has
    mean 1. The guess for a draw is the average of the draws of the other parity, which are independent of it.
    """
    samples, seen = nll.shape[1], (weight > 0).double()
    values = (weight * nll).sum(2)
    for half in (0, 1):
        here, other = torch.arange(half, samples, 2), torch.arange(1 - half, samples, 2)
        if len(other) == 0:
            continue
        counts = seen[:, other].sum(1)                              # (B, L)
        sums = (seen[:, other] * nll[:, other]).sum(1)
        usual = (sums.sum(1) / counts.sum(1).clamp_min(1))[:, None]
        guess = torch.where(counts > 0, sums / counts.clamp_min(1), usual) * targets
        values[:, here] += guess.sum(1)[:, None] - (weight[:, here] * guess[:, None]).sum(2)
    return values


def _rows(batch: Batch, which: Int[Tensor, " P"]) -> Batch:
    labels = None if batch.labels is None else batch.labels[which]
    return Batch(batch.tokens[which], batch.valid[which], batch.given[which], labels)


def _draws(
    batch: Batch, key: Int[Tensor, " P"], sample: Int[Tensor, " P"], samples: int, seed: int, shuffle_prompt: bool,
) -> tuple[Float[Tensor, " P"], Float[Tensor, "P L"]]:
    """Where between one and all targets the number of hidden ones lies, stratified over samples; and where in the order every site stands.

    Given sites stand as they do when the model samples: in reading order, or in a random one where it shuffles prompts.
    """
    position = (sample + uniform(seed, COUNTS, key, sample)) / samples
    ordinal = (batch.targets.cumsum(1) - 1).clamp_min(0)            # by the target's number, not its site: contexts may differ in length
    u = uniform(seed, ORDERS, key[:, None], sample[:, None], ordinal)
    site = torch.arange(u.shape[1])[None]
    prompt = uniform(seed, PROMPTS, key[:, None], sample[:, None], site) if shuffle_prompt else (site / u.shape[1]).to(u)
    u = torch.where(batch.given, prompt, u)
    return position.float(), u.float().clamp_max(1 - 2.0**-24)


def _one_pass(model: Denoiser, batch: Batch, draws: Draws, anchor: bool) -> tuple[Float[Tensor, "P L"], Float[Tensor, "P L"]]:
    """The nlls of one draw of every row, and what each weighs in the draw's estimate: 0, or n / k of the k hidden ones."""
    objective = own(kind_of(model.config), anchor=anchor)
    if not isinstance(objective, Timed):                            # it runs whole orders, or the only one it has
        nll = objective(model, batch, draws).token_loss
        return nll, batch.targets.to(nll)
    if isinstance(objective, (SubNelbo, PrimePartition)):
        return _digits(model, batch, draws)
    assert isinstance(objective, (Masked, Partition))
    hidden, share = _hidden(batch.targets, draws.u, draws.t)
    states = model.hidden(batch.tokens, ~hidden, cond=batch.labels, t=share, present=presence(batch))
    _, nll = weighted_nll(model, states, batch.tokens, hidden.float(), wanted=hidden)
    return torch.where(hidden, nll, 0.0), hidden / share[:, None]


def _hidden(targets: Bool[Tensor, "P S"], u: Float[Tensor, "P S"], position: Float[Tensor, " P"]) -> tuple[Bool[Tensor, "P S"], Float[Tensor, " P"]]:
    """Which k of n targets are hidden, those with the smallest `u`, and k / n; `position` says where k lies between 1 and n."""
    n = targets.sum(1)
    count = 1 + torch.minimum((position * n).long(), (n - 1).clamp_min(0))
    rank = torch.where(targets, u, 2.0).argsort(dim=1, stable=True).argsort(1)
    return targets & (rank < count[:, None]), (count / n.clamp_min(1)).float()


def _digits(model: Any, batch: Batch, draws: Draws) -> tuple[Float[Tensor, "P L"], Float[Tensor, "P L"]]:
    """The same with k of all n l digits of the targets hidden: nlls of l digits by the site's hidden ones, weighted by how many these are."""
    per_site = model.per_site
    slots, share = _hidden(batch.targets.repeat_interleave(per_site, 1), digit_uniforms(draws.u, per_site).flatten(1), draws.t)
    hidden = slots.unflatten(1, (-1, per_site))
    seen = Hidden.of(model, batch, hidden, share)
    some, number = hidden.any(-1), hidden.sum(-1)
    _, nll = weighted_sum(model, seen.states, some.float(), single(model.code, seen, True), wanted=some, chunk=sites_of_digits(model))
    return torch.where(some, nll * per_site / number.clamp_min(1), 0.0), number / (per_site * share[:, None])


def log_prob(model: Denoiser, batch: Batch, *, samples: int, seed: int = 0, anchor: bool = True) -> LogProb:
    """log p(targets | given) of a batch of one row."""
    return log_probs(model, batch, samples=samples, seed=seed, anchor=anchor)[0]


def log_probs(
    model: Denoiser, batch: Batch, *, samples: int, seed: int = 0, keys: Sequence[int] | None = None, chunk: int = 64, anchor: bool = True,
) -> list[LogProb]:
    """log p(targets | given) of every row; arguments are those of `conditional_bounds`.

    Raises:
        ValueError: the network gave numbers that are not finite.
    """
    exact = model.left_to_right
    values = conditional_bounds(model, batch, samples=1 if exact else samples, seed=seed, keys=keys, chunk=chunk, anchor=anchor)
    if not bool(values.isfinite().all()):
        bad = int((~values.isfinite()).any(1).sum())
        raise ValueError(f"log-probabilities of {bad} of {len(batch)} texts are not finite; look at the model's weights, or score in float32")
    errors = torch.zeros(len(values)) if values.shape[1] == 1 else values.std(1) / math.sqrt(samples)
    kind = "exact" if exact else "bound"
    return [LogProb(nats, error, n, kind) for nats, error, n in zip(values.mean(1).tolist(), errors.tolist(), batch.targets.sum(1).tolist())]


@torch.inference_mode()
def greedy(model: Denoiser, batch: Batch, *, together: bool = False, chunk: int = 64, anchor: bool = True) -> Bool[Tensor, " B"]:
    """Whether each row's targets are what greedy decoding from left to right would write in their place.

    Args:
        together: all targets at once, each the most probable given the given sites alone, as the released evaluation of LAMBADA decodes.
        chunk: rows of a pass.
        anchor: as in `conditional_bounds`.
    """
    row, site = batch.targets.nonzero(as_tuple=True)                # (T,) of every target
    device, right = model.head.weight.device, []
    for some in torch.arange(len(row)).split(chunk):
        part = _rows(batch, row[some])
        later = torch.arange(batch.tokens.shape[1]) >= site[some, None]
        known = part.given | (part.targets & ~later & (not together))
        states = _states(model, part.to(device), known.to(device), None if together else own(kind_of(model.config), anchor=anchor))
        logits = model.head(states[torch.arange(len(some)), site[some]])
        if model.allowed is not None:
            logits = logits.masked_fill(~model.allowed, -torch.inf)
        right.append(logits.argmax(-1).cpu() == batch.tokens[row[some], site[some]])
    wrong = torch.zeros(len(batch), dtype=torch.int64).index_add_(0, row, (~torch.cat(right)).long()) if right else torch.zeros(len(batch))
    return wrong == 0


def _states(model: Any, batch: Batch, known: Bool[Tensor, "P L"], one_by_one: Objective | None) -> Float[Tensor, "P L D"]:
    """The state of every unknown site from the known ones; the targets of an order-causal model may be read as one order, from left to right."""
    if not isinstance(one_by_one, AnyOrder):
        share = (~known & batch.valid).sum(1) / batch.targets.sum(1).clamp_min(1)
        return model.hidden(batch.tokens, known, cond=batch.labels, t=share.float(), present=presence(batch))
    objective = replace(one_by_one, left_to_right=1.0)
    log = objective.order(batch, Draws(torch.zeros(len(batch), device=known.device), torch.zeros(known.shape, device=known.device)))
    states = model.hidden_in_order(batch.tokens, log, objective.commits(batch.in_order(log)), cond=batch.labels)
    return torch.zeros_like(states).scatter(1, log[..., None].expand_as(states), states)
