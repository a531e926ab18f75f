"""The U-Net of MDM-Prime's images (arXiv 2505.18495): convolutions over pixels, attention at some resolutions, no time.

    residual   h = conv(silu(norm x)),  h = conv(dropout(silu((1 + scale) norm h + shift))),  x' = skip(x) + h
    attention  x' = x + project(attend(norm x))

The network is that of Dhariwal & Nichol (2021, arXiv 2105.05233) without its first convolution and without time: scale and
shift of every residual block are learned vectors, one for each class.

B rows, P planes (colours), H x W cells of a plane, L = P H W sites (tokens), l digits of a token, D channels, V vocabulary.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskless.layers.attention import everywhere, heads
from maskless.layers.embedding import NormalEmbedding


class ConstantModulation(nn.Embedding):
    """Scale and shift of a residual block, (1 + scale) x + shift: one pair of vectors for each class, the last of no class."""

    def __init__(self, labels: int, width: int, bound: float):
        self.bound = bound
        super().__init__(labels, 2 * width)

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.weight, -self.bound, self.bound)

    def forward(self, labels: Int[Tensor, " #B"]) -> tuple[Tensor, Tensor]:
        """Scale and shift (#B, D, 1, 1)."""
        scale, shift = super().forward(labels)[..., None, None].chunk(2, 1)
        return scale, shift


def normalised(width: int) -> nn.GroupNorm:
    """Group norm in 32 groups, or as many as divide the channels."""
    return nn.GroupNorm(math.gcd(32, width), width)


def silent(module: nn.Conv2d | nn.Linear) -> Any:
    """The module with weight and bias zero: a branch that ends in it passes its input on at first."""
    nn.init.zeros_(module.weight)
    assert module.bias is not None
    nn.init.zeros_(module.bias)
    return module


class Residual(nn.Module):
    def __init__(self, width_in: int, width: int, config: Any):
        super().__init__()
        self.norm_in = normalised(width_in)
        self.conv_in = nn.Conv2d(width_in, width, 3, padding=1)
        self.modulation = ConstantModulation(config.classes + 1, width, config.modulation)
        self.norm_out = normalised(width)
        self.dropout = nn.Dropout(config.dropout)
        self.conv_out = silent(nn.Conv2d(width, width, 3, padding=1))
        self.skip = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)

    def forward(self, x: Float[Tensor, "B C h w"], labels: Int[Tensor, " #B"]) -> Float[Tensor, "B D h w"]:
        scale, shift = self.modulation(labels)
        inside = self.norm_out(self.conv_in(F.silu(self.norm_in(x)))) * (1 + scale) + shift
        return self.skip(x) + self.conv_out(self.dropout(F.silu(inside)))


class PlaneAttention(nn.Module):
    """Every place looks at every place; heads of a fixed width."""

    def __init__(self, width: int, head_width: int):
        super().__init__()
        self.count = max(1, width // head_width)
        self.norm = normalised(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = silent(nn.Linear(width, width))

    def forward(self, x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        q, k, v = (heads(part, self.count) for part in self.qkv(self.norm(x).flatten(2).transpose(1, 2)).chunk(3, -1))
        return x + self.out(everywhere(q, k, v)).transpose(1, 2).unflatten(2, x.shape[2:])


class Stage(nn.Module):
    """A residual block and, at some resolutions, attention behind it."""

    def __init__(self, width_in: int, width: int, config: Any, attends: bool):
        super().__init__()
        self.residual = Residual(width_in, width, config)
        self.attention = PlaneAttention(width, config.head_width) if attends else None

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        x = self.residual(x, labels)
        return x if self.attention is None else self.attention(x)


def halved(x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D _ _"]:
    """The mean of every 2 x 2 places; odd sides end in means of fewer."""
    return F.avg_pool2d(x, 2, ceil_mode=True)


def grown(x: Float[Tensor, "B D _ _"], like: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D h w"]:
    """Every place four times, as large as `like`: what `halved` it."""
    height, width = like.shape[-2:]
    return x.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., :height, :width]


class Body(nn.Module):
    """(B, D, H, W) to (B, D', H, W): down through the levels, a middle, and up again beside what was kept on the way down."""

    def __init__(self, width: int, config: Any):
        super().__init__()
        widths = [config.width * multiplier for multiplier in config.multipliers]
        kept = [width]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, target in enumerate(widths):
            stages = nn.ModuleList()
            for _ in range(config.blocks):
                stages.append(Stage(width, target, config, 2**level in config.attention))
                width = target
                kept.append(width)
            self.down.append(stages)
            if level < len(widths) - 1:
                kept.append(width)                                  # the halved plane
        self.middle = Stage(width, width, config, True)
        self.after = Residual(width, width, config)
        for level, target in reversed(list(enumerate(widths))):
            stages = nn.ModuleList()
            for _ in range(config.blocks + 1):
                stages.append(Stage(width + kept.pop(), target, config, 2**level in config.attention))
                width = target
            self.up.append(stages)
        self.width = width

    def forward(self, x: Float[Tensor, "B D H W"], labels: Int[Tensor, " #B"]) -> Float[Tensor, "B _ H W"]:
        kept = [x]
        for level, stages in enumerate(self.down):
            if level:
                x = halved(x)
                kept.append(x)
            for stage in self._stages(stages):
                x = stage(x, labels)
                kept.append(x)
        x = self.after(self.middle(x, labels), labels)
        for stages in self.up:
            if x.shape[2:] != kept[-1].shape[2:]:
                x = grown(x, kept[-1])
            for stage in self._stages(stages):
                x = stage(torch.cat([x, kept.pop()], 1), labels)
        return x

    @staticmethod
    def _stages(stages: nn.Module) -> list[Any]:
        return list(stages.children())
