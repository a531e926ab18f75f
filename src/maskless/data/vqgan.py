"""The VQ image tokenizer of LlamaGen (arXiv 2406.06525, section 2): images to a grid of codes and back.

    z = quant_conv(encoder(x))                    (B, D, h, w)
    code = argmin_k |z' - e'_k|^2                 z', e'_k: divided by their lengths, so the nearest by angle
    x ~ decoder(post_quant_conv(e'_code))

The encoder halves the plane between its levels, the decoder doubles it. `decoder.conv_blocks` counts from the codes.
Names of modules are those of the released weights.

B  images        C  channels of the image        H, W  pixels        h, w  cells, H / f and W / f
c  channels inside        D  width of a code's vector        K  codes
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class VQConfig:
    """Sizes of a VQ tokenizer. Defaults are VQ-8, `vq_ds8_c2i.pt`; VQ-16 has ch_mult (1, 1, 2, 2, 4).

    Args:
        ch: channels of the level at full size.
        ch_mult: channels of each level in units of `ch`; f = 2^(levels - 1).
        res_blocks: residual blocks of an encoder level; the decoder has one more.
        z_channels: channels between encoder or decoder and the 1 x 1 convolutions at the codes.
        codebook_size, codebook_dim: K and D.
        channels: C.
        groups: of group normalisation; divides the channels of every level.
        normalised: compare and return vectors divided by their lengths (every released model).

    Raises:
        ValueError: a size is below 1, or `groups` does not divide a level's channels.
    """

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 2, 4)
    res_blocks: int = 2
    z_channels: int = 256
    codebook_size: int = 16384
    codebook_dim: int = 8
    channels: int = 3
    groups: int = 32
    normalised: bool = True

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in vars(self).items() if name not in ("ch_mult", "normalised")}
        for name, value in {**sizes, "the number of levels": len(self.ch_mult)}.items():
            if value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")
        if wrong := [width for width in self.widths if width < 1 or width % self.groups]:
            raise ValueError(f"a level of {wrong[0]} channels cannot be cut into {self.groups} groups: change groups")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, full size first."""
        return tuple(self.ch * mult for mult in self.ch_mult)

    @property
    def factor(self) -> int:
        """f, pixels a cell side."""
        return 2 ** (len(self.ch_mult) - 1)


class ResBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))); the x in front by a 1 x 1 convolution where the width changes."""

    def __init__(self, width: int, out: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(width, groups), conv(width, out)
        self.norm2, self.conv2 = norm(out, groups), conv(out, out)
        if width != out:
            self.nin_shortcut = nn.Conv2d(width, out, 1)

    def forward(self, x: Float[Tensor, "B c1 H W"]) -> Float[Tensor, "B c2 H W"]:
        inner = self.conv1(F.silu(self.norm1(x)))
        inner = self.conv2(F.silu(self.norm2(inner)))
        return inner + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    """One head over all cells, residual."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = norm(width, groups)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Float[Tensor, "B c H W"]) -> Float[Tensor, "B c H W"]:
        inner = self.norm(x)
        q, k, v = (part(inner).flatten(2).mT[:, None] for part in (self.q, self.k, self.v))  # (B, 1, HW, c)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(mixed[:, 0].mT.unflatten(2, x.shape[2:]))


class Downsample(nn.Module):
    """Half the plane: a column and a row of zeros at the right and at the bottom, then every other place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Float[Tensor, "B c H W"]) -> Float[Tensor, "B c H2 W2"]:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the plane: every pixel four times, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = conv(width, width)

    def forward(self, x: Float[Tensor, "B c H W"]) -> Float[Tensor, "B c H2 W2"]:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks of one size of the plane, an attention after each if there is any, then a change of size."""

    def __init__(
        self, width: int, out: int, *, blocks: int, groups: int, attends: bool, change: Downsample | Upsample | None
    ) -> None:
        super().__init__()
        self.res = nn.ModuleList(ResBlock(width if block == 0 else out, out, groups) for block in range(blocks))
        self.attn = nn.ModuleList(AttnBlock(out, groups) for _ in range(blocks if attends else 0))
        if isinstance(change, Downsample):
            self.downsample = change
        elif change is not None:
            self.upsample = change

    def forward(self, x: Float[Tensor, "B c1 H W"]) -> Float[Tensor, "B c2 H2 W2"]:
        for number, block in enumerate(self.res):
            x = block(x)
            if self.attn:
                x = self.attn[number](x)
        for name in ("downsample", "upsample"):
            if hasattr(self, name):
                x = getattr(self, name)(x)
        return x


