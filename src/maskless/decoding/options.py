"""Samplers by name, for recipes and command lines."""
from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from maskless.decoding.choice import Choice
from maskless.decoding.order import Confidence, EntropyBound, LeftToRight, Margin, Order, Random, Spaced
from maskless.decoding.plan import Adaptive, Ancestral, Blockwise, Ends, Plan, Scheduled, arccos, cosine, even
from maskless.decoding.sampler import Sampler
from maskless.decoding.speculate import Speculative

OrderName = Literal["random", "left-to-right", "spaced", "confidence", "margin", "entropy-bound"]
PlanName = Literal["even", "cosine", "arccos", "ancestral"]


@dataclass(frozen=True)
class SamplerOptions:
    """Every sampler of this library, in plain fields.

    Args:
        steps: calls of the model; None for min(64, sites to fill). An autoregressive model always takes one per site.
        order: which sites; None for random (left-to-right for an autoregressive model).
        plan: how many sites when. An entropy-bound order decides that itself, in at most `steps` steps.
        block: sites of a block for semi-autoregression inside the length; 0 for one block. `steps` are then those of a block.
        temperature, top_k, top_p: which token, see `Choice`.
        confidence_noise: Gumbel noise of the confidence order.
        gamma: nats of the entropy-bound order.
        candidates: confidence, margin and entropy bound: score so many random open sites instead of all; 0 for all.
        guidance: strength of guidance by forgetting the prompt; 0 for none.
        draft: speculative decoding (token-causal models): sites drafted per round; 0 for none. Takes a planned order, and no `steps`.
        stop: finish a row at the first EOS it generates.

    Raises:
        ValueError: for values out of range.

    Example:
        >>> SamplerOptions(steps=8, order="margin").sampler(100).order
        Margin(candidates=0)
    """

    steps: int | None = None
    order: OrderName | None = None
    plan: PlanName = "even"
    block: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    confidence_noise: float = 4.5
    gamma: float = 0.1
    candidates: int = 0
    guidance: float = 0.0
    draft: int = 0
    stop: bool = False

    def __post_init__(self) -> None:
        for name, value, names in (("order", self.order or "random", OrderName), ("plan", self.plan, PlanName)):
            if value not in get_args(names):
                raise ValueError(f"{name} {value!r} is not known; choose {', '.join(get_args(names))}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps {self.steps} is below 1; a plan needs at least one step")
        if self.block < 0:
            raise ValueError(f"block {self.block} is below 0; give the sites of a block, or 0 for no blocks")
        if self.candidates < 0:
            raise ValueError(f"candidates {self.candidates} is below 0; give the number of open sites to score, or 0 for all")
        if self.draft < 0:
            raise ValueError(f"draft {self.draft} is below 0; give the sites to draft per round, or 0 for none")
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance {self.guidance} is not a finite number; 0 is none, 1 to 3 are usual")
        Choice(self.temperature, self.top_k, self.top_p)            # these are checked there; a recipe learns of it before it trains

    def sampler(self, sites: int, *, left_to_right: bool = False, eos: int | None = None,
                forbid: tuple[int, ...] = ()) -> Sampler | Speculative:
        """The sampler for a canvas with at most `sites` open sites in a row.

        Raises:
            ValueError: for values out of range.
        """
        if self.stop and eos is None:
            raise ValueError("stop is set and the vocabulary has no EOS id; unset it")
        steps = min(64, max(sites, 1)) if self.steps is None else self.steps
        order = self._order("left-to-right" if left_to_right else "random")
        if left_to_right and self.plan != "even":
            raise ValueError(f"plan {self.plan} reveals several sites at a time, an autoregressive model one; leave the plan out")
        if left_to_right and order.left_to_right:
            steps = max(sites, 1)                                   # one site a call is all an autoregressive model can do
        choice, stop_at = Choice(self.temperature, self.top_k, self.top_p, forbid), eos if self.stop else None
        if self.draft:
            return self._speculative(order, choice, stop_at)
        guide = (lambda step: self.guidance) if self.guidance else None
        return Sampler(self._plan(steps, order), order, choice, guide, stop_at)

    def _speculative(self, order: Order, choice: Choice, stop_at: int | None) -> Speculative:
        if self.steps is not None or self.block or self.plan != "even":
            raise ValueError(f"draft {self.draft} lets the drafts that pass decide how many sites a step reveals; leave out steps, plan and block")
        return Speculative(self.draft, order, choice, self.guidance, stop_at)

    def _order(self, default: OrderName) -> Order:
        orders: dict[OrderName, Order] = {
            "random": Random(), "left-to-right": LeftToRight(), "spaced": Spaced(),
            "confidence": Confidence(self.confidence_noise, self.candidates), "margin": Margin(self.candidates),
            "entropy-bound": EntropyBound(self.gamma, self.candidates)}
        return orders[self.order or default]

    def _plan(self, steps: int, order: Order) -> Plan:
        if order.adaptive:
            inside = partial(_adaptive, steps)
        elif self.plan == "ancestral":
            inside = partial(_ancestral, steps)
        else:
            inside = partial(_scheduled, steps, {"even": even, "cosine": cosine, "arccos": arccos}[self.plan])
        return Blockwise(self.block, inside) if self.block else inside(None)


def _adaptive(steps: int, window: tuple[int, int] | None) -> Plan:
    return Adaptive(steps, window=window)


def _ancestral(steps: int, window: tuple[int, int] | None) -> Plan:
    return Ancestral(steps, window=window)


def _scheduled(steps: int, ends: Ends, window: tuple[int, int] | None) -> Plan:
    return Scheduled(steps, ends, window=window)
