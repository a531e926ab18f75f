"""MaskGIT's transformer (Chang et al. 2022, arXiv 2202.04200), as Halton-MaskGIT builds it: codes of an image, and a class.

    every layer   x += gate1 * attention(modulate(rms x)),  x += gate2 * swiglu(modulate(rms x));  modulations from SiLU(label's vector)

B rows, L sites (cells in raster order), R registers, h heads, d head width, I = h * d, D width, V vocabulary.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskless.decoding.decode import Predictor
from maskless.layers.attention import Mask, heads, merge
from maskless.layers.embedding import NormalEmbedding
from maskless.layers.mlp import SwiGLU
from maskless.layers.modulation import AdaLN, Condition, through
from maskless.layers.norm import RMSNorm, unit
from maskless.layers.rotary import Rotation, cells, rotation
from maskless.models.base import Conditions, Denoiser, FullPredictor, check_grid


@dataclass(frozen=True)
class MaskGITConfig:
    """Sizes of a `MaskGITTransformer`; the defaults are the large model at 32 x 32 codes, without labels.

    Args:
        heads: of width `width // heads`, rounded down: together they may be narrower than the model.
        registers: learned vectors behind the sequence that every site sees.
        classes: how many labels there are; 0: a model without.
        mask_id: the id whose embedding row stands for unknown sites in imported weights; None gives the model one extra input vector.
        forbidden: ids that are never drawn (an imported mask row).
        positions: a "learned" vector for every site, or "axial": queries and keys turned by row and column on `grid`.
        grid: rows and columns of the image.

    Raises:
        ValueError: negative sizes, a grid that is no fit for the length.

    Example:
        >>> from maskless.models import build
        >>> with torch.device("meta"):
        ...     model = build(MaskGITConfig(vocab_size=16385, classes=1000, mask_id=16384, forbidden=(16384,)))
        >>> f"{model.parameter_count():,}"
        '480,443,393'
    """

    vocab_size: int
    length: int = 1024
    width: int = 1024
    heads: int = 16
    layers: int = 24
    registers: int = 1
    classes: int = 0
    dropout: float = 0.1
    mask_id: int | None = None
    forbidden: tuple[int, ...] = ()
    positions: Literal["learned", "axial"] = "learned"
    grid: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_grid(self, ("learned", "axial"))
        if self.registers < 0 or self.classes < 0:
            raise ValueError(f"registers is {self.registers} and classes {self.classes}; neither can be negative")
        if not 0 < self.heads <= self.width:
            raise ValueError(f"heads is {self.heads} and width {self.width}; give at least one head, and no more than width")


class NormedAttention(nn.Module):
    """Self-attention whose queries and keys are normalised, over all heads together, before they are split into heads (no weight)."""

    def __init__(self, width: int, count: int, dropout: float):
        super().__init__()
        inner = count * (width // count)
        self.count, self.dropout = count, dropout
        self.q, self.k, self.v = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.out = nn.Linear(inner, width, bias=False)

    def forward(self, x: Float[Tensor, "B N D"], rotate: Rotation | None, mask: Mask) -> Float[Tensor, "B N D"]:
        value = self.v(x)
        q, k = (heads(unit(project(x)).to(value.dtype), self.count) for project in (self.q, self.k))
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        dropout = self.dropout if self.training else 0.0
        return self.out(merge(F.scaled_dot_product_attention(q, k, heads(value, self.count), attn_mask=mask, dropout_p=dropout)))


class Block(nn.Module):
    def __init__(self, config: MaskGITConfig):
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(config.width), RMSNorm(config.width)
        self.attention = NormedAttention(config.width, config.heads, config.dropout)
        self.mlp = SwiGLU(config.width, config.dropout)
        self.ada = AdaLN(config.width, config.width, branches=2)
        self.drop = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(self, x: Float[Tensor, "B N D"], cond: Condition, rotate: Rotation | None, mask: Mask) -> Float[Tensor, "B N D"]:
        first, second = self.ada.modulations(cond)
        x = x + first.out_of(self.drop(self.attention(first.into(self.norm1(x)), rotate, mask)))
        return x + second.out_of(self.mlp(second.into(self.norm2(x))))


class TiedHead(nn.Module):
    """An output projection whose weight is the embedding's: one parameter, trained from both ends, saved once."""

    def __init__(self, embedding: nn.Embedding):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(embedding.num_embeddings))
        self._tied = (embedding,)                                   # in a tuple, so that it is nobody's submodule twice

    @property
    def weight(self) -> Tensor:
        return self._tied[0].weight

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        return F.linear(x, self.weight, self.bias)


