"""Scaled dot-product attention, and the self- and cross-attention of the transformers.

B rows, N queries, M keys, h heads, d head width, D = h * d.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from maskless.layers.rotary import Rotation

Mask = Bool[Tensor, "#B 1 #N M"] | None       # True where a query may look; N may be 1 where all queries see the same keys
Bias = Float[Tensor, "#B 1 N M"] | None       # what is added to scores: 0 where a query may look, elsewhere the least number there is
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention under some rule of who looks at whom: q (#B, h, N, d), k and v (B, h, M, d) -> (B, N, D), heads merged, scale 1/sqrt(d)."""

PIECE = 1 << 21                         # scores that are made at a time
KEPT = 1 << 25                          # scores of a layer that may be kept for its gradient
FEW = 64                                # queries below which the keys are the left factor
SPAN = 64                               # numbers of keys are rounded up to a multiple of this: products make a kernel for every shape


def merge(x: Float[Tensor, "B h N d"]) -> Float[Tensor, "B N D"]:
    return x.transpose(1, 2).flatten(2)


def attention(q: Float[Tensor, "#B h N d"], k: Float[Tensor, "B h M d"], v: Float[Tensor, "B h M d"], *,
              mask: Mask = None, is_causal: bool = False) -> Float[Tensor, "B h N d"]:
    """softmax(q k^T / sqrt(d)) v: by torch's fused attention, or by products where that is faster (docs/performance.md)."""
    if not _products_pay(q, k, v):
        return fused(q, k, v, attn_mask=mask, is_causal=is_causal)
    if is_causal:
        mask = upto(q, k)
    return by_products(q, k, v, bias(mask, q, v.dtype))


def fused(q: Float[Tensor, "#B h N d"], k: Float[Tensor, "B h M d"], v: Float[Tensor, "B h M d"], **how: Any) -> Float[Tensor, "B h N d"]:
    """torch's fused attention; queries that all rows share are laid out for each, since it would make all scores for them otherwise."""
    return F.scaled_dot_product_attention(q.expand(len(k), -1, -1, -1), k, v, **how)


def upto(q: Tensor, k: Tensor) -> Bool[Tensor, "1 1 N M"]:
    """The mask of `causal`: query i looks at keys 0..i."""
    return torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()[None, None]


def bias(mask: Mask, q: Float[Tensor, "#B h N d"], dtype: torch.dtype) -> Bias:
    """A mask as what is added to the scores of `q`, laid out in memory as `by_products` makes them: a sum costs less than a filling."""
    if mask is None:
        return None
    wide = mask.expand(-1, -1, q.shape[2], -1)
    made = wide.transpose(-1, -2) if _few(q) else wide
    made = torch.zeros(made.shape, dtype=dtype, device=made.device).masked_fill_(~made, torch.finfo(dtype).min)
    return made.transpose(-1, -2) if _few(q) else made


