"""`bench memory`: the peak of sampling beside its weights and caches."""
from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import torch

from maskless.evaluation.bench.contenders import CONTENDERS, Networks
from maskless.evaluation.cost import Run
from maskless.evaluation.memory import peak
from maskless.evaluation.speed import last_calls

LIMIT = 300e6                                                       # bytes beyond weights and caches


@dataclass(frozen=True)
class Memory:
    """Bytes of one contender. `working` is what its peak holds beside weights and caches: intermediate results, logits, the canvas."""

    contender: str
    batch: int
    length: int
    steps: int
    calls: int                          # of them that were run
    weights: int
    caches: int                         # counted: keys and values of every layer, at full length
    peak: int                           # measured, above the weights
    seconds: float
    limit: float = LIMIT

    @property
    def working(self) -> int:
        return self.peak - self.caches

    @property
    def within(self) -> bool:
        return self.working <= self.limit


def measure(name: str, networks: Networks, calls: int | None = None) -> Memory:
    """Peak of a generation after a small one that pays for what is made once.

    Args:
        calls: run only so many: the last ones of the plan, where most is encoded, with the sites before them given; of a model with a cache
            the first ones, since its buffers are made whole at the first call. None runs the whole plan.

    Raises:
        ValueError: where memory cannot be read.
    """
    setting, entry, device = networks.setting, CONTENDERS[name], networks.device
    contender = networks.contender(name, setting)
    dataclasses.replace(contender, batch=1, length=32, steps=31 if entry.one_each else 2, timed=None).run(device, seed=0)
    probe, known, ran = contender, 1, min(calls or contender.steps, contender.steps)
    if not entry.cached and ran < contender.steps:
        probe, known = last_calls(contender, ran)
    start = time.perf_counter()
    used = peak(device, lambda: probe.run(device, seed=1, known=known, calls=ran))
    if used is None:
        raise ValueError(f"the memory of a process cannot be read on this system with device {device.type}; use Linux, or a CUDA device")
    run = Run(setting.batch, setting.length, setting.itemsize)
    weights = sum(p.numel() * p.element_size() for p in networks(entry.kind).parameters())
    return Memory(name, setting.batch, setting.length, contender.steps, ran, weights, entry.cache(contender.config, run), used,
                  time.perf_counter() - start)


def note(device: torch.device) -> str:
    """What was read."""
    return "bytes handed out by the allocator" if device.type == "cuda" else "resident set of the process"
