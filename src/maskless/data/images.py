"""Rows of codes made of images, and rows of plain pixels to train codecs on.

    spec = Images(source=ImageArrays(train="fashion_mnist.npz"), codec=PixelCodec(levels=16), size=32, fit="pad")
    store = open_data(spec, length=32 * 32, split="train")        # a row an image, with its class; built once
    tokenizer_of(spec).images(store.read(torch.tensor([0])).tokens)

B  images        C  channels        H, W  pixels        L  sites of a row, h x w cells in raster order
"""
from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, SupportsInt

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from maskless.config import Tagged
from maskless.data.codec import Codec, PixelCodec, code_grid, load_codec
from maskless.data.definition import digest, read_json, write_json
from maskless.data.image_sources import IMAGE_SOURCES
from maskless.data.pack import Row
from maskless.data.pictures import Pixels, in_unit_range
from maskless.data.source import Source, Split, one_of
from maskless.places import holding
from maskless.vocabulary import Vocabulary

ABOUT = "images.json"  # beside codec.json: the grid and the names of the classes
TOGETHER = 64  # images a codec sees at once
SHADES = " .:-=+*#%@"


@dataclass(frozen=True)
class ImageCodes:
    """What stands where text has a tokenizer: a codec, the grid its codes are in, the names of the classes.

    Args:
        codec: images to codes.
        grid: rows and columns of codes, h and w; the planes of a codec with several lie under each other.
        classes: their names; () if images have none.

    Example:
        >>> ImageCodes(PixelCodec(levels=16), grid=(8, 8), classes=("cat", "dog")).length
        64
    """

    codec: Codec
    grid: tuple[int, int]
    classes: tuple[str, ...] = ()

    @property
    def vocabulary(self) -> Vocabulary:
        """All codes, nothing special among them."""
        return Vocabulary(self.codec.vocab_size)

    @property
    def length(self) -> int:
        """L."""
        return self.grid[0] * self.grid[1]

    @property
    def hash(self) -> str:
        return digest([self.codec.hash, list(self.grid)])

    def images(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B C H W"]:
        """The images of rows, in [-1, 1]. Raises ValueError for rows of another length or codes that do not exist."""
        if tokens.shape[1] != self.length:
            raise ValueError(f"rows of {tokens.shape[1]} codes do not fill a grid of {self.grid[0]} x {self.grid[1]}")
        return self.codec.decode(tokens.unflatten(1, self.grid))

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """A drawing of one row in characters, for logs: dark to bright, two rows of pixels a line, 64 columns at most."""
        image = self.images(torch.tensor([list(map(int, ids))]))[0].mean(0)  # (H, W)
        step = -(-image.shape[1] // 64)
        small = image[:: 2 * step, ::step].clamp(-1, 1)
        places = ((small + 1) / 2 * (len(SHADES) - 1)).round().long().tolist()
        return "\n".join("".join(SHADES[place] for place in line).rstrip() for line in places)

    def save(self, folder: Path | str) -> None:
        """Write the codec and images.json into an existing folder; `load_image_codes(folder)` gives it back."""
        self.codec.save(folder)
        write_json(Path(folder) / ABOUT, {"grid": list(self.grid), "classes": list(self.classes)})


def load_image_codes(folder: Path | str) -> ImageCodes:
    """What `ImageCodes.save` wrote, in a folder, a model's or a run's. Raises ValueError if it is missing or damaged."""
    folder = holding(folder, ABOUT) or Path(folder)
    path = folder / ABOUT
    if not path.is_file():
        raise ValueError(f"{folder} has no {ABOUT}, which says what codes are: give a folder of maskless encode-images, or of a model of images")
    about = read_json(path)
    try:
        rows, columns = about["grid"]
        return ImageCodes(load_codec(folder), (int(rows), int(columns)), tuple(map(str, about["classes"])))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): copy the folder again") from None


@dataclass(frozen=True)
class Saved:
    """A codec in a folder.

    Args:
        folder: of `Codec.save`, of a model, or the run that trained it.
    """

    folder: str


@dataclass(frozen=True, kw_only=True)
class Pictures(Source):
    """Images of one size, with their classes.

    Args:
        source: where they come from.
        size: pixels of a side.
        fit: "crop": scale the short side and cut out the middle; "pad": black around.
        flips: train on the mirror image of each image as well: a copy, so that nothing is random.
        labels: whether rows carry classes, where the source has them.
        holdout, seed: which share of images is held out, by their pixels, if the source has no validation part.
    """

    source: Annotated[Any, Tagged(IMAGE_SOURCES)]
    size: int
    fit: str = "crop"
    flips: bool = False
    labels: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("fit", self.fit, ("crop", "pad"))
        if self.size < 1:
            raise ValueError(f"size is {self.size}: an image has at least one pixel")

    @property
    def learned(self) -> str:
        return ""

    @property
    def divided(self) -> bool:
        return self.source.divided

    def identity(self) -> Any:
        return [next(name for name, cls in IMAGE_SOURCES.items() if type(self.source) is cls), self.source.identity()]

    def classes(self) -> tuple[str, ...]:
        """Names of the classes of rows; () if they have none."""
        return self.source.classes() if self.labels else ()

    def pictures(self, split: Split, channels: int) -> Iterator[tuple[Pixels, int | None]]:
        """(C, size, size) bytes and the class of each image of a split, mirror images after their originals."""
        for picture in self.source.pictures(split):
            pixels = picture.sized(self.size, channels, self.fit)
            if not self.divided and not self.in_split(split, hashlib.sha256(pixels.tobytes()).hexdigest()):
                continue
            label = picture.label if self.labels else None
            yield pixels, label
            if self.flips and split == "train":
                yield np.ascontiguousarray(pixels[..., ::-1]), label

    def texts(self, split: Split) -> Iterator[str]:
        raise ValueError("images have no texts: a tokenizer cannot be learned from them")


@dataclass(frozen=True, kw_only=True)
class Images(Pictures):
    """Rows of codes: an image a row, cells in raster order, its class beside it.

    Args:
        codec: `{type: pixels, levels: 16}`, or the folder of a trained one (`{type: saved, folder: ...}`, or its path).

    Raises:
        ValueError: when opened: the codec cannot be had, or its cells do not fit `size`.
    """

    codec: Annotated[Any, Tagged({"pixels": PixelCodec, "saved": Saved}, word=("saved", "folder"))]

    def make_tokenizer(self) -> ImageCodes:
        codec = load_codec(self.codec.folder) if isinstance(self.codec, Saved) else self.codec
        if self.size % codec.factor:
            raise ValueError(f"size is {self.size}, no multiple of the {codec.factor} pixels of a cell: change data.size")
        return ImageCodes(codec, code_grid(codec, self.size), self.classes())

    def rows(self, split: Split, tokenizer: Any, length: int) -> Iterator[Row]:
        if length != tokenizer.length:
            raise ValueError(f"an image is {tokenizer.grid[0]} x {tokenizer.grid[1]} codes: length is {tokenizer.length}, not {length}")
        pictures = self.pictures(split, tokenizer.codec.channels)
        while together := list(islice(pictures, TOGETHER)):
            codes = tokenizer.codec.encode(in_unit_range(torch.from_numpy(np.stack([pixels for pixels, _ in together]))))
            for code, (_, label) in zip(codes.flatten(1).numpy(), together, strict=True):
                yield Row(code, label=label)


@dataclass(frozen=True, kw_only=True)
class PlainPixels(Pictures):
    """Rows of bytes, channel by channel, L = C x size x size: what a codec is trained on.

    Args:
        channels: C, 1 or 3.
    """

    channels: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        PixelCodec(2, self.channels)  # says which there are

    def make_tokenizer(self) -> ImageCodes:
        return ImageCodes(PixelCodec(256), (self.channels * self.size, self.size), self.classes())

    def rows(self, split: Split, tokenizer: Any, length: int) -> Iterator[Row]:
        for pixels, label in self.pictures(split, self.channels):
            yield Row(pixels.reshape(-1), label=label)
