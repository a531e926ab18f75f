"""Lossless speculative decoding in any order: draft several sites at once, verify them in one pass (for token-causal models).

A round, with the next sites of the order `b d a | c`:

    draft      b, d and a drawn in parallel, q_j = law given what is known
    verify     the drafts pass the encoder, uncommitted; p_j = law given what is known and the drafts before j; p of c with all of them
    accept     draft j with probability min(1, p_j / q_j), one after the other; at the first refusal draw from (p_j - q_j)+ and drop the rest;
               if all pass, draw c from the last law
    settle     commit what was kept, cut the cache back to it

What is drawn follows exactly the law of one site a step in the same order (Leviathan et al. 2023; Chen et al. 2023), which for a model that
reads in any order is any order's law. The first draft always passes, so a round of two calls reveals two sites at least.

B rows, L sites, K drafts, D width, V vocabulary.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskless.decoding.canvas import Canvas, Sites, allowed_at
from maskless.decoding.choice import Choice, Draw
from maskless.decoding.decode import Callback, Predictor, Record, check
from maskless.decoding.guidance import Guided, constant, halves
from maskless.decoding.noise import ACCEPT, CORRECT, Noise, inverse_cdf
from maskless.decoding.order import Order, Permutation, Planned, Random
from maskless.decoding.plan import Step
from maskless.decoding.sampler import Model, labels_of, log_prompt


@runtime_checkable
class Verifier(Predictor, Protocol):
    """A predictor that can look at tokens that are not on the canvas."""

    def verify(self, canvas: Canvas, sites: Sites, tokens: Int[Tensor, "B K"]) -> Float[Tensor, "B K1 D"]:
        """States of K + 1 `sites`; query j sees what is known and the `tokens` at sites 0..j-1."""
        ...

    def settle(self, canvas: Canvas) -> None:
        """Keep of the verified tokens what the canvas has committed, but for each row's newest."""
        ...


@runtime_checkable
class Drafted(Protocol):
    """What speculation asks of a model."""

    @property
    def shuffle_prompt(self) -> bool: ...

    @property
    def null_label(self) -> int | None: ...

    def verifier(self, cond: Int[Tensor, " B"] | None = None) -> Verifier: ...


@dataclass(frozen=True)
class GuidedVerifier(Guided):
    """Guidance of a predictor that verifies: both halves see the same drafts."""

    predictor: Verifier

    def verify(self, canvas: Canvas, sites: Sites, tokens: Int[Tensor, "B K"]) -> Float[Tensor, "B K1 D"]:
        both = self.predictor.verify(canvas.doubled(self.forget_prompt), sites.doubled(), tokens.repeat(2, 1))
        conditional, unconditional = both.chunk(2)
        return torch.lerp(unconditional, conditional, 1 + self.scale(Step(0, 1)))

    def settle(self, canvas: Canvas) -> None:
        self.predictor.settle(canvas.doubled(self.forget_prompt))


def acceptance(logp: Float[Tensor, "*N"], logq: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """min(1, p / q) of a drafted token."""
    return (logp - logq).clamp(max=0.0).exp()


def correction(logp: Float[Tensor, "n V"], logq: Float[Tensor, "n V"]) -> Float[Tensor, "n V"]:
    """log of (p - q)+, normalised: the law after a refusal. With q = 0 (nothing was drafted) it is p itself."""
    p = logp.exp()
    rest = (p - logq.exp()).clamp(min=0.0)
    total = rest.sum(-1, keepdim=True)
    return torch.where(total > 0, rest / total, p).log()


@dataclass(frozen=True)
class Round(Record):
    """What one round did: `tried` marks its drafts, `accepted` those that passed; `kept` has one site more per row, while there are sites."""

    tried: Bool[Tensor, "B K"]
    accepted: Bool[Tensor, "B K"]


@dataclass(frozen=True)
class Speculative:
    """A sampler that reveals one site after another, in a planned order, several per two calls of the model.

    Args:
        draft: sites drafted per round, K.
        order: a planned order.
        choice: which token; p and q are both taken after guidance, forbidden ids, temperature, top-k and nucleus.
        guidance: constant strength of guidance, by label where labels are given, else by forgetting the prompt; 0 for none.
        stop_at: an EOS id after which a row is finished.

    Raises:
        ValueError: `draft` below 1, an order that is not planned, guidance that is not finite, or, when run, a model that is not token-causal.

    Example:
        >>> from maskless.decoding.order import LeftToRight
        >>> Speculative(draft=4, order=LeftToRight()).draft
        4
    """

    draft: int = 4
    order: Order = field(default_factory=Random)
    choice: Choice = field(default_factory=Choice)
    guidance: float = 0.0
    stop_at: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.draft, int) or self.draft < 1:
            raise ValueError(f"draft is {self.draft!r}; give the number of sites to draft per round, a whole number of at least 1")
        if not isinstance(self.choice, Choice):
            raise ValueError(f"choice is {self.choice!r}; a draft and its check draw by one law, so give a Choice that stays the same")
        if not isinstance(self.order, Planned):
            raise ValueError(f"order {type(self.order).__name__} chooses sites by what it sees; speculation needs a planned order such as Random")
        constant(self.guidance)

    def __call__(self, model: Drafted | Model, canvas: Canvas, noise: Noise, callback: Callback | None = None,
                 cond: Int[Tensor, " B"] | None = None) -> int:
        """Fill the canvas; returns the NFE, two calls a round.

        Raises:
            ValueError: if a law was not finite or allowed no token.
        """
        calls = 0
        for round in self.rounds(model, canvas, noise, cond):
            calls += 2
            if callback is not None:
                callback(canvas, round)
        check(canvas)
        return calls

    def rounds(self, model: Drafted | Model, canvas: Canvas, noise: Noise, cond: Int[Tensor, " B"] | None = None) -> Iterator[Round]:
        """Decode lazily. The host reads one count per row and round: how many drafts pass depends on tokens."""
        if not isinstance(model, Drafted):
            raise ValueError(f"{type(model).__name__} cannot verify drafts; speculation needs a token-causal partition model (causal: token)")
        noise.check_rows(canvas.rows)
        log_prompt(model, canvas, noise)
        return _rounds(self, self._verifier(model, labels_of(model, canvas, cond)), canvas, noise)

    def _verifier(self, model: Drafted, labels: Int[Tensor, " B"] | None) -> Verifier:
        if not self.guidance:
            return model.verifier(cond=labels)
        if labels is None or model.null_label is None:
            return GuidedVerifier(model.verifier(), constant(self.guidance), forget_prompt=True)
        return GuidedVerifier(model.verifier(cond=halves(labels, model.null_label)), constant(self.guidance))


