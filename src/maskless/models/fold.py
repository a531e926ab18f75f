"""Fold the constant modulation of a model without time conditioning into its norms and projections (spec, section 1.7).

norm weight <- w (1 + scale), norm bias <- shift, out <- diag(gate) out: the same function with no adaLN left. For inference only.
"""
from __future__ import annotations

from dataclasses import replace

import torch

from maskless.layers.block import CrossBlock, FinalNorm, SelfBlock
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
