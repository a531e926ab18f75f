"""The feed-forward half of a block."""
from __future__ import annotations

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
