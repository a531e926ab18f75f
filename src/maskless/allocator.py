"""Keep freed memory in the process, where the system's allocator would return it after every operation.

glibc maps blocks of a few MiB afresh at each request and gives them back at each release; the kernel then clears every page again. For
models on the CPU, whose intermediate results have just that size, this costs up to a third of the time (docs/performance.md).
"""
from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3                         # <malloc.h>
LARGEST = 1 << 30


def keep_freed_memory() -> bool:
    """Ask the allocator to reuse blocks up to 1 GiB; True where it was asked (glibc), False where there is nothing to ask."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):                               # another C library
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST) and mallopt(M_TRIM_THRESHOLD, LARGEST))


def return_freed_memory() -> bool:
    """Give what is free back to the system now, so that the resident set is what is in use; True where something could be asked (glibc)."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return False
    return bool(trim(0))
