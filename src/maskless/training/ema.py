"""The exponential moving average of the weights: a second model one can call, never swapped in under the first."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from maskless.training.distributed import local

M = TypeVar("M", bound=nn.Module)


def effective_decay(decay: float, n: int) -> float:
    """The decay of the n-th update (n from 1): min(decay, (1+n)/(10+n)), so that the first thousand steps are not
    dominated by
    the initialisation (spec section 8)."""
    return min(decay, (1 + n) / (10 + n))


def averaged(model: M) -> M:
    """A copy of the model to average into: float32, evaluation mode, no gradients."""
    return copy.deepcopy(model).float().eval().requires_grad_(False)


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * model, parameter by parameter in one fused call."""
    old = [local(parameter) for parameter in average.parameters()]
    new = [local(parameter.detach()).to(torch.float32) for parameter in model.parameters()]
    torch._foreach_lerp_(old, new, 1.0 - decay)
