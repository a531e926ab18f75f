"""Cross-entropy from hidden states, without a (B, L, V) tensor.

Logits exist for one chunk of sites at a time. The loss is a known weighted sum, so its gradient is known the moment a
chunk's logits are: both are computed in the forward pass, and the backward pass only scales. Against recomputing the
chunks in backward this saves one of four products with the head (docs/performance.md has the times).

Letters: B rows, L sites, N = B L, D width, V data vocabulary, C sites of a chunk.
"""
from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_NUMBERS = 1 << 22  # logits alive at once (16 MiB in float32): larger chunks leave the processor's caches
DEVICE_CHUNK_NUMBERS = 1 << 28  # on an accelerator a chunk must be large enough to fill it (1 GiB)


def weighted_nll(
    model: Any, hidden: Float[Tensor, "B L D"], tokens: Int[Tensor, "B L"], weights: Float[Tensor, "B L"], *,
    wanted: Bool[Tensor, "B L"] | None = None, chunk: int | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "B L"]]:
    """sum of weights * nll over the wanted sites, and the nll of each.

    Args:
        model: has `head` (a Linear from D to V) and `allowed` ((V,) bool, False on ids never predicted, or None).
        hidden: states that predict each site; gradients flow to them and to the head.
        tokens: targets.
        weights: of each site; no gradient.
        wanted: sites to look at (None: all). The others cost nothing, give 0, and their weights may be infinite.
        chunk: sites per chunk (None: by vocabulary and device).

    Returns:
        The differentiable sum (), and the detached nll (B, L), in float32 or the dtype of `hidden` if that is wider.
    """
    flat, ids, scale = hidden.flatten(0, 1), tokens.flatten(), weights.detach().flatten()
    index = None if wanted is None else wanted.flatten().nonzero()[:, 0]
    if index is not None:
        flat, ids, scale = flat[index], ids[index], scale[index]
    head = model.head
    size = _chunk(head.weight.shape[0], hidden.device) if chunk is None else chunk
    asked = _Asked(ids, scale, model.allowed, size, torch.is_grad_enabled())
    loss, nll = _WeightedNLL.apply(flat, head.weight, head.bias, asked)
    if index is not None:
        nll = torch.zeros(tokens.numel(), dtype=nll.dtype, device=nll.device).index_copy(0, index, nll)
    return loss, nll.view(tokens.shape)


def _chunk(vocabulary: int, device: torch.device) -> int:
    budget = CHUNK_NUMBERS if device.type == "cpu" else DEVICE_CHUNK_NUMBERS
    return max(64, budget // vocabulary)


def _logits(flat: Tensor, weight: Tensor, bias: Tensor | None, allowed: Tensor | None) -> tuple[Tensor, torch.dtype]:
    """Logits in at least float32, and the dtype in which the product was made (bfloat16 under autocast)."""
    made = F.linear(flat, weight, bias)
    logits = made.to(torch.promote_types(made.dtype, torch.float32))
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    return logits, made.dtype


class _Asked(NamedTuple):
    """What a loss asks for: targets (N,), weights, allowed ids, sites per chunk, whether gradients are wanted."""

    ids: Tensor
    scale: Tensor
    allowed: Tensor | None
    size: int
    train: bool


class _WeightedNLL(torch.autograd.Function):
    """loss = sum_n w_n (logsumexp(z_n) - z_n[y_n]); d loss / d z = w (softmax(z) - onehot(y))."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, weight: Tensor, bias: Tensor | None, asked: _Asked) -> tuple[Tensor, Tensor]:
        ids, scale, allowed, size, train = asked
        wants = ctx.needs_input_grad[:3] if train else (False, False, False)
        d_flat = torch.zeros_like(flat) if wants[0] else None
        d_weight = torch.zeros_like(weight) if wants[1] else None
        d_bias = torch.zeros_like(bias) if wants[2] and bias is not None else None
        pieces = []
        for start in range(0, len(ids), size):
            part = slice(start, start + size)
            logits, dtype = _logits(flat[part], weight, bias, allowed)
            log_z = logits.logsumexp(-1, keepdim=True)
            at = ids[part, None]
            pieces.append((log_z - logits.gather(-1, at))[:, 0])
            if not any(wants):
                continue
            slope = torch.sub(logits, log_z, out=logits).exp_()  # softmax, in the memory of the logits
            slope.scatter_add_(-1, at, slope.new_full(at.shape, -1.0)).mul_(scale[part, None])
            if d_bias is not None:
                d_bias += slope.sum(0).to(d_bias.dtype)
            slope = slope.to(dtype)
            if d_flat is not None:
                d_flat[part] = slope.mm(weight.to(dtype)).to(d_flat.dtype)
            if d_weight is not None:
                d_weight += slope.t().mm(flat[part].to(dtype)).to(d_weight.dtype)
        wide = torch.promote_types(flat.dtype, torch.float32)
        nll = torch.cat(pieces) if pieces else flat.new_zeros(0, dtype=wide)
        ctx.gradients = (d_flat, d_weight, d_bias)
        ctx.mark_non_differentiable(nll)
        return (scale * nll).sum().to(torch.promote_types(nll.dtype, torch.float32)), nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        d_loss, _ = grad_outputs
        gradients = [None if g is None else g * d_loss.to(g.dtype) for g in ctx.gradients]
        return (*gradients, None)
