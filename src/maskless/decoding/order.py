"""Which sites: `propose` says where to look, `keep` what to reveal of what was seen. An order sees neither model nor tokens' text.

B rows, L sites, Q proposed sites, V vocabulary.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskless.decoding.canvas import Canvas, Sites
from maskless.decoding.choice import Draw, Measure
from maskless.decoding.noise import ORDER, SCORE, Noise
from maskless.decoding.plan import Step


@runtime_checkable
class Started(Protocol):
    """An order at work on one canvas."""

    @property
    def measure(self) -> Measure | None:
        """What it wants to know of each law, or None."""
        ...

    def propose(self, canvas: Canvas, step: Step) -> Sites: ...
    def keep(self, sites: Sites, draw: Draw, step: Step) -> Bool[Tensor, "B Q"]: ...


@runtime_checkable
class Order(Protocol):
    left_to_right: ClassVar[bool]       # reveals sites 0, 1, 2, ... one after the other
    adaptive: ClassVar[bool]            # how many it keeps depends on tokens: the loop reads one count per step

    def start(self, canvas: Canvas, steps: Sequence[Step], noise: Noise) -> Started: ...


def _positions(canvas: Canvas) -> Int[Tensor, "1 L"]:
    return torch.arange(canvas.length, device=canvas.count.device)[None]


# -- planned orders: one permutation per row, drawn before the loop, sliced at each step ------------------------------------------------------


@dataclass(frozen=True)
class Permutation:
    """A planned order at work. It looks at just what it reveals, which is what makes a partition model fast."""

    sites: Int[Tensor, "B L"]           # open sites first, in the order in which they are revealed

    @property
    def measure(self) -> None:
        return None

    def propose(self, canvas: Canvas, step: Step) -> Sites:
        assert step.n is not None and step.begun is not None, "a planned order needs a plan with counts"
        ahead = self.ahead(canvas, step.begun, step.most)
        return Sites(ahead.index, ahead.valid & (torch.arange(step.most, device=self.sites.device) < step.n[:, None]))

    def ahead(self, canvas: Canvas, done: Int[Tensor, " B"], width: int) -> Sites:
        """The next `width` sites of every row, `done` of which are behind."""
        place = done[:, None] + torch.arange(width, device=self.sites.device)
        index = self.sites.gather(1, place.clamp(max=canvas.length - 1))
        return Sites(index, (place < canvas.length) & canvas.unknown.gather(1, index))

    def keep(self, sites: Sites, draw: Draw, step: Step) -> Bool[Tensor, "B Q"]:
        return sites.valid


class Planned:
    """A planned order is its key: sites are revealed in ascending order of `key` (B or 1, L)."""

    left_to_right: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False

    def key(self, canvas: Canvas, noise: Noise) -> Tensor:
        raise NotImplementedError

    def start(self, canvas: Canvas, steps: Sequence[Step], noise: Noise) -> Permutation:
        by_key = self.key(canvas, noise).expand(canvas.rows, -1).argsort(dim=1, stable=True)
        block = torch.zeros(canvas.length, dtype=torch.int64)
        for place, (start, stop) in enumerate(dict.fromkeys(step.window for step in steps if step.window)):
            block[start:stop] = place
        late = torch.where(canvas.unknown, block.to(by_key.device), canvas.length)           # blocks in turn, known and absent sites last
        return Permutation(by_key.gather(1, late.gather(1, by_key).argsort(dim=1, stable=True)))


@dataclass(frozen=True)
class Random(Planned):
    """A uniformly random permutation per row, from the row's seed.

    Example:
        >>> from maskless.decoding import Canvas, Noise
        >>> canvas = Canvas(torch.zeros(1, 7, dtype=torch.int64), torch.zeros(1, 7, dtype=torch.bool))
        >>> sorted(Random().start(canvas, [], Noise.of(0, 1)).sites[0].tolist())
        [0, 1, 2, 3, 4, 5, 6]
    """

    def key(self, canvas: Canvas, noise: Noise) -> Float[Tensor, "B L"]:
        return noise.at(ORDER, 0, _positions(canvas))


@dataclass(frozen=True)
class LeftToRight(Planned):
    """Sites 0, 1, 2, ...: the only order of an autoregressive model.

    Example:
        >>> from maskless.decoding import Canvas, Noise
        >>> canvas = Canvas(torch.zeros(1, 7, dtype=torch.int64), torch.zeros(1, 7, dtype=torch.bool))
        >>> LeftToRight().start(canvas, [], Noise.of(0, 1)).sites[0].tolist()
        [0, 1, 2, 3, 4, 5, 6]
    """

    left_to_right: ClassVar[bool] = True

    def key(self, canvas: Canvas, noise: Noise) -> Int[Tensor, "1 L"]:
        return _positions(canvas)


@dataclass(frozen=True)
class Spaced(Planned):
    """Sites far apart first: the base-2 van der Corput sequence (bit-reversed positions), so that sites of one step are nearly independent.

    Example:
        >>> from maskless.decoding import Canvas, Noise
        >>> canvas = Canvas(torch.zeros(1, 7, dtype=torch.int64), torch.zeros(1, 7, dtype=torch.bool))
        >>> Spaced().start(canvas, [], Noise.of(0, 1)).sites[0].tolist()
        [0, 4, 2, 6, 1, 5, 3]
    """

    def key(self, canvas: Canvas, noise: Noise) -> Int[Tensor, "1 L"]:
        position = _positions(canvas) // canvas.per_site            # the slots of a site one after the other
        reverse = torch.zeros_like(position)
        for _ in range(max(1, (canvas.length // canvas.per_site - 1).bit_length())):
            reverse, position = reverse * 2 + position % 2, position // 2
        return reverse


@dataclass(frozen=True)
class Ranked(Planned):
    """A permutation given as ranks (B, L), lowest first."""

    rank: Tensor

    def key(self, canvas: Canvas, noise: Noise) -> Tensor:
        return self.rank.to(canvas.count.device)


# -- scored orders: look at every open site, reveal the best ----------------------------------------------------------------------------------


class Scored:
    """Look at every open site, or at some `candidates` drawn at random, and reveal the step's count of highest scores."""

    left_to_right: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False
    candidates: int = 0                 # 0: every open site

    @property
    def measure(self) -> Measure | None:
        return None

    def score(self, draw: Draw, step: Step, luck: Float[Tensor, "B Q"]) -> Float[Tensor, "B Q"]:
        raise NotImplementedError

    def count(self, score: Float[Tensor, "B Q"], best: Int[Tensor, "B Q"], step: Step) -> Tensor:
        """How many of the best to keep, (B,)."""
        assert step.n is not None, "this order needs a plan with counts"
        return step.n

    def start(self, canvas: Canvas, steps: Sequence[Step], noise: Noise) -> Scoring:
        return Scoring(self, noise)


