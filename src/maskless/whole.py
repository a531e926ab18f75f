"""A file that is there as it was, or as it shall be."""
from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what takes the place of `path` once it is whole; its name ends as that of `path` does."""
    part = path.with_stem(f"{path.stem}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