class Encoder(nn.Module):
    """x (B, C, H, W) -> (B, z, h, w). The last level, of the cells, attends."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        widths, groups, last = config.widths, config.groups, len(config.widths) - 1
        self.conv_in = conv(config.channels, config.ch)
        self.conv_blocks = nn.ModuleList(
            Level(
                before, width, blocks=config.res_blocks, groups=groups, attends=level == last,
                change=None if level == last else Downsample(width),
            )
            for level, (before, width) in enumerate(zip((config.ch, *widths), widths))
        )
        self.mid = middle(widths[-1], groups)
        self.norm_out, self.conv_out = norm(widths[-1], groups), conv(widths[-1], config.z_channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B z h w"]:
        x = self.conv_in(x)
        for part in (*self.conv_blocks, *self.mid):
            x = part(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """(B, z, h, w) -> about [-1, 1] (B, C, H, W). The first level, of the cells, attends."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        widths, groups, last = config.widths[::-1], config.groups, len(config.widths) - 1
        self.conv_in = conv(config.z_channels, widths[0])
        self.mid = middle(widths[0], groups)
        self.conv_blocks = nn.ModuleList(
            Level(
                before, width, blocks=config.res_blocks + 1, groups=groups, attends=level == 0,
                change=None if level == last else Upsample(width),
            )
            for level, (before, width) in enumerate(zip((widths[0], *widths), widths))
        )
        self.norm_out, self.conv_out = norm(widths[-1], groups), conv(widths[-1], config.channels)

    def forward(self, z: Float[Tensor, "B z h w"]) -> Float[Tensor, "B C H W"]:
        z = self.conv_in(z)
        for part in (*self.mid, *self.conv_blocks):
            z = part(z)
        return self.conv_out(F.silu(self.norm_out(z)))


class Quantizer(nn.Module):
    """The codebook: K vectors of width D."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.normalised = config.normalised
        self.embedding = nn.Embedding(config.codebook_size, config.codebook_dim)
        nn.init.uniform_(self.embedding.weight, -1 / config.codebook_size, 1 / config.codebook_size)

    @property
    def codebook(self) -> Float[Tensor, "K D"]:
        """The vectors codes stand for."""
        return self.direction(self.embedding.weight)

    def direction(self, vectors: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """What is compared: the vectors divided by their lengths (as they are if the model is not normalised)."""
        return F.normalize(vectors, dim=-1) if self.normalised else vectors

    def nearest(self, vectors: Float[Tensor, "N D"]) -> Int[Tensor, " N"]:
        """The code of each vector, among equals the lowest; 2^24 distances at a time."""
        book = self.codebook
        length = (book**2).sum(1)
        rows = max(1, (1 << 24) // len(book))
        return torch.cat([(length - 2 * part @ book.T).argmin(1) for part in self.direction(vectors).split(rows)])


class VQ(nn.Module):
    """The whole network; parameters are named as in the released files (which carry one buffer more).

    Example:
        >>> model = VQ(VQConfig(ch=8, ch_mult=(1, 2), res_blocks=1, z_channels=8, codebook_size=16, channels=1, groups=4))
        >>> model.codes(torch.zeros(2, 1, 8, 4)).shape
        torch.Size([2, 4, 2])
    """

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantize = Quantizer(config)
        self.quant_conv = nn.Conv2d(config.z_channels, config.codebook_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.codebook_dim, config.z_channels, 1)

    def latents(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """What is to be quantised, not yet divided by its length."""
        return self.quant_conv(self.encoder(images))

    def codes(self, images: Float[Tensor, "B C H W"]) -> Int[Tensor, "B h w"]:
        """The code of each cell."""
        return self.nearest(self.latents(images))

    def nearest(self, latents: Float[Tensor, "B D h w"]) -> Int[Tensor, "B h w"]:
        """The code nearest to each latent vector."""
        vectors = latents.movedim(1, -1)  # (B, h, w, D)
        return self.quantize.nearest(vectors.flatten(0, 2)).view(vectors.shape[:3])

    def vectors(self, codes: Int[Tensor, "B h w"]) -> Float[Tensor, "B D h w"]:
        """What the codes stand for."""
        return F.embedding(codes, self.quantize.codebook).movedim(-1, 1)

    def images(self, vectors: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C H W"]:
        """The images of vectors; values lie in about [-1, 1], the caller clamps."""
        return self.decoder(self.post_quant_conv(vectors))


def conv(width: int, out: int) -> nn.Conv2d:
    """3 x 3, the plane keeps its size."""
    return nn.Conv2d(width, out, 3, padding=1)


def norm(width: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, width, eps=1e-6)


def middle(width: int, groups: int) -> nn.ModuleList:
    """Residual block, attention, residual block."""
    return nn.ModuleList([ResBlock(width, width, groups), AttnBlock(width, groups), ResBlock(width, width, groups)])
