"""Cross-entropy from hidden states, chunk by chunk (`chunks.py`).

Letters: B rows, L sites, D width, V data vocabulary, n sites of a chunk.
"""
from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskless.objectives.chunks import sites_per_chunk, weighted_sum


def weighted_nll(
    model: Any, hidden: Float[Tensor, "B L D"], tokens: Int[Tensor, "B L"], weights: Float[Tensor, "B L"], *,
    wanted: Bool[Tensor, "B L"] | None = None, chunk: int | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "B L"]]:
    """sum of weights * nll over the wanted sites, and the nll of each; arguments and results are `weighted_sum`'s.

    nll_n = logsumexp(z_n) - z_n[y_n]; d nll / d z = softmax(z) - onehot(y).

    Args:
        tokens: targets.
        chunk: sites per chunk (None: by vocabulary and device).
    """
    ids = tokens.flatten()

    def piece(logits: Float[Tensor, "n V"], at: Tensor | slice, slope: bool) -> tuple[Tensor, Tensor | None]:
        log_z = logits.logsumexp(-1, keepdim=True)
        target = ids[at, None]
        nll = (log_z - logits.gather(-1, target))[:, 0]
        if not slope:
            return nll, None
        p = torch.sub(logits, log_z, out=logits).exp_()  # softmax, in the memory of the logits
        return nll, p.scatter_add_(-1, target, p.new_full(target.shape, -1.0))

    size = sites_per_chunk(model.head.weight.shape[0], hidden.device) if chunk is None else chunk
    return weighted_sum(model, hidden, weights, piece, wanted=wanted, chunk=size)
