"""What can be asked of a model of images: the arguments of `ImageModel`'s calls, with images as PNG files in base64."""
from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from maskless.api.image import ImageModel
from maskless.api.image_files import so_far
from maskless.data.pictures import MODES, picture, read_picture
from maskless.decoding import Canvas
from maskless.decoding.decode import Record
from maskless.serving.asked import Sampled

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")              # none that Pillow hands to another program


class Drawn(NamedTuple):
    """An image, its class (None: of no class), and calls of the model that made it."""

    pixels: np.ndarray
    label: int | None
    nfe: int


@dataclass(frozen=True, kw_only=True)
class Painted(Sampled):
    """Images are asked for, of a class: its number or its name."""

    label: int | str | None = None

    def frame(self, model: ImageModel, canvas: Canvas, record: Record) -> dict[str, Any]:
        return {"png": png(so_far(model, canvas)[0])}

    def told(self, found: Sequence[Drawn]) -> dict[str, Any]:
        return {"images": [{"png": png(each.pixels), "label": each.label, "nfe": each.nfe} for each in found]}


@dataclass(frozen=True, kw_only=True)
class Generate(Painted):
    """Whole images."""

    def like(self, model: ImageModel) -> Hashable | None:
        return ("no label" if self.label is None else "labels") if self.may_share else None

    def alone(self, model: ImageModel, **watched: Any) -> list[Drawn]:
        return one_by_one(model, model.generate(self.n, labels=self.label, seed=self.seed, refresh=self.refresh, **self.options, **watched))

    def together(self, model: ImageModel, all: Sequence[Generate]) -> list[Drawn]:
        labels, seeds = [each.label for each in all], [each.seed for each in all]
        return one_by_one(model, model.generate(len(all), labels=labels, seed=seeds, refresh=self.refresh, **self.options))


@dataclass(frozen=True, kw_only=True)
class Infill(Painted):
    """Part of an image anew: where `mask` is bright, and what the image does not cover where it lies at (row, column) `at`."""

    image: str
    mask: str | None = None
    at: tuple[int, int] = (0, 0)

    def like(self, model: ImageModel) -> Hashable | None:
        return None

    def alone(self, model: ImageModel, **watched: Any) -> list[Drawn]:
        image = unpacked(self.image, "image", model.codec.channels, model.size)
        mask = None if self.mask is None else unpacked(self.mask, "mask", 1, model.size) >= 128
        return one_by_one(model, model.infill(image, mask, at=self.at, labels=self.label, n=self.n, seed=self.seed, refresh=self.refresh,
                                              **self.options, **watched))


def one_by_one(model: ImageModel, made: Any) -> list[Drawn]:
    labels = made.labels or [model.model.null_label] * len(made)
    return [Drawn(pixels, None if label == model.model.null_label else label, made.nfe) for pixels, label in zip(made.pixels, labels)]


def png(pixels: np.ndarray) -> str:
    """(H, W, C) uint8 as a PNG file in base64."""
    file = io.BytesIO()
    picture(pixels).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def unpacked(text: str, name: str, channels: int, most: tuple[int, int]) -> np.ndarray:
    """(H, W, C) uint8 of an image file in base64.

    Raises:
        ValueError: it is not base64, no image, or higher or wider than `most`.
    """
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{name} is not base64; send the bytes of an image file, such as a PNG, in base64") from None
    return np.asarray(read_picture(content, name, most=most, formats=FORMATS).convert(MODES[channels]))
