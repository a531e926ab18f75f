"""The machine a figure was measured on, and how fast it multiplies."""
from __future__ import annotations

import hashlib
import platform
import shutil
import statistics
import time
from functools import cache
from pathlib import Path

import torch

from maskless import __version__
from maskless.layers.packed import fast_bf16


def best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def device_of(name: str) -> torch.device:
    """A device by name: auto, cpu, cuda, cuda:1, mps. Raises ValueError if this machine does not have it."""
    name = str(name)                                                # or a torch.device
    if name == "auto":
        return best_device()
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    kind, _, index = name.partition(":")
    if kind not in there or not (index or "0").isdecimal() or int(index or 0) >= there[kind]:
        have = ", ".join(kind for kind, count in there.items() if count)
        raise ValueError(f"device is {name}, which this machine does not have; use auto or one of {have}")
    return torch.device(name)


def processor() -> str:
    """The name of the processor, as the system states it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def versions(device: torch.device | None = None) -> dict[str, str]:
    """What every result file says of where it was made."""
    device = device or best_device()
    return {
        "maskless": __version__, "source": source(), "torch": torch.__version__, "python": platform.python_version(),
        "system": platform.platform(), "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": processor(), "threads": str(torch.get_num_threads()),
    }


@cache
def source() -> str:
    """A short digest of the package's source: which code a figure belongs to, with or without version control."""
    folder, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def matrix_rate(dtype: torch.dtype, device: torch.device, rows: int = 1024, inner: int = 1024, outer: int = 1024) -> float:
    """Multiply-adds of a (rows, inner) @ (inner, outer) product in GFLOP/s: median of seven times of 20 ms (of one of a second)."""
    a, b = torch.randn(rows, inner, device=device).to(dtype), torch.randn(inner, outer, device=device).to(dtype)
    flops, seconds, repeats = 2 * rows * inner * outer, [], 1
    for attempt in range(9):
        synchronise(device)
        start = time.perf_counter()
        for _ in range(repeats):
            torch.mm(a, b)
        synchronise(device)
        seconds.append((time.perf_counter() - start) / repeats)
        if attempt == 1:                                            # the first one pays for what is made once
            repeats = max(1, min(1000, round(0.02 / seconds[-1])))
        if attempt > 1 and seconds[-1] > 1:                         # emulated types: one is enough
            break
    return flops / statistics.median(seconds[2:]) / 1e9


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was asked, before a clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def examine() -> dict[str, str]:
    """What `maskless doctor` prints. Speeds are measured now, one product of 1024 x 1024 matrices."""
    device = best_device()
    report = versions()
    report["bfloat16"] = "in hardware" if fast_bf16(device) else "emulated or absent: use float32"
    report["compiler"] = shutil.which("g++") or shutil.which("clang++") or "none (torch.compile will not work on the CPU)"
    for dtype in (torch.float32, torch.bfloat16):
        report[f"{str(dtype).removeprefix('torch.')} products"] = f"{matrix_rate(dtype, device):,.0f} GFLOP/s"
    return report
