"""MDLM's diffusion transformer (Sahoo et al. 2024, arXiv 2406.07524): every site, known or not, passes the network.

B rows, L sites, D width, V vocabulary.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskless.decoding.decode import Predictor
from maskless.layers.attention import under
from maskless.layers.block import FinalNorm, SelfBlock
from maskless.layers.embedding import TokenEmbedding
from maskless.layers.rotary import rotation
from maskless.models.base import (
    Conditioned,
    FullPredictor,
    check_conditions,
    check_grid,
    condition_width,
    initial_head,
    on_grid,
)


@dataclass(frozen=True)
class MaskedConfig:
    """Sizes of a `MaskedTransformer`; the defaults are the published small model.

    Args:
        mask_id: the id whose embedding row stands for unknown sites in imported weights; None gives the model one extra input vector.
        cond_dim: width of the condition; 0 builds blocks without modulation.
        forbidden: ids that are never drawn (an imported [MASK] row).
        norm_bias: set by folding (`models.fold`).
        classes, positions, grid: as for a `PartitionConfig`.

    Raises:
        ValueError: two conditions, a grid that is no fit for the length.

    Example:
        >>> from maskless.models import build
        >>> with torch.device("meta"):
        ...     model = build(MaskedConfig(vocab_size=50257))
        >>> f"{model.parameter_count():,}"
        '169,626,449'
    """

    vocab_size: int
    length: int = 1024
    width: int = 768
    heads: int = 12
    layers: int = 12
    cond_dim: int = 128
    dropout: float = 0.1
    mask_id: int | None = None
    forbidden: tuple[int, ...] = ()
    time_conditioned: bool = False
    norm_bias: bool = False
    classes: int = 0
    positions: Literal["line", "axial"] = "line"
    grid: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_conditions(self)
        check_grid(self)


class Bidirectional(Conditioned):
    """What stands between the embedding of L sites and the head: attention from every site to every other."""

    def add_trunk(self, config: Any) -> None:
        """Make the parts, after the embeddings (random numbers are drawn in this order)."""
        sizes: dict[str, Any] = {"cond_dim": condition_width(config), "norm_bias": config.norm_bias}
        self.add_conditions(config)
        self.blocks = nn.ModuleList(SelfBlock(config.width, config.heads, dropout=config.dropout, **sizes) for _ in range(config.layers))
        self.final = FinalNorm(config.width, **sizes)
        self.head = initial_head(config.width, config.vocab_size)

    def through(self, x: Float[Tensor, "B L D"], condition: Tensor | None, present: Bool[Tensor, "B L"] | None = None) -> Float[Tensor, "B L D"]:
        """Embedded sites to hidden states, under a given condition vector."""
        at = on_grid(self.config, torch.arange(x.shape[1], device=x.device))
        rotate = rotation(at, self.config.width // self.config.heads, x.dtype)
        attend = under(None if present is None else present[:, None, None])
        for block in self.blocks:
            x = block(x, condition, rotate, attend)
        return self.final(x, condition)


class MaskedTransformer(Bidirectional):
    """p(x_i | known) for every unknown i: bidirectional attention over L sites, [MASK] where unknown (spec: MDLM, section 3.3).

    | part | initialisation |
    |---|---|
    | embedding | uniform in +-1/sqrt(D) |
    | mask vector | as a row of the embedding |
    | adaLN, head | zero: blocks pass their input on, laws are uniform |
    | everything else | torch's default |
    """

    def __init__(self, config: MaskedConfig):
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config.vocab_size, config.width)
        self.mask = TokenEmbedding(1, config.width) if config.mask_id is None else None
        self.add_trunk(config)

    def embed(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        if self.mask is None:
            return self.embedding(torch.where(known, tokens, self.config.mask_id))
        return torch.where(known[..., None], self.embedding(tokens), self.mask.weight)

    def states(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"], condition: Tensor | None,
               present: Bool[Tensor, "B L"] | None = None) -> Float[Tensor, "B L D"]:
        """`hidden` under a given condition vector."""
        return self.through(self.embed(tokens, known), condition, present)

    def hidden(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"], *, cond: Int[Tensor, " B"] | None = None,
               t: Float[Tensor, " B"] | None = None, present: Bool[Tensor, "B L"] | None = None) -> Float[Tensor, "B L D"]:
        return self.states(tokens, known, self.condition_at(t, cond), present)

    def predictor(self, cond: Int[Tensor, " B"] | None = None) -> Predictor:
        return FullPredictor(self, cond)
