"""What the released samplers of images do differently, each by name, for parity only: `verify` uses it, and nothing else.

What their predictors do differently is in `quirks`.

| quirk | evidence (golden file that records it) |
|---|---|
| `Redrawn` | every known cell is drawn anew at every step (image_sample_maskgit_halton_fork) |
| `RedrawnConfidence` | the same by confidence, where a cell may become masked again (image_sample_maskgit_confidence) |
| `released_rate` | the first update has learning rate 0, and a run that ends before 90 % of `max_iter` never decays (image_schedules) |
| `Unrestricted` | mask and BOS may be drawn, and are fed back (both MaskGIT samplers, image_sample_pgm_confidence) |

B rows, L sites, Q queried sites, N cells, S steps.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from maskless.checkpoints.reference.published import Looking
from maskless.decoding import Canvas, Confidence, Draw, Noise, Order, Predictor, Sites, Step


class Unrestricted:
    """A predictor that allows every id."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self.head, self.allowed = predictor, predictor.head, None

    def __call__(self, canvas: Canvas, sites: Sites, step: Step) -> Float[Tensor, "B Q D"]:
        return self.predictor(canvas, sites, step)


def released_rate(
    step: int, *, base: float = 1e-4, warmup: int = 2500, max_iter: int = 1_000_000, final_fraction: float = 0.1,
    floor: float = 0.01,
) -> float:
    """The learning rate of update `step` of the released image training."""
    if step < warmup:
        return base * step / warmup
    decay = (step - (1 - final_fraction) * max_iter) / (final_fraction * max_iter)
    return base if decay <= 0 else max(base * (1 + math.cos(math.pi * min(decay, 1.0))) / 2, base * floor)


def every_step(table: Sequence[int], rows: int) -> list[Step]:
    """A step for each entry of a table of ends, those that reveal nothing too: the released loops run them."""
    known, total = [0, *table], len(table)
    return [
        Step(i, total, 1 - i / total, 1 - (i + 1) / total, (b - a,) * rows, (a,) * rows, most=b - a)
        for i, (a, b) in enumerate(zip(known, table))
    ]


@dataclass(frozen=True)
class Redrawn:
    """Looks at every site, keeps those that `order` planned and draws those again that it kept before."""

    order: Order
    left_to_right: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False  # it never ends early: known cells change until the last step

    def start(self, canvas: Canvas, steps: Sequence[Step], noise: Noise) -> Redrawing:
        return Redrawing(self.order.start(canvas, steps, noise))


@dataclass
class Redrawing(Looking):
    def propose(self, canvas: Canvas, step: Step) -> Sites:
        canvas.look()
        self.canvas, self.before = canvas, canvas.known & ~canvas.anchor & ~canvas.prompt
        return super().propose(canvas, step)

    def keep(self, sites: Sites, draw: Draw, step: Step) -> Bool[Tensor, "B L"]:
        self.canvas.forget(self.before)
        return self.kept | self.before


@dataclass(frozen=True)
class RedrawnConfidence:
    """The known cells and the most confident others, `ends[i]` together, drawn anew; a cell that draws the mask is masked.

    Args:
        gumbel: the standard Gumbel numbers of each step.
        noise: what they are multiplied by at the first step; linearly less later.
        ends: cells that are to be known after each step.
    """

    gumbel: Float[Tensor, "S B N"]
    noise: float
    ends: tuple[int, ...]
    mask_id: int
    left_to_right: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False

    @property
    def measure(self) -> None:
        return None

    def start(self, canvas: Canvas, steps: Sequence[Step], noise: Noise) -> RedrawingConfidence:
        return RedrawingConfidence(self, canvas)


@dataclass(frozen=True)
class RedrawingConfidence:
    order: RedrawnConfidence
    canvas: Canvas

    @property
    def measure(self) -> None:
        return None

    def propose(self, canvas: Canvas, step: Step) -> Sites:
        everywhere = torch.arange(canvas.length, device=canvas.count.device).expand(canvas.rows, -1)
        return Sites(everywhere, torch.ones_like(everywhere, dtype=torch.bool))

    def keep(self, sites: Sites, draw: Draw, step: Step) -> Bool[Tensor, "B L"]:
        known = self.canvas.known.clone()
        score = scored(draw.logp, self.order.gumbel[step.index], self.order.noise, step).masked_fill(known.cpu(), torch.inf)
        place = score.argsort(dim=1, descending=True, stable=True).argsort(1).to(known.device)
        self.canvas.forget(known)
        return (place < self.order.ends[step.index]) & (draw.token != self.order.mask_id)


@dataclass(frozen=True)
class RecordedConfidence(Confidence):
    """Confidence with recorded standard Gumbel numbers (B, Q) for each step's open sites, in order of position."""

    gumbel: tuple[Tensor, ...] = ()

    def score(self, draw: Draw, step: Step, luck: Tensor) -> Tensor:
        return scored(draw.logp, self.gumbel[step.index], self.noise, step).to(draw.logp.device)


def scored(logp: Float[Tensor, "B Q"], gumbel: Float[Tensor, "B Q"], noise: float, step: Step) -> Float[Tensor, "B Q"]:
    """On the host, in the precision of the recorded numbers."""
    return logp.cpu() + noise * (1 - step.progress) * gumbel.cpu()
