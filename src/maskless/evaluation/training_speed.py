"""Training speed, side by side: one step's forward and backward, interleaved repetitions in one process, every repetition kept.

B rows, L sites, V vocabulary.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from maskless.allocator import keep_freed_memory
from maskless.evaluation.attention import Shape, available, measure
from maskless.evaluation.machine import synchronise
from maskless.layers.groups import GROUPINGS
from maskless.models import (
    AutoregressiveConfig,
    CausalPartitionConfig,
    CausalPartitionTransformer,
    Denoiser,
    MaskedConfig,
    PartitionConfig,
    PartitionTransformer,
    build,
)
from maskless.objectives.cross_entropy import weighted_nll


@dataclass(frozen=True)
class TrainingSetting:
    """What is timed: models of equal width and depth on the same rows.

    Attributes:
        batch: rows.
        length: sites of a row.
        vocab_size: V.
        width, heads: of every block.
        layers: of the masked and the autoregressive model; partition models have half of them in the encoder, half in the decoder.
        dtype: float32, or bfloat16 for the matrix products (weights stay float32, as in training).
        dropout: as in training.
    """

    batch: int
    length: int
    vocab_size: int = 8192
    width: int = 256
    heads: int = 4
    layers: int = 12
    dtype: torch.dtype = torch.float32
    dropout: float = 0.0


@dataclass(frozen=True)
class TrainingTiming:
    """The steps of one contender.

    Attributes:
        name: of the contender.
        attention: how it attends among groups; "" for a model without groups.
        seconds: one step each, in the order in which they were timed (all contenders in turn).
        tokens: of a step.
        parameters: of the model.
    """

    name: str
    attention: str
    seconds: tuple[float, ...]
    tokens: int
    parameters: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.median

    def relative(self, to: TrainingTiming) -> tuple[float, float, float]:
        """Step time over that of `to`: median, smallest and largest over repetitions, each with its neighbour in time."""
        ratios = [mine / other for mine, other in zip(self.seconds, to.seconds, strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)

    def line(self) -> str:
        spread = f"[{1000 * min(self.seconds):,.1f} .. {1000 * max(self.seconds):,.1f}]"
        return f"{self.name:>14} {1000 * self.median:10,.1f} ms a step  {spread}  {self.tokens_per_second:,.0f} tokens/s  {self.attention}"


Hidden = Callable[[Any, Tensor, Tensor], Tensor]
"""A model's training pass: model, tokens (B, L), known (B, L) -> hidden states (B, L, D) that predict every site."""


@dataclass(frozen=True)
class TrainingContender:
    """A model and its training pass."""

    name: str
    model: Denoiser
    hidden: Hidden
    attention: str = ""

    def seconds(self, tokens: Tensor, known: Tensor, dtype: torch.dtype) -> float:
        """Forward with the head on all sites, and backward."""
        device = tokens.device
        weights = torch.ones(tokens.shape, device=device)
        synchronise(device)
        start = perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss, _ = weighted_nll(self.model, self.hidden(self.model, tokens, known), tokens, weights)
        loss.backward()
        synchronise(device)
        took = perf_counter() - start
        self.model.zero_grad(set_to_none=True)
        return took


