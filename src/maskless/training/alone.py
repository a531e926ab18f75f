"""One process trains in a run folder at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold an existing run folder until the process leaves or ends, however it ends. Windows, and some network disks, know no such lock: there
    nothing is held.

    Raises:
        ValueError: another process holds it.
    """
    if os.name == "nt":
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # of disks without locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                remedy = "stop it before you resume the run, or choose another folder with --out"
                raise ValueError(f"another process trains in {folder}; {remedy}") from None
        yield
    finally:
        os.close(handle)
