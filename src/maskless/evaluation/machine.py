"""The machine a figure was measured on, and how fast it multiplies."""
from __future__ import annotations

import platform
import shutil
import statistics
import time
from pathlib import Path

import torch

from maskless import __version__


def best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def device_of(name: str) -> torch.device:
    """A device by name: auto, cpu, cuda, cuda:1, mps. Raises ValueError if this machine does not have it."""
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


def fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return False


def versions() -> dict[str, str]:
    """What every result file says of where it was made."""
    device = best_device()
    return {
        "maskless": __version__, "torch": torch.__version__, "python": platform.python_version(), "system": platform.platform(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type, "processor": processor(),
        "threads": str(torch.get_num_threads()),
    }


def matrix_rate(dtype: torch.dtype, device: torch.device, rows: int = 1024, width: int = 1024) -> float:
    """Multiply-adds of a (rows, width) @ (width, width) product in GFLOP/s: median of seven."""
    a, b = torch.randn(rows, width, device=device).to(dtype), torch.randn(width, width, device=device).to(dtype)
    repeats, seconds = 10, []
    for _ in range(8):
        synchronise(device)
        start = time.perf_counter()
        for _ in range(repeats):
            torch.mm(a, b)
        synchronise(device)
        seconds.append((time.perf_counter() - start) / repeats)
    return 2 * rows * width * width / statistics.median(seconds[1:]) / 1e9


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
