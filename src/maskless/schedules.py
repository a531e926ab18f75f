"""Noise schedules, and the times at which a training step looks at them.

alpha(t) is the probability that a site is still known at time t: 1 at t = 0, falling to eps at t = 1.
Letters: n rows of the global batch.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class LogLinear:
    """alpha(t) = 1 - (1 - eps) t, the schedule of MDLM (arXiv 2406.07524) and of every published partition model.

    The name is MDLM's: the total noise -ln alpha(t) is logarithmic in a line. Every method keeps the dtype of `t`.

    Args:
        eps: the fraction of sites that stays known at t = 1. 0 is exact; the released training code has 1e-3, which
            makes P(group 0) = 1 - (1 - eps) t disagree with its weight 1 / (1 - t) (docs/objectives.md).

    Raises:
        ValueError: `eps` outside [0, 1).

    Example:
        >>> import torch
        >>> from maskless.schedules import LogLinear
        >>> LogLinear().alpha(torch.tensor([0.0, 0.25, 1.0])).tolist()
        [1.0, 0.75, 0.0]
    """

    eps: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eps < 1:
            raise ValueError(f"schedule.eps is {self.eps}; the fraction of sites never hidden lies in [0, 1)")

    def alpha(self, t: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """The probability that a site is known at time `t`."""
        return 1 - (1 - self.eps) * t

    def hiding(self, t: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """1 - alpha(t), without cancellation: the probability that a site is unknown (in group 1) at time `t`."""
        return (1 - self.eps) * t

    def rate(self, t: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """alpha'(t), a constant here."""
        return torch.full_like(t, -(1 - self.eps))

    def weight(self, t: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """-alpha'(t) / (1 - alpha(t)), the weight of an unknown site in the bound: exactly 1 / t, whatever eps."""
        return 1 / t

    def reveal(self, t: Float[Tensor, ...], s: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """(alpha(s) - alpha(t)) / (1 - alpha(t)): the probability that a site unknown at `t` is known at `s` < `t`."""
        return (t - s) / t


def stratified_times(uniforms: Float[Tensor, " n"], low: float = 1e-3, high: float = 1.0) -> Float[Tensor, " n"]:
    """One time in each of n equal parts of [low, high): t_i = low + (high - low) (i + u_i) / n.

    Args:
        uniforms: n independent numbers in [0, 1), one for every row of the GLOBAL batch.
    """
    return spread(uniforms, torch.arange(len(uniforms), device=uniforms.device), len(uniforms), low, high)


def systematic_times(uniform: Tensor, n: int, low: float = 1e-5, high: float = 1.0) -> Float[Tensor, " n"]:
    """n times a distance (high - low) / n apart that share one uniform: t_i = low + (high - low) ((u + i / n) mod 1).

    The rule of the SDTT code. `uniform` is one number in [0, 1), as a tensor of one entry or none.
    """
    offsets = torch.arange(n, device=uniform.device) / n
    return low + (high - low) * ((uniform.reshape(()) + offsets) % 1)


def spread(
    uniforms: Float[Tensor, " B"], stratum: Int[Tensor, " B"], n: int, low: float, high: float,
) -> Float[Tensor, " B"]:
    """The times of some rows of a global batch of `n`, row b lying in part `stratum[b]` (0..n-1) of [low, high)."""
    return low + (high - low) * ((uniforms / n + stratum / n) % 1)
