"""The analytic (Tweedie) sampler of SEDD is, for masked diffusion, the ancestral sampler: one law, two derivations (spec 3.4 and 3.5).

It needs no sampler of its own; `Ancestral` is both.
"""
from __future__ import annotations

import math

import pytest
import torch


def tweedie(p: torch.Tensor, alpha_t: float, alpha_s: float) -> torch.Tensor:
    """The law of one analytic update of a masked site, over V tokens and, last, [MASK]; written out from spec 3.5."""
    sigma_t, step = -math.log(alpha_t), math.log(alpha_s / alpha_t)             # sigma_t, sigma_t - sigma_s
    score = torch.cat([p / math.expm1(sigma_t), torch.ones(1, dtype=p.dtype)])
    staggered = score * math.exp(step)
    staggered[-1] += (1 - math.exp(step)) * score.sum()
    transition = torch.full_like(score, 1 - math.exp(-step))
    transition[-1] += math.exp(-step)
    law = staggered * transition
    return law / law.sum()


@pytest.mark.parametrize("t, s", [(0.9, 0.7), (0.5, 0.49), (0.3, 0.001)])
def test_one_update_reveals_with_the_ancestral_probability(t, s):
    p = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64)
    alpha_t, alpha_s = 1 - 0.999 * t, 1 - 0.999 * s
    reveal = (alpha_s - alpha_t) / (1 - alpha_t)
    want = torch.cat([p * reveal, torch.tensor([1 - reveal], dtype=torch.float64)])
    torch.testing.assert_close(tweedie(p, alpha_t, alpha_s), want, rtol=1e-12, atol=1e-12)
