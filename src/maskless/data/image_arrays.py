"""Labelled images in one .npz file: x_train, y_train, x_test, y_test, as MNIST and its relatives are passed around.

Letters: N images, C channels, H x W pixels.
"""
from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from maskless.data.npz import read_npz

SPLITS = ("train", "test")


@dataclass(frozen=True)
class LabelledImages:
    """One split of a data set.

    Attributes:
        pixels: 0 to 255.
        labels: classes from 0.
        source: sha256 of the file.
    """

    pixels: UInt8[Tensor, "N C H W"]
    labels: Int[Tensor, " N"]
    source: str

    def __len__(self) -> int:
        return len(self.labels)


def read_images(path: str | Path, split: str, *, size: int = 0) -> LabelledImages:
    """One split of a .npz file.

    Args:
        path: the file; arrays x_SPLIT (N, H, W) or (N, H, W, C) of uint8 and y_SPLIT (N) of integers.
        split: train or test.
        size: put the image into the middle of a black square of so many pixels; 0: leave it.

    Raises:
        ValueError: the file is missing, damaged, or holds something else; or `size` is smaller than the images.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; use one of {', '.join(SPLITS)}")
    path = Path(path).expanduser()
    pixels, labels = read_npz(path, f"x_{split}", f"y_{split}").values()
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or len(pixels) != len(labels) or len(labels) == 0 or labels.dtype.kind not in "iu":
        found = f"{pixels.dtype} {pixels.shape} and {labels.dtype} {labels.shape}"
        raise ValueError(f"{path} has {found} as images and labels of {split}; uint8 (N, H, W) or (N, H, W, C) and integers (N) are needed")
    images = torch.from_numpy(pixels if pixels.ndim == 4 else pixels[..., None]).permute(0, 3, 1, 2).contiguous()
    return LabelledImages(_padded(images, size, path), torch.from_numpy(labels.astype(np.int64)), _sha256(path))


def _padded(images: Tensor, size: int, path: Path) -> Tensor:
    height, width = images.shape[-2:]
    if size == 0:
        return images
    if size < max(height, width):
        raise ValueError(f"size is {size} and the images of {path} are {height} x {width}; give at least {max(height, width)}, or 0 to leave them")
    down, right = (size - height) // 2, (size - width) // 2
    square = images.new_zeros(*images.shape[:2], size, size)
    square[..., down:down + height, right:right + width] = images
    return square


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
