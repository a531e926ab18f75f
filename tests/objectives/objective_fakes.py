"""Tiny models with the signature of a denoiser: one that knows a joint law exactly, one with random weights."""
from __future__ import annotations

import torch
from torch import Tensor, nn


class Oracle(nn.Module):
    """hidden = exact log p(x_i | the sites on the other side of `known`), head = identity, in float64."""

    def __init__(self, joint: Tensor) -> None:
        super().__init__()
        size, self.length = joint.shape[0], joint.dim()
        self.joint, self.allowed = joint, None
        self.head = nn.Linear(size, size, bias=False, dtype=torch.float64)
        nn.init.eye_(self.head.weight)
        self.states = torch.cartesian_prod(*[torch.arange(size)] * self.length)  # (V^L, L)

    def conditional(self, row: Tensor, seen: Tensor, site: int) -> Tensor:
        agree = ((self.states == row) | ~seen).all(1)
        mass = self.joint.flatten() * agree
        return torch.zeros(self.joint.shape[0], dtype=mass.dtype).index_add(0, self.states[:, site], mass).log()

    def hidden(self, tokens, known, *, cond=None, t=None, present=None):
        def seen(side: Tensor, site: int) -> Tensor:
            return side if not side[site] else ~side

        sites = range(self.length)
        rows = [[self.conditional(row, seen(side, i), i) for i in sites] for row, side in zip(tokens, known)]
        return torch.stack([torch.stack(row) for row in rows])  # (B, L, V)


class Tiny(nn.Module):
    """Random weights; each state mixes its own embedding with the mean of the known sites that are present."""

    def __init__(self, vocabulary: int = 7, width: int = 6, *, forbidden: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.embedding, self.unknown = nn.Embedding(vocabulary, width), nn.Parameter(torch.randn(width))
        self.mix, self.drop, self.head = nn.Linear(2 * width, width), nn.Dropout(0.5), nn.Linear(width, vocabulary)
        self.allowed = ~torch.isin(torch.arange(vocabulary), torch.tensor(forbidden)) if forbidden else None

    def hidden(self, tokens, known, *, cond=None, t=None, present=None):
        here = torch.ones_like(known) if present is None else present
        x = torch.where(known[..., None], self.embedding(tokens), self.unknown)
        x = x + torch.arange(tokens.shape[1], dtype=x.dtype)[:, None] / 10
        use = (known & here)[..., None].to(x.dtype)
        mean = (x * use).sum(1, keepdim=True) / use.sum(1, keepdim=True).clamp_min(1)
        return self.drop(self.mix(torch.cat([x, mean.expand_as(x)], -1)).tanh())
