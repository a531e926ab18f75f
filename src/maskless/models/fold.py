"""Fold the constant modulation of a model without time conditioning into its norms and projections (spec, section 1.7).

norm weight <- w (1 + scale), norm bias <- shift, out <- diag(gate) out: the same function with no adaLN left. For inference only.

`for_sampling` is all that is done to a model before it samples.
"""
from __future__ import annotations

import copy
from dataclasses import replace

import torch

from maskless.layers.block import CrossBlock, FinalNorm, SelfBlock
from maskless.layers.packed import pack, packing_pays
from maskless.models.base import Conditioned, Denoiser


@torch.no_grad()
def fold(model: Denoiser) -> Denoiser:
    """The same model without modulation, sharing every weight that does not change; models that have nothing to fold are returned as they are.

    Args:
        model: in any dtype, on any device; time-conditioned models are returned as they are.
    """
    if not isinstance(model, Conditioned) or model.time is None or model.config.time_conditioned:
        return model
    condition = model.condition_at(None)
    assert condition is not None
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("time.") and ".ada." not in name}
    for name, module in model.named_modules():
        if isinstance(module, SelfBlock | CrossBlock | FinalNorm):
            state |= {f"{name}.{key}": value for key, value in module.folded(condition).items()}
    with torch.device("meta"):
        plain = type(model)(replace(model.config, cond_dim=0, norm_bias=True, dropout=0.0))
    plain.load_state_dict(state, assign=True)
    return plain.requires_grad_(False).train(model.training)


def for_sampling(model: Denoiser, dtype: torch.dtype, *, packed: bool = True) -> Denoiser:
    """The model folded, in a dtype, its weights packed where that pays; `model` itself stays as it is.

    Args:
        model: on the device it shall sample on; weights that do not change are shared.
        packed: False for a model that torch.compile shall see: it lays weights out itself.
    """
    folded = fold(model)
    weight = folded.embedding.weight
    if weight.dtype != dtype or (packed and packing_pays(weight)):
        folded = copy.deepcopy(folded).to(dtype)
    if packed and packing_pays(folded.embedding.weight):
        pack(folded.requires_grad_(False))
    return folded
