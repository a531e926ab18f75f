"""Samples of images as PNG files in memory. Whatever a file holds beside pixels does not reach the page."""
from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from maskless.data.npz import read_npz
from maskless.data.pictures import grid_of, picture, read_picture

IMAGES = 64                                                         # of a file that a page has room for


def same_png(path: Path) -> tuple[bytes, int]:
    """A picture written anew, and that it is one. Raises ValueError if it is none."""
    file = io.BytesIO()
    read_picture(path, str(path)).convert("RGB").save(file, "PNG")
    return file.getvalue(), 1


def grid_png(path: Path) -> tuple[bytes, int]:
    """The first images of an .npz with `pixels` (n, H, W, C) uint8 side by side, and how many there are. Raises ValueError for other contents."""
    pixels = read_npz(path, "pixels")["pixels"]
    if pixels.ndim != 4 or pixels.dtype != np.uint8 or pixels.shape[-1] not in (1, 3) or 0 in pixels.shape:
        raise ValueError(f"{path} holds {pixels.dtype} of shape {pixels.shape}, not images; samples are uint8 (n, height, width, 1 or 3)")
    file = io.BytesIO()
    picture(grid_of(pixels[:IMAGES])).save(file, "PNG")
    return file.getvalue(), len(pixels)
