"""Positions: rotary embedding of queries and keys (Su et al. 2021), and sinusoids (Vaswani et al. 2017), on a line or on a grid.

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

    def __call__(self, x: Float[Tensor, "*B h N d"]) -> Float[Tensor, "*B h N d"]:
        """Rotate the pairs (x_j, x_{j + d/2}) of every head (the half-split convention)."""
        return torch.addcmul(x * self.cos, x.roll(x.shape[-1] // 2, -1), self.sin)

    def at(self, positions: Int[Tensor, "B N"]) -> Rotation:
        """The rotation of each row's own positions, out of a table (L, d) of all."""
        return Rotation(self.cos[positions][:, None], self.sin[positions][:, None])


class Cells(NamedTuple):
    """Positions on a grid: half of the pairs turn with the row, half with the column (axial, Heo et al. 2024)."""

    rows: Int[Tensor, "*N"]
    columns: Int[Tensor, "*N"]


Positions = Int[Tensor, "*N"] | Cells


def cells(sites: Int[Tensor, "*N"], columns: int) -> Cells:
    """The cells of sites in raster order; negative ones (registers) lie on the diagonal before the first cell."""
    before = sites < 0
    return Cells(torch.where(before, sites, sites // columns), torch.where(before, sites, sites % columns))


def _angles(positions: Positions, pairs: int, dtype: torch.dtype) -> Float[Tensor, "*N {pairs}"]:
    if isinstance(positions, Cells):                                # a grid is short: its slowest pair turns by 1/100 a cell
        return torch.cat([_line(axis, pairs // 2, dtype, 100.0) for axis in positions], -1)
    return _line(positions, pairs, dtype, 10000.0)


def _line(positions: Int[Tensor, "*N"], pairs: int, dtype: torch.dtype, base: float) -> Float[Tensor, "*N {pairs}"]:
    exact = torch.promote_types(dtype, torch.float32)
    exponents = torch.arange(pairs, device=positions.device, dtype=exact) / pairs
    return positions[..., None].to(exact) * base**-exponents


def rotation(positions: Positions, head_width: int, dtype: torch.dtype) -> Rotation:
    """Angles pos * 10000^(-2j/d), computed in float32 at least. `positions` is (N,) or (B, N)."""
    angles = _angles(positions, head_width // 2, dtype)
    if angles.dim() == 3:
        angles = angles[:, None]                                    # (B, 1, N, d/2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return Rotation(torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1))


def sinusoids(positions: Positions, width: int, dtype: torch.dtype) -> Float[Tensor, "*N D"]:
    """[cos(p / 10000^(2j/D)) for j < D/2, then the sines]: halves side by side, not interleaved."""
    angles = _angles(positions, width // 2, dtype)
    return torch.cat([angles.cos(), angles.sin()], -1).to(dtype)