@dataclass(frozen=True)
class Scoring:
    order: Scored
    noise: Noise

    @property
    def measure(self) -> Measure | None:
        return self.order.measure

    def propose(self, canvas: Canvas, step: Step) -> Sites:
        start, stop = step.window or (0, canvas.length)
        most = stop - start if step.window else canvas.length - canvas.fewest
        width = min(most, max(self.order.candidates, self._needed(step, most))) if self.order.candidates else most
        rank = self.noise.at(ORDER, 0, _positions(canvas))[:, start:stop] if self.order.candidates else None
        inside = Sites.of(canvas.unknown[:, start:stop], width, rank)
        return Sites(inside.index + start, inside.valid & self._own(step, inside.valid))

    def _own(self, step: Step, valid: Bool[Tensor, "B Q"]) -> Tensor:
        """The candidates of each row by itself: as many as it reveals, where that is more, whatever its neighbours reveal."""
        if not self.order.candidates or step.n is None:
            return valid
        return torch.arange(valid.shape[1], device=valid.device) < step.n.clamp(min=self.order.candidates)[:, None]

    def _needed(self, step: Step, most: int) -> int:
        """Sites that a step must look at to reveal as many as it should."""
        if step.counts is not None:
            return step.most
        return most if step.rest else 1

    def keep(self, sites: Sites, draw: Draw, step: Step) -> Bool[Tensor, "B Q"]:
        luck = self.noise.at(SCORE, step.index, sites.index)
        score = self.order.score(draw, step, luck).masked_fill(~sites.valid, -torch.inf)
        # Sites tie exactly while a partition model knows one token only; rounding errors must not decide, so the row's noise does.
        best = ((score.to(luck.dtype) * 2**16).round() + luck / 2).argsort(dim=1, descending=True, stable=True)
        place = best.argsort(dim=1)
        return sites.valid & (place < self.order.count(score, best, step)[:, None])


@dataclass(frozen=True)
class Confidence(Scored):
    """MaskGIT: the log-probability of the drawn token, with Gumbel noise that falls linearly from `noise` to 0.

    Example:
        >>> from maskless.decoding import Sampler, Scheduled, arccos
        >>> sampler = Sampler(Scheduled(8, arccos), Confidence(noise=1.0))
    """

    noise: float = 4.5
    candidates: int = 0

    def score(self, draw: Draw, step: Step, luck: Tensor) -> Tensor:
        gumbel = -(-(luck + torch.finfo(luck.dtype).tiny).log()).log()
        return draw.logp + self.noise * (1 - step.progress) * gumbel


def _margin(logp: Float[Tensor, "n V"]) -> Float[Tensor, " n"]:
    best = logp.exp().topk(min(2, logp.shape[-1]), dim=-1).values
    return best[:, 0] - best[:, -1] if best.shape[-1] == 2 else best[:, 0]


@dataclass(frozen=True)
class Margin(Scored):
    """The difference of the two largest probabilities (Kim et al. 2025).

    Example:
        >>> from maskless.decoding import Sampler, Scheduled
        >>> sampler = Sampler(Scheduled(8), Margin())
    """

    candidates: int = 0

    @property
    def measure(self) -> Measure:
        return _margin

    def score(self, draw: Draw, step: Step, luck: Tensor) -> Tensor:
        assert draw.measure is not None
        return draw.measure


def _entropy(logp: Float[Tensor, "n V"]) -> Float[Tensor, " n"]:
    return torch.special.entr(logp.exp()).sum(-1)


@dataclass(frozen=True)
class EntropyBound(Scored):
    """The largest set of lowest entropies whose sum, less its largest, stays within `gamma` nats; at least one site (Ben-Hamu et al. 2025).

    Example:
        >>> from maskless.decoding import Adaptive, Sampler
        >>> sampler = Sampler(Adaptive(), EntropyBound(0.5))        # the only order of an `Adaptive` plan
    """

    gamma: float = 0.1
    candidates: int = 0
    adaptive: ClassVar[bool] = True

    @property
    def measure(self) -> Measure:
        return _entropy

    def score(self, draw: Draw, step: Step, luck: Tensor) -> Tensor:
        assert draw.measure is not None
        return -draw.measure

    def count(self, score: Tensor, best: Tensor, step: Step) -> Tensor:
        entropy = -score.gather(1, best)                                                     # ascending; +inf where not valid
        if step.rest:
            return torch.full_like(best[:, 0], best.shape[1])
        within = entropy.isfinite() & (entropy.nan_to_num(posinf=0.0).cumsum(1) - entropy.nan_to_num(posinf=0.0) <= self.gamma)
        return within.sum(1).clamp(min=1)