def training_contenders(setting: TrainingSetting, names: Sequence[str], device: torch.device) -> list[TrainingContender]:
    """The models of a setting, freshly initialised: `mdlm`, `ar`, `pgm` (attending the fastest way), `pgm-WAY`, `any-order` (one pass).

    Raises:
        ValueError: for a name that is not known, or a way of attending that the device does not have.
    """
    sizes: dict[str, Any] = {"vocab_size": setting.vocab_size, "length": setting.length, "width": setting.width, "heads": setting.heads,
                             "dropout": setting.dropout}
    halves: dict[str, Any] = {"encoder_layers": setting.layers // 2, "decoder_layers": setting.layers // 2}
    configs = {"mdlm": MaskedConfig(**sizes, layers=setting.layers), "ar": AutoregressiveConfig(**sizes, layers=setting.layers),
               "pgm": PartitionConfig(**sizes, **halves), "any-order": CausalPartitionConfig(**sizes, **halves)}
    made: dict[str, Denoiser] = {}

    def network(kind: str) -> Denoiser:
        if kind not in made:
            torch.manual_seed(0)
            made[kind] = build(configs[kind]).to(device).train()
        return made[kind]

    def grouped(name: str, way: str) -> TrainingContender:
        return TrainingContender(name, network("pgm"), lambda model, tokens, known: model.hidden(tokens, known, grouping=GROUPINGS[way]), way)

    table: dict[str, Callable[[], TrainingContender]] = {
        "mdlm": lambda: TrainingContender("mdlm", network("mdlm"), lambda model, tokens, known: model.hidden(tokens, known)),
        "ar": lambda: TrainingContender("ar", network("ar"), lambda model, tokens, known: model.hidden(tokens, known)),
        "pgm": lambda: grouped("pgm", fastest(setting, device)),
        "any-order": lambda: TrainingContender("any-order", network("any-order"), _in_random_order),
        **{f"pgm-{way}": (lambda way=way: grouped(f"pgm-{way}", way)) for way in available(device, setting.dtype, setting.width // setting.heads)},
    }
    if unknown := [name for name in names if name not in table]:
        raise ValueError(f"there is no contender {unknown[0]} here; choose from {', '.join(table)}")
    return [table[name]() for name in names]


def contender_of(name: str, model: Denoiser, setting: TrainingSetting, device: torch.device) -> TrainingContender:
    """A model that is there already, trained as its kind is: a partition model attends the fastest way, an order-causal one in one pass."""
    if type(model) is CausalPartitionTransformer:
        return TrainingContender(name, model, _in_random_order)
    if type(model) is PartitionTransformer:                         # models that build on it choose how they attend themselves
        way = fastest(setting, device)
        told = lambda model, tokens, known: model.hidden(tokens, known, t=_times(known), grouping=GROUPINGS[way])
        return TrainingContender(name, model, told, way)
    return TrainingContender(name, model, lambda model, tokens, known: model.hidden(tokens, known, t=_times(known)))


def _times(known: Tensor) -> Tensor:
    """(B,) the share of a row that is not known: the time of a model that is told it, and nothing to the others."""
    return 1 - known.float().mean(1)


def _in_random_order(model: Any, tokens: Tensor, known: Tensor) -> Tensor:
    return model.hidden_in_order(tokens, torch.rand(tokens.shape, device=tokens.device).argsort(1))


def fastest(setting: TrainingSetting, device: torch.device) -> str:
    """The way of attending among groups that training would choose."""
    half = setting.layers // 2
    shape = Shape(setting.batch, setting.heads, setting.length, setting.width // setting.heads, half, half + 1)
    seconds = measure(available(device, setting.dtype, shape.width), shape, device, setting.dtype)
    return min(seconds, key=seconds.__getitem__)


def training_timings(setting: TrainingSetting, names: Sequence[str], device: torch.device, *, repeats: int = 5,
                     progress: Callable[[str], None] = lambda line: None) -> list[TrainingTiming]:
    """Time a training step (forward and backward, head on all sites) of each contender in turn, `repeats` times, after one to warm up.

    Every repetition has rows and groups of its own, the same for all contenders: a row's share of group 0 is spread evenly over (0, 1) with
    one random start, as in training.

    Args:
        setting: sizes, precision.
        names: see `training_contenders`.
        device: where.
        repeats: steps timed of each.
        progress: receives a line after every step.

    Returns:
        One timing per name, in that order.

    Raises:
        ValueError: for a name that is not known.
    """
    return time_steps(training_contenders(setting, names, device), setting, device, repeats=repeats, progress=progress)


def time_steps(contenders: Sequence[TrainingContender], setting: TrainingSetting, device: torch.device, *, repeats: int = 5, warmups: int = 1,
               progress: Callable[[str], None] = lambda line: None) -> list[TrainingTiming]:
    """`training_timings` of contenders that are there already; of the setting, batch, length, vocabulary and precision are looked at."""
    keep_freed_memory()
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for repeat in range(repeats + warmups):
        tokens, known = (x.to(device) for x in _batch(setting, seed=repeat))
        for contender in contenders:
            seconds[contender.name].append(contender.seconds(tokens, known, setting.dtype))
            progress(f"repetition {repeat}/{repeats + warmups - 1}: {contender.name} {1000 * seconds[contender.name][-1]:,.1f} ms")
    sites = setting.batch * setting.length
    return [TrainingTiming(each.name, each.attention, tuple(seconds[each.name][warmups:]), sites, each.model.parameter_count())
            for each in contenders]


def _batch(setting: TrainingSetting, seed: int) -> tuple[Tensor, Tensor]:
    """Tokens and groups (B, L)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (setting.batch, setting.length)
    share = (torch.arange(setting.batch)[:, None] + torch.rand(1, generator=generator)) / setting.batch
    return torch.randint(setting.vocab_size, shape, generator=generator), torch.rand(shape, generator=generator) < share
