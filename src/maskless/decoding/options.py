"""Samplers by name, for recipes and command lines."""
from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import partial
from numbers import Integral, Real
from typing import Literal, get_args

from maskless.decoding.choice import Choice, Choices, inverse_linear, linear_top_k, rising
from maskless.decoding.chunked import Chunked, WholeFirst
from maskless.decoding.corrector import Anew, Corrected
from maskless.decoding.digits import CoarseFirst, DigitDraw, TokenByToken
from maskless.decoding.ends import Ends, arccos, arccos_maskgit, arccos_pgm, cosine, even, root, square
from maskless.decoding.guidance import constant, ramped
from maskless.decoding.halton import Halton
from maskless.decoding.order import Confidence, EntropyBound, LeftToRight, Margin, Order, Random, Spaced
from maskless.decoding.plan import MOST, Adaptive, Ancestral, Blockwise, Plan, Scheduled
from maskless.decoding.sampler import Sampler
from maskless.decoding.speculate import Speculative

OrderName = Literal["random", "left-to-right", "raster", "spaced", "halton", "confidence", "margin", "entropy-bound", "coarse-first",
                    "token-by-token"]
PlanName = Literal["even", "root", "square", "cosine", "arccos", "arccos-maskgit", "arccos-pgm", "ancestral"]
GuidanceName = Literal["constant", "linear"]

SCORED: tuple[OrderName, ...] = ("confidence", "margin", "entropy-bound")
ENDS: dict[PlanName, Ends] = {"even": even, "root": root, "square": square, "cosine": cosine, "arccos": arccos, "arccos-maskgit": arccos_maskgit,
                              "arccos-pgm": arccos_pgm}


MOST_STEPS = 100_000
LARGEST = 1e30                                                      # of an option: more times a logit is no float32


