"""Next-token prediction: the baseline."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from maskless.objectives.base import Draws, Terms, Untimed, terms

if TYPE_CHECKING:
    from maskless.data.batch import Batch


@dataclass(frozen=True)
class Autoregressive(Untimed):
    """sum over sites i >= 1 of -log p(x_i | x_0 .. x_{i-1}): no times, no weights, nothing drawn.

    Site 0 is the anchor (BOS) and is no target. Given sites are no targets either, but only those to the left of a site
    are seen by its prediction: with givens elsewhere the sum answers another question than the masked bound does.

    Source: spec of the released code, section 2.8.
    """

    def _wanted(self, batch: Batch) -> Bool[Tensor, "B L"]:
        later = torch.arange(batch.tokens.shape[1], device=batch.tokens.device) > 0
        return batch.targets & later

    def count(self, batch: Batch) -> Int[Tensor, " B"]:
        return self._wanted(batch).sum(1)

    def __call__(self, model: Any, batch: Batch, draws: Draws) -> Terms:
        # padding lies to the right, where no causal prediction sees it
        states = model.hidden(batch.tokens, torch.ones_like(batch.valid), cond=batch.labels)
        ones = torch.ones(batch.tokens.shape, dtype=torch.float32, device=batch.tokens.device)
        found = terms(model, states, batch, wanted=self._wanted(batch), loss_weight=ones, bound_weight=ones)
        return Terms(found.loss, found.bound, self.count(batch), found.token_loss)
