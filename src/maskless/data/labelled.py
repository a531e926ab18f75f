"""All images of a split at once, with their classes: what the classifier learns from, and what images are compared with.

Letters: N images, C channels, S pixels a side.
"""
from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from maskless.data.images import PlainPixels
from maskless.data.source import Split


@dataclass(frozen=True)
class LabelledImages:
    """One split of a data set.

    Attributes:
        pixels: 0 to 255.
        labels: classes from 0.
    """

    pixels: UInt8[Tensor, "N C S S"]
    labels: Int[Tensor, " N"]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sha256(self) -> str:
        """Of pixels and labels."""
        hashed = hashlib.sha256(self.pixels.numpy().tobytes())
        hashed.update(self.labels.numpy().tobytes())
        return hashed.hexdigest()


def labelled_images(images: PlainPixels, split: Split) -> LabelledImages:
    """One split of a source, in memory.

    Raises:
        ValueError: the images cannot be read or do not fit `images.size`, there are none, or they have no classes.
    """
    pixels, labels = [], []
    for picture, label in images.pictures(split, images.channels):
        if label is None:
            raise ValueError("the images have no classes: use a source that has labels, such as folders that are classes or y_train in an .npz")
        pixels.append(picture)
        labels.append(label)
    if not pixels:
        raise ValueError(f"there are no images for {split}: name others with data.source, or hold out a share of them with data.holdout")
    return LabelledImages(torch.from_numpy(np.stack(pixels)), torch.tensor(labels))
