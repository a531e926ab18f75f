"""Images as files become arrays of one size, and arrays become images. Pillow does it; it is imported when the first image is read.

C  channels (1 grey, 3 colour)        H, W  pixels
"""
from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".PNG", ".jpg", ".JPG", ".jpeg", ".JPEG", ".webp", ".bmp", ".gif", ".tif", ".tiff")
Pixels = NDArray[np.uint8]
Fit = Literal["crop", "pad"]
MODES = {1: "L", 3: "RGB"}


class TooLarge(ValueError):
    """An image of more pixels than are wanted."""


def pillow() -> Any:
    """PIL.Image. Raises ValueError if Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError:
        raise ValueError("reading and writing images needs the library Pillow: pip install 'maskless[images]'") from None
    return Image


def read_picture(file: Path | bytes, name: str, *, most: tuple[int, int] | None = None, formats: Sequence[str] | None = None) -> Image:
    """One image, whole in memory, turned as its camera says; of 16-bit greys the high byte.

    Args:
        file: a path, or the content of a file.
        name: what to call it in a message.
        most: height and width beyond which it is refused before it is decoded.
        formats: those of Pillow that are tried; all if None.

    Raises:
        ValueError: it is no image, too large, truncated or damaged, or of numbers that have no largest one.
        OSError: the file cannot be read.
    """
    module = pillow()
    from PIL import ImageOps

    content = file if isinstance(file, bytes) else file.read_bytes()
    try:
        with module.open(io.BytesIO(content), formats=formats) as image:
            if most is not None and (image.height > most[0] or image.width > most[1]):
                raise TooLarge(f"{name}: {image.height} x {image.width} pixels do not fit into {most[0]} x {most[1]}; resize it")
            image.load()
            turned = ImageOps.exif_transpose(image)
    except TooLarge:
        raise
    except module.DecompressionBombError:
        raise ValueError(f"{name} has more pixels than an image should have: scale it down or take it away") from None
    except (OSError, SyntaxError, ValueError, struct.error, EOFError) as error:
        if type(error).__name__ == "UnidentifiedImageError":
            raise ValueError(f"{name} is not an image that can be read: take it away or convert it") from None
        raise ValueError(f"{name} is truncated or damaged ({error}): replace it or take it away") from None
    return _in_bytes(turned, name)


def _in_bytes(image: Any, name: str) -> Image:
    """An image whose channels are bytes, of one that may have wider ones."""
    if image.mode in ("I", "F"):
        raise ValueError(f"{name} holds {image.mode} (32-bit numbers), of which white is not known: save it in 8 or 16 bits")
    if not image.mode.startswith("I;16"):
        return image
    return pillow().fromarray((np.asarray(image) >> 8).astype(np.uint8))


def from_array(pixels: NDArray[Any], name: str) -> Image:
    """An image of (H, W), (H, W, 1) or (H, W, 3) bytes. Raises ValueError for any other array."""
    grey = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    fits = grey.ndim == 2 or (grey.ndim == 3 and grey.shape[2] == 3)
    if pixels.dtype != np.uint8 or not fits or 0 in grey.shape:
        found = f"{pixels.dtype} of shape {pixels.shape}"
        raise ValueError(f"{name} is no image but {found}: use uint8, height x width (x 3), values 0 to 255")
    return pillow().fromarray(np.ascontiguousarray(grey))


def sized(image: Image, size: int, channels: int, fit: Fit) -> Pixels:
    """An image as (C, size, size) bytes.

    Args:
        image: of any mode; grey or colour is made of it, transparency is dropped.
        size: pixels of a side of the result.
        channels: C.
        fit: "crop": the short side is scaled to `size` (bilinear, antialiased; the long side is rounded down), then the
            middle is cut out, as the released codes were made. "pad": nothing is scaled, black is added around.

    Raises:
        ValueError: `fit` is "pad" and the image is larger than `size`.
    """
    image = image.convert(MODES[channels])
    width, height = image.size
    if fit == "pad":
        if max(width, height) > size:
            raise ValueError(f"an image of {width} x {height} pixels cannot be padded to {size}: crop (fit=crop)")
        canvas = pillow().new(MODES[channels], (size, size))
        canvas.paste(image, ((size - width) // 2, (size - height) // 2))
        return _planes(canvas)
    short, long = min(width, height), max(width, height)
    if short != size:
        far = int(size * long / short)
        image = image.resize((size, far) if width <= height else (far, size), pillow().Resampling.BILINEAR)
        width, height = image.size
    left, top = round((width - size) / 2), round((height - size) / 2)
    return _planes(image.crop((left, top, left + size, top + size)))


def _planes(image: Image) -> Pixels:
    """(C, H, W)."""
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


# -------------------------------------------------------------------------------------------------- arrays to files


def to_bytes(images: Float[Tensor, "n C H W"]) -> np.ndarray:
    """Pixels in [-1, 1] as (n, H, W, C) uint8, rounded."""
    scaled = ((images.float().clamp(-1, 1) + 1) * 127.5).round()
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def in_unit_range(pixels: UInt8[Tensor, " ..."]) -> Float[Tensor, " ..."]:
    """Bytes as float32 in [-1, 1].

    Example:
        >>> in_unit_range(torch.tensor([0, 255], dtype=torch.uint8)).tolist()
        [-1.0, 1.0]
    """
    return pixels.float() / 127.5 - 1


def to_pixels(array: np.ndarray) -> Float[Tensor, "n C H W"]:
    """(n, H, W, C) uint8 as pixels in [-1, 1]."""
    return in_unit_range(torch.from_numpy(array.copy()).permute(0, 3, 1, 2))


def picture(array: np.ndarray) -> Image:
    """(H, W, C) uint8 as a Pillow image."""
    return pillow().fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def grid_of(array: np.ndarray, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """(n, H, W, C) side by side on white, in `columns` columns (None: as square as possible)."""
    n, height, width, channels = array.shape
    columns = min(columns or int(np.ceil(n**0.5)), n)
    rows = -(-n // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, np.uint8)
    for i, each in enumerate(array):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top:top + height, left:left + width] = each
    return sheet
