"""Positions: rotary embedding of queries and keys (Su et al. 2021), and sinusoids (Vaswani et al. 2017).

B rows, N positions, h heads, d head width, D model width.
"""
from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Rotation(NamedTuple):
    """cos and (-sin, sin) of every position's angles, (N, d) for shared positions or (B, 1, N, d) for each row's own."""

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Float[Tensor, "B h N d"]) -> Float[Tensor, "B h N d"]:
        """Rotate the pairs (x_j, x_{j + d/2}) of every head (the half-split convention)."""
        return torch.addcmul(x * self.cos, x.roll(x.shape[-1] // 2, -1), self.sin)

    def at(self, positions: Int[Tensor, "B N"]) -> Rotation:
        """The rotation of each row's own positions, out of a table (L, d) of all."""
        return Rotation(self.cos[positions][:, None], self.sin[positions][:, None])


def _angles(positions: Int[Tensor, "*N"], pairs: int, dtype: torch.dtype) -> Float[Tensor, "*N {pairs}"]:
    exact = torch.promote_types(dtype, torch.float32)
    exponents = torch.arange(pairs, device=positions.device, dtype=exact) / pairs
    return positions[..., None].to(exact) * 10000.0**-exponents


def rotation(positions: Int[Tensor, "*N"], head_width: int, dtype: torch.dtype) -> Rotation:
    """Angles pos * 10000^(-2j/d), computed in float32 at least. `positions` is (N,) or (B, N)."""
    angles = _angles(positions, head_width // 2, dtype)
    if positions.dim() == 2:
        angles = angles[:, None]                                    # (B, 1, N, d/2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return Rotation(torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1))


def sinusoids(positions: Int[Tensor, "*N"], width: int, dtype: torch.dtype) -> Float[Tensor, "*N D"]:
    """[cos(p / 10000^(2j/D)) for j < D/2, then the sines]: halves side by side, not interleaved."""
    angles = _angles(positions, width // 2, dtype)
    return torch.cat([angles.cos(), angles.sin()], -1).to(dtype)
