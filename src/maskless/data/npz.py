"""Arrays in .npz files, with errors in one sentence."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


def names_in(path: Path) -> list[str]:
    """What the arrays are called.

    Raises:
        ValueError: the file is missing or damaged.
    """
    with _opened(path) as file:
        return list(file.files)


def read_npz(path: Path, *names: str) -> dict[str, np.ndarray]:
    """The arrays called `names`.

    Raises:
        ValueError: the file is missing or damaged, or lacks one of them.
    """
    with _opened(path) as file:
        there = list(file.files)
        found = {name: file[name] for name in names if name in there}
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"{path} has no {', '.join(missing)} but {', '.join(there) or 'nothing'}; it is another kind of file")
    return found


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:  # numpy leaves a damaged file open
            yield file
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}); give the path of a .npz file") from None
    except Exception as error:  # what a damaged archive raises is open-ended
        raise ValueError(f"{path} is damaged or no .npz file ({type(error).__name__}); get it again") from None
