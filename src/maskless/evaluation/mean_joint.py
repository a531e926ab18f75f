"""The score of the released lm-eval harness, reproduced under its name: a length-normalised bound of context and continuation together.

It is no log-probability of the continuation: the whole row [BOS] context continuation [EOS] is hidden at random, and the weighted nlls are
averaged over all its tokens. Ranking choices by it mixes in their lengths. `evaluation/conditional.py` is the score to prefer.

Source: spec of the released code, section 5.4; golden files text_harness_*.
Letters: L sites of the row, S draws.
"""
from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from maskless.checkpoints.reference.quirks import RoundedLogLinear
from maskless.data.batch import Batch
from maskless.evaluation.conditional import greedy
from maskless.noise import uniform
from maskless.objectives import Masked
from maskless.objectives.base import Draws
from maskless.schedules import stratified_times

TIMES, SITES = 0x4D4A5449, 0x4D4A5349                               # purpose words
SHORTEST = 1e-3                                                     # time that is drawn


@torch.inference_mode()
def joint_nats_per_token(
    model: Any, row: Int[Tensor, " L"], t: Float[Tensor, " S"], u: Float[Tensor, "S L"], *, chunk: int = 64,
) -> Float[Tensor, " S"]:
    """Of every draw: the mean over the row's tokens of nll / t where the token is hidden (u < 1 - alpha(t)), 0 where it is not.

    A partition model counts group 1 alone. The released score of a row is minus the mean over draws; smaller is likelier.
    """
    device, found = model.head.weight.device, []
    for times, uniforms in zip(t.split(chunk), u.split(chunk)):
        batch = Batch.of(row.expand(len(times), -1)).to(device)
        terms = Masked(RoundedLogLinear())(model, batch, Draws(times, uniforms).to(device))
        found.append(terms.token_loss.double().mean(1).cpu())
    return torch.cat(found)


def released_draws(seed: int, samples: int, length: int) -> tuple[Float[Tensor, " S"], Float[Tensor, "S L"]]:
    """Times stratified over all draws, in order, and a uniform for every token: as the released code draws, from this library's noise."""
    sample = torch.arange(samples)
    t = stratified_times(uniform(seed, TIMES, sample), SHORTEST).float()
    return t.clamp_max(1 - 2.0**-24), uniform(seed, SITES, sample[:, None], torch.arange(length)).float().clamp_max(1 - 2.0**-24)


def released_greedy(model: Any, prefix: Int[Tensor, " C"], suffix: Int[Tensor, " N"]) -> bool:
    """Whether every token of the continuation is the most probable one, all hidden at once and the closing EOS seen (which tells their number)."""
    row = torch.cat([prefix, suffix])[None]
    site = torch.arange(row.shape[1])[None]
    given = (site < len(prefix)) | (site == row.shape[1] - 1)
    return bool(greedy(model, Batch(row, torch.ones_like(given), given), together=True)[0])
