"""How many sites are known after each step, as tables: N sites, S steps, r in [0, 1] how far a decode is.

A share is the part of the sites known at r; MaskGIT's masking rate is one minus it, in training (r is drawn) and in decoding alike.

    r          0     0.25   0.5    0.75   1
    root       0     0.50   0.71   0.87   1      many at first
    linear     0     0.25   0.50   0.75   1
    arccos     0     0.16   0.33   0.54   1
    cosine     0     0.08   0.29   0.62   1
    square     0     0.06   0.25   0.56   1      few at first
"""
from __future__ import annotations

import math
from collections.abc import Callable

Share = Callable[[float], float]        # r -> part of the sites that is known
Ends = Callable[[int, int], list[int]]  # (sites, steps) -> how many are known after each step


def _arccos(r: float) -> float:
    """At r = 1/2 a third from below, as float32 rounds it in the released code; where 3 divides N a third itself would be one site more."""
    return 1 / 3 - 2e-8 if r == 0.5 else 1 - math.acos(r) / (math.pi / 2)


SHARES: dict[str, Share] = {
    "root": math.sqrt,
    "linear": lambda r: r,
    "square": lambda r: r * r,
    "cosine": lambda r: 1 - math.cos(math.pi / 2 * r),
    "arccos": _arccos,
}


def _whole(x: float) -> int:
    """The floor; a number that only rounding keeps below an integer is that integer."""
    return math.floor(x + 1e-9)


def even(sites: int, steps: int) -> list[int]:
    """Equal numbers, the larger ones last; `steps` need not divide `sites`. MaskGIT's `linear`."""
    return [sites * (i + 1) // steps for i in range(steps)]


def cosine(sites: int, steps: int) -> list[int]:
    """MaskGIT (Chang et al. 2022): few at first; at least one a step while any is left."""
    return [min(sites, max(i + 1, round(SHARES["cosine"]((i + 1) / steps) * sites))) for i in range(steps)]


def arccos(sites: int, steps: int) -> list[int]:
    """Halton-MaskGIT (Besnier et al. 2025) and image PGM in Halton order; at least one a step while any is left."""
    return _rising(SHARES["arccos"], sites, steps)


def root(sites: int, steps: int) -> list[int]:
    """Many at first, for models that are surest of the beginning; at least one a step while any is left."""
    return _rising(SHARES["root"], sites, steps)


def square(sites: int, steps: int) -> list[int]:
    """Few at first; at least one a step while any is left."""
    return _rising(SHARES["square"], sites, steps)


def _rising(share: Share, sites: int, steps: int) -> list[int]:
    return one_a_step([_whole(share((i + 1) / steps) * sites) for i in range(steps)], sites)


def from_none(share: Share, sites: int, steps: int) -> list[int]:
    """floor(N share(i / (S - 1))): nothing at the first step, everything at the last. What the confidence samplers begin with."""
    return [_whole(share(i / (steps - 1)) * sites) for i in range(steps)] if steps > 1 else [sites]


def one_a_step(table: list[int], sites: int) -> list[int]:
    """The table, but at least one more at every step while any is left."""
    return [min(sites, max(i + 1, known)) for i, known in enumerate(table)]


def one_ahead(table: list[int], sites: int) -> list[int]:
    """The table with one more at every step but the last, which has them all."""
    return [*(min(sites, known + 1) for known in table[:-1]), sites]


def arccos_maskgit(sites: int, steps: int) -> list[int]:
    """MaskGIT's confidence sampler (Besnier et al. 2025): nothing at first, but one a step."""
    return one_a_step(from_none(SHARES["arccos"], sites, steps), sites)


def arccos_pgm(sites: int, steps: int) -> list[int]:
    """PGM's confidence sampler for images: nothing at first, but one ahead.

    Some steps reveal nothing where there are more steps than sites, and the released code fails on them; every plan leaves them out.
    """
    return one_ahead(from_none(SHARES["arccos"], sites, steps), sites)
