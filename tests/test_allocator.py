"""The allocator is asked once, and only where there is one to ask."""
from __future__ import annotations

import subprocess
import sys

import maskless.allocator as allocator

SCRIPT = """
import resource, sys, torch
from maskless.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
x = torch.zeros(1 << 24)
for _ in range(3):
    x + 1
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    x + 1
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_blocks_are_reused():
    if not allocator.keep_freed_memory():
        assert not sys.platform.startswith("linux") or not _is_glibc()
        return
    plain, kept = (
        int(subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True).stdout) for how in ("plain", "keep")
    )
    assert kept < plain / 3                                         # 20 blocks of 64 MiB, cleared anew or not


def _is_glibc() -> bool:
    import platform

    return platform.libc_ver()[0] == "glibc"


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert allocator.keep_freed_memory() is False
