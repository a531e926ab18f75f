"""Peak memory of some work, above what was in use when it began.

On CUDA it is what the allocator handed out. On Linux it is the resident set of the process, whose high-water mark the kernel keeps and
resets on request; freed memory is given back to the system first, so that what is reused counts too. Elsewhere nothing is reported.
"""
from __future__ import annotations

import gc
import re
from collections.abc import Callable
from pathlib import Path

import torch

from maskless.allocator import return_freed_memory

RESET_PEAK = "5"                                                    # man 5 proc, /proc/pid/clear_refs


def peak(device: torch.device, work: Callable[[], object]) -> int | None:
    """Do the work; bytes it needed at its peak, or None where that cannot be read."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    return _resident(work) if device.type == "cpu" else _unknown(work)


def collect(device: torch.device) -> None:
    """Give back what nothing refers to any more; on CUDA to the device, so that whatever comes next finds it free."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _resident(work: Callable[[], object]) -> int | None:
    return_freed_memory()
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
        before = _status("VmRSS")
    except (OSError, LookupError):                                  # not Linux, or not allowed
        return _unknown(work)
    work()
    return max(0, _status("VmHWM") - before)


def _unknown(work: Callable[[], object]) -> None:
    work()


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise LookupError(name)
    return int(found[1]) * 1024


def available() -> int | None:
    """Bytes of main memory that could still be used, where the system says so."""
    info = Path("/proc/meminfo")
    found = re.search(r"^MemAvailable:\s+(\d+) kB", info.read_text(), re.MULTILINE) if info.exists() else None
    return None if found is None else int(found[1]) * 1024
