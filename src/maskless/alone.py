"""One process writes into a folder at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def alone(folder: Path, busy: str) -> Iterator[None]:
    """Hold an existing folder until the process leaves or ends, however it ends. Windows, and some network disks, know no such lock: there
    nothing is held.

    Raises:
        ValueError: another one holds it; `busy` is the sentence.
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
                raise ValueError(busy) from None
        yield
    finally:
        os.close(handle)
