"""The best batch of a contender: doubled until memory ends or the throughput no longer rises."""
from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch

from maskless.evaluation.bench.contenders import CONTENDERS
from maskless.evaluation.memory import available, peak
from maskless.evaluation.speed import Contender, last_calls

GAIN = 1.02                                                         # a doubling must bring this much
SHARE = 0.8                                                         # of the available main memory may be used


def best_batch(rate: Callable[[int], float | None], first: int, most: int) -> int:
    """Double from `first` up to `most`.

    Args:
        rate: tokens per second at a batch, or None where memory ends.

    Raises:
        ValueError: if not even `first` fits.

    Example:
        >>> best_batch({1: 10.0, 2: 19.0, 4: 30.0, 8: 30.1}.get, 1, 1024)
        4
    """
    best, found = first, rate(first)
    if found is None:
        raise ValueError(f"batch {first} does not fit into memory; start from a smaller --batch, or leave the contender out with --models")
    while best * 2 <= most:
        next_rate = rate(best * 2)
        if next_rate is None or next_rate < GAIN * found:
            break
        best, found = best * 2, next_rate
    return best


def fitted(contender: Contender, device: torch.device, most: int, progress: Callable[[str], None]) -> Contender:
    """The contender at its best batch, from its own on."""
    def rate(batch: int) -> float | None:
        found = _rate(dataclasses.replace(contender, batch=batch), device)
        told = "does not fit" if found is None else f"{found:,.1f} tokens/s on the calls tried"
        progress(f"best batch: {contender.name}, batch {batch}: {told}")
        return found

    return dataclasses.replace(contender, batch=best_batch(rate, contender.batch, most))


def _rate(contender: Contender, device: torch.device) -> float | None:
    probe, known, calls = _probe(contender)
    try:
        used = peak(device, lambda: probe.run(device, seed=0, known=known, calls=calls))
        if device.type == "cpu" and used and used > SHARE * (available() or math.inf):          # the system would end the process
            return None
        seconds, calls = probe.run(device, seed=1, known=known, calls=calls)
    except torch.OutOfMemoryError:
        return None
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return contender.batch * contender.length * calls / contender.steps / seconds


def _probe(contender: Contender) -> tuple[Contender, int, int]:
    """(contender, known sites, calls) of a trial: the first calls where a cache is made at once, else the last ones, the largest."""
    if CONTENDERS[contender.name].cached:
        return contender, 1, min(16, contender.steps)
    calls = min(2, contender.steps)
    return *last_calls(contender, calls), calls
