"""The one loop that every sampler is.

B rows, L sites, Q queried sites, D width, V vocabulary.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from maskless.decoding.canvas import Canvas, Sites
from maskless.decoding.choice import Choice, Choices, Draw, Head
from maskless.decoding.noise import REMASK, Noise
from maskless.decoding.order import Order
from maskless.decoding.plan import Step, place


@runtime_checkable
class Predictor(Protocol):
    """A model opened on one decode, with the caches of that decode.

    A site's hidden state is finite and depends on the canvas's log alone, never on which other sites were asked, nor on padding or batch.
    Rows not in `step.rows` may get anything finite.
    """

    @property
    def head(self) -> Head:
        """(n, D) -> (n, V), affine."""
        ...

    @property
    def allowed(self) -> Bool[Tensor, " V"] | None:
        """False on ids never drawn; None where every id may be."""
        ...

    def __call__(self, canvas: Canvas, sites: Sites, step: Step) -> Float[Tensor, "B Q D"]: ...


@dataclass(frozen=True)
class Record:
    """What one step did; `kept` marks the slots that became known."""

    step: Step
    sites: Sites
    draw: Draw
    kept: Bool[Tensor, "B Q"]


@torch.inference_mode()
def decode(predictor: Predictor, canvas: Canvas, steps: Sequence[Step], *, order: Order, choice: Choice | Choices, noise: Noise,
           stop_at: int | None = None) -> Iterator[Record]:
    """Reveal sites step by step; the canvas holds the result.

    Args:
        predictor: a model, opened; guided already where guidance is wanted.
        canvas: what is known; changed in place.
        steps: a plan, made on the host.
        choice: which token, at every step or step by step.
        stop_at: an EOS id: see `Canvas.stop_at`.

    Yields:
        a `Record` for every call of the predictor: their number is the NFE.

    Raises:
        ValueError: a plan that forgets sites, and `stop_at`, whose EOS it might forget; noise of another number of rows.
    """
    if stop_at is not None and any(step.gone is not None for step in steps):
        raise ValueError("a plan that forgets what was drawn may forget the EOS that ended a text; use one without a corrector, or do not stop")
    noise.check_rows(canvas.rows)
    device = canvas.count.device
    order_at_work = order.start(canvas, steps, noise)
    reads = order.adaptive or stop_at is not None
    begun = canvas.unknown.sum(1).clamp_min(1)
    for step in place(steps, device):
        if step.counts is None and step.level is None:              # how much is known by now is the tokens' doing
            step = replace(step, unknown=canvas.unknown.sum(1) / begun)
        if step.gone is not None:
            canvas.forget(_lost(canvas, step, noise))
        if step.counts is None and not _any_open(canvas, step):
            continue
        slots = order_at_work.propose(canvas, step)
        if slots.index.shape[1] == 0:
            continue
        sites = canvas.lift(slots)
        hidden = predictor(canvas, sites, step)
        drawn = choice.at(step)(hidden, predictor.head, allowed=canvas.restrict(predictor.allowed, sites),
                                pick=noise.picker(canvas.drawn(slots, sites), step.index), measure=order_at_work.measure)
        draw = slot_by_slot(canvas, drawn, sites, slots)
        kept = order_at_work.keep(slots, draw, step)
        canvas.trouble = canvas.trouble | draw.trouble
        canvas.commit(slots, draw.token, kept, None if reads else step.counts)
        yield Record(step, slots, draw, kept)
        if stop_at is not None:
            canvas.stop_at(stop_at)
        if reads:
            canvas.look()
            if not canvas.open.any():
                break


def _any_open(canvas: Canvas, step: Step) -> bool:
    """Whether the step's window has anything left to reveal, where counts depend on tokens and the host has just looked."""
    start, stop = step.window or (0, canvas.length)
    return bool(canvas.open[:, start:stop].any())


def _lost(canvas: Canvas, step: Step, noise: Noise) -> Bool[Tensor, "B L"]:
    """The sites that a step forgets: so many of the row's drawn ones in the step's window as the plan says, at random."""
    assert step.gone is not None
    start, stop = step.window or (0, canvas.length)
    rank = noise.at(REMASK, step.index, torch.arange(canvas.length, device=step.gone.device)[None].expand(canvas.rows, -1))
    drawn = canvas.known & ~canvas.prompt & ~canvas.anchor
    drawn[:, :start], drawn[:, stop:] = False, False
    place = torch.where(drawn, rank, 2.0).argsort(dim=1, stable=True).argsort(dim=1)
    return drawn & (place < step.gone[:, None])


def slot_by_slot(canvas: Canvas, draw: Draw, sites: Sites, slots: Sites) -> Draw:
    """What was drawn at `sites`, for each of the `slots` they hold."""
    measure = None if draw.measure is None else canvas.spread(draw.measure, sites, slots)
    token = canvas.written(canvas.spread(draw.token, sites, slots), slots)
    return Draw(token, canvas.spread(draw.logp, sites, slots), measure, draw.trouble)


def check(canvas: Canvas) -> None:
    """Read, once, whether any law was not finite.

    Raises:
        ValueError: if a law was NaN or allowed no token.
    """
    if bool(canvas.trouble):
        raise ValueError("the model gave a law that is not finite or allows no token; the weights hold NaN or every token is forbidden: "
                         "check the checkpoint, or decode in float32")


Callback = Callable[[Canvas, Record], None]
