"""A sampler is a plan, an order, a choice and, where wanted, guidance.

B rows, L sites.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from maskless.decoding.canvas import Canvas
from maskless.decoding.choice import Choice, Choices
from maskless.decoding.corrector import Anew
from maskless.decoding.decode import Callback, Predictor, Record, check, decode
from maskless.decoding.digits import DigitDraw
from maskless.decoding.guidance import Guided, Scale, halves
from maskless.decoding.noise import PROMPT, REMASK, Noise
from maskless.decoding.order import Order, Random
from maskless.decoding.plan import Plan, Scheduled, Step
from maskless.decoding.registers import UncountedRegisters, packed_registers


@runtime_checkable
class Model(Protocol):
    """What a sampler asks of a model."""

    left_to_right: ClassVar[bool]       # can only be sampled from left to right

    @property
    def shuffle_prompt(self) -> bool:
        """Whether it was trained to read a prompt in random order."""
        ...

    @property
    def null_label(self) -> int | None:
        """The label that stands for no class, one more than the last; None for a model without labels."""
        ...

    def predictor(self, cond: Int[Tensor, " B"] | None = None) -> Predictor:
        """The model opened on one decode of rows with these labels (None: no class)."""
        ...


@dataclass(frozen=True)
class Sampler:
    """How a model's predictions become sequences.

    Args:
        plan: how many sites when (`Scheduled`, `Ancestral`, `Blockwise`, `Adaptive`).
        order: which sites (`Random`, `LeftToRight`, `Spaced`, `Halton`, `Confidence`, `Margin`, `EntropyBound`).
        choice: which token (temperature, top-k, nucleus), or `Choices` that change with the step.
        guidance: strength w of classifier-free guidance as a function of the step (`constant(w)`, `ramped(w)`), by label where labels are
            given, else by forgetting the prompt; None for none.
        stop_at: an EOS id after which a row is finished; None to fill every site.
        digits: how a model that writes tokens in digits draws them; None: as its canvas was made (jointly and filtered by default).
        count_registers: of a partition model with registers: False samples as PGM's released image code does, which leaves them out of the
            lengths and so hides each row's newest tokens, as many as it packs registers (see `UncountedRegisters`).

    Raises:
        ValueError: when run, if the parts do not fit each other or the model.

    Example:
        >>> from maskless.decoding import Ancestral, Confidence, Sampler
        >>> mdlm_ancestral = Sampler(Ancestral(64))
        >>> maskgit = Sampler(Ancestral(64), order=Confidence())
    """

    plan: Plan = field(default_factory=lambda: Scheduled(32))
    order: Order = field(default_factory=Random)
    choice: Choice | Choices = field(default_factory=Choice)
    guidance: Scale | None = None
    stop_at: int | None = None
    digits: DigitDraw | None = None
    count_registers: bool = True

    def records(self, model: Model, canvas: Canvas, noise: Noise, cond: Int[Tensor, " B"] | None = None) -> Iterator[Record]:
        """Decode lazily, one record per call of the predictor; the canvas must be on the model's device."""
        if self.digits is not None:
            self.digits.prepare(canvas)
        noise.check_rows(canvas.rows)
        steps = self.plan(canvas, noise)
        self._validate(model, canvas, steps)
        log_prompt(model, canvas, noise)
        predictor = self.predictor(model, labels_of(model, canvas, cond))
        return decode(predictor, canvas, steps, order=self.order, choice=self.choice, noise=noise, stop_at=self.stop_at)

    def __call__(self, model: Model, canvas: Canvas, noise: Noise, callback: Callback | None = None,
                 cond: Int[Tensor, " B"] | None = None) -> int:
        """Fill the canvas; returns the NFE (calls of the predictor).

        Args:
            callback: called with the canvas as it is and the record, after every step.
            cond: a label per row, in 0..classes (classes: no class); None for no class in any row.

        Raises:
            ValueError: if a law was not finite or allowed no token (`decode.check`), or labels do not fit the model.
        """
        calls = 0
        for record in self.records(model, canvas, noise, cond):
            calls += 1
            if callback is not None:
                callback(canvas, record)
        check(canvas)
        return calls

    def predictor(self, model: Model, labels: Int[Tensor, " B"] | None) -> Predictor:
        """The model opened on one decode, guided where this sampler says so."""
        opened = self._guided(model, labels)
        return opened if self.count_registers else UncountedRegisters(opened, packed_registers(model))

    def _guided(self, model: Model, labels: Int[Tensor, " B"] | None) -> Predictor:
        if self.guidance is None:
            return model.predictor(cond=labels)
        if labels is None or model.null_label is None:
            return Guided(model.predictor(), self.guidance, forget_prompt=True)
        return Guided(model.predictor(cond=halves(labels, model.null_label)), self.guidance)

    def _validate(self, model: Model, canvas: Canvas, steps: list[Step]) -> None:
        order = type(self.order).__name__
        if self.order.adaptive != any(step.counts is None for step in steps) and steps:
            raise ValueError(f"order {order} and plan {type(self.plan).__name__} do not fit: "
                             "Adaptive is the plan of entropy-bound orders, and of no other")
        if any(step.forget for step in steps) and not isinstance(self.order, Anew):
            raise ValueError(f"plan {type(self.plan).__name__} forgets sites and order {order} lists each once; use the order Anew")
        chunks = [getattr(part, "chunk_point", 1) for part in (self.plan, self.order)]
        if chunks[0] != chunks[1]:
            raise ValueError(f"order {order} and plan {type(self.plan).__name__} do not fit: Chunked is the plan of WholeFirst, "
                             "and of no other, with the same chunk point")
        if not self.count_registers and not packed_registers(model):
            raise ValueError(f"count_registers is false and this {type(model).__name__} packs no registers with its known tokens; leave it out")
        if not model.left_to_right:
            return
        if not self.order.left_to_right:
            raise ValueError(f"an autoregressive model cannot be sampled in order {order}; use LeftToRight, or a masked or partition model")
        if any(step.most > 1 for step in steps):
            raise ValueError(f"an autoregressive model reveals one site a step, the plan asks for {max(step.most for step in steps)}; "
                             f"use at least {max(canvas.open.sum(1).tolist())} steps")
        positions = torch.arange(canvas.length)
        if bool((canvas.open & (positions < torch.tensor(canvas.least)[:, None])).any()) or canvas.fewest < 1:
            raise ValueError("an autoregressive model continues a prompt that starts at site 0 without gaps; "
                             "use a masked or partition model to infill")


