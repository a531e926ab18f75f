"""Classifier-free guidance (Ho & Salimans 2022) as a predictor made of a predictor.

B rows, Q queried sites, D width.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskless.decoding.canvas import Canvas, Sites
from maskless.decoding.choice import Head
from maskless.decoding.decode import Predictor
from maskless.decoding.plan import Step

Scale = Callable[[Step], float | Tensor]
"""Step -> w: of all rows, or of each of them (B,), where rows are at different times (the walks of distillation)."""


def constant(w: float) -> Scale:
    """The same strength at every step. Raises: ValueError if it is not finite."""
    _check(w)
    return lambda step: w


def ramped(w: float) -> Scale:
    """w i / (S - 1) at step i of S: none at the first step (and so none in a decode of one), `w` at the last. Raises: as `constant`."""
    _check(w)
    return lambda step: w * step.progress


def ramp(times: Float[Tensor, "... B"], dt: float) -> Float[Tensor, "... B"]:
    """Where a decode in equal steps of `dt` is at these times, as `ramped` counts: 0 at its first step (t = 1), 1 at its last (t = dt)."""
    return ((1 - times) / (1 - dt)).clamp(0, 1) if dt < 1 else torch.zeros_like(times)


def _check(w: float) -> float:
    if not math.isfinite(w):
        raise ValueError(f"guidance {w} is not a finite number; 0 is none, 1 to 3 are usual")
    return w


def halves(labels: Int[Tensor, " B"], null: int) -> Int[Tensor, " n"]:
    """The labels of both halves, n = 2B: themselves, then "no class"."""
    return torch.cat([labels, torch.full_like(labels, null)])


@dataclass(frozen=True)
class Guided:
    """(1 + w) conditional - w unconditional, on hidden states: the head is affine, so this is guidance on the logits.

    Args:
        predictor: opened on 2B rows, [conditional; unconditional]: by label with the labels of `halves`.
        scale: w as a function of the step (`constant`, `ramped`), or of step and row.
        forget_prompt: the unconditional half does not know the prompt (guidance without labels); anchors stay in both halves.

    Raises:
        ValueError: when called, if w is not finite.
    """

    predictor: Predictor
    scale: Scale
    forget_prompt: bool = False

    @property
    def head(self) -> Head:
        return self.predictor.head

    @property
    def allowed(self) -> Bool[Tensor, " V"] | None:
        return self.predictor.allowed

    def __call__(self, canvas: Canvas, sites: Sites, step: Step) -> Float[Tensor, "B Q D"]:
        w = self.scale(step)
        alone = not isinstance(w, Tensor) and _check(w) == 0
        unknown = None if step.unknown is None else step.unknown.repeat(2)
        twice = replace(step, rows=self._asked(canvas, step, alone), unknown=unknown)
        both = self.predictor(canvas.doubled(self.forget_prompt), sites.doubled(), twice)
        conditional, unconditional = both.chunk(2)
        if alone:
            return conditional
        return torch.lerp(unconditional, conditional, 1 + (w.to(both)[:, None, None] if isinstance(w, Tensor) else w))

    def _asked(self, canvas: Canvas, step: Step, alone: bool) -> Tensor | None:
        """Rows of both halves, or of the first alone while w = 0; None for all."""
        if not alone:
            return None if step.rows is None else torch.cat([step.rows, step.rows + canvas.rows])
        return torch.arange(canvas.rows, device=canvas.count.device) if step.rows is None else step.rows
