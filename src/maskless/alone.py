"""One process at work in a place at a time (POSIX; elsewhere nobody is refused)."""
from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:                                                 # Windows
    fcntl = None

LOCK = "lock"  # the usual name of such a file


@contextmanager
def alone(lock: Path, busy: str) -> Iterator[None]:
    """Hold a lock file in an existing folder until this process is done or dies. A file that a dead process left is no obstacle.

    Raises:
        ValueError: another process holds it; `busy` is the sentence.
    """
    if fcntl is None:
        yield
        return
    with open(lock, "ab") as file:
        if not _taken(file, lock):
            raise ValueError(busy)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _taken(file: Any, path: Path) -> bool:
    """Whether a lock file could be had, and is still the one at `path`: it may have been given back and removed since it was opened."""
    assert fcntl is not None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:                                                 # a file system without locks: nobody is refused
        return True
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
