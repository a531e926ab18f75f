"""Images to codes and back: what every codec can do, the codec of plain pixels, and codecs on disk.

A codec cuts an image into cells of `factor` x `factor` pixels and gives each a code below `vocab_size`. Its folder holds
codec.json and, if it has weights, codec.safetensors; a model's folder carries them beside its config.json.

B  images        C  channels (1 grey, 3 colour)        H, W  pixels        h, w  cells: H / factor, W / factor
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from maskless.data.definition import digest, read_json, write_json

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
    def hash(self) -> str:
        """sha256 (hex) of all that codes depend on: equal hashes give equal codes."""
        ...

    def encode(self, images: Float[Tensor, "B C H W"]) -> Int[Tensor, "B h w"]:
        """The codes of `images`, int64. Raises ValueError for images of another shape."""
        ...

    def decode(self, codes: Int[Tensor, "B h w"]) -> Float[Tensor, "B C H W"]:
        """The images of `codes`, in [-1, 1]. Raises ValueError for codes that do not exist."""
        ...

    def save(self, folder: Path | str) -> None:
        """Write the codec into an existing folder; `load_codec(folder)` gives it back."""
        ...


@dataclass(frozen=True)
class PixelCodec:
    """A code a pixel: `levels` values a channel, the nearest one each.

    A colour is ONE code out of levels^3, not three sites: a site stays a pixel, so that grids, orders over the plane and
    two-dimensional positions mean the same for grey, for colour and for a VQ; a row is a third as long, and the channels
    of a pixel, which depend on each other most, are drawn together. Its price is the vocabulary, at most 40 levels.

    Args:
        levels: values a channel, at least 2 (black and white; the border is at half intensity).
        channels: 1 or 3.

    Raises:
        ValueError: there are fewer than 2 levels, other channels, or more than 65,536 codes.

    Example:
        >>> codec = PixelCodec(levels=4, channels=1)
        >>> codec.encode(torch.tensor([[[[-1.0, -0.4, 0.9]]]])).tolist()
        [[[0, 1, 3]]]
    """

    levels: int = 16
    channels: int = 1

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}: an image has 1 (grey) or 3 (colour)")
        if self.levels < 2 or self.vocab_size > MOST_CODES:
            most = 40 if self.channels == 3 else MOST_CODES
            raise ValueError(f"levels is {self.levels}: use 2 to {most} with {self.channels} channels")

    @property
    def vocab_size(self) -> int:
        return self.levels**self.channels

    @property
    def factor(self) -> int:
        return 1

    @property
    def hash(self) -> str:
        return digest(self._definition)

    def encode(self, images: Float[Tensor, "B C H W"]) -> Int[Tensor, "B h w"]:
        check_images(images, self)
        steps = ((images.clamp(-1, 1) + 1) / 2 * (self.levels - 1) + 0.5).long()  # (B, C, H, W)
        return (steps * self._places(images.device)).sum(1)

    def decode(self, codes: Int[Tensor, "B h w"]) -> Float[Tensor, "B C H W"]:
        check_codes(codes, self)
        steps = codes[:, None] // self._places(codes.device) % self.levels  # (B, C, h, w)
        return steps.float() / (self.levels - 1) * 2 - 1

    def save(self, folder: Path | str) -> None:
        write_json(Path(folder) / FILE, self._definition)

    def _places(self, device: torch.device) -> Int[Tensor, "1 C 1 1"]:
        """What a level of each channel counts for in a code: the first channel most."""
        powers = torch.arange(self.channels - 1, -1, -1, device=device)
        return (self.levels**powers).view(1, -1, 1, 1)

    @property
    def _definition(self) -> dict[str, Any]:
        return {"kind": "pixels", "levels": self.levels, "channels": self.channels}


def check_images(images: Float[Tensor, "B C H W"], codec: Codec) -> None:
    """Raise ValueError unless `codec` can encode images of this shape."""
    _, channels, height, width = images.shape
    if channels != codec.channels:
        raise ValueError(f"the images have {channels} channels and the codec has {codec.channels}: convert them")
    if height % codec.factor or width % codec.factor:
        size = f"{height} x {width} pixels"
        raise ValueError(f"images of {size} cannot be cut into cells of {codec.factor} pixels: use a multiple of it")


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
        PixelCodec(levels=2, channels=1)
    """
    path = find_codec(folder)
    definition = read_json(path / FILE)
    kind = definition.get("kind") if isinstance(definition, dict) else None
    try:
        if kind == "pixels":
            return PixelCodec(definition["levels"], definition["channels"])
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
    place = Path(folder).expanduser()
    steps = [path for path in place.glob("checkpoints/step-*") if re.fullmatch(r"step-\d+", path.name)]
    for path in (place, *sorted(steps, key=lambda path: int(path.name[5:]), reverse=True)):
        if (path / FILE).is_file():
            return path
    what = "holds no codec" if place.is_dir() else "is not a folder" if place.exists() else "does not exist"
    raise ValueError(f"{folder} {what}: give a folder with {FILE}, or the run that trained one")
