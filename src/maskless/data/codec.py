"""Images to codes and back: what every codec can do, the codec of plain pixels, and codecs on disk.

A codec cuts an image into cells of `factor` x `factor` pixels and gives each a code below `vocab_size`. Its folder holds
codec.json and, if it has weights, codec.safetensors; a model's folder carries them beside its config.json.

B  images        C  channels (1 grey, 3 colour)        H, W  pixels        P  planes, grids of codes        h, w  codes: P H / factor, W / factor
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from maskless.data.definition import digest, read_json, write_json
from maskless.places import holding, local
from maskless.subtokens import smallest_base

FILE = "codec.json"
MOST_CODES = 1 << 16  # a code is stored in 16 bits


@runtime_checkable
class Codec(Protocol):
    """Images in [-1, 1] to codes and back."""

    @property
    def vocab_size(self) -> int:
        """K: codes are 0..K-1."""
        ...

    @property
    def factor(self) -> int:
        """Pixels a cell side."""
        ...

    @property
    def channels(self) -> int:
        """C."""
        ...

    @property
    def planes(self) -> int:
        """P: codes of a cell. The grids of codes lie on top of each other: h = P H / factor. 1 for all but pixels whose channels are apart."""
        ...

    @property
    def hash(self) -> str:
        """sha256 (hex) of all that codes depend on: equal hashes give equal codes."""
        ...

    def encode(self, images: Float[Tensor, "B C H W"]) -> Int[Tensor, "B h w"]:
        """The codes of `images`, int64. Raises ValueError for images of another shape."""
        ...

    def decode(self, codes: Int[Tensor, "B h w"]) -> Float[Tensor, "B C H W"]:
        """The images of `codes`, in [-1, 1]. Raises ValueError for codes that do not exist."""
        ...

    def to(self, device: torch.device | str) -> Codec:
        """The same codec, computing on `device` from now on; images and codes may lie anywhere."""
        ...

    def save(self, folder: Path | str) -> None:
        """Write the codec into an existing folder; `load_codec(folder)` gives it back."""
        ...


@dataclass(frozen=True)
class PixelCodec:
    """A code a pixel, or `planes` of them: `levels` values a channel, the nearest one each.

    By default a colour is ONE code out of levels^3, not three sites: a site stays a pixel, so that grids, orders over the plane and
    two-dimensional positions mean the same for grey, for colour and for a VQ; a row is a third as long, and the channels
    of a pixel, which depend on each other most, are drawn together. Its price is the vocabulary, at most 40 levels.

    With `planes` the same number, the first channel counting most, is written with so many digits, each a site: 3 of a colour are its
    channels, one by one (256 levels then give 256 codes); 2 are the super-tokens of MDM-Prime's images, 4096 codes for 256 levels.

    Args:
        levels: values a channel, at least 2 (black and white; the border is at half intensity).
        channels: 1 or 3.
        planes: codes a pixel.

    Raises:
        ValueError: there are fewer than 2 levels, other channels, more than 65,536 codes, or codes that would be no colour.

    Example:
        >>> codec = PixelCodec(levels=4, channels=1)
        >>> codec.encode(torch.tensor([[[[-1.0, -0.4, 0.9]]]])).tolist()
        [[[0, 1, 3]]]
        >>> PixelCodec(levels=256, channels=3, planes=2).vocab_size
        4096
    """

    levels: int = 16
    channels: int = 1
    planes: int = 1

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}: an image has 1 (grey) or 3 (colour)")
        if self.planes < 1:
            raise ValueError(f"planes is {self.planes}: a pixel has at least one code")
        if self.levels < 2 or self.vocab_size > MOST_CODES:
            most = round(MOST_CODES ** (self.planes / self.channels) - 0.5)
            where = f" in {self.planes} planes" if self.planes > 1 else ""
            raise ValueError(f"levels is {self.levels}: use 2 to {most} with {self.channels} channels{where}")
        if self.vocab_size**self.planes != self.levels**self.channels:
            raise ValueError(f"{self.levels}^{self.channels} colours are no {self.planes}-fold power, so some codes would be no colour: "
                             f"use planes=1 or {self.channels}, or another number of levels")

    @property
    def vocab_size(self) -> int:
        """The smallest b with b^planes >= levels^channels."""
        return smallest_base(self.levels**self.channels, self.planes)

    @property
    def factor(self) -> int:
        return 1

    @property
    def hash(self) -> str:
        return digest(self._definition)

    def to(self, device: torch.device | str) -> PixelCodec:
        """Itself: pixels are computed where they lie."""
        return self

    def encode(self, images: Float[Tensor, "B C H W"]) -> Int[Tensor, "B h w"]:
        check_images(images, self)
        steps = ((images.clamp(-1, 1) + 1) / 2 * (self.levels - 1) + 0.5).long()  # (B, C, H, W)
        number = (steps * _places(self.levels, self.channels, images.device)).sum(1, keepdim=True)
        return (number // _places(self.vocab_size, self.planes, images.device) % self.vocab_size).flatten(1, 2)  # plane after plane

    def decode(self, codes: Int[Tensor, "B h w"]) -> Float[Tensor, "B C H W"]:
        check_codes(codes, self)
        number = (codes.unflatten(1, (self.planes, -1)) * _places(self.vocab_size, self.planes, codes.device)).sum(1, keepdim=True)
        steps = number // _places(self.levels, self.channels, codes.device) % self.levels  # (B, C, H, W)
        return steps.float() / (self.levels - 1) * 2 - 1

    def save(self, folder: Path | str) -> None:
        write_json(Path(folder) / FILE, self._definition)

    @property
    def _definition(self) -> dict[str, Any]:
        planes = {} if self.planes == 1 else {"planes": self.planes}  # left out where older versions knew of none: same hash
        return {"kind": "pixels", "levels": self.levels, "channels": self.channels, **planes}


def _places(base: int, digits: int, device: torch.device) -> Int[Tensor, "1 n 1 1"]:
    """What each digit of a number counts for: the first most."""
    powers = torch.arange(digits - 1, -1, -1, device=device)
    return (base**powers).view(1, -1, 1, 1)


def check_images(images: Float[Tensor, "B C H W"], codec: Codec) -> None:
    """Raise ValueError unless `codec` can encode images of this shape."""
    _, channels, height, width = images.shape
    if channels != codec.channels:
        raise ValueError(f"the images have {channels} channels and the codec has {codec.channels}: convert them")
    if height % codec.factor or width % codec.factor:
        size = f"{height} x {width} pixels"
        raise ValueError(f"images of {size} cannot be cut into cells of {codec.factor} pixels: use a multiple of it")


def code_grid(codec: Codec, size: int) -> tuple[int, int]:
    """Rows and columns of the codes of a square image, plane under plane."""
    side = size // codec.factor
    return codec.planes * side, side


def check_codes(codes: Int[Tensor, "B h w"], codec: Codec) -> None:
    """Raise ValueError unless all codes exist."""
    least, most = (int(codes.min()), int(codes.max())) if codes.numel() else (0, 0)
    if least < 0 or most >= codec.vocab_size:
        wrong = least if least < 0 else most
        raise ValueError(f"the code {wrong} is outside 0..{codec.vocab_size - 1}: these codes are of another codec")


def load_codec(folder: Path | str) -> Codec:
    """The codec in a folder: what `save` wrote, a model's folder, or a run (its newest checkpoint).

    Raises:
        ValueError: there is no codec, or it is damaged.

    Example:
        >>> import tempfile
        >>> place = tempfile.mkdtemp()
        >>> PixelCodec(2).save(place)
        >>> load_codec(place)
        PixelCodec(levels=2, channels=1, planes=1)
    """
    path = find_codec(folder)
    definition = read_json(path / FILE)
    kind = definition.get("kind") if isinstance(definition, dict) else None
    try:
        if kind == "pixels":
            return PixelCodec(definition["levels"], definition["channels"], definition.get("planes", 1))
        if kind == "vq":
            from maskless.data.vq import VQCodec

            return VQCodec.of(definition, path)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path / FILE} is damaged ({error}): copy the codec again") from None
    raise ValueError(f"{path / FILE} is of no kind known here ({kind!r}): update maskless or give another codec")


def find_codec(folder: Path | str) -> Path:
    """The folder that holds codec.json: `folder` itself, or the newest complete checkpoint of a run.

    Raises:
        ValueError: there is none.
    """
    place = local(folder)
    if (found := holding(place, FILE)) is not None:
        return found
    what = "holds no codec" if place.is_dir() else "is not a folder" if place.exists() else "does not exist"
    raise ValueError(f"{folder} {what}: give a folder with {FILE}, or the run that trained one")
