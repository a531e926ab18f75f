"""Images as files become arrays of one size. Pillow does it; it is imported when the first image is read.

C  channels (1 grey, 3 colour)        H, W  pixels
"""
from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".PNG", ".jpg", ".JPG", ".jpeg", ".JPEG", ".webp", ".bmp", ".gif", ".tif", ".tiff")
Pixels = NDArray[np.uint8]
Fit = Literal["crop", "pad"]
MODES = {1: "L", 3: "RGB"}


def pillow() -> Any:
    """PIL.Image. Raises ValueError if Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError:
        raise ValueError("reading images needs the library Pillow: pip install 'maskless[images]'") from None
    return Image


def read_picture(file: Path | bytes, name: str) -> Image:
    """One image, whole in memory.

    Args:
        file: a path, or the content of a file.
        name: what to call it in a message.

    Raises:
        ValueError: it is no image, truncated or damaged.
        OSError: the file cannot be read.
    """
    module = pillow()
    content = file if isinstance(file, bytes) else file.read_bytes()
    try:
        with module.open(io.BytesIO(content)) as image:
            image.load()
            return image.copy()
    except module.DecompressionBombError:
        raise ValueError(f"{name} has more pixels than an image should have: scale it down or take it away") from None
    except (OSError, SyntaxError, ValueError, struct.error, EOFError) as error:
        if type(error).__name__ == "UnidentifiedImageError":
            raise ValueError(f"{name} is not an image that can be read: take it away or convert it") from None
        raise ValueError(f"{name} is truncated or damaged ({error}): replace it or take it away") from None


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
            raise ValueError(f"an image of {width} x {height} pixels cannot be padded to {size}: use fit: crop")
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
