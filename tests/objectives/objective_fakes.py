"""Tiny models with the signature of a denoiser: one that knows a joint law exactly, one with random weights."""
from __future__ import annotations

import torch
from torch import Tensor, nn


class Oracle(nn.Module):
    """hidden = exact log p(x_i | the sites on the other side of `known`), head = identity, in float64."""

    registers = None

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


def joints() -> Tensor:
    """The laws of two classes that differ much, (2, 3, 3, 3)."""
    tables = torch.rand(2, 3, 3, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64) ** 8
    return tables / tables.sum((1, 2, 3), keepdim=True)


class Labelled(Oracle):
    """The oracle of two classes, equally frequent; label 2, or none, means the mixture."""

    def __init__(self) -> None:
        super().__init__(joints().mean(0))
        self.each = [Oracle(table) for table in joints()]

    @staticmethod
    def only(label: int) -> Oracle:
        """The unlabelled oracle of one class, or of the mixture."""
        return Oracle(joints()[label] if label < 2 else joints().mean(0))

    def hidden(self, tokens, known, *, cond=None, t=None, present=None):
        found = super().hidden(tokens, known)
        for label, oracle in enumerate(self.each):
            if cond is not None and (of := cond == label).any():
                found[of] = oracle.hidden(tokens[of], known[of])
        return found


class Tiny(nn.Module):
    """Random weights; each state mixes its own embedding with the mean of the known sites that are present."""

    registers = None

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


class Opinions(nn.Module):
    """Conditionals of no joint law: any set of seen tokens has its own random opinion on every other site (float64, head = identity)."""

    registers = None

    def __init__(self, length: int, vocabulary: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.length, self.vocabulary, self.allowed = length, vocabulary, None
        self.table = torch.randn((vocabulary + 1) ** length, length, vocabulary, generator=generator, dtype=torch.float64).log_softmax(-1)
        self.head = nn.Linear(vocabulary, vocabulary, bias=False, dtype=torch.float64)
        nn.init.eye_(self.head.weight)

    def opinion(self, tokens: Tensor, seen: Tensor) -> Tensor:
        """log p(x_i | seen tokens) for every site, (L, V)."""
        digits = torch.where(seen, tokens, self.vocabulary)
        return self.table[int((digits * (self.vocabulary + 1) ** torch.arange(self.length)).sum())]

    def hidden_in_order(self, tokens: Tensor, log: Tensor, commits: Tensor | None = None, *, cond=None) -> Tensor:
        rows = torch.zeros(*tokens.shape, self.vocabulary, dtype=torch.float64)
        commits = torch.arange(self.length)[None] if commits is None else commits
        for row, order, commit in zip(range(len(tokens)), log, commits.expand_as(log)):
            for entry, site in enumerate(order.tolist()):
                seen = torch.zeros(self.length, dtype=torch.bool)
                seen[order[commit < commit[entry]]] = True
                rows[row, entry] = self.opinion(tokens[row], seen)[site]
        return rows
