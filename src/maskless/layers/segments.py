"""Attention inside segments: queries and keys lie sorted, and segment s of the queries looks at segment s of the keys, at nothing else.

                keys 0 0 0 1 1 .                      Built once a forward pass from how long the segments are; every
    queries 0        # # #                            layer then attends through the same object. The last segment of a
            0        # # #            0: #            row holds what the row does not have: finite, otherwise undefined.
            1              # #        1: # #
            .                  #      causal=True     A query whose segment has no keys gets zeros.

B rows, S segments of a row, N queries, M keys, h heads, d head width, D = h * d.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from maskless.layers.attention import bias, by_products, merge, upto
from maskless.layers.compiled import compiled

Counts = Int[Tensor, "B S"]             # how long the segments of each row are; they sum to N (of queries) or M (of keys)
Kernel = Callable[[Tensor, Tensor, Tensor, bool], Tensor]
"""One dense attention: q (1, h, n, d), k and v (1, h, m, d), causal -> (1, h, n, d)."""

BLOCK = 128                             # FlexAttention decides about squares of so many queries and keys


def fused(q: Float[Tensor, "1 h n d"], k: Float[Tensor, "1 h m d"], v: Float[Tensor, "1 h m d"], causal: bool) -> Float[Tensor, "1 h n d"]:
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def plain(q: Float[Tensor, "1 h n d"], k: Float[Tensor, "1 h m d"], v: Float[Tensor, "1 h m d"], causal: bool) -> Float[Tensor, "1 h n d"]:
    """Product, softmax, product. Short segments: their scores stay in the processor's caches, and its backward is plain products too."""
    return by_products(q, k, v, bias(upto(q, k), q, v.dtype) if causal else None)


def flat(x: Float[Tensor, "B h N d"]) -> Float[Tensor, "B*N h d"]:
    """Rows end to end."""
    return x.transpose(1, 2).flatten(0, 1)


def segment_at(counts: Counts, length: int) -> Int[Tensor, "B {length}"]:
    """The number of the segment that each place lies in."""
    places = torch.arange(length, device=counts.device)
    return (places[:, None] >= counts.cumsum(1)[:, None]).sum(-1)


class Looped:
    """One attention per segment, in turn, each of exactly its own size. The host must know the lengths, so the tensors lie on the CPU."""

    def __init__(self, queries: Counts, keys: Counts, *, causal: bool, kernel: Kernel):
        if queries.device.type != "cpu":
            raise ValueError(f"attention segment by segment would wait for the {queries.device.type} device to tell how long each segment is; "
                             "use training.attention=varlen, flex or dense")
        self.causal, self.kernel, self.each = causal, kernel, queries.shape[1]
        self.queries, self.keys = queries.flatten().tolist(), keys.flatten().tolist()

    def __call__(self, q: Float[Tensor, "B h N d"], k: Float[Tensor, "B h M d"], v: Float[Tensor, "B h M d"]) -> Float[Tensor, "B N D"]:
        # split and cat, not slices: the gradient of a slice is a tensor of zeros as large as the whole, once per segment
        pieces = zip(flat(q).split(self.queries), flat(k).split(self.keys), flat(v).split(self.keys))
        return torch.cat([self.one(number, *piece) for number, piece in enumerate(pieces)]).view(len(q), q.shape[2], -1)

    def one(self, number: int, q: Float[Tensor, "n h d"], k: Float[Tensor, "m h d"], v: Float[Tensor, "m h d"]) -> Float[Tensor, "n D"]:
        if not len(q) or not len(k) or number % self.each == self.each - 1:
            return v.new_zeros(len(q), v.shape[1] * v.shape[2])
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        found = self.kernel(q, k, v, self.causal)
        return found[0].transpose(0, 1).flatten(1)


