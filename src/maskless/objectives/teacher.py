"""A teacher: from what is known at time t it walks to an earlier time in small steps, and says what it thought on the way.

    site           0  1  2  3  4  5           times t, t - dt, ..., t - (k - 1) dt
    known          a  .  c  .  .  .
    step 1         a  .  c  x  .  .           site 3 is revealed: its target is the law it was drawn from, given a c
    step 2 (last)  a  ?  c  x  ?  ?           the others' targets are their laws given a c x

The student learns to say all of that from a c alone, in one step. B rows, L sites, K teacher steps, T width of the teacher.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskless.decoding import Canvas, Choice, Guided, Noise, Order, Predictor, Random, Stretch, halves, rollout
from maskless.decoding.guidance import Scale, constant, ramp
from maskless.objectives.divergence import Targets
from maskless.schedules import LogLinear, Schedule

if TYPE_CHECKING:
    from maskless.data.batch import Batch

Times = Callable[[Float[Tensor, " B"], int, float], Float[Tensor, "K B"]]
"""(t, k, dt) -> the time before each of the k teacher steps, for every row."""


def exact_times(t: Float[Tensor, " B"], steps: int, dt: float) -> Float[Tensor, "K B"]:
    """t, t - dt, t - 2 dt, ...; never below 0."""
    return (t - dt * torch.arange(steps, device=t.device, dtype=t.dtype)[:, None]).clamp_min(0)


def chances(times: Float[Tensor, "K B"], dt: float, schedule: Schedule = LogLinear()) -> tuple[tuple[float, ...], ...]:  # noqa: B008
    """The probability of an unknown site to be revealed in each step (dt / t where alpha is linear); 1 where the step ends at 0 or below."""
    begin = times.cpu().double().clamp_min(dt)  # some devices know no float64
    return tuple(map(tuple, schedule.reveal(begin, begin - dt).tolist()))


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance by label, as a decode in steps of dt from t = 1 to 0 would have it.

    Args:
        weight: w of (1 + w) conditional - w unconditional; any finite number.
        ramped: from 0 at t = 1 to w at t = dt; False: w at every time.

    Raises:
        ValueError: a weight that is not finite.

    Example:
        >>> from maskless.decoding import Step
        >>> Guidance(2.0, ramped=True).scale(torch.tensor([[1.0, 0.5]]), 0.5)(Step(0, 1)).tolist()
        [0.0, 2.0]
    """

    weight: float
    ramped: bool = False

    def __post_init__(self) -> None:
        constant(self.weight)                                       # says so if it is no number

    def scale(self, times: Float[Tensor, "K B"], dt: float) -> Scale:
        """The strength at the steps of a walk, whose rows are at different times."""
        if not self.ramped:
            return constant(self.weight)
        weights = self.weight * ramp(times, dt)
        return lambda step: weights[step.index]


@dataclass
class Spent:
    """What teachers have cost since it was last asked.

    Attributes:
        calls: of a teacher's predictor.
        tokens: token passes: sites of all rows that went through a teacher's encoder (all of them for a masked model).
    """

    calls: int = 0
    tokens: int = 0

    def add(self, more: Spent) -> None:
        """Count what was spent elsewhere."""
        self.calls, self.tokens = self.calls + more.calls, self.tokens + more.tokens

    def take(self) -> Spent:
        """The costs so far; counting begins anew."""
        taken = Spent(self.calls, self.tokens)
        self.calls = self.tokens = 0
        return taken


@dataclass(frozen=True)
class Teacher:
    """A frozen model, and how it walks.

    Args:
        model: in evaluation mode, of any kind that decodes in any order. A cached model walks with its cache.
        steps: k, its steps for one of the student's.
        dt: the length of each.
        order: which sites are revealed, see `decoding`; any but the entropy bound.
        choice: how its tokens are drawn. Top-k and nucleus cut the targets as well.
        times: of the steps; the released code has others (`checkpoints.reference.quirks`).
        schedule: how much is known at which time; the one that the student's plan follows.
        guidance: by label: what is drawn, and the targets, are of the guided laws; None: of the model's own.
        refresh: an order-causal model encodes all that is known afresh at every so many calls (its bidirectional mode); 0: it keeps its cache.
        spent: is told what it costs.
    """

    model: Any
    steps: int = 2
    dt: float = 1 / 1024
    order: Order = field(default_factory=Random)
    choice: Choice = field(default_factory=Choice)
    times: Times = exact_times
    schedule: Schedule = field(default_factory=LogLinear)
    guidance: Guidance | None = None
    refresh: int = 0
    spent: Spent = field(default_factory=Spent)

    def targets(
        self, batch: Batch, known: Bool[Tensor, "B L"], *, t: Float[Tensor, " B"], rank: Float[Tensor, "B L"], seeds: Int[Tensor, " B"],
    ) -> Targets:
        """What every site that is not known should be told, given the known ones.

        Args:
            batch: tokens; those at sites that are not known are not looked at. Labels, where the model has any.
            known: sites that the student sees.
            t: the time of each row.
            rank: in which order a token-causal model reads the known sites.
            seeds: of each row's tokens and reveals.
        """
        known = known & batch.valid
        canvas = Canvas(batch.tokens.masked_fill(~known, 0), known, present=batch.valid).to(known.device)  # no answer on it
        if self.model.shuffle_prompt:
            canvas.arrange_prompt(rank)
        noise, times = Noise(seeds.tolist(), known.device), self.times(t, self.steps, self.dt)
        steps = Stretch(chances(times[:-1], self.dt, self.schedule))(canvas, noise)
        with torch.no_grad(), counting(self.model.embedding, self.spent):
            predictor = self.opened(batch, times)
            hidden = rollout(predictor, canvas, steps, order=self.order, choice=self.choice, noise=noise, last=self.steps - 1)
        self.spent.calls += len(steps) + 1
        return Targets(hidden.clone(), predictor.head, predictor.allowed, self.choice)

    def opened(self, batch: Batch, times: Float[Tensor, "K B"]) -> Predictor:
        """The model opened on a walk from these times, under the rows' labels. A row without a class is guided from itself to itself."""
        model = self.model.reencoding(self.refresh) if self.refresh else self.model
        null = self.model.null_label
        labels = None if null is None else batch.labels
        if self.guidance is None:
            return model.predictor(cond=labels)
        assert labels is not None and null is not None, "guidance is by label: it needs a model with classes, and rows that have them"
        return Guided(model.predictor(cond=halves(labels, null)), self.guidance.scale(times, self.dt))


@contextmanager
def counting(embedding: nn.Module, spent: Spent) -> Iterator[None]:
    """While this is open, the tokens that a model embeds are counted."""

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        spent.tokens += inputs[0].numel()

    handle = embedding.register_forward_pre_hook(count)
    try:
        yield
    finally:
        handle.remove()
