"""Noise schedules, and the times at which a training step looks at them.

alpha(t) is the probability that a site is still known at time t: 1 at t = 0, falling to 0 (or eps) at t = 1. The image
models' masking rates m(r), r = 1 - t, are among them: 1 - alpha(t) = m(1 - t).
Letters: n rows of the global batch.
"""
from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Schedule(ABC):
    """alpha(t), its derivative, and the weights that make a loss a bound. Every method keeps the dtype of `t`.

    With P(hidden) = 1 - alpha(t) and t uniform, E_t weight(t) sum over hidden sites of nll = integral of f(h) / h dh,
    f(h) being the expected sum at P(hidden) = h: no schedule is left in it. So every exact schedule has the same bound,
    and differs in where training looks and in the variance (docs/objectives.md).
    """

    @property
    def exact(self) -> bool:
        """Whether alpha(1) = 0, so that the weighted loss is a bound."""
        return True

    @abstractmethod
    def alpha(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        """The probability that a site is known at time `t`."""

    @abstractmethod
    def hiding(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        """1 - alpha(t), without cancellation: the probability that a site is unknown (in group 1) at time `t`."""

    @abstractmethod
    def rate(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        """alpha'(t), negative."""

    @abstractmethod
    def time(self, share: float) -> float:
        """When a `share` of all that is hidden at t = 1 is hidden: the inverse of `linear`."""

    def linear(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        """(1 - alpha(t)) / (1 - alpha(1)): the time at which the linear schedule has come as far. Time-conditioned models read it."""
        return self.hiding(t)

    def weight(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        """-alpha'(t) / (1 - alpha(t)), the weight of an unknown site (of group 1) in the bound."""
        return -self.rate(t) / self.hiding(t)

    def weight_of_known(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        """-alpha'(t) / alpha(t), the weight of a known site (of group 0) where it is predicted from the unknown ones."""
        return -self.rate(t) / self.alpha(t)

    def reveal(self, t: Float[Tensor, " ..."], s: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        """(alpha(s) - alpha(t)) / (1 - alpha(t)): the probability that a site unknown at `t` is known at `s` < `t`."""
        return (self.hiding(t) - self.hiding(s)) / self.hiding(t)


@dataclass(frozen=True)
class LogLinear(Schedule):
    """alpha(t) = 1 - (1 - eps) t, the schedule of MDLM (arXiv 2406.07524) and of every published partition model of text.

    The name is MDLM's: the total noise -ln alpha(t) is logarithmic in a line.

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

    @property
    def exact(self) -> bool:
        return self.eps == 0

    def alpha(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        return 1 - (1 - self.eps) * t

    def hiding(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        return (1 - self.eps) * t

    def rate(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        """alpha'(t), a constant here."""
        return torch.full_like(t, -(1 - self.eps))

    def time(self, share: float) -> float:
        return share

    def linear(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        return t

    def weight(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        """-alpha'(t) / (1 - alpha(t)): exactly 1 / t, whatever eps."""
        return 1 / t

    def weight_of_known(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        """The weight at 1 - t, as in the released code; -alpha'(t) / alpha(t) where eps is 0."""
        return self.weight(1 - t)

    def reveal(self, t: Float[Tensor, " ..."], s: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        return (t - s) / t


@dataclass(frozen=True)
class Arccos(Schedule):
    """1 - alpha(t) = (2 / pi) arccos(1 - t): the published masking rate arccos(r) 2 / pi of MaskGIT and of image PGM.

    Half of the rows hide more than two thirds of their sites; the mean is 2 / pi.
    """

    def alpha(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        return torch.asin(1 - t) * (2 / math.pi)

    def hiding(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        return torch.asin((t / 2).sqrt()) * (4 / math.pi)           # arccos(1 - t) = 2 arcsin(sqrt(t / 2)), exact near 0

    def rate(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        return -(2 / math.pi) / (t * (2 - t)).sqrt()

    def time(self, share: float) -> float:
        return 2 * math.sin(math.pi * share / 4) ** 2


@dataclass(frozen=True)
class Cosine(Schedule):
    """1 - alpha(t) = sin(pi t / 2): the masking rate cos(pi r / 2) of MaskGIT's paper (arXiv 2202.04200)."""

    def alpha(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        return 2 * torch.sin((1 - t) * (math.pi / 4)).square()

    def hiding(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        return torch.sin(t * (math.pi / 2))

    def rate(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        return -(math.pi / 2) * torch.sin((1 - t) * (math.pi / 2))

    def time(self, share: float) -> float:
        return math.asin(share) * 2 / math.pi


@dataclass(frozen=True)
class Square(Schedule):
    """alpha(t) = (1 - t)^2: the masking rate 1 - r^2."""

    def alpha(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        return (1 - t).square()

    def hiding(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        return t * (2 - t)

    def rate(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        return -2 * (1 - t)

    def time(self, share: float) -> float:
        return share / (1 + math.sqrt(1 - share))


@dataclass(frozen=True)
class Root(Schedule):
    """alpha(t) = sqrt(1 - t): the masking rate 1 - sqrt(r)."""

    def alpha(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        return (1 - t).sqrt()

    def hiding(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        return t / (1 + (1 - t).sqrt())

    def rate(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        return -0.5 / (1 - t).sqrt()

    def time(self, share: float) -> float:
        return share * (2 - share)


@dataclass(frozen=True)
class Polynomial(Schedule):
    """alpha(t) = (1 - t)^power, alpha'(t) = -power (1 - t)^(power - 1): of MDM-Prime's images, where 1 - t is called t (arXiv 2505.18495).

    Args:
        power: 3 as published for digits of pixels, 2 for super-tokens; 1 is the linear schedule.

    Raises:
        ValueError: a power that is not positive.

    Example:
        >>> import torch
        >>> from maskless.schedules import Polynomial
        >>> Polynomial(3.0).alpha(torch.tensor([0.0, 0.5, 1.0])).tolist()
        [1.0, 0.125, 0.0]
    """

    power: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.power < math.inf:
            raise ValueError(f"schedule.power is {self.power}; give a positive number (3 is published for pixels)")

    def alpha(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        return (1 - t) ** self.power

    def hiding(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        return -torch.expm1(self.power * torch.log1p(-t))

    def rate(self, t: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        return -self.power * (1 - t) ** (self.power - 1)

    def time(self, share: float) -> float:
        return -math.expm1(math.log1p(-share) / self.power) if share < 1 else 1.0


SCHEDULES = {"linear": LogLinear, "arccos": Arccos, "cosine": Cosine, "square": Square, "root": Root, "polynomial": Polynomial}


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
