"""Recorded randomness of the released samplers, replayed through the one decoding loop.

Tokens there are drawn by an exponential race over the vocabulary: argmax_v p_v / (1e-10 - ln(u_v + 1e-10)), in float64.
When a site is revealed follows from recorded uniforms or counts alone, so it is a plan; only the samplers that put the
mask itself into the race (SEDD's analytic one, SDTT's) decide it by the token drawn.

Letters: B rows, L sites, Q queried sites, V vocabulary with the mask row, K steps.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskless.checkpoints.reference.quirks import RoundedLogLinear
from maskless.decoding import Canvas, Draw, Noise, Ranked, Sites, Step
from maskless.decoding.noise import Pick
from maskless.decoding.plan import from_table

LAST_TIME = 1e-5


def race(p: Float[Tensor, "... V"], u: Float[Tensor, "... V"]) -> Int[Tensor, " ..."]:
    """The released categorical draw, in the precision of `u`."""
    return (p.to(u.dtype) / (1e-10 - (u + 1e-10).log())).argmax(-1)


class ReplayNoise(Noise):
    """Races with recorded uniforms of every site (or, `by_slot`, of every queried place in turn).

    Args:
        races: (B, L or Q, V) uniforms of each step; a step without any takes the most probable token.
        reveal: of each step whose race includes the mask, the probability of not staying masked, one or (B,): tokens race
            with p * reveal, the mask with 1 - reveal.
        mask_id: the mask's column.
    """

    def __init__(
        self, races: Mapping[int, Tensor], rows: int, *, by_slot: bool = False,
        reveal: Mapping[int, float | Tensor] | None = None, mask_id: int = -1,
    ) -> None:
        super().__init__(range(rows))
        # float64 races on the host, so that devices without float64 replay the same tokens
        self.races = {step: u.cpu() for step, u in races.items()}
        self.by_slot, self.reveal, self.mask_id = by_slot, reveal or {}, mask_id

    def picker(self, sites: Sites, step: int) -> Pick:
        if step not in self.races:
            return lambda logp, span: logp.argmax(-1)
        races = self.races[step]
        where = sites.index.cpu()
        if self.by_slot:
            where = torch.arange(where.shape[1]).expand_as(where)
        u = races.gather(1, where[..., None].expand(-1, -1, races.shape[-1])).flatten(0, 1)
        chance = torch.as_tensor(self.reveal.get(step, torch.nan)).cpu().to(u.dtype)
        each = chance.view(-1, 1).expand(where.shape).flatten()                                  # (B * Q,)
        return lambda logp, span: self.draw(logp.cpu(), u[span], each[span] if step in self.reveal else None).to(logp.device)

    def draw(self, logp: Float[Tensor, "n V"], u: Float[Tensor, "n V"], reveal: Float[Tensor, " n"] | None) -> Int[Tensor, " n"]:
        p = logp.to(u.dtype).exp()
        if reveal is not None:
            p = p * reveal[:, None]
            p[:, self.mask_id] = 1 - reveal
        return race(p, u)


class GumbelNoise(Noise):
    """The recorded Gumbel noise (B, K, V) of the released autoregressive sampler, one column a step."""

    def __init__(self, gumbel: Float[Tensor, "B K V"]) -> None:
        super().__init__(range(len(gumbel)))
        self.gumbel = gumbel.cpu()

    def picker(self, sites: Sites, step: int) -> Pick:
        gumbel = self.gumbel[:, step, None].expand(-1, sites.index.shape[1], -1).flatten(0, 1)
        return lambda logp, span: (logp.cpu() + gumbel[span]).argmax(-1).to(logp.device)


def grid(steps: int) -> list[tuple[float, float]]:
    """(t, s) of each step of the released time grid: linspace(1, 1e-5, K + 1), s = t - dt."""
    times, dt = torch.linspace(1, LAST_TIME, steps + 1), (1 - LAST_TIME) / steps
    return [(float(t), float(t - dt)) for t in times[:-1]]


def chances(times: Sequence[tuple[float, float]]) -> list[float]:
    """(alpha_s - alpha_t) / (1 - alpha_t) as float32 rounds it; infinite at t = 0."""
    schedule = RoundedLogLinear()
    return [float(schedule.reveal(torch.tensor(t), torch.tensor(s))) for t, s in times]


@dataclass(frozen=True)
class Reveals:
    """When each site becomes known, worked out on the host.

    Attributes:
        steps: the plan.
        order: the sites of a step in order of position.
        changed: whether each step of the grid reveals anything in any row.
    """

    steps: list[Step]
    order: Ranked
    changed: list[bool]


def reveals(
    uniforms: Sequence[Tensor], chance: Sequence[float], open_sites: Bool[Tensor, "B L"], *, rest: bool,
) -> Reveals:
    """The plan that recorded (B, L) uniforms imply: a site is revealed at the first uniform below the step's chance.

    Args:
        rest: one more step reveals whatever is left; without it, it stays unknown.
    """
    below = torch.stack([u.cpu() < c for u, c in zip(uniforms, chance)] + [torch.full_like(open_sites, rest)])
    first = torch.where(below.any(0), below.long().argmax(0), len(below))  # (B, L)
    counts = [((first == step) & open_sites).sum(1).tolist() for step in range(len(below))]
    rank = torch.where(open_sites, first, len(below) + 1)
    return Reveals(from_table(counts), Ranked(rank), [any(row) for row in counts])


def cached_calls(changed: Sequence[bool]) -> int:
    """Network calls of the released `ddpm_cache`: one, and one after each step that changed anything in the batch."""
    return 1 + sum(changed[:-1])


@dataclass(frozen=True)
class Unmasking:
    """Samplers that draw the mask too: look at every unknown site, keep those whose token is not the mask."""

    mask_id: int
    left_to_right: ClassVar[bool] = False
    adaptive: ClassVar[bool] = True

    @property
    def measure(self) -> None:
        return None

    def start(self, canvas: Canvas, steps: Sequence[Step], noise: Noise) -> Unmasking:
        return self

    def propose(self, canvas: Canvas, step: Step) -> Sites:
        return Sites.of(canvas.unknown, canvas.length - canvas.fewest)

    def keep(self, sites: Sites, draw: Draw, step: Step) -> Bool[Tensor, "B Q"]:
        return sites.valid & (draw.token != self.mask_id)


@dataclass(frozen=True)
class DigitRace:
    """The reveals of Prime's released sampler: the drawn digit races with weight t - s against the mask with weight s.

    Args:
        uniforms: (B, S, b + 1) of every slot, for the digits and the mask; the last step of a plan (`rest`) has none and reveals all.
        mask: b, the mask's column.
    """

    uniforms: Tensor
    mask: int
    left_to_right: ClassVar[bool] = False
    adaptive: ClassVar[bool] = True

    @property
    def measure(self) -> None:
        return None

    def start(self, canvas: Canvas, steps: Sequence[Step], noise: Noise) -> DigitRace:
        return self

    def propose(self, canvas: Canvas, step: Step) -> Sites:
        return Sites.of(canvas.unknown, canvas.length - canvas.fewest)

    def keep(self, sites: Sites, draw: Draw, step: Step) -> Bool[Tensor, "B Q"]:
        if step.rest:
            return sites.valid
        wait = 1e-10 - (sites.take(self.uniforms) + 1e-10).log()                             # (B, Q, b + 1)
        digit = (step.t - step.s) / wait.gather(2, draw.token[..., None])[..., 0]
        return sites.valid & (digit > step.s / wait[..., self.mask])


def open_steps(count: int, most: int) -> list[Step]:
    """`count` steps whose counts depend on tokens."""
    return [Step(i, count, most=most) for i in range(count)]


def blank(
    rows: int, length: int, *, mask_id: int, bos: int | None, prefix: Int[Tensor, "B P"] | None = None,
) -> Canvas:
    """A canvas of unknown sites (holding `mask_id`) after BOS, an anchor, or after a known prefix."""
    tokens = torch.full((rows, length), mask_id)
    known = torch.zeros(rows, length, dtype=torch.bool)
    if prefix is not None:
        tokens[:, : prefix.shape[1]], known[:, : prefix.shape[1]] = prefix.cpu(), True
    anchor = torch.zeros_like(known)
    if bos is not None:
        tokens[:, 0], known[:, 0], anchor[:, 0] = bos, True, True
    return Canvas(tokens, known, anchor=anchor)