def labels_of(model: Any, canvas: Canvas, cond: Int[Tensor, " *B"] | None) -> Int[Tensor, " B"] | None:
    """The labels of a decode on the canvas's device. The host reads them once, before the loop.

    Raises:
        ValueError: labels for a model without, not one per row, or out of range.
    """
    if cond is None:
        return None
    null = model.null_label
    if null is None:
        raise ValueError(f"labels were given and {type(model).__name__} was made without classes; leave the labels out, or use a model with classes")
    if cond.shape != (canvas.rows,):
        raise ValueError(f"labels of shape {tuple(cond.shape)} were given for {canvas.rows} rows; give one label per row")
    if outside := sorted({label for label in cond.tolist() if not 0 <= label <= null}):
        raise ValueError(f"label {outside[0]} is not in 0..{null}; there are {null} classes, and {null} itself means no class")
    return cond.to(canvas.count.device, torch.int64)


def log_prompt(model: Any, canvas: Canvas, noise: Noise) -> None:
    """Put the prompt into the log in the order that the model was trained to read it in: reading order, or a random one of each row."""
    if model.shuffle_prompt:
        canvas.arrange_prompt(noise.at(PROMPT, 0, torch.arange(canvas.length, device=canvas.count.device)[None]))


def slide(sampler: Sampler, model: Model, canvas: Canvas, noise: Noise, *, stride: int, windows: int,
          cond: Int[Tensor, " B"] | None = None) -> Iterator[tuple[int, Canvas, Record]]:
    """Semi-autoregression past L: windows of L sites, each begun with the last L - stride tokens of the one before (spec 3.6).

    Args:
        canvas: the first window, (B, L), on the model's device.
        stride: fresh sites of every later window, 1..L-1.
        windows: how many windows follow the first; the text has L + stride * windows sites.
        cond: labels, as for a `Sampler`.

    Yields:
        (first site of the window in the whole text, the window's canvas, record), step after step.

    Raises:
        ValueError: for a stride out of range, rows that end before the window does, or a sampler that ends them (`stop_at`): their text has no
            next window.
    """
    if sampler.stop_at is not None or not bool(canvas.by_site().present.all()):
        raise ValueError("a text that ends inside a window has no next one; slide over whole windows, without stop_at")
    if not 0 < stride < (length := canvas.length // canvas.per_site):
        raise ValueError(f"stride {stride} is not in 1..{length - 1}; it is the number of fresh sites of each window")
    for window in range(windows + 1):
        if window:
            canvas = _next_window(canvas, stride)
        seeds = [int(seed) + (window << 40) for seed in noise.host]
        for record in sampler.records(model, canvas, Noise(seeds, noise.seeds.device), cond):
            yield window * stride, canvas, record


def _next_window(canvas: Canvas, stride: int) -> Canvas:
    tokens = torch.nn.functional.pad(canvas.by_site().tokens[:, stride:], (0, stride)).cpu()
    site = torch.arange(tokens.shape[1])
    known = (site < len(site) - stride).expand(canvas.rows, -1)
    return canvas.another(tokens, known, anchor=known & (site < 1)).to(canvas.count.device)


def remask(canvas: Canvas, share: float, noise: Noise, *, round: int = 0) -> None:
    """Forget a random `share` of what was generated (never prompts or anchors), for another decode of those sites.

    With a new decode after it, whose noise is another (`noise.again(round)`), a corrector step: both together leave the model's law unchanged
    where its conditionals are consistent.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share {share} of the sites to remask is not in (0, 1]")
    generated = canvas.known & ~canvas.prompt & ~canvas.anchor
    luck = noise.at(REMASK, round, torch.arange(canvas.length, device=canvas.count.device)[None].expand(canvas.rows, -1))
    canvas.forget(generated & (luck < share))


def text_of(windows: Iterator[tuple[int, Canvas, Record]]) -> Int[Tensor, "B T"]:
    """Run `slide` to its end; the tokens of the whole text."""
    parts: dict[int, Canvas] = {start: canvas for start, canvas, _ in windows}
    starts = sorted(parts)
    heads = [parts[start].by_site().tokens[:, :after - start] for start, after in pairwise(starts)]
    return torch.cat([*heads, parts[starts[-1]].by_site().tokens], 1)

