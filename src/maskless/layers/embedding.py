"""Embeddings of tokens, labels and time.

B rows, D model width, C width of the condition.
"""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class TokenEmbedding(nn.Embedding):
    """V vectors of width D, uniform in +-1/sqrt(D) (kaiming_uniform with a = sqrt 5 on that shape)."""

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.weight, -(self.embedding_dim**-0.5), self.embedding_dim**-0.5)


class NormalEmbedding(nn.Embedding):
    """Vectors of labels, registers or positions: normal, of standard deviation `std`."""

    def __init__(self, count: int, width: int, std: float = 1.0):
        self.std = std
        super().__init__(count, width)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)


class TimeEmbedding(nn.Module):
    """The condition vector of a noise level: SiLU(MLP([cos(s f), sin(s f)])), f_i = 10000^(-i/128), 256 features."""

    def __init__(self, cond_dim: int):
        super().__init__()
        self.up = nn.Linear(256, cond_dim)
        self.down = nn.Linear(cond_dim, cond_dim)

    @staticmethod
    def features(sigma: Float[Tensor, " B"]) -> Float[Tensor, "B 256"]:
        frequencies = torch.exp(-math.log(10000.0) * torch.arange(128, device=sigma.device, dtype=sigma.dtype) / 128)
        angles = sigma[:, None] * frequencies
        return torch.cat([angles.cos(), angles.sin()], -1)

    def forward(self, sigma: Float[Tensor, " B"]) -> Float[Tensor, "B C"]:
        return F.silu(self.down(F.silu(self.up(self.features(sigma).to(self.up.weight.dtype)))))
