"""The Halton order of the cells of a grid: neighbours of a step are far apart, so they are nearly independent (Besnier et al. 2025).

R rows x C columns, N cells, cell = row * C + column; B rows of a batch, L sites.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from maskless.decoding.canvas import Canvas
from maskless.decoding.noise import ORDER, Noise
from maskless.decoding.order import Planned


def _mirrored(j: Int[Tensor, " n"], base: int) -> tuple[Int[Tensor, " n"], int]:
    """The radical inverse of j as a fraction of integers: its digits behind the point, in reverse order."""
    numerator, denominator, largest = torch.zeros_like(j), 1, int(j.max())
    while denominator <= largest:
        numerator, j, denominator = numerator * base + j % base, j // base, denominator * base
    return numerator, denominator


def _finer(cells: int, base: int) -> int:
    """The first power of `base` of which every interval of 1 / cells holds a whole one."""
    power = 1
    while power < 2 * cells:
        power *= base
    return power


@lru_cache(maxsize=32)
def halton_rank(rows: int, columns: int) -> Int[Tensor, " N"]:
    """The place of every cell in the Halton order: cells by first visit of (floor(R Phi2(j)), floor(C Phi3(j))), j = 1, 2, ...

    Integers throughout, so that no cell is lost to rounding. Any 2^a 3^b points in a row lie one in each box of 2^-a x 3^-b, and every
    cell holds a box once 2^a >= 2R and 3^b >= 2C: so many points visit every cell.
    """
    last = _finer(rows, 2) * _finer(columns, 3)
    j = torch.arange(1, last + 1)
    (row, halves), (column, thirds) = _mirrored(j, 2), _mirrored(j, 3)
    cell = row * rows // halves * columns + column * columns // thirds
    first = torch.full((rows * columns,), last + 1).scatter_reduce(0, cell, j, "amin")
    return first.argsort().argsort()


@dataclass(frozen=True)
class Halton(Planned):
    """The cells of an image in Halton order. Known cells are skipped; sites before the cells (BOS) must be known.

    Args:
        grid: rows and columns of cells; the last rows * columns sites of a canvas, row after row.
        roll: begin each row of the batch at a place of its own in the order, from the row's noise, and go round.

    Raises:
        ValueError: a grid without cells, or, when run, one that is not the canvas's.

    Example:
        >>> from maskless.decoding import Canvas, Noise
        >>> canvas = Canvas(torch.zeros(1, 6, dtype=torch.int64), torch.zeros(1, 6, dtype=torch.bool))
        >>> Halton((2, 3)).start(canvas, [], Noise.of(0, 1)).sites[0].tolist()
        [4, 2, 3, 1, 5, 0]
    """

    grid: tuple[int, int]
    roll: bool = False

    def __post_init__(self) -> None:
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise ValueError(f"grid {self.grid} has no cells; give rows and columns, each at least 1")

    def key(self, canvas: Canvas, noise: Noise) -> Int[Tensor, "B L"]:
        rank = halton_rank(*self.grid).to(canvas.count.device)[None]
        sites, cells = canvas.length // canvas.per_site, rank.shape[1]
        before = sites - cells
        if before < 0 or bool(canvas.open[:, :before * canvas.per_site].any()):
            raise ValueError(f"grid {self.grid[0]} x {self.grid[1]} has {cells} cells and the canvas {sites} sites; "
                             "give the grid of the model's images (sites before the cells must be known)")
        if self.roll:
            luck = noise.at(ORDER, 0, rank.new_zeros(1, 1))                                  # (B, 1)
            rank = (rank + (luck * cells).long()) % cells
        return torch.nn.functional.pad(rank, (before, 0), value=-1).repeat_interleave(canvas.per_site, 1)
