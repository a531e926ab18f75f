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
from maskless.models.prime import CodeName, OverDigits, code_of


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of a `UNet`; the defaults are the published model of 32 x 32 colour images with l = 2.

    Args:
        digits: l. With 1 the model is a masked one.
        base: b; 0 for the smallest that holds the vocabulary.
        code, code_seed: how tokens are written, as in `PrimeConfig`.
        planes: codes of a pixel (`PixelCodec.planes`): they lie under each other in a row, and side by side in the network's channels.
        grid: rows and columns of all codes, planes under each other, P H and W; None for square planes.
        width: base channels; those of a level are `multipliers` times as many.
        multipliers: of the levels; each level has half the rows and columns of the one above.
        blocks: residual blocks of a level on the way down; one more on the way up.
        attention: at the levels that are so many times smaller than the image; the middle always has it.
        head_width: of attention.
        classes: how many labels there are; 0: a model without.
        modulation: scale and shift of a block are uniform in +- this at first. The released code has sqrt(4 width), 19.6, where one over it
            was surely meant.
        forbidden: ids that are never drawn.

    Raises:
        ValueError: sizes that do not fit.

    Example:
        >>> from maskless.models import build
        >>> with torch.device("meta"):
        ...     model = build(UNetConfig(vocab_size=256))
        >>> f"{model.parameter_count():,}"
        '113,965,680'
    """

    vocab_size: int
    digits: int = 2
    base: int = 0
    code: CodeName = "digits"
    code_seed: int = 0
    length: int = 3 * 32 * 32
    planes: int = 3
    grid: tuple[int, int] | None = None
    width: int = 96
    multipliers: tuple[int, ...] = (3, 4, 4)
    blocks: int = 5
    attention: tuple[int, ...] = (2,)
    head_width: int = 64
    classes: int = 0
    dropout: float = 0.4
    modulation: float = 0.05
    forbidden: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        least = {1: ("digits", "planes", "width", "head_width"), 0: ("base", "blocks", "classes", "modulation")}
        for low, names in least.items():
            for name in names:
                if getattr(self, name) < low:
                    raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {low}")
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"multipliers is {list(self.multipliers)}; give one number for each level, at least 1")
        if self.entrance % (self.planes * self.digits):
            raise ValueError(f"the first level has {self.entrance} channels, no multiple of {self.planes} planes x {self.digits} digits, whose "
                             "vectors are joined; change width, multipliers or digits")
        levels = [2**level for level in range(len(self.multipliers))]
        if beyond := [times for times in self.attention if times not in levels]:
            raise ValueError(f"attention names {beyond[0]} and the levels are {', '.join(map(str, levels))} times smaller than the image; "
                             "choose among them")
        attends = [self.width * m for times, m in zip(levels, self.multipliers) if times in self.attention or times == levels[-1]]
        if odd := [width for width in attends if width % max(1, width // self.head_width)]:
            raise ValueError(f"a level with attention has {odd[0]} channels, which do not split into heads of about {self.head_width}; "
                             "change width, multipliers or head_width")
        rows, columns = self.sides
        if rows * columns * self.planes != self.length:             # 0 = 0: a recipe that leaves the length to its data
            raise ValueError(f"length {self.length} is not {self.planes} planes of {rows} x {columns}; set length, planes and grid of the images")

    @property
    def entrance(self) -> int:
        """Channels that go in."""
        return self.width * self.multipliers[0]

    @property
    def sides(self) -> tuple[int, int]:
        """Rows and columns of a plane, H and W."""
        if self.grid is not None:
            return self.grid[0] // self.planes, self.grid[1]
        side = math.isqrt(self.length // self.planes)
        return side, side


class ConstantModulation(nn.Embedding):
    """Scale and shift of a residual block, (1 + scale) x + shift: one pair of vectors for each class, the last of no class."""

    def __init__(self, labels: int, width: int, bound: float):
        self.bound = bound
        super().__init__(labels, 2 * width)

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.weight, -self.bound, self.bound)

    def pair(self, labels: Int[Tensor, " #B"]) -> tuple[Tensor, Tensor]:
        """Scale and shift (#B, D, 1, 1)."""
        scale, shift = self(labels)[..., None, None].chunk(2, 1)
        return scale, shift


def normalised(width: int) -> nn.GroupNorm:
    """Group norm in 32 groups, or in as many that divide the channels and have four or more of them."""
    return nn.GroupNorm(next(groups for groups in (32, 16, 8, 4, 2, 1) if groups == 1 or (width % groups == 0 and width >= 4 * groups)), width)


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
        scale, shift = self.modulation.pair(labels)
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


class LogitsHead(nn.Module):
    """The head of a network whose states are logits already: it does nothing, and is affine all the same (weight one, no bias)."""

    bias = None

    def __init__(self, like: nn.Conv2d, classes: int):
        super().__init__()
        self._like, self.classes = (like,), classes                 # in a tuple, so that it is nobody's submodule twice

    @property
    def weight(self) -> Float[Tensor, "V V"]:
        weight = self._like[0].weight
        return torch.eye(self.classes, dtype=weight.dtype, device=weight.device)

    def forward(self, x: Float[Tensor, "... V"]) -> Float[Tensor, "... V"]:
        return x


class UNet(OverDigits):
    """p(x_i | known digits) for every code i of every plane of an image; D = V: the states are logits.

    Input of digit j of plane p: row y of one table of all digits, y = b where it is not known; the vectors of a pixel are joined in the
    order of planes, then digits. Time is not read: how much is known can be seen.

    | part | initialisation |
    |---|---|
    | table | normal |
    | scale and shift of a block | uniform in +-`modulation` |
    | last convolution of a block, of attention, of the network | zero: blocks pass their input on, laws are uniform |
    | everything else | torch's default |

    Source: arXiv 2505.18495 (its image experiments), by the specification's section 5.
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        self.write_in(code_of(config))
        self.embedding = nn.Embedding(self.base + 1, config.entrance // (config.planes * config.digits))
        self.body = Body(config.entrance, config)
        self.norm = normalised(self.body.width)
        self.out = silent(nn.Conv2d(self.body.width, config.planes * config.vocab_size, 3, padding=1))
        self.head: Any = LogitsHead(self.out, config.vocab_size)

    def embed(self, digits: Int[Tensor, "B S"], known: Bool[Tensor, "B S"]) -> Float[Tensor, "B D H W"]:
        rows, columns = self.config.sides
        ids = torch.where(known, digits, self.base).unflatten(1, (self.config.planes, rows, columns, self.per_site))
        return self.embedding(ids).permute(0, 1, 4, 5, 2, 3).flatten(1, 3)                  # (B, P l d, H, W)

    def hidden_of_digits(self, digits: Int[Tensor, "B S"], known: Bool[Tensor, "B S"], *, cond: Int[Tensor, " B"] | None = None,
                         t: Float[Tensor, " B"] | None = None, present: Bool[Tensor, "B S"] | None = None) -> Float[Tensor, "B L V"]:
        """`OverDigits.hidden_of_digits`; sites that are not there are read as unknown ones, for a convolution has neighbours everywhere.

        Raises:
            ValueError: rows of another length than the model's images.
        """
        sites = digits.shape[1] // self.per_site
        if sites != self.config.length:
            raise ValueError(f"rows of {sites} codes were given and the images of this model have {self.config.length}; they cannot be cut")
        labels = self.labels_of(cond)
        if labels is None:
            labels = torch.full((1,), self.config.classes, device=digits.device)
        x = self.body(self.embed(digits, known if present is None else known & present), labels)
        logits = self.out(F.silu(self.norm(x))).unflatten(1, (self.config.planes, -1))      # (B, P, V, H, W)
        return logits.permute(0, 1, 3, 4, 2).flatten(1, 3)
