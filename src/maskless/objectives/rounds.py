"""Rounds of distillation: in each, a step of the student learns to be k of its teacher's; then the student is the teacher."""
from __future__ import annotations


def dt_of(round: int, grid: int, steps: int, *, last: float = 0.0) -> float:
    """The teacher's step in a round (0, 1, ...): the first teacher goes from 1 to `last` in `grid` steps, the next in grid / k.

    Example:
        >>> [1 / dt_of(n, 1024, 2) for n in range(3)]
        [1024.0, 512.0, 256.0]
    """
    return (1 - last) / grid * steps**round


def round_of(step: int, length: int) -> int:
    """The round (0, 1, ...) that update number `step` (from 0) belongs to."""
    return step // length