@dataclass(frozen=True)
class SamplerOptions:
    """Every sampler of this library, in plain fields.

    Args:
        steps: calls of the model; None for min(64, sites to fill) of each row by itself. An autoregressive model always takes one per site.
        order: which sites; None for random (left-to-right for an autoregressive model). Raster is left-to-right, cell after cell of an image.
            Of a Prime model, coarse-first: all first digits before all second ones; token-by-token: a token's digits one after the other.
        roll: Halton order: every row begins at a place of its own.
        plan: how many sites when. An entropy-bound order decides that itself, in at most `steps` steps, and takes no other.
        alpha_power: of an ancestral plan: a site is known at time t with probability (1 - t)^alpha_power (MDM-Prime's pixels: 3).
        time_power: of an ancestral plan: before that, times are bent, 1 - t to 1 - t^time_power; 1 leaves them as they are.
        corrector: of an ancestral plan in random order: before every step, sites are forgotten again, in proportion to
            corrector ((1 - t) t)^corrector_power, see `Corrected`; 0: none.
        corrector_power: see there.
        block: sites of a block for semi-autoregression inside the length; 0 for one block. `steps` are then those of a block.
        temperature, top_k, top_p: which token, see `Choice`.
        temperature_last: of the last step; its inverse goes there from that of `temperature` in equal parts. None for the same at every step.
        temperature_power: the inverse temperatures are raised to it.
        temperature_warmup: the first steps, at twice the temperature.
        temperature_rise: the temperature is temperature + temperature_rise (1 - t)^temperature_rise_power, from one end of the decode to the other.
        temperature_rise_power: see there.
        top_k_last: of the last step; `top_k` goes there in equal parts. None for the same at every step.
        confidence_noise: Gumbel noise of the confidence order (published for images: 5).
        gamma: nats of the entropy-bound order.
        candidates: confidence, margin and entropy bound: score so many random open sites instead of all; 0 for all.
        guidance: strength of guidance, by label where labels are given, else by forgetting the prompt; 0 for none.
        guidance_schedule: constant, or linear: from 0 at the first step to `guidance` at the last.
        chunk_point: of a Prime model trained with one: whole tokens are revealed at times above it, single digits below; 1: digits throughout.
            Random order, plan even or ancestral, no blocks.
        factorised_digits: of a Prime model: every digit from its own marginal, instead of one token for all digits of a site.
        filter_observed: of a Prime model: only tokens that agree with the digits already known are drawn.
        count_registers: of a PGM with registers: false samples as its released image code does, which hides each row's newest token (for
            published figures of released weights).
        draft: speculative decoding (token-causal models): sites drafted per round; 0 for none. Takes a planned order, and no `steps`.
        stop: finish a row at the first EOS it generates. Not with a corrector, which may forget that EOS.

    Raises:
        ValueError: for values out of range.

    Example:
        >>> SamplerOptions(steps=8, order="margin").sampler(100).order
        Margin(candidates=0)
    """

    steps: int | None = None
    order: OrderName | None = None
    roll: bool = False
    plan: PlanName = "even"
    alpha_power: float = 1.0
    time_power: float = 1.0
    corrector: float = 0.0
    corrector_power: float = 1.0
    block: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    temperature_last: float | None = None
    temperature_power: float = 1.0
    temperature_warmup: int = 0
    temperature_rise: float = 0.0
    temperature_rise_power: float = 1.0
    top_k_last: int | None = None
    confidence_noise: float = 4.5
    gamma: float = 0.1
    candidates: int = 0
    guidance: float = 0.0
    guidance_schedule: GuidanceName = "constant"
    chunk_point: float = 1.0
    factorised_digits: bool = False
    filter_observed: bool = True
    count_registers: bool = True
    draft: int = 0
    stop: bool = False

    def __post_init__(self) -> None:
        for name, value, names in (("order", self.order or "random", OrderName), ("plan", self.plan, PlanName),
                                   ("guidance_schedule", self.guidance_schedule, GuidanceName)):
            if value not in get_args(names):
                raise ValueError(f"{name} {value!r} is not known; choose {', '.join(get_args(names))}")
        for field in fields(self):
            self._check_kind(field.name, str(field.type))
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps {self.steps} is below 1; a plan needs at least one step")
        if self.steps is not None and self.steps > MOST_STEPS:
            raise ValueError(f"steps {self.steps} is above {MOST_STEPS}; steps beyond the open sites reveal nothing, give fewer")
        if self.block < 0:
            raise ValueError(f"block {self.block} is below 0; give the sites of a block, or 0 for no blocks")
        if self.candidates < 0:
            raise ValueError(f"candidates {self.candidates} is below 0; give the number of open sites to score, or 0 for all")
        if self.draft < 0:
            raise ValueError(f"draft {self.draft} is below 0; give the sites to draft per round, or 0 for none")
        if self.roll and self.order != "halton":
            raise ValueError(f"roll is of the Halton order, and the order is {self.order or 'random'}; choose order halton, or leave roll out")
        if not 0 <= self.confidence_noise < math.inf:
            raise ValueError(f"confidence_noise {self.confidence_noise} is not a finite number, or below 0; 0 is none, 4.5 and 5 are usual")
        if not 0 <= self.gamma < math.inf:
            raise ValueError(f"gamma {self.gamma} is not a finite number of nats, or below 0; 0.1 is usual")
        for name, usual, order in (("confidence_noise", 4.5, "confidence"), ("gamma", 0.1, "entropy-bound")):
            if (value := getattr(self, name)) != usual and self.order != order:
                raise ValueError(f"{name} is {value}, of order {order}, and the order is {self.order or 'random'}; choose it, or leave this out")
        if self.candidates and self.order not in SCORED:
            raise ValueError(f"candidates is {self.candidates}, and order {self.order or 'random'} scores no sites; "
                             f"choose order {', '.join(SCORED[:-1])} or {SCORED[-1]}, or leave candidates out")
        if self.order == "entropy-bound" and self.plan != "even":
            raise ValueError(f"plan is {self.plan}, and order entropy-bound decides itself how many sites a step reveals; leave the plan out (even)")
        if self.guidance_schedule != "constant" and not self.guidance:
            raise ValueError(f"guidance_schedule is {self.guidance_schedule} and guidance 0, so there is nothing to schedule; "
                             "give guidance, or leave the schedule out")
        if self.stop and self.corrector:
            raise ValueError(f"corrector {self.corrector} may forget the EOS at which stop ends a text; leave one of the two out")
        self._check_ancestral()
        self._check_chunked()
        constant(self.guidance)                                     # these are checked there; a recipe learns of it before it trains
        self._choice(())

    def _check_kind(self, name: str, kind: str) -> None:
        """Whole numbers where counts are wanted, numbers where numbers are; recipes have been checked before."""
        value, (wanted, _, none) = getattr(self, name), kind.partition(" | ")
        if wanted == "bool" and not isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}; give true or false")
        if wanted not in ("int", "float") or (none == "None" and value is None):
            return
        if not isinstance(value, Integral if wanted == "int" else Real) or isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}; give a {'whole ' if wanted == 'int' else ''}number")
        if wanted == "float" and math.isfinite(value) and abs(float(value)) > LARGEST:
            raise ValueError(f"{name} is {value:g}; give a number between -{LARGEST:g} and {LARGEST:g}")

    def _check_ancestral(self) -> None:
        """What only an ancestral plan reads, and only in range."""
        for name, usual in (("alpha_power", 1.0), ("time_power", 1.0), ("corrector", 0.0), ("corrector_power", 1.0)):
            value = getattr(self, name)
            if value != usual and self.plan != "ancestral":
                raise ValueError(f"{name} is {value} and plan {self.plan}, which does not read it; choose plan ancestral, or leave {name} out")
            if not (0 < value < math.inf or value == usual):
                raise ValueError(f"{name} {value} is not a positive number; leave it out for {usual:g}")
        if self.corrector_power != 1 and not self.corrector:
            raise ValueError(f"corrector_power is {self.corrector_power} and there is no corrector; give corrector, or leave the power out")
        if self.corrector and self.order not in (None, "random"):
            raise ValueError(f"corrector {self.corrector} draws sites anew, and order is {self.order}; choose order random, or no corrector")
        if self.temperature_rise_power != 1 and not self.temperature_rise:
            raise ValueError(f"temperature_rise_power is {self.temperature_rise_power} and nothing rises; give temperature_rise too")

    def _check_chunked(self) -> None:
        """What whole tokens and then digits do not go with."""
        if self.chunk_point == 1:
            return
        Chunked(1, self.chunk_point)
        for name, usual in (("order", ("random",)), ("block", (0,)), ("corrector", (0,)), ("draft", (0,)), ("factorised_digits", (False,)),
                            ("plan", ("even", "ancestral"))):
            value = getattr(self, name)
            if value is not None and value not in usual:
                raise ValueError(f"chunk_point is {self.chunk_point}, which is for tokens in random order, even or ancestral, and {name} is {value}; "
                                 "leave one of the two out")

    def sampler(self, sites: int, grid: tuple[int, int] | None = None, *, left_to_right: bool = False, eos: int | None = None,
                forbid: tuple[int, ...] = ()) -> Sampler | Speculative:
        """The sampler for a canvas with at most `sites` open sites in a row; of an image of `grid` rows and columns of cells.

        Raises:
            ValueError: for values out of range.
        """
        if self.stop and eos is None:
            raise ValueError("stop is set and the vocabulary has no EOS id; unset it")
        order = self._order(self.order or ("left-to-right" if left_to_right else "random"), grid)
        if left_to_right and self.plan != "even":
            raise ValueError(f"plan {self.plan} reveals several sites at a time, an autoregressive model one; leave the plan out")
        choice, stop_at = self._choice(forbid), eos if self.stop else None
        if self.draft:
            return self._speculative(order, choice, stop_at)
        guide = {"constant": constant, "linear": ramped}[self.guidance_schedule](self.guidance) if self.guidance else None
        if self.chunk_point != 1:
            order = WholeFirst(self.chunk_point)
        return Sampler(self._plan(sites, order, left_to_right), order, choice, guide, stop_at, self.digits, self.count_registers)

    def calls(self, sites: int, *, left_to_right: bool = False) -> int:
        """Calls of the model for rows with at most `sites` open sites (of a block, where there are blocks)."""
        if left_to_right:
            return max(sites, 1)                                    # one site a call is all an autoregressive model can do
        return min(MOST, max(sites, 1)) if self.steps is None else self.steps

    @property
    def digits(self) -> DigitDraw | None:
        """How digits are drawn, where that is not the usual way."""
        draw = DigitDraw(self.factorised_digits, self.filter_observed)
        return None if draw == DigitDraw() else draw

    def _choice(self, forbid: tuple[int, ...]) -> Choice | Choices:
        choice = Choice(self.temperature, self.top_k, self.top_p, forbid)
        heated = self.temperature_last is not None or self.temperature_power != 1 or self.temperature_warmup != 0
        if not heated and not self.temperature_rise and self.top_k_last is None:
            return choice
        if heated and self.temperature_rise:
            raise ValueError(f"temperature_rise {self.temperature_rise} and a schedule of inverse temperatures were both given; choose one of them")
        if heated and not self.temperature:
            raise ValueError("temperature 0 takes the most probable token at every step; leave its schedule out, or give a temperature above 0")
        last = self.temperature if self.temperature_last is None else self.temperature_last
        if heated and not 0 < last < math.inf:
            raise ValueError(f"temperature_last {last} is not a positive number; its inverse is where the schedule ends")
        if self.top_k_last is not None and not (self.top_k > 0 and self.top_k_last > 0):
            raise ValueError(f"top_k {self.top_k} and top_k_last {self.top_k_last} must both be at least 1: 0, all tokens, is no end of a line")
        heat = inverse_linear(1 / self.temperature, 1 / last, power=self.temperature_power, warmup=self.temperature_warmup) if heated else None
        if self.temperature_rise:
            heat = rising(self.temperature, self.temperature_rise, self.temperature_rise_power)
        return Choices(choice, heat, None if self.top_k_last is None else linear_top_k(self.top_k, self.top_k_last))

    def _speculative(self, order: Order, choice: Choice | Choices, stop_at: int | None) -> Speculative:
        if self.steps is not None or self.block or self.plan != "even":
            raise ValueError(f"draft {self.draft} lets the drafts that pass decide how many sites a step reveals; leave out steps, plan and block")
        if self.digits is not None:
            raise ValueError(f"draft {self.draft} is of models of whole tokens; leave out factorised_digits and filter_observed")
        if not self.count_registers:
            raise ValueError(f"draft {self.draft} needs a cache, and count_registers false none; leave one of the two out")
        if isinstance(choice, Choices) or self.guidance_schedule != "constant":
            raise ValueError(f"draft {self.draft} has no steps known in advance; leave out schedules of temperature, top_k and guidance")
        return Speculative(self.draft, order, choice, self.guidance, stop_at)

    def _order(self, name: OrderName, grid: tuple[int, int] | None) -> Order:
        if name == "halton":
            if grid is None:
                raise ValueError("order halton is one of the cells of an image, and there is no grid of cells; choose another, or an image model")
            return Halton(grid, self.roll)
        orders: dict[str, Order] = {
            "random": Anew() if self.corrector else Random(), "coarse-first": CoarseFirst(), "token-by-token": TokenByToken(),
            "left-to-right": LeftToRight(), "raster": LeftToRight(), "spaced": Spaced(),
            "confidence": Confidence(self.confidence_noise, self.candidates), "margin": Margin(self.candidates),
            "entropy-bound": EntropyBound(self.gamma, self.candidates)}
        return orders[name]

    def _plan(self, sites: int, order: Order, left_to_right: bool) -> Plan:
        calls, own = self.calls(sites), None if left_to_right else self.steps
        if self.chunk_point != 1:
            return Chunked(calls, self.chunk_point, partial(_alpha, self) if self.plan == "ancestral" else None)
        if order.adaptive:
            inside = partial(_adaptive, self.steps or MOST)
        elif self.corrector:
            inside = partial(_corrected, calls, self)
        elif self.plan == "ancestral":
            inside = partial(_ancestral, own, self)
        else:
            inside = partial(_scheduled, own, ENDS[self.plan], None if left_to_right else MOST)
        if not self.block:
            return inside(None)
        room = min(self.steps or MOST, self.block) if order.adaptive or not self.steps else None
        return Blockwise(self.block, inside, room)


def _adaptive(steps: int, window: tuple[int, int] | None) -> Plan:
    return Adaptive(steps, window=window)


def _ancestral(steps: int | None, how: SamplerOptions, window: tuple[int, int] | None) -> Plan:
    return Ancestral(steps, partial(_alpha, how), window=window)


def _corrected(steps: int, how: SamplerOptions, window: tuple[int, int] | None) -> Plan:
    return Corrected(steps, partial(_alpha, how), lambda t: how.corrector * ((1 - t) * t) ** how.corrector_power, window=window)


def _alpha(how: SamplerOptions, t: float) -> float:
    return (1 - t**how.time_power) ** how.alpha_power


def _scheduled(steps: int | None, ends: Ends, most: int | None, window: tuple[int, int] | None) -> Plan:
    return Scheduled(steps, ends, window=window, most=most)


def check_names(names: Iterable[str]) -> None:
    """Raise ValueError for a name that is no field of `SamplerOptions`."""
    fields = SamplerOptions.__dataclass_fields__
    if unknown := sorted(set(names) - set(fields)):
        raise ValueError(f"{', '.join(unknown)} is no option of a sampler; there are {', '.join(fields)}")
