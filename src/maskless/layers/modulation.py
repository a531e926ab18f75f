"""Adaptive layer norm (adaLN, Peebles & Xie 2022): a condition shifts, scales and gates what passes a block.

B rows, D model width, C width of the condition.
"""
from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn


class Modulation(NamedTuple):
    """`into` is applied to what enters a branch, `out_of` to what leaves it; each tensor is (B or 1, 1, D)."""

    shift: Tensor
    scale: Tensor
    gate: Tensor | None = None

    def into(self, x: Tensor) -> Tensor:
        return x * (1 + self.scale) + self.shift

    def out_of(self, x: Tensor) -> Tensor:
        return x if self.gate is None else x * self.gate


class Unmodulated(NamedTuple):
    """What an unconditional block applies: nothing."""

    def into(self, x: Tensor) -> Tensor:
        return x

    def out_of(self, x: Tensor) -> Tensor:
        return x


class Kept:
    """A condition that stays as it is through a decode: what an adaLN makes of it is made once, when it is first asked for."""

    def __init__(self, vector: Float[Tensor, "B C"]):
        self.vector = vector
        self._made: dict[nn.Linear, Tensor] = {}

    def through(self, ada: nn.Linear) -> Float[Tensor, "B W"]:
        if ada not in self._made:
            self._made[ada] = ada(self.vector)
        return self._made[ada]


Condition = Tensor | Kept
"""(B or 1, C), as it is or kept."""


def through(ada: nn.Linear, cond: Condition) -> Float[Tensor, "B W"]:
    """The W numbers of all branches and parts that a layer `ada` makes of a condition."""
    return cond.through(ada) if isinstance(cond, Kept) else ada(cond)


class AdaLN(nn.Linear):
    """Condition -> `branches` modulations of (shift, scale, gate). Initialised at zero, so a new block passes its input on."""

    def __init__(self, cond_dim: int, width: int, branches: int, gated: bool = True):
        self.parts, self.branches = (3 if gated else 2), branches
        super().__init__(cond_dim, branches * self.parts * width)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def modulations(self, cond: Condition) -> list[Modulation]:
        pieces = through(self, cond)[:, None].chunk(self.branches * self.parts, -1)
        return [Modulation(*pieces[i * self.parts:(i + 1) * self.parts]) for i in range(self.branches)]


def modulations(ada: AdaLN | None, cond: Condition | None, branches: int) -> list[Modulation] | list[Unmodulated]:
    """The modulations of a block, or none where it has no adaLN (`cond` is then not used)."""
    if ada is None or cond is None:
        assert ada is None, "a conditional block needs its condition"
        return [Unmodulated()] * branches
    return ada.modulations(cond)
