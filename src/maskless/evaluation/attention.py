"""How fast each way of attending among groups is (`layers.groups`), on one device, at one shape.

B rows, L sites, h heads, d head width.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskless.evaluation.machine import synchronise
from maskless.layers.groups import GROUPINGS, Grouping

PAIRS = {"cpu": 1 << 22}  # of queries and keys (rows x heads x L x L) in the batch that is measured
DEVICE_PAIRS = 1 << 30


@dataclass(frozen=True)
class Shape:
    """What a step's attention depends on: (B, h, L, d), and how many layers look at their own and at the other group."""

    rows: int
    heads: int
    length: int
    width: int
    own: int
    other: int


def available(device: torch.device, dtype: torch.dtype, width: int | None = None) -> list[str]:
    """The ways that have a backward pass on this device, in this precision, for heads of this width (None: of one that suits all)."""
    if device.type == "cpu":
        return ["dense", "segments", "plain"]
    if device.type != "cuda":
        return ["dense"]
    names = ["dense"]
    if dtype == torch.bfloat16 and torch.cuda.get_device_capability(device) >= (8, 0) and (width is None or (width % 8 == 0 and width <= 256)):
        names.append("varlen")
    if importlib.util.find_spec("triton") is not None and (width is None or width >= 16):
        names.append("flex")
    return names


def measure(
    names: Sequence[str], shape: Shape, device: torch.device, dtype: torch.dtype, *, repeats: int = 3,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
    """Seconds of a step's attention by each way, forward and backward: the best of `repeats`, in turn, after one to warm up.

    On as many rows as it takes; groups hold the shares of rows that are evenly spread over (0, 1), as in training. A way that fails here
    (a kernel refuses the shape, a compiler is missing) is left out, and a line of progress says why; `dense`, the reference, must not.
    """
    pairs = PAIRS.get(device.type, DEVICE_PAIRS) // (shape.heads * shape.length**2)
    rows = max(1, min(shape.rows, pairs))
    generator = torch.Generator().manual_seed(0)
    share = (torch.arange(rows)[:, None] + 0.5) / rows
    known = (torch.rand(rows, shape.length, generator=generator) < share).to(device)
    size = (4, rows, shape.length, shape.heads, shape.width)
    tensors = torch.randn(size, generator=generator).to(device, dtype).transpose(2, 3).unbind(0)
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats + 1):
        for name in [*found]:
            try:
                found[name].append(_seconds(GROUPINGS[name], known, tensors, shape))
            except Exception as error:                              # kernels and compilers raise what they like
                if name == "dense":
                    raise
                del found[name]
                progress(f"{name} fails: {first_line(error)}")
    return {name: min(times[1:]) * shape.rows / rows for name, times in found.items()}


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0].rstrip(": ")


def _seconds(grouping: Grouping, known: Tensor, tensors: Sequence[Tensor], shape: Shape) -> float:
    """A step's attention once: one layer of each kind is timed, and counted as often as the model has it."""
    *inputs, weight = tensors
    q, k, v = (x.detach().requires_grad_() for x in inputs)
    start = _now(known.device)
    groups = grouping(known)
    total = _now(known.device) - start
    for attend, layers in ((groups.own, shape.own), (groups.other, shape.other)):
        start = _now(known.device)
        torch.autograd.grad(attend(q, k, v), (q, k, v), weight.transpose(1, 2).flatten(2))
        total += layers * (_now(known.device) - start)
    return total


def _now(device: torch.device) -> float:
    synchronise(device)
    return time.perf_counter()
