"""The large model of MDM-Prime-v2 (arXiv 2603.16077, section 4.3): digits of tokens through a Llama that looks both ways.

    every layer   x += drop(attention(rms x)),  x += drop(swiglu(rms x));  no biases, no condition

With one digit it is the masked model of SMDM (arXiv 2410.18514). B rows, L sites, l digits of a site, S = L l slots, D width, V vocabulary.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskless.layers.attention import Attend, SelfAttention, under
from maskless.layers.mlp import SwiGLU
from maskless.layers.norm import RMSNorm
from maskless.layers.rotary import Rotation, rotation
from maskless.models.prime import CodeName, FromTables


@dataclass(frozen=True)
class PrimeLlamaConfig:
    """Sizes of a `PrimeLlama`; the defaults are the published model of 1.1 billion weights.

    Args:
        digits, base, code, code_seed: as for a `PrimeConfig`; tables are separate and their vectors summed.
        inner: width of the feed-forward layers.
        forbidden: ids that are never drawn.

    Raises:
        ValueError: sizes below one.

    Example:
        >>> from maskless.models import build
        >>> with torch.device("meta"):
        ...     model = build(PrimeLlamaConfig(vocab_size=32000, code="shuffled"))
        >>> f"{model.parameter_count():,}"
        '1,085,102,592'
    """

    vocab_size: int
    digits: int = 15
    base: int = 0
    code: CodeName = "digits"
    code_seed: int = 0
    length: int = 2048
    width: int = 1792
    heads: int = 14
    layers: int = 20
    inner: int = 7168
    dropout: float = 0.0
    forbidden: tuple[int, ...] = ()

    merge: ClassVar[str] = "sum"
    tables: ClassVar[str] = "separate"

    def __post_init__(self) -> None:
        if self.digits < 1 or self.base < 0 or self.inner < 1:
            raise ValueError(f"digits is {self.digits}, base {self.base} and inner {self.inner}; give at least 1 digit, an inner width of at least 1 "
                             "and a base of at least 2 (0: the smallest)")


class Block(nn.Module):
    def __init__(self, config: PrimeLlamaConfig):
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(config.width), RMSNorm(config.width)
        self.attention, self.mlp = SelfAttention(config.width, config.heads), SwiGLU(config.width, inner=config.inner)
        self.drop = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(self, x: Float[Tensor, "B L D"], rotate: Rotation, attend: Attend) -> Float[Tensor, "B L D"]:
        x = x + self.drop(self.attention(self.norm1(x), rotate, attend))
        return x + self.drop(self.mlp(self.norm2(x)))


class PrimeLlama(FromTables):
    """p(x_i | known digits) for every site, as a `PrimeTransformer`; the head has no bias.

    | part | initialisation |
    |---|---|
    | head | zero: laws are uniform |
    | what adds to the residual stream (attention out, swiglu down) | normal, standard deviation 1 / (layers sqrt(D)) |
    | every other weight | normal, standard deviation sqrt(2 / (5 D)) |
    | norms | one |
    """

    def __init__(self, config: PrimeLlamaConfig):
        super().__init__()
        self.config, width = config, config.width
        self.add_table(config)
        self.blocks: Any = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(width)
        self.head = nn.Linear(width, config.vocab_size, bias=False)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                last = name.endswith(("attention.out", "mlp.down"))
                nn.init.normal_(module.weight, std=1 / (config.layers * width**0.5) if last else (0.4 / width) ** 0.5)
        nn.init.zeros_(self.head.weight)

    def hidden_of_digits(self, digits: Int[Tensor, "B S"], known: Bool[Tensor, "B S"], *, cond: Int[Tensor, " B"] | None = None,
                         t: Float[Tensor, " B"] | None = None, present: Bool[Tensor, "B S"] | None = None) -> Float[Tensor, "B L D"]:
        self.labels_of(cond)
        x, sites = self.embed(digits, known), self.sites(present)
        rotate = rotation(torch.arange(x.shape[1], device=x.device), self.config.width // self.config.heads, x.dtype)
        attend = under(None if sites is None else sites[:, None, None])
        for block in self.blocks:
            x = block(x, rotate, attend)
        return self.norm(x)
