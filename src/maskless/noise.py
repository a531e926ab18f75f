"""Randomness as a pure function: a uniform number for every (seed, step, row, site, purpose), the same on any device and in any batch.

A counter-based generator (the finaliser of SplitMix64, Steele et al. 2014, absorbed word by word) in 64-bit integer
arithmetic that every torch device has. Nothing is drawn in sequence, so a row's noise cannot depend on its batch,
on how a batch is cut over ranks or micro-batches, or on what was drawn before.
"""
from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
SECOND = 0x94D049BB133111EB - (1 << 64)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical (not arithmetic) right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * FIRST
    x = (x ^ _shift(x, 27)) * SECOND
    return x ^ _shift(x, 31)


def hashed(*words: Tensor | int) -> Int[Tensor, " ..."]:
    """64 well-mixed bits for every tuple of `words` (integers or int64 tensors, broadcast against each other)."""
    tensors = [word for word in words if isinstance(word, Tensor)]
    device = tensors[0].device if tensors else None
    state = torch.zeros((), dtype=torch.int64, device=device)
    for word in words:
        state = _mix((state ^ word) + GOLDEN)
    return state


def uniform(*words: Tensor | int) -> Float[Tensor, " ..."]:
    """Uniform numbers in [0, 1) with 53 random bits (float64; float32 with 24 bits on devices without float64), one for every tuple of `words`.

    Args:
        words: integers or int64 tensors; the result has their broadcast shape.

    Example:
        >>> from maskless.noise import uniform
        >>> import torch
        >>> uniform(7, torch.arange(3)).shape
        torch.Size([3])
    """
    bits = hashed(*words)
    if bits.device.type == "mps":
        return _shift(bits, 40).to(torch.float32) * 2.0**-24
    return _shift(bits, 11).to(torch.float64) * 2.0**-53
