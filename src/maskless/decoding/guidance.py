"""Classifier-free guidance (Ho & Salimans 2022) as a predictor made of a predictor.

B rows, Q queried sites, D width.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from maskless.decoding.canvas import Canvas, Sites
from maskless.decoding.choice import Head
from maskless.decoding.decode import Predictor
from maskless.decoding.plan import Step


@dataclass(frozen=True)
class Guided:
    """(1 + w) conditional - w unconditional, on hidden states: the head is affine, so this is guidance on the logits.

    Args:
        predictor: opened on 2B rows, [conditional; unconditional].
        scale: w as a function of the step (constant, ramped).
        forget_prompt: the unconditional half does not know the prompt (guidance without labels); anchors stay in both halves.
    """

    predictor: Predictor
    scale: Callable[[Step], float]
    forget_prompt: bool = False

    @property
    def head(self) -> Head:
        return self.predictor.head

    @property
    def allowed(self) -> Bool[Tensor, " V"] | None:
        return self.predictor.allowed

    def __call__(self, canvas: Canvas, sites: Sites, step: Step) -> Float[Tensor, "B Q D"]:
        w = self.scale(step)
        both = self.predictor(canvas.doubled(self.forget_prompt), sites.doubled(), replace(step, rows=self._asked(canvas, step, w)))
        conditional, unconditional = both.chunk(2)
        return conditional if w == 0 else torch.lerp(unconditional, conditional, 1 + w)

    def _asked(self, canvas: Canvas, step: Step, w: float) -> Tensor | None:
        """Rows of both halves, or of the first alone while w = 0; None for all."""
        if w != 0:
            return None if step.rows is None else torch.cat([step.rows, step.rows + canvas.rows])
        return torch.arange(canvas.rows, device=canvas.count.device) if step.rows is None else step.rows
