"""A picture made of formulas, as a law of points: the head of a cat, darker places drawing more points.

The toy experiment of MDM-Prime (arXiv 2505.18495) takes a photograph; this takes ellipses, so that nothing has to be fetched and the law is exact.

H x W cells, y down and x to the right, both in [-1, 1].
"""
from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskless.noise import uniform

POINTS = 401                            # purpose of the random numbers


def _ellipse(y: Tensor, x: Tensor, centre: tuple[float, float], radii: tuple[float, float]) -> Float[Tensor, "H W"]:
    """Below 1 inside."""
    return ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2


def _ear(y: Tensor, x: Tensor, side: float, size: float) -> Bool[Tensor, "H W"]:
    """A triangle above the head."""
    height = (y + 0.28 + 0.62 * size) / (0.62 * size)               # 0 at the tip, 1 at the base
    return (height > 0) & (height < 1) & ((x - side * 0.47).abs() < 0.27 * size * height)


def cat(size: int = 512) -> Float[Tensor, "H W"]:
    """The law: non-negative, sums to 1, float64.

    Example:
        >>> law = cat(64)
        >>> law.shape, round(float(law.sum()), 6)
        (torch.Size([64, 64]), 1.0)
    """
    at = (torch.arange(size, dtype=torch.float64) + 0.5) / size * 2 - 1
    y, x = at[:, None].expand(size, size), at.expand(size, size)
    head = _ellipse(y, x, (0.16, 0.0), (0.62, 0.72)) < 1
    ears = _ear(y, x, -1, 1.0) | _ear(y, x, 1, 1.0)
    inner = _ear(y, x, -1, 0.55) | _ear(y, x, 1, 0.55)
    ink = torch.where(head | ears, 0.30, 0.0)
    stripes = head & (y < -0.12) & ((x * 11 + 3 * y).sin().abs() < 0.35) & (x.abs() < 0.34)
    ink = torch.where(stripes | (inner & ~head), 0.75, ink)
    for side in (-1, 1):
        eye = _ellipse(y, x, (0.04, side * 0.30), (0.13, 0.17))
        ink = torch.where(eye < 1, 0.03, ink)
        ink = torch.where(_ellipse(y, x, (0.04, side * 0.30), (0.12, 0.045)) < 1, 1.0, ink)                # the pupil
        for slope in (-0.16, 0.0, 0.16):                            # whiskers
            out = side * x - 0.24
            line = (y - 0.40 - slope * out).abs() < 0.012
            ink = torch.where(line & (out > 0) & (out < 0.66), 0.9, ink)
    nose = (y > 0.28) & (y < 0.38) & (x.abs() < (0.38 - y) * 0.9)
    mouth = ((_ellipse(y, x, (0.43, -0.11), (0.09, 0.11)) - 1).abs() < 0.22) | ((_ellipse(y, x, (0.43, 0.11), (0.09, 0.11)) - 1).abs() < 0.22)
    ink = torch.where(nose | (mouth & (y > 0.44)), 1.0, ink)
    return ink / ink.sum()


def points(law: Float[Tensor, "H W"], count: int, seed: int = 0) -> Int[Tensor, "n 2"]:
    """Cells (y, x) drawn from a law, each an entry of its own of a counter-based stream."""
    sums = law.flatten().cumsum(0)
    u = uniform(seed, POINTS, torch.arange(count)).double()
    cell = torch.searchsorted(sums, u * sums[-1], right=True).clamp(max=law.numel() - 1)
    return torch.stack([cell // law.shape[1], cell % law.shape[1]], 1)


def entropy(law: Float[Tensor, "H W"]) -> float:
    """Nats per point."""
    return float(torch.special.entr(law).sum())


def histogram(found: Int[Tensor, "n 2"], size: int, bins: int) -> Float[Tensor, "b b"]:
    """The share of points in each of bins x bins equal squares."""
    cell = found * bins // size
    return torch.bincount(cell[:, 0] * bins + cell[:, 1], minlength=bins * bins).view(bins, bins).double() / len(found)


def distance(found: Int[Tensor, "n 2"], law: Float[Tensor, "H W"], bins: int = 32) -> float:
    """Total variation between a histogram and the law, in squares: 0 equal, 1 apart. Even the law's own points are not at 0."""
    size = law.shape[0]
    want = law.unflatten(0, (bins, size // bins)).unflatten(2, (bins, size // bins)).sum((1, 3))
    return float((histogram(found, size, bins) - want).abs().sum()) / 2

