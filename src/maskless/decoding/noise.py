"""The randomness of a decode: a pure function of (row seed, step, site, purpose).

B rows, Q queried sites, V vocabulary. A row's noise is the same alone, in any batch, chunk and device.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from maskless.decoding.canvas import Sites
from maskless.noise import hashed, uniform

ORDER, TOKEN, PLAN, SCORE, REMASK, PROMPT, ACCEPT, CORRECT, AGAIN = range(9)                 # purposes

BLOCK = 256                             # tokens whose probabilities are added up at once

LARGEST = 1 << 42                                                   # seed * 2^20 + row fits 64 bits with its sign

Pick = Callable[[Float[Tensor, "n V"], slice], Int[Tensor, " n"]]   # tokens of the queries in a slice of the flattened (B * Q)


def inverse_cdf(logp: Float[Tensor, "n V"], u: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The first token whose cumulative probability exceeds u: never a token of probability 0.

    Found by two looks, among blocks of tokens and then inside one: the sums of blocks, and those inside it, are added up in float64.
    """
    vocab_size = logp.shape[-1]
    p, lacking = logp.exp(), -vocab_size % BLOCK
    p = (F.pad(p, (0, lacking)) if lacking else p).unflatten(-1, (-1, BLOCK))
    ends = p.sum(-1).cumsum(-1, dtype=u.dtype)                      # (n, blocks)
    below = _under(u, 1.0) * ends[:, -1]
    at = torch.searchsorted(ends, below[:, None], right=True).clamp(max=ends.shape[-1] - 1)
    before = F.pad(ends, (1, 0)).gather(1, at)[:, 0]
    inside = p.gather(1, at[..., None].expand(-1, -1, BLOCK))[:, 0].cumsum(-1, dtype=u.dtype)
    token = torch.searchsorted(inside, _under(below - before, inside[:, -1])[:, None], right=True)
    return (at * BLOCK + token)[:, 0].clamp(max=vocab_size - 1)


def _under(x: Float[Tensor, " n"], most: float | Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """x, and where that is not below `most`, a number that is."""
    return x.clamp(max=most * (1 - 2 * torch.finfo(x.dtype).eps))


def check_seed(seed: int) -> None:
    """Raise ValueError for a negative seed, or one that does not fit."""
    if not 0 <= seed < LARGEST:
        raise ValueError(f"seed is {seed}; it must lie between 0 and {LARGEST - 1}")


class Noise:
    """One seed per row.

    Args:
        seeds: B integers; rows with equal seeds draw the same.
        device: where the decode runs.

    Example:
        >>> sites = torch.arange(4)[None]
        >>> alone, among_64 = Noise.of(3, 1).at(TOKEN, 0, sites), Noise.of(3, 64).at(TOKEN, 0, sites)
        >>> torch.equal(alone[0], among_64[0])
        True
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu"):
        self.host = torch.tensor(list(seeds), dtype=torch.int64)
        self.seeds = self.host.to(device)

    @staticmethod
    def of(seed: int, rows: int, device: torch.device | str = "cpu") -> Noise:
        """Rows seeded seed * 2^20, seed * 2^20 + 1, ...: row b of one batch is row b of any other with the same seed.

        Raises:
            ValueError: if the seed does not fit.
        """
        if not -LARGEST <= seed < LARGEST:
            raise ValueError(f"seed {seed} is out of range; choose one between -{LARGEST} and {LARGEST - 1}")
        return Noise([(seed << 20) + row for row in range(rows)], device)

    def check_rows(self, rows: int) -> None:
        """Raise ValueError unless there is one seed for each row."""
        if len(self.seeds) != rows:
            raise ValueError(f"the noise has {len(self.seeds)} seeds and the canvas {rows} rows; give one seed for each")

    def at(self, purpose: int, step: int, sites: Int[Tensor, "#B Q"]) -> Float[Tensor, "B Q"]:
        """A uniform number for each site."""
        return uniform(self.seeds[:, None], purpose, step, sites)

    def again(self, round: int) -> Noise:
        """Other noise, the same whenever it is asked for: of a decode that follows this one on the same canvas (after `remask`)."""
        return Noise((hashed(AGAIN, round, self.host) >> 1).tolist(), self.seeds.device)

    def on_host(self, row: int, purpose: int, size: int, *, first: int = 0) -> Float[Tensor, " n"]:
        """`size` uniform numbers of a row for the host's own draws (plans), from number `first` on."""
        return uniform(self.host[row], purpose, torch.arange(first, first + size))

    def picker(self, sites: Sites, step: int) -> Pick:
        """How tokens are drawn at this step: by inverse CDF, one uniform per site."""
        u = self.at(TOKEN, step, sites.index).flatten()
        return lambda logp, span: inverse_cdf(logp, u[span])

