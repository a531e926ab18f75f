"""Arrays in .npz files, with errors in one sentence."""
from __future__ import annotations

from pathlib import Path

import numpy as np


def read_npz(path: Path, *names: str) -> dict[str, np.ndarray]:
    """The arrays called `names`.

    Raises:
        ValueError: the file is missing or damaged, or lacks one of them.
    """
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:  # numpy leaves a damaged file open
            there = list(file.files)
            found = {name: file[name] for name in names if name in there}
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}); give the path of a .npz file") from None
    except Exception as error:  # what a damaged archive raises is open-ended
        raise ValueError(f"{path} is damaged or no .npz file ({type(error).__name__}); get it again") from None
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"{path} has no {', '.join(missing)} but {', '.join(there) or 'nothing'}; it is another kind of file")
    return found
