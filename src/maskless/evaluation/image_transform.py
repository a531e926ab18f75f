"""From images in [-1, 1] to what Inception is given: the resizes and roundings that published distances depend on.

Letters: B images, C channels, H x W pixels before, h x w after.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

SIDE = 299
BYTE_ERROR = 1e-3                                                   # float32 takes a byte to [-1, 1] and back to a little below itself


def to_255(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """[-1, 1] as [0, 255], clipped, not rounded."""
    return ((images.float() + 1) * 127.5).clamp(0, 255)


def bicubic(images: Float[Tensor, "B C H W"], height: int, width: int) -> Float[Tensor, "B C h w"]:
    """PIL's antialiased bicubic resize of float channels, clipped to [0, 255] (clean-fid 0.1.35 with quantize_after=False).

    Args:
        images: in [0, 255].

    Raises:
        ValueError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise ValueError("resizing images for Inception needs Pillow: pip install 'maskless[images]'") from None
    planes = images.detach().float().cpu().numpy().reshape(-1, *images.shape[-2:])
    resized = np.empty((len(planes), height, width), np.float32)
    for plane, into in zip(planes, resized):
        into[:] = np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC)).clip(0, 255)
    return torch.from_numpy(resized).reshape(*images.shape[:2], height, width).to(images.device)


def bilinear(images: Float[Tensor, "B C H W"], height: int, width: int) -> Float[Tensor, "B C h w"]:
    """TensorFlow 1's bilinear resize (no corner alignment, no half-pixel centres, no antialiasing): pixel i looks at i * H / h."""
    for axis, size in ((-2, height), (-1, width)):
        there = images.shape[axis]
        place = torch.arange(size, device=images.device, dtype=torch.float32) * (there / size)
        low = place.floor().long()
        share = (place - low).reshape(-1, 1) if axis == -2 else place - low
        below, above = images.index_select(axis, low), images.index_select(axis, (low + 1).clamp_max(there - 1))
        images = below + (above - below) * share
    return images


def truncated(images: Float[Tensor, "B C H W"]) -> UInt8[Tensor, "B C H W"]:
    """Bytes by truncation, not by rounding, as the released evaluations do."""
    return images.to(torch.uint8)


@dataclass(frozen=True)
class Transform:
    """A named way from [-1, 1] to the bytes (as floats) that Inception is given."""

    name: str
    apply: Callable[[Tensor], Tensor]

    def __call__(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 3 299 299"]:
        """Grey images get three equal channels.

        Raises:
            ValueError: neither one channel nor three.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images of shape {tuple(images.shape)} cannot be given to Inception; (B, 1, H, W) or (B, 3, H, W) are needed")
        return self.apply(images).expand(-1, 3, -1, -1)


def _resize_then_truncate(images: Tensor) -> Tensor:
    return truncated(bicubic(to_255(images), SIDE, SIDE)).float()


def _truncate_then_resize(images: Tensor) -> Tensor:
    return bilinear(truncated(to_255(images) + BYTE_ERROR).float(), SIDE, SIDE)


BICUBIC_TRUNCATED = Transform("PIL bicubic 299, truncated", _resize_then_truncate)
TRUNCATED_BILINEAR = Transform("truncated, TensorFlow bilinear 299", _truncate_then_resize)


@dataclass(frozen=True)
class Protocol:
    """What a published FID means: the choices that change the number.

    Attributes:
        reference: which images the generated ones are compared with.
        images: how many images are generated.
        transform: from images to Inception's input.
        covariance: where the released code rounds what we keep in float64.
        source: who measures so.
    """

    name: str
    reference: str
    images: int
    transform: Transform
    covariance: str
    source: str


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "pgm-val", "ImageNet validation, as many images, with the labels that are generated", 49_664, BICUBIC_TRUNCATED,
            "statistics and their product in fp32, root in fp64", "the released evaluation of image PGM; 49,984 images for its MaskGIT baseline",
        ),
        Protocol(
            "halton-train", "ImageNet train, statistics made once", 50_000, BICUBIC_TRUNCATED,
            "statistics and their product in fp32, root in fp64", "Halton-MaskGIT",
        ),
        Protocol(
            "adm", "ADM's reference batch of the training set", 50_000, TRUNCATED_BILINEAR,
            "float64", "guided-diffusion's evaluator, used by LlamaGen and others",
        ),
    )
}


def protocol(name: str) -> Protocol:
    """Raises: ValueError if there is no protocol of that name."""
    if name not in PROTOCOLS:
        raise ValueError(f"protocol {name!r} is unknown; use one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