@torch.inference_mode()
def _rounds(how: Speculative, predictor: Verifier, canvas: Canvas, noise: Noise) -> Iterator[Round]:
    order, begun, most = how.order.start(canvas, [], noise), canvas.count, canvas.length
    assert isinstance(order, Permutation)
    how = replace(how, draft=min(how.draft, max(1, *canvas.open.sum(1).tolist())))
    for index in range(canvas.length):
        if not canvas.open.any():
            return
        ahead = order.ahead(canvas, canvas.count - begun, how.draft + 1)                         # (B, K + 1)
        step = Step(index, most, most=how.draft)
        drafts = Sites(ahead.index[:, :-1], ahead.valid[:, :-1])
        guess = predictor(canvas, drafts, step)
        draft = how.choice(guess, predictor.head, allowed=canvas.restrict(predictor.allowed, drafts), pick=noise.picker(drafts, index))
        truth = predictor.verify(canvas, ahead, draft.token)
        round = judge(how.choice, predictor, canvas, step, ahead, draft, guess, truth, noise)
        canvas.trouble = canvas.trouble | round.draw.trouble
        canvas.commit(ahead, round.draw.token, round.kept, None)
        canvas.look()
        predictor.settle(canvas)
        if how.stop_at is not None:
            canvas.stop_at(how.stop_at)
            canvas.look()
        yield round


def judge(choice: Choice, predictor: Predictor, canvas: Canvas, step: Step, ahead: Sites, draft: Draw, guess: Float[Tensor, "B K D"],
          truth: Float[Tensor, "B K1 D"], noise: Noise) -> Round:
    """Accept drafts one after the other, and draw the site after the last accepted one."""
    drafts, tried = guess.shape[1], ahead.valid[:, :-1]
    logq = draft.logp if choice.temperature else torch.zeros_like(draft.logp)                   # at temperature 0 nothing else could be drawn
    of_drafts = canvas.restrict(predictor.allowed, Sites(ahead.index[:, :-1], tried))
    logp = choice.score(truth[:, :-1], predictor.head, allowed=of_drafts, tokens=draft.token)
    luck = noise.at(ACCEPT, step.index, ahead.index[:, :-1])
    accepted = (tried & (luck < acceptance(logp, logq))).long().cumprod(1).bool()
    place = accepted.sum(1, keepdim=True)                                                       # (B, 1) the site to draw
    here = place[..., None].expand(-1, -1, truth.shape[-1])
    allowed = allowed_at(canvas.restrict(predictor.allowed, Sites(ahead.index.gather(1, place), ahead.valid.gather(1, place))), slice(None))
    law = choice.law_of(predictor.head(truth.gather(1, here)[:, 0]), allowed)                   # (B, V)
    last = choice.law_of(predictor.head(guess.gather(1, here.clamp(max=drafts - 1))[:, 0]), allowed)
    refused = (place < drafts) & tried.gather(1, place.clamp(max=drafts - 1))
    final = correction(law, torch.where(refused, last, -torch.inf))
    u = noise.at(CORRECT, step.index, ahead.index.gather(1, place))[:, 0]
    token = inverse_cdf(final, u)
    tokens = torch.cat([draft.token, draft.token[:, :1]], 1).scatter(1, place, token[:, None])
    kept = ahead.valid & (torch.arange(drafts + 1, device=place.device) <= place)
    trouble = draft.trouble | law.isnan().any()
    known = torch.cat([logp, logp[:, :1]], 1).scatter(1, place, law.gather(1, token[:, None]))
    return Round(step, ahead, Draw(tokens, known, None, trouble), kept, tried, accepted)
