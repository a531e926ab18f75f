"""The randomness of training: a pure function of (seed, step, row of the global batch, site)."""
from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from maskless.noise import hashed, uniform
from maskless.objectives.base import Draws
from maskless.schedules import spread

# what a number is for: part of its address, so that no two uses share one
TIMES, SITES, ROTATION, EVALUATION, SHARED, CLASSES, DECODES = 101, 102, 103, 104, 105, 106, 107

BELOW_ONE = 1 - 2.0**-24  # the largest float32 below 1: at t = 1 the weight 1 / (1 - t) is infinite


def draws(
    seed: int, step: int, rows: Int[Tensor, " B"], n: int, length: int, *, low: float = 1e-3, high: float = 1.0,
) -> Draws:
    """Times and uniforms of some rows of the global batch of one training step.

    Times are stratified over the global batch: one of its `n` rows lies in each of n equal parts of [low, high]. Which
    row takes which part rotates with the step, so that no rank or micro-batch always sees the same times.

    Args:
        seed: of the run.
        step: optimizer step.
        rows: numbers 0..n-1 of the rows in the global batch. Any subset will do: any split over ranks and micro-batches
            gives a row the same numbers.
        n: rows in the global batch.
        length: sites L.
        low: shortest time; take it from `objective.times`.
        high: longest time.

    Returns:
        float32 times (B,) and uniforms (B, L) on the device of `rows`, seeds of rows, and two numbers that all rows of the
        step share.
    """
    turn = int(hashed(seed, ROTATION, step)) % n
    first = uniform(seed, TIMES, step, rows)
    t = spread(first, (rows + turn) % n, n, low, high)
    sites = torch.arange(length, device=rows.device)
    u = uniform(seed, SITES, step, rows[:, None], sites)
    shared = uniform(seed, SHARED, step, torch.arange(2)).tolist()
    return Draws(_single(t), _single(u), (shared[0], shared[1]), hashed(seed, DECODES, step, rows))


def unlabelled(seed: int, step: int, rows: Int[Tensor, " B"], share: float) -> Bool[Tensor, " B"]:
    """The rows that a training step shows without their label, so that the model learns the law of no class as well.

    Args:
        seed: of the run.
        step: optimizer step.
        rows: numbers of the rows in the global batch, cut over ranks and micro-batches in any way.
        share: the probability, for each row by itself.
    """
    return uniform(seed, CLASSES, step, rows) < share


def _single(x: Tensor) -> Tensor:
    return x.to(torch.float32).clamp_max(BELOW_ONE)
