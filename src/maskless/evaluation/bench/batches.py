"""The best batch of a contender: doubled until memory ends or the throughput no longer rises."""
from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch

from maskless.evaluation.bench.contenders import CONTENDERS
from maskless.evaluation.memory import available, collect, peak
from maskless.evaluation.speed import Contender, last_calls

GAIN = 1.02                                                         # a doubling must bring this much
SHARE = 0.8                                                         # of the available main memory may be used


def best_batch(rate: Callable[[int], float | None], first: int, most: int) -> int | None:
    """Double from `first` up to `most`; None if not even `first` fits.

    Args:
        rate: tokens per second at a batch, or None where memory ends.

    Example:
        >>> best_batch({1: 10.0, 2: 19.0, 4: 30.0, 8: 30.1}.get, 1, 1024)
        4
    """
    best, found = first, rate(first)
    if found is None:
        return None
    while best * 2 <= most:
        next_rate = rate(best * 2)
        if next_rate is None or next_rate < GAIN * found:
            break
        best, found = best * 2, next_rate
    return best


def fitted(contender: Contender, device: torch.device, most: int, progress: Callable[[str], None]) -> Contender | None:
    """The contender at its best batch, from its own on; None, and a line of progress, if not even that fits into memory."""
    def rate(batch: int) -> float | None:
        found = _rate(dataclasses.replace(contender, batch=batch), device)
        told = "does not fit" if found is None else f"{found:,.1f} tokens/s on the calls tried"
        progress(f"best batch: {contender.name}, batch {batch}: {told}")
        return found

    best = best_batch(rate, contender.batch, most)
    if best is None:
        progress(f"left out: {contender.name} does not fit into memory at batch {contender.batch}; start from a smaller --batch")
        return None
    return dataclasses.replace(contender, batch=best)


def _rate(contender: Contender, device: torch.device) -> float | None:
    """Tokens per second of a generation, as a few calls of it tell; nothing of them stays in memory."""
    probe, known, calls = _probe(contender)
    try:
        used = peak(device, lambda: probe.run(device, seed=0, known=known, calls=calls))
        if device.type == "cpu" and used and used > SHARE * (available() or math.inf):          # the system would end the process
            return None
        spent = probe.run(device, seed=1, known=known, calls=calls)
    except torch.OutOfMemoryError:
        return None
    finally:
        contender.release()
        collect(device)
    return contender.batch * contender.length / spent.scaled(contender.steps)


def _probe(contender: Contender) -> tuple[Contender, int, int]:
    """(contender, known sites, calls) of a trial: the first calls where a cache is made at once, else the last ones, the largest."""
    if CONTENDERS[contender.name].cached:
        return contender, 1, min(16, contender.steps)
    calls = min(3, contender.steps)
    return *last_calls(contender, calls), calls
