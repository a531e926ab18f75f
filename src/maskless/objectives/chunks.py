"""Losses of logits, without a (B, L, V) tensor.

Logits exist for one chunk of sites at a time. The loss is a known weighted sum, so its gradient is known the moment a
chunk's logits are: both are computed in the forward pass, and the backward pass only scales. Against recomputing the
chunks in backward this saves one of four products with the head (docs/performance.md has the times).

Letters: B rows, L sites, N = B L, D width, V data vocabulary, n sites of a chunk.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_NUMBERS = 1 << 22  # logits alive at once (16 MiB in float32): larger chunks leave the processor's caches
DEVICE_CHUNK_NUMBERS = 1 << 28  # on an accelerator a chunk must be large enough to fill it (1 GiB)

Piece = Callable[[Tensor, Tensor | slice, bool], tuple[Tensor, Tensor | None]]
"""The losses (n,) of some sites from their logits (n, V), which it may overwrite, and d loss / d logits if that is
asked for. Its second argument says where among the N flattened sites they are."""


def weighted_sum(
    model: Any, hidden: Float[Tensor, "B L D"], weights: Float[Tensor, "B L"], piece: Piece, *,
    wanted: Bool[Tensor, "B L"] | None, chunk: int,
) -> tuple[Float[Tensor, ""], Float[Tensor, "B L"]]:
    """sum of weights * loss over the wanted sites, and the loss of each.

    Args:
        model: has `head` (a Linear from D to V) and `allowed` ((V,) bool, False on ids never predicted, or None).
        hidden: states that predict each site; gradients flow to them and to the head.
        weights: of each site; no gradient.
        piece: the loss.
        wanted: sites to look at (None: all). The others cost nothing, give 0, and their weights may be infinite.
        chunk: sites per chunk.

    Returns:
        The differentiable sum (), and the detached losses (B, L), in float32 or the dtype of `hidden` if that is wider.
    """
    index = None if wanted is None else wanted.flatten().nonzero()[:, 0]
    head = model.head
    asked = _Asked(piece, weights.detach().flatten(), index, model.allowed, chunk, torch.is_grad_enabled())
    total, each = _WeightedSum.apply(hidden.flatten(0, 1), head.weight, head.bias, asked)
    if index is not None:
        each = torch.zeros(weights.numel(), dtype=each.dtype, device=each.device).index_copy(0, index, each)
    return total, each.view(weights.shape)


def sites_per_chunk(vocabulary: int, device: torch.device, *, least: int = 64) -> int:
    budget = CHUNK_NUMBERS if device.type == "cpu" else DEVICE_CHUNK_NUMBERS
    return max(least, budget // vocabulary)


def sites_of_digits(model: Any) -> int:
    """Sites of a chunk where tokens are written in digits: marginals go through all b^l numbers, which may be many more than V."""
    return sites_per_chunk(max(model.head.weight.shape[0], model.code.codes), model.head.weight.device, least=1)


def _logits(flat: Tensor, weight: Tensor, bias: Tensor | None, allowed: Tensor | None) -> tuple[Tensor, torch.dtype]:
    """Logits in at least float32, and the dtype in which the product was made (bfloat16 under autocast)."""
    made = F.linear(flat, weight, bias)
    logits = made.to(torch.promote_types(made.dtype, torch.float32))
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    return logits, made.dtype


class _Asked(NamedTuple):
    """What a loss asks for: the loss of a chunk, weights (N,), places of the sites or None for all, allowed ids, sites
    per chunk, whether gradients are wanted."""

    piece: Piece
    scale: Tensor
    places: Tensor | None
    allowed: Tensor | None
    size: int
    train: bool

    def spans(self) -> Sequence[Tensor | slice]:
        """Where the sites of each chunk are among the N."""
        count = len(self.scale) if self.places is None else len(self.places)
        parts = [slice(start, start + self.size) for start in range(0, count, self.size)]
        return parts if self.places is None else [self.places[part] for part in parts]


class _WeightedSum(torch.autograd.Function):
    """loss = sum_n w_n loss_n(z_n), with d loss / d z from the piece."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, weight: Tensor, bias: Tensor | None, asked: _Asked) -> tuple[Tensor, Tensor]:
        wants = ctx.needs_input_grad[:3] if asked.train else (False, False, False)
        d_flat = torch.zeros_like(flat) if wants[0] else None
        d_weight = torch.zeros_like(weight) if wants[1] else None
        d_bias = torch.zeros_like(bias) if wants[2] and bias is not None else None
        pieces = []
        for at in asked.spans():
            states = flat[at]
            logits, dtype = _logits(states, weight, bias, asked.allowed)
            loss, slope = asked.piece(logits, at, any(wants))
            pieces.append(loss)
            if slope is None:
                continue
            slope.mul_(asked.scale[at, None])
            if d_bias is not None:
                d_bias += slope.sum(0).to(d_bias.dtype)
            slope = slope.to(dtype)
            if d_flat is not None:
                d_flat[at] = slope.mm(weight.to(dtype)).to(d_flat.dtype)
            if d_weight is not None:
                d_weight += slope.t().mm(states.to(dtype)).to(d_weight.dtype)
        wide = torch.promote_types(flat.dtype, torch.float32)
        each = torch.cat(pieces) if pieces else flat.new_zeros(0, dtype=wide)
        ctx.gradients = (d_flat, d_weight, d_bias)
        ctx.mark_non_differentiable(each)
        scale = asked.scale if asked.places is None else asked.scale[asked.places]
        return (scale * each).sum().to(torch.promote_types(each.dtype, torch.float32)), each

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        d_loss, _ = grad_outputs
        gradients = [None if g is None else g * d_loss.to(g.dtype) for g in ctx.gradients]
        return (*gradients, None)
