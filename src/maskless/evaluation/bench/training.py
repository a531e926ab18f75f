"""`bench training`: step time of models of equal width and depth, at several lengths.

B rows, L sites.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from maskless.evaluation.bench.setting import Setting
from maskless.evaluation.training_speed import TrainingSetting, TrainingTiming, training_timings

DEFAULT = ("mdlm", "pgm")
REFERENCE = "mdlm"


@dataclass(frozen=True)
class Step:
    """A training step (forward, head on all sites, backward) of one contender at one length."""

    contender: str
    attention: str                      # how a partition model attends among its groups
    batch: int
    length: int
    repeats: int
    parameters: int
    seconds: tuple[float, ...]
    median_seconds: float
    tokens_per_second: float
    relative: tuple[float, float, float] | None     # step time over the reference's in the same repetition: median, least, most


def run(setting: Setting, lengths: Sequence[int], names: Sequence[str], device: torch.device, *, repeats: int,
        progress: Callable[[str], None]) -> list[Step]:
    """Every length in turn, with about as many sites in a batch as the setting has.

    Raises:
        ValueError: for a name that is not known, or in float16, which training does not have.
    """
    if setting.dtype == torch.float16:
        raise ValueError("dtype float16 is not one that models are trained in (gradients would need scaling); give bfloat16 or float32")
    found: list[Step] = []
    for length in lengths:
        batch = max(1, setting.batch * setting.length // length)
        sizes = TrainingSetting(batch, length, setting.vocab_size, setting.width, setting.heads, setting.layers, setting.dtype)
        timings = training_timings(sizes, names, device, repeats=repeats,
                                   progress=lambda line, length=length: progress(f"L = {length}, {line}"))
        reference = next((timing for timing in timings if timing.name == REFERENCE), None)
        found += [_step(timing, batch, length, reference) for timing in timings]
    return found


def _step(timing: TrainingTiming, batch: int, length: int, reference: TrainingTiming | None) -> Step:
    relative = None if reference is None else timing.relative(reference)
    return Step(timing.name, timing.attention, batch, length, len(timing.seconds), timing.parameters, timing.seconds, timing.median,
                timing.tokens_per_second, relative)
