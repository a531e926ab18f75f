"""Attention among two groups: a token looks at its own group, a query at the other one.

    group of a site     0 1 0 0 1        tokens, sorted       0 0 0 1 1
                                         queries, sorted      1 1 0 0 0     (each beside what it looks at)

In site order this takes two masks of L x L (`dense`, the reference). Sorted by group inside each row it is dense attention in segments:
two squares among the tokens, two rectangles between queries and tokens. For groups of tL and (1 - t)L, t uniform, that is 2/3 and 1/3 of the
work on average.

B rows, L sites, h heads, d head width, D width.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from maskless.layers.attention import Attend, Masked
from maskless.layers.rotary import Rotation
from maskless.layers.segments import Counts, Flex, Looped, Varlen, fused, plain


class InPlace:
    """Sites in their own order."""

    def arrange(self, x: Tensor) -> Tensor:
        return x

    def restore(self, x: Tensor) -> Tensor:
        return x

    def rotation(self, sites: Rotation) -> Rotation:
        return sites


class Sorted:
    """Sites of each row in an order of its own: `sites[b, i]` stands at place i."""

    def __init__(self, sites: Int[Tensor, "B L"]):
        rows = torch.arange(len(sites), device=sites.device)[:, None] * sites.shape[1]
        self.sites = sites
        self.take, self.back = ((index + rows).flatten() for index in (sites, sites.argsort(1)))

    def arrange(self, x: Tensor) -> Tensor:
        """(#B, L, ...) from site order to this one."""
        return _Permuted.apply(x.expand(len(self.sites), *x.shape[1:]), self.take, self.back)  # type: ignore[return-value]

    def restore(self, x: Tensor) -> Tensor:
        """(B, L, ...) from this order to site order."""
        return _Permuted.apply(x, self.back, self.take)  # type: ignore[return-value]

    def rotation(self, sites: Rotation) -> Rotation:
        return sites.at(self.sites)


class _Permuted(torch.autograd.Function):
    """x[take] over the first two dimensions as one. The gradient is a gather as well, by the inverse: no atomic additions, any device."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, take: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(take, back)
        return x.flatten(0, 1).index_select(0, take).view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        take, back = ctx.saved_tensors
        return _Permuted.apply(gradients[0], back, take), None, None  # type: ignore[return-value]


@dataclass(frozen=True)
class Groups:
    """How one batch of rows, split in two groups, attends. Made once a forward pass; every layer uses it.

    Attributes:
        tokens: where the encoder holds the tokens.
        queries: where the decoder holds the queries.
        own: tokens at tokens of their own group.
        other: queries at tokens of the other group. One without any gets zeros.
        beside: makes the rule of queries at queries of their own group, which few decoders have.
    """

    tokens: InPlace | Sorted
    queries: InPlace | Sorted
    own: Attend
    other: Attend
    beside: Callable[[], Attend]


@runtime_checkable
class Grouping(Protocol):
    """A way of attending among groups."""

    def __call__(self, known: Bool[Tensor, "B L"], present: Bool[Tensor, "B L"] | None = None, log: Int[Tensor, "B L"] | None = None) -> Groups:
        """The groups of a batch.

        Args:
            known: True in group 0, False in group 1.
            present: False on sites a row does not have: nothing looks at them, and what they get is finite and otherwise undefined.
            log: a permutation of the sites of every row: a token looks at its own group up to itself in that order; None: at all of it.
        """
        ...


def dense(known: Bool[Tensor, "B L"], present: Bool[Tensor, "B L"] | None = None, log: Int[Tensor, "B L"] | None = None) -> Groups:
    """Site order and two masks (B, 1, L, L): any device, any precision. The reference that every other way equals."""
    same = known[:, :, None] == known[:, None]
    keys = True if present is None else present[:, None]
    own = alike = same & keys
    if log is not None:
        rank = log.argsort(1)
        own = alike & (rank[:, None] <= rank[:, :, None])
    return Groups(InPlace(), InPlace(), Masked(own[:, None]), Masked((~same & keys)[:, None]), lambda: Masked(alike[:, None]))


def by_segments(attend: Callable[..., Attend]) -> Grouping:
    """The way of attending that sorts every row by group and then uses `attend(queries, keys, length=L, causal=...)`."""

    def grouping(known: Bool[Tensor, "B L"], present: Bool[Tensor, "B L"] | None = None, log: Int[Tensor, "B L"] | None = None) -> Groups:
        here = torch.ones_like(known) if present is None else present
        zero, one = known & here, ~known & here
        counts: Counts = torch.stack([side.sum(1) for side in (zero, one, ~here)], 1)
        # absent sites last; queries of group 1 first, beside the tokens of group 0 that they look at
        tokens, queries = (Sorted(_sorted(torch.where(side, 0, torch.where(here, 1, 2)), log)) for side in (zero, one))
        build, swapped = partial(attend, length=known.shape[1]), counts[:, [1, 0, 2]]
        own, other = build(counts, counts, causal=log is not None), build(swapped, counts, causal=False)
        return Groups(tokens, queries, own, other, partial(build, swapped, swapped, causal=False))

    return grouping


def _sorted(keys: Int[Tensor, "B L"], log: Int[Tensor, "B L"] | None) -> Int[Tensor, "B L"]:
    """The sites by key; those of one key as they come in the log, or from left to right."""
    if log is None:
        return keys.argsort(dim=1, stable=True)
    return log.gather(1, keys.gather(1, log).argsort(dim=1, stable=True))


def _looped(kernel: Any) -> Callable[..., Attend]:
    return lambda queries, keys, length, causal: Looped(queries, keys, causal=causal, kernel=kernel)


GROUPINGS: dict[str, Grouping] = {
    "dense": dense,                                     # any device
    "segments": by_segments(_looped(fused)),            # CPU
    "plain": by_segments(_looped(plain)),               # CPU; short segments, and bf16, where the fused backward is slow
    "varlen": by_segments(Varlen),                      # GPU, half precision
    "flex": by_segments(Flex),                          # GPU, any precision; compiled at its first use
}
