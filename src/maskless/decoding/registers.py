"""Lengths as the released image samplers count them: without the registers, which hides a row's newest tokens.

B rows, Q queried sites, D width.
"""
from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from maskless.decoding.canvas import Canvas, Sites
from maskless.decoding.plan import Step


def packed_registers(model: Any) -> int:
    """Registers that every call of a model encodes in front of a row's known tokens; 0 where there are none, or a cache keeps them."""
    return getattr(model, "packed_registers", 0)


class UncountedRegisters:
    """A predictor to which the newest tokens of a row, as many as it packs registers, are not known: they are packed last, and cut off.

    Args:
        predictor: of a partition model, guided or not.
        registers: those that are packed with the known tokens (half of the model's).
    """

    def __init__(self, predictor: Any, registers: int):
        self.predictor, self.registers, self.head, self.allowed = predictor, registers, predictor.head, predictor.allowed

    def __call__(self, canvas: Canvas, sites: Sites, step: Step) -> Float[Tensor, "B Q D"]:
        short = object.__new__(Canvas)
        short.__dict__.update(canvas.__dict__)
        short.count = (canvas.count - self.registers).clamp(min=0)
        short.least, short.greatest = ([max(0, n - self.registers) for n in bound] for bound in (canvas.least, canvas.greatest))
        return self.predictor(short, sites, step)