class Varlen:
    """All segments in one kernel (torch.nn.attention.varlen: a GPU, half precision). Their lengths stay on the device: no waiting."""

    def __init__(self, queries: Counts, keys: Counts, *, length: int, causal: bool):
        self.length, self.causal = length, causal
        self.queries, self.keys = (F.pad(counts.flatten().cumsum(0), (1, 0)).int() for counts in (queries, keys))
        self.sees = keys.gather(1, segment_at(queries, length)).flatten()[:, None] > 0

    def __call__(self, q: Float[Tensor, "B h N d"], k: Float[Tensor, "B h M d"], v: Float[Tensor, "B h M d"]) -> Float[Tensor, "B N D"]:
        from torch.nn.attention.varlen import varlen_attn

        window: dict[str, Any] = {"window_size": (-1, 0)} if self.causal else {}
        found = varlen_attn(flat(q).to(v.dtype), flat(k).to(v.dtype), flat(v), self.queries, self.keys, self.length, self.length, **window)
        assert isinstance(found, Tensor)
        return found.flatten(1).masked_fill(~self.sees, 0.0).view(len(q), q.shape[2], -1)


class Flex:
    """FlexAttention: squares of BLOCK x BLOCK in which no query looks at a key are skipped, and squares that are all seen need no mask.

    Which are which follows from the segments of a square's first and last query and key: no (N, M) mask is made.
    """

    def __init__(self, queries: Counts, keys: Counts, *, length: int, causal: bool):
        of_query, of_key = segment_at(queries, length), segment_at(keys, length)
        same = lambda row, head, query, key: of_query[row, query] == of_key[row, key]       # traced: plain functions, nothing checked inside
        upto = lambda row, head, query, key: same(row, head, query, key) & (query >= key)
        self.mask, self.causal = _block_mask(of_query, of_key, causal, upto if causal else same), causal

    def __call__(self, q: Float[Tensor, "B h N d"], k: Float[Tensor, "B h M d"], v: Float[Tensor, "B h M d"]) -> Float[Tensor, "B N D"]:
        q, k = q.to(v.dtype), k.to(v.dtype)
        return merge(_flex(q, k, v, self.causal)(q, k, v, block_mask=self.mask))


def _block_mask(of_query: Int[Tensor, "B N"], of_key: Int[Tensor, "B M"], causal: bool, sees: Callable[..., Tensor]) -> Any:
    from torch.nn.attention.flex_attention import BlockMask

    def ends(segment: Tensor) -> tuple[Tensor, Tensor]:             # of the first and the last place of every block
        starts = torch.arange(0, segment.shape[1], BLOCK, device=segment.device)
        return segment[:, starts], segment[:, (starts + BLOCK).clamp(max=segment.shape[1]) - 1]

    def listed(blocks: Tensor) -> tuple[Tensor, Tensor]:            # how many blocks of keys a block of queries has, and which: those first
        return blocks.sum(-1, dtype=torch.int32)[:, None], blocks.int().argsort(dim=-1, descending=True, stable=True).int()[:, None]

    (first_q, last_q), (first_k, last_k) = ends(of_query), ends(of_key)
    some = (first_q[:, :, None] <= last_k[:, None]) & (first_k[:, None] <= last_q[:, :, None])         # (B, N / BLOCK, M / BLOCK)
    every = (first_q == last_q)[:, :, None] & (first_k == last_k)[:, None] & (first_q[:, :, None] == first_k[:, None])
    if causal:
        some, every = some.tril(), every.tril(-1)
    return BlockMask.from_kv_blocks(*listed(some & ~every), *listed(every), BLOCK_SIZE=BLOCK, mask_mod=sees,
                                    seq_lengths=(of_query.shape[1], of_key.shape[1]))


def _flex(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Callable[..., Tensor]:
    """FlexAttention, compiled; on a CPU as it is (forward only, and it makes all scores: for tests)."""
    from torch.nn.attention.flex_attention import flex_attention

    if q.device.type == "cpu":
        return flex_attention  # type: ignore[return-value]
    kinds = tuple((x.shape, x.stride(), x.dtype, x.device, x.requires_grad) for x in (q, k, v))
    return _compiled(kinds, causal, torch.is_grad_enabled(), torch.is_inference_mode_enabled())


@cache
def _compiled(*kind: Any) -> Callable[..., Tensor]:
    """FlexAttention for one kind of call."""
    from torch.nn.attention.flex_attention import flex_attention

    return compiled(flex_attention)
