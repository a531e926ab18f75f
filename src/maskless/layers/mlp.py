"""The feed-forward half of a block."""
from __future__ import annotations

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class MLP(nn.Module):
    """Linear(D -> 4D), GELU (tanh form), Linear(4D -> D)."""

    def __init__(self, width: int, ratio: int = 4):
        super().__init__()
        self.up = nn.Linear(width, ratio * width)
        self.down = nn.Linear(ratio * width, width)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class SwiGLU(nn.Module):
    """W2 drop(silu(W1 x) * W3 x), no biases.

    Args:
        inner: width in between; None: as many weights as an `MLP` has, rounded up to a multiple of 256.
    """

    def __init__(self, width: int, dropout: float = 0.0, inner: int | None = None):
        super().__init__()
        inner = inner or 256 * math.ceil((8 * width // 3) / 256)
        self.gate, self.up = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return self.down(self.drop(F.silu(self.gate(x)) * self.up(x)))
