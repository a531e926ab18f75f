"""The partition transformer of PGM (Deschenaux et al. 2025, arXiv 2505.18883): groups instead of masks.

    group 0:  a . c . .        encoder:  every token attends to its own group
    group 1:  . b . d e        swap:     every site's query looks at the other group
                               decoder:  cross-attention only, queries of a site to the other group's encoder output

B rows, L sites, N packed known sites, Q queried sites, h heads, d head width, D width, V vocabulary.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskless.decoding.canvas import Canvas, Sites
from maskless.decoding.decode import Predictor
from maskless.decoding.plan import Step
from maskless.layers.attention import Attend, heads, under
from maskless.layers.block import CrossBlock, FinalNorm, SelfBlock
from maskless.layers.embedding import TimeEmbedding, TokenEmbedding
from maskless.layers.groups import Grouping, Groups, dense
from maskless.layers.rotary import Rotation, rotation, sinusoids
from maskless.models.base import Conditioned, FullPredictor, initial_head, on_rows, pick_rows

Query = Literal["learned", "position", "mean", "logsumexp"]


@dataclass(frozen=True)
class PartitionConfig:
    """Sizes of a `PartitionTransformer`; the defaults are the published 8/8 model.

    Args:
        query: what a site's query starts from: a learned vector; + the sinusoid of its position (all published models); + the mean or
            logsumexp of the other group's encoder output.
        query_mlp: process queries with a 4x MLP instead of one linear map.
        cond_dim: width of the condition; 0 builds blocks without modulation.
        forbidden: ids that are never drawn (an imported [MASK] row).
        norm_bias: set by folding (`models.fold`).

    Example:
        >>> from maskless.models import build
        >>> with torch.device("meta"):
        ...     model = build(PartitionConfig(vocab_size=50257))
        >>> f"{model.parameter_count():,}"
        '202,707,281'
    """

    vocab_size: int
    length: int = 1024
    width: int = 768
    heads: int = 12
    encoder_layers: int = 8
    decoder_layers: int = 8
    query: Query = "position"
    query_mlp: bool = False
    cond_dim: int = 128
    dropout: float = 0.1
    forbidden: tuple[int, ...] = ()
    time_conditioned: bool = False
    norm_bias: bool = False


class GroupSwap(nn.Module):
    """The layer after which a site knows the other group only (PGM, section 4.2, equations 9-11). No residual from the encoder.

    The data-dependent term is added before the norm, as in the released code (the paper's equations add it after).
    """

    def __init__(self, config: PartitionConfig):
        super().__init__()
        width = config.width
        self.query, self.count = config.query, config.heads
        self.base = nn.Parameter(torch.randn(1, width))
        self.norm = nn.LayerNorm(width)
        self.process = (nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width)) if config.query_mlp
                        else nn.Linear(width, width))
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    @property
    def reads_memory(self) -> bool:
        return self.query in ("mean", "logsumexp")

    def summary(self, memory: Float[Tensor, "B M D"], visible: Bool[Tensor, "B M"]) -> Float[Tensor, "B D"]:
        """Mean or logsumexp, feature by feature, of the visible encoder outputs; zeros where a row sees none."""
        seen = visible[..., None]
        if self.query == "mean":
            return (memory * seen).sum(1) / seen.sum(1).clamp(min=1)
        none = ~visible.any(1, keepdim=True)
        lse = memory.masked_fill(~seen & ~none[..., None], -torch.inf).logsumexp(1)
        return lse.masked_fill(none, 0.0)

    def starts(self, positions: Int[Tensor, "*N"]) -> Float[Tensor, "*N D"]:
        """The data-independent start of the queries at `positions`, (1 or B, N, D)."""
        base = self.base.expand(*positions.shape, -1)
        return base if self.query == "learned" else base + sinusoids(positions, base.shape[-1], base.dtype)

    def queries(self, starts: Float[Tensor, "B N D"], rotate: Rotation) -> Float[Tensor, "B h N d"]:
        return rotate(heads(self.process(self.norm(starts)), self.count))

    def keys_values(self, memory: Float[Tensor, "B M D"], rotate: Rotation) -> tuple[Tensor, Tensor]:
        k, v = (heads(part, self.count) for part in self.kv(memory).chunk(2, -1))
        return rotate(k), v

    def forward(self, queries: Float[Tensor, "#B h N d"], keys_values: tuple[Tensor, Tensor], attend: Attend) -> Float[Tensor, "B N D"]:
        return self.out(attend(queries, *keys_values))


class PartitionTransformer(Conditioned):
    """p(x_i | the other group) for every i in one pass; sampling passes known tokens alone (PGM, section 4).

    | part | initialisation |
    |---|---|
    | embedding | uniform in +-1/sqrt(D) |
    | query base | standard normal |
    | adaLN, head | zero: blocks pass their input on, laws are uniform |
    | everything else | torch's default |
    """

    def __init__(self, config: PartitionConfig):
        super().__init__()
        self.config = config
        sizes: dict[str, Any] = {"cond_dim": config.cond_dim, "dropout": config.dropout, "norm_bias": config.norm_bias}
        self.embedding = TokenEmbedding(config.vocab_size, config.width)
        self.time = TimeEmbedding(config.cond_dim) if config.cond_dim else None
        self.encoder = nn.ModuleList(SelfBlock(config.width, config.heads, **sizes) for _ in range(config.encoder_layers))
        self.swap = GroupSwap(config)
        self.decoder: Any = nn.ModuleList(CrossBlock(config.width, config.heads, **sizes) for _ in range(config.decoder_layers))
        self.final = FinalNorm(config.width, cond_dim=config.cond_dim, norm_bias=config.norm_bias)
        self.head = initial_head(config.width, config.vocab_size)

    def rotation(self, positions: Int[Tensor, "*N"]) -> Rotation:
        return rotation(positions, self.config.width // self.config.heads, self.embedding.weight.dtype)

    def encode(self, tokens: Int[Tensor, "B N"], rotate: Rotation, condition: Tensor | None, attend: Attend) -> Float[Tensor, "B N D"]:
        """Self-attention among the tokens that `attend` lets see each other."""
        x = self.embedding(tokens)
        for block in self.encoder:
            x = block(x, condition, rotate, attend)
        return x

    def keys_values(self, memory: Float[Tensor, "B N D"], rotate: Rotation) -> list[tuple[Tensor, Tensor]]:
        """What the decoder layers look at: one (k, v) a layer, all from the encoder's output."""
        return [layer.keys_values(memory, rotate) for layer in self.decoder]

    def decode(self, y: Float[Tensor, "B Q D"], rotate: Rotation, condition: Tensor | None, keys_values: Iterable[tuple[Tensor, Tensor]],
               attend: Attend) -> Float[Tensor, "B Q D"]:
        """The decoder layers (no attention among queries) on the swap's output `y`."""
        for layer, memory in zip(self.decoder, keys_values):
            y = layer(y, condition, rotate, memory, attend)
        return y

    def states(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"], condition: Tensor | None,
               present: Bool[Tensor, "B L"] | None = None, grouping: Grouping = dense) -> Float[Tensor, "B L D"]:
        """`hidden` under a given condition vector."""
        return self.between_groups(tokens, known, condition, grouping(known, present), present)

    def between_groups(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"], condition: Tensor | None, groups: Groups,
                       present: Bool[Tensor, "B L"] | None) -> Float[Tensor, "B L D"]:
        """Every site from the other group; `groups` holds both sides as it attends to them, and the states come back by site."""
        sites = self.rotation(torch.arange(tokens.shape[1], device=tokens.device))
        at_tokens, at_queries = groups.tokens.rotation(sites), groups.queries.rotation(sites)
        memory = self.encode(groups.tokens.arrange(tokens), at_tokens, condition, groups.own)
        queries = self.swap.queries(self.starts(memory, groups, known, present), sites)                 # by site
        queries = groups.queries.arrange(queries.transpose(1, 2)).transpose(1, 2)
        y = self.swap(queries, self.swap.keys_values(memory, at_tokens), groups.other)
        y = self.decode(y, at_queries, condition, self.keys_values(memory, at_tokens), groups.other)
        return groups.queries.restore(self.final(y, condition))

    def starts(self, memory: Float[Tensor, "B L D"], groups: Groups, known: Bool[Tensor, "B L"],
               present: Bool[Tensor, "B L"] | None) -> Float[Tensor, "#B L D"]:
        """Where the queries of a training pass start, by site; `memory` lies as `groups` holds the tokens."""
        starts = self.swap.starts(torch.arange(known.shape[1], device=known.device))[None]
        if not self.swap.reads_memory:
            return starts
        here = torch.ones_like(known) if present is None else present
        of_known, of_unknown = (self.swap.summary(memory, groups.tokens.arrange(side & here))[:, None] for side in (known, ~known))
        return starts + torch.where(known[..., None], of_unknown, of_known)

    def hidden(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"], *, cond: Any = None, t: Float[Tensor, " B"] | None = None,
               present: Bool[Tensor, "B L"] | None = None, grouping: Grouping = dense) -> Float[Tensor, "B L D"]:
        """Both sides of the split `known` | not `known`, each predicted from the other: `known` sites are group 0.

        `grouping` is how that attention is computed (`layers.groups`), not what it computes.
        """
        return self.states(tokens, known, self.condition_at(t), present, grouping)

    def predictor(self) -> Predictor:
        return PartitionPredictor(self)

    def full_predictor(self) -> Predictor:
        """The naive sampler's way (spec 3.3): a full-length pass per step. The reference that `predictor` equals."""
        return FullPredictor(self)


class PartitionPredictor:
    """Encodes the known tokens, packed in the order in which they became known, and decodes the queried sites (PGM, Algorithm 2).

    What does not depend on tokens is computed once per decode: rotations and, where they read no memory, the queries of all sites. No
    masks where every row knows as many sites. All decoder layers normalise the same encoder output and only the weight of the norm
    differs: it is normalised once, and the weights are folded into the projections. A layer's keys and values are made when its turn
    comes, while they fit in the processor's caches.
    """

    def __init__(self, model: PartitionTransformer):
        self.model, self.head, self.allowed = model, model.head, model.allowed
        self.kv_weights = [layer.attention.kv.weight * layer.norm_kv.weight for layer in model.decoder]
        self.rotations: Rotation | None = None
        self.queries: Tensor | None = None                                                      # (L, h, d)

    def _open(self, canvas: Canvas) -> Rotation:
        swap, sites = self.model.swap, torch.arange(canvas.length, device=canvas.count.device)
        rotations = self.model.rotation(sites)
        if not swap.reads_memory:
            self.queries = swap.queries(swap.starts(sites)[None], rotations)[0].transpose(0, 1)
        self.rotations = rotations
        return rotations

    def keys_values(self, memory: Float[Tensor, "B N D"], rotate: Rotation) -> Iterator[tuple[Tensor, Tensor]]:
        normed, count = F.layer_norm(memory, memory.shape[-1:], eps=1e-5), self.model.config.heads
        for weight in self.kv_weights:
            k, v = (heads(part, count) for part in F.linear(normed, weight).chunk(2, -1))
            yield rotate(k), v

    def __call__(self, canvas: Canvas, sites: Sites, step: Step) -> Float[Tensor, "B Q D"]:
        return on_rows(step, canvas, sites, lambda rows: self.rows(canvas, sites, step, rows))

    def rows(self, canvas: Canvas, sites: Sites, step: Step, rows: Tensor | None) -> Float[Tensor, "R Q D"]:
        model, width = self.model, max(1, canvas.most)
        rotations = self.rotations or self._open(canvas)
        where, query, tokens, count = (pick_rows(x, rows) for x in (canvas.log[:, :width], sites.index, canvas.tokens, canvas.count))
        visible = torch.arange(width, device=count.device) < count[:, None]
        attend = under(visible[:, None, None] if canvas.fewest < width else None)
        condition = model.condition_at(torch.full((len(where),), step.t, device=count.device))
        at_known, at_query = rotations.at(where), rotations.at(query)
        memory = model.encode(tokens.gather(1, where), at_known, condition, attend)
        y = model.swap(self._queries(memory, visible, query, at_query), model.swap.keys_values(memory, at_known), attend)
        return model.final(model.decode(y, at_query, condition, self.keys_values(memory, at_known), attend), condition)

    def _queries(self, memory: Tensor, visible: Tensor, query: Tensor, at_query: Rotation) -> Float[Tensor, "R h Q d"]:
        if self.queries is not None:
            return self.queries[query].transpose(1, 2)
        swap = self.model.swap
        return swap.queries(swap.starts(query) + swap.summary(memory, visible)[:, None], at_query)