class MaskGITTransformer(Denoiser):
    """p(x_i | known) for every i, known or not: bidirectional attention over L sites and the registers behind them.

    | part | initialisation |
    |---|---|
    | embedding (and with it the head), mask vector, labels, positions, registers | normal, standard deviation 0.02 |
    | adaLN of the blocks, head bias | zero: blocks pass their input on |
    | every other weight, the final adaLN's too | Xavier, uniform; biases zero |

    Source: valeoai/Halton-MaskGIT, by its equations.
    """

    def __init__(self, config: MaskGITConfig):
        super().__init__()
        self.config, width = config, config.width
        self.embedding = NormalEmbedding(config.vocab_size, width, std=0.02)
        self.mask = NormalEmbedding(1, width, std=0.02) if config.mask_id is None else None
        self.labels = NormalEmbedding(config.classes + 1, width, std=0.02)
        self.sites = NormalEmbedding(config.length, width, std=0.02) if config.positions == "learned" else None
        self.registers = NormalEmbedding(config.registers, width, std=0.02) if config.registers else None
        self.blocks: Any = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(width, bias=True)
        self.ada = nn.Linear(width, 2 * width)
        self.head: Any = TiedHead(self.embedding)
        for module in self.modules():
            if isinstance(module, nn.Linear) and not isinstance(module, AdaLN):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def embed(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"]) -> Float[Tensor, "B N D"]:
        """Sites, the mask where unknown, and the registers behind them."""
        if self.mask is None:
            x = self.embedding(torch.where(known, tokens, self.config.mask_id))
        else:
            x = torch.where(known[..., None], self.embedding(tokens), self.mask.weight)
        if self.sites is not None:
            x = x + self.sites.weight[:x.shape[1]]
        return x if self.registers is None else torch.cat([x, self.registers.weight.expand(len(x), -1, -1)], 1)

    def rotation(self, sites: int) -> Rotation | None:
        """Of sites, then registers; None where positions are learned."""
        if self.config.grid is None or self.config.positions == "learned":
            return None
        weight = self.embedding.weight
        at = torch.arange(sites + self.config.registers, device=weight.device)
        at = torch.where(at < sites, at, sites - 1 - at)                                        # registers: -1, -2, ...
        return rotation(cells(at, self.config.grid[1]), self.config.width // self.config.heads, weight.dtype)

    def hidden(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"], *, cond: Int[Tensor, " B"] | None = None,
               t: Float[Tensor, " B"] | None = None, present: Bool[Tensor, "B L"] | None = None) -> Float[Tensor, "B L D"]:
        return self.states(tokens, known, self.condition(self.labels_of(cond)), present)

    def condition(self, labels: Int[Tensor, " B"] | None) -> Float[Tensor, "#B D"]:
        """What modulates the blocks, from labels; None: no class."""
        return F.silu(self.labels.weight[-1:] if labels is None else self.labels(labels))

    def states(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"], condition: Condition,
               present: Bool[Tensor, "B L"] | None = None) -> Float[Tensor, "B L D"]:
        """`hidden` under a given condition."""
        sites, x = tokens.shape[1], self.embed(tokens, known)
        mask = None if present is None else F.pad(present, (0, self.config.registers), value=True)[:, None, None]
        rotate = self.rotation(sites)
        for block in self.blocks:
            x = block(x, condition, rotate, mask)
        shift, scale = through(self.ada, condition)[:, None].chunk(2, -1)
        return self.norm(x[:, :sites]) * (1 + scale) + shift

    def predictor(self, cond: Int[Tensor, " B"] | None = None) -> Predictor:
        return MaskGITPredictor(self, cond)


class MaskGITPredictor(FullPredictor):
    """A full-length pass a call, whose modulations are made once per decode."""

    def __init__(self, model: MaskGITTransformer, cond: Int[Tensor, " B"] | None = None):
        super().__init__(model, cond)
        self.states, self.conditions = model.states, Conditions(model.condition, self.labels)

    def hidden(self, rows: Tensor | None, tokens: Tensor, known: Tensor, t: Tensor, present: Tensor | None) -> Float[Tensor, "R L D"]:
        condition = self.conditions(rows)
        assert condition is not None
        return self.states(tokens, known, condition, present)
