"""Normalisation with a weight and, where asked, a bias."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LayerNorm(nn.Module):
    """Normalise the last axis, eps 1e-5. Statistics are taken in float32 at least, in float64 for float64 input.

    The models of the PGM and MDLM papers have a weight and no bias; a bias appears when a constant modulation is folded in.
    """

    def __init__(self, width: int, bias: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, 1e-5)


def unit(x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
    """x over its root mean square along the last axis, eps 1e-5; statistics as for `LayerNorm`."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * (wide.square().mean(-1, keepdim=True) + 1e-5).rsqrt()).to(x.dtype)


class RMSNorm(nn.Module):
    """`unit`, times a weight, and plus a bias where asked."""

    def __init__(self, width: int, bias: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        scaled = unit(x) * self.weight
        return scaled if self.bias is None else scaled + self.bias