def _products_pay(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether products are faster, and their scores not too many to be kept for a gradient."""
    return _by_vectors(v) and (not torch.is_grad_enabled() or _scores(q, k) <= KEPT)


def span(keys: int, most: int, cache: Tensor) -> int:
    """How far to look into a cache of `most` entries, the first `keys` filled: where products pay, so that the same few shapes come again."""
    return rounded_up(keys, SPAN, most) if _by_vectors(cache) else keys


def rounded_up(number: int, multiple: int, most: int) -> int:
    """The next multiple, unless it is beyond `most`."""
    return min(-(-number // multiple) * multiple, most)


def _by_vectors(x: Tensor) -> bool:
    """Whether the processor multiplies these in vectors of bfloat16: the fused attention works in float32 there."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and _bf16_in_vectors()


@cache
def _bf16_in_vectors() -> bool:
    return torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()


def _scores(q: Tensor, k: Tensor) -> int:
    return k.shape[0] * k.shape[1] * q.shape[2] * k.shape[2]


def by_products(q: Float[Tensor, "#B h N d"], k: Float[Tensor, "B h M d"], v: Float[Tensor, "B h M d"],
                bias: Bias = None) -> Float[Tensor, "B h N d"]:
    """Product, softmax, product, in the dtype of `v`; without gradients in pieces whose scores stay in the processor's caches."""
    if torch.is_grad_enabled() or _scores(q, k) <= PIECE or len(k) == q.shape[2] == 1:
        return _mixed(q, k, v, bias)
    if len(k) > 1:
        return torch.cat([by_products(*half) for half in zip(*(_halves(x, 0) for x in (q, k, v, bias)))])
    return torch.cat([by_products(half, k, v, part) for half, part in zip(_halves(q, 2), _halves(bias, 2))], 2)


def _halves(x: Tensor | None, axis: int) -> Sequence[Any]:
    return (x, x) if x is None or x.shape[axis] == 1 else x.chunk(2, axis)


def _mixed(q: Tensor, k: Tensor, v: Tensor, bias: Bias) -> Tensor:
    if torch.is_autocast_enabled(q.device.type):                    # which would have the softmax in float32
        with torch.autocast(q.device.type, enabled=False):
            return _mixed(q, k, v, bias)
    q, k = (q * q.shape[-1] ** -0.5).to(v.dtype), k.to(v.dtype)
    scores = (k @ q.transpose(-1, -2)).transpose(-1, -2) if _few(q) else q @ k.transpose(-1, -2)
    if bias is not None:
        scores += bias
    return scores.softmax(-1) @ v


def _few(q: Tensor) -> bool:
    return q.shape[2] < FEW


def everywhere(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every query looks at every key."""
    return merge(attention(q, k, v))


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Query i looks at keys 0..i."""
    return merge(attention(q, k, v, is_causal=True))


def before(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Query i looks at keys 0..i-1; query 0 at nothing: zeros."""
    q = q.expand(len(k), -1, -1, -1)
    return F.pad(causal(q[:, :, 1:], k[:, :, :-1], v[:, :, :-1]), (0, 0, 1, 0))


class Masked:
    """Queries look where `mask` is True. A query that may look at nothing gets zeros and finite gradients, on every backend.

    Args:
        blind: whether there may be such a query.
    """

    def __init__(self, mask: Bool[Tensor, "#B 1 #N M"], blind: bool = True):
        self.unseeing = ~mask.any(-1, keepdim=True) if blind else None
        self.mask = mask if self.unseeing is None else mask | self.unseeing
        self.biases: dict[tuple[int, torch.dtype], Bias] = {}       # one for all layers

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if _products_pay(q, k, v):
            mixed = by_products(q, k, v, self.bias(q, v.dtype))
        else:
            mixed = fused(q, k, v, attn_mask=self.mask)
        return merge(mixed if self.unseeing is None else mixed.masked_fill(self.unseeing, 0.0))

    def bias(self, q: Tensor, dtype: torch.dtype) -> Bias:
        if (kind := (q.shape[2], dtype)) not in self.biases:
            self.biases[kind] = bias(self.mask, q, dtype)
        return self.biases[kind]


class Absorbing:
    """Attention that mixes the memory and projects to values afterwards: W (sum_j a_j m_j) + b in place of sum_j a_j (W m_j + b).

    The same numbers, without values for every key: h Q products a key in place of D + Q. In place of values it is given the memory (B, M, D).

    Args:
        weight: (D, D) of the values, heads in rows.
        bias: (D,) or None.
        mask: as for `Masked`, or None.
    """

    def __init__(self, weight: Float[Tensor, "D D"], bias: Float[Tensor, " D"] | None, mask: Mask = None):
        self.weight, self.bias, self.mask = weight, bias, mask

    @staticmethod
    def pays(queries: int, count: int, width: int) -> bool:
        """Whether it is less work than making the values."""
        return count * queries < width + queries

    def __call__(self, q: Tensor, k: Tensor, memory: Float[Tensor, "B M D"]) -> Float[Tensor, "B N D"]:
        scores = (k @ (q * q.shape[-1] ** -0.5).transpose(-1, -2)).transpose(-1, -2)            # (B, h, N, M)
        if self.mask is not None:
            scores = scores.masked_fill(~self.mask, torch.finfo(scores.dtype).min)
        share = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(memory.dtype)
        mixed = (share.flatten(1, 2) @ memory).unflatten(1, share.shape[1:3])                   # (B, h, N, D)
        out = merge(mixed @ self.weight.unflatten(0, (share.shape[1], -1)).transpose(-1, -2))
        out = out if self.bias is None else out + self.bias
        return out if self.mask is None else out.masked_fill(~self.mask.any(-1)[:, 0, :, None], 0.0)


def under(mask: Mask) -> Attend:
    """Attention under a mask, or everywhere without one."""
    return everywhere if mask is None else Masked(mask)


def heads(x: Float[Tensor, "B N D"], count: int) -> Float[Tensor, "B h N d"]:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


class SelfAttention(nn.Module):
    def __init__(self, width: int, count: int):
        super().__init__()
        self.count = count
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def project(self, x: Float[Tensor, "B N D"], rotate: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, h, N, d), rotated."""
        qk, v = self.qkv(x).split((2 * x.shape[-1], x.shape[-1]), -1)
        q, k = rotate(heads(qk, 2 * self.count)).chunk(2, 1)
        return q, k, heads(v, self.count)

    def forward(self, x: Float[Tensor, "B N D"], rotate: Rotation, attend: Attend = everywhere) -> Float[Tensor, "B N D"]:
        return self.out(attend(*self.project(x, rotate)))


class CrossAttention(nn.Module):
    """Queries look at a memory whose keys and values are made by `keys_values`, once for all queries."""

    def __init__(self, width: int, count: int):
        super().__init__()
        self.count = count
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def keys_values(self, memory: Float[Tensor, "B M D"], rotate: Rotation) -> tuple[Tensor, Tensor]:
        k, v = (heads(part, self.count) for part in self.kv(memory).chunk(2, -1))
        return rotate(k), v

    def forward(self, x: Float[Tensor, "B N D"], rotate: Rotation, keys_values: tuple[Tensor, Tensor],
                attend: Attend = everywhere) -> Float[Tensor, "B N D"]:
        return self.out(attend(rotate(heads(self.q(x), self.count)), *keys_values))
