"""A trained VQ network as a codec: images to codes and back, on disk, and the sizes of somebody's weights.

B  images        C  channels        H, W  pixels        h, w  cells
"""
from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor

from maskless.data.codec import FILE, check_codes, check_images
from maskless.data.definition import digest, write_json
from maskless.data.vqgan import VQ, VQConfig

WEIGHTS = "codec.safetensors"


class VQCodec:
    """The codec of a VQ network.

    Args:
        model: is used as it is, on its device, in evaluation mode and without gradients.
        batch: images the network sees at once.

    Example:
        >>> config = VQConfig(ch=8, ch_mult=(1, 2), res_blocks=1, z_channels=8, codebook_size=16, groups=4)
        >>> codec = VQCodec(VQ(config))
        >>> codec.factor, codec.decode(codec.encode(torch.zeros(1, 3, 8, 8))).shape
        (2, torch.Size([1, 3, 8, 8]))
    """

    def __init__(self, model: VQ, *, batch: int = 32) -> None:
        self.model, self.batch = model, batch

    @property
    def vocab_size(self) -> int:
        return self.model.config.codebook_size

    @property
    def factor(self) -> int:
        return self.model.config.factor

    @property
    def channels(self) -> int:
        return self.model.config.channels

    @property
    def planes(self) -> int:
        return 1

    @property
    def hash(self) -> str:
        """Of the sizes and every bit of the weights, as they were when it was first asked for."""
        return self._hash

    @cached_property
    def _hash(self) -> str:
        sums = {name: hashlib.sha256(bytes_of(tensor)).hexdigest() for name, tensor in self._weights.items()}
        return digest([_definition(self.model.config), sums])

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "B C H W"]) -> Int[Tensor, "B h w"]:
        check_images(images, self)
        return torch.cat([self.model.eval().codes(self._placed(part)).cpu() for part in images.split(self.batch)])

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "B h w"]) -> Float[Tensor, "B C H W"]:
        check_codes(codes, self)
        model, device = self.model.eval(), self._device
        images = [model.images(model.vectors(part.to(device))).clamp(-1, 1) for part in codes.split(self.batch)]
        return torch.cat(images).float().to(codes.device)

    def to(self, device: torch.device | str) -> VQCodec:
        """The same codec, its network moved to `device`; images and codes may lie anywhere."""
        self.model.to(device)
        return self

    def save(self, folder: Path | str) -> None:
        safetensors.torch.save_file(self._weights, Path(folder) / WEIGHTS)
        write_json(Path(folder) / FILE, _definition(self.model.config))

    @classmethod
    def of(cls, definition: Mapping[str, Any], folder: Path) -> VQCodec:
        """The codec that `save` wrote. Raises ValueError, KeyError or TypeError if it is damaged."""
        sizes = definition["config"]
        config = VQConfig(**{**sizes, "ch_mult": tuple(sizes["ch_mult"])})
        path = folder / WEIGHTS
        try:
            weights = safetensors.torch.load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is missing, truncated or corrupt ({error}): copy the codec again") from None
        return cls(filled(config, weights, str(path)))

    def _placed(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        weight = self.model.quant_conv.weight
        return images.to(weight.device, weight.dtype)

    @property
    def _device(self) -> torch.device:
        return self.model.quant_conv.weight.device

    @property
    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}


def filled(config: VQConfig, weights: Mapping[str, Tensor], where: str) -> VQ:
    """The network with these weights, in evaluation mode. Raises ValueError, naming the first that does not fit."""
    with torch.device("meta"):
        model = VQ(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for name in sorted({*shapes, *weights}):
        if name not in weights or name not in shapes:
            raise ValueError(f"{where} {'lacks' if name in shapes else 'has'} {name}: the weights are of other sizes")
        if weights[name].shape != shapes[name]:
            wanted, found = tuple(shapes[name]), tuple(weights[name].shape)
            raise ValueError(f"{where}: {name} has shape {found}, not {wanted}: the weights are of other sizes")
        if not weights[name].is_floating_point():
            raise ValueError(f"{where}: {name} holds whole numbers, not real ones: the file is damaged")
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    return model.eval().requires_grad_(False)


def sizes_of(weights: Mapping[str, Tensor], *, groups: int = 32, normalised: bool = True) -> VQConfig:
    """The configuration that fits the shapes of released weights. Either half of the network will do.

    Raises:
        ValueError: they are no weights of this network.
    """
    sides = {"encoder": ("conv_in", 0, 1), "decoder": ("conv_out", 1, 0)}
    side = next((name for name in sides if f"{name}.conv_in.weight" in weights), None)
    if side is None or "quantize.embedding.weight" not in weights:
        raise ValueError("there is no encoder.conv_in or no quantize.embedding among the weights: not a VQ tokenizer")
    edge, inside, outside = sides[side]
    places = [match for name in weights if (match := re.match(rf"{side}\.conv_blocks\.(\d+)\.res\.(\d+)\.conv2\.weight", name))]
    found = {(int(match[1]), int(match[2])): weights[match[0]].shape[0] for match in places}
    levels, blocks = (1 + max((place[axis] for place in found), default=0) for axis in (0, 1))
    try:
        ch = weights[f"{side}.{edge}.weight"].shape[inside]
        widths = [found[level, 0] for level in range(levels)]
        codes, dim = weights["quantize.embedding.weight"].shape
        other = "conv_out" if side == "encoder" else "conv_in"
        z = weights[f"{side}.{other}.weight"].shape[0 if side == "encoder" else 1]
        channels = weights[f"{side}.{edge}.weight"].shape[outside]
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is not among the weights: not a whole VQ tokenizer") from None
    if any(width % ch for width in widths):
        raise ValueError(f"levels of {widths} channels are not multiples of {ch}: not a VQ tokenizer of LlamaGen")
    mult = tuple(width // ch for width in (widths if side == "encoder" else widths[::-1]))
    return VQConfig(
        ch=ch, ch_mult=mult, res_blocks=blocks if side == "encoder" else blocks - 1, z_channels=z, codebook_size=codes,
        codebook_dim=dim, channels=channels, groups=groups, normalised=normalised,
    )


def bytes_of(tensor: Tensor) -> bytes:
    """The bits of a tensor on the CPU."""
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def _definition(config: VQConfig) -> dict[str, Any]:
    return {"kind": "vq", "config": {**asdict(config), "ch_mult": list(config.ch_mult)}}
