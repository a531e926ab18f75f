"""The partition transformer of PGM (Deschenaux et al. 2025, arXiv 2505.18883): groups instead of masks.

    group 0:  a . c . .        encoder:  every token attends to its own group
    group 1:  . b . d e        swap:     every site's query looks at the other group
                               decoder:  cross-attention only, queries of a site to the other group's encoder output

Registers, half of them in either group, stand in front of the sites and see what their group sees (docs/models.md has the drawing). A
position counts them: site i is at R + i.

R registers, B rows, L sites, N packed known sites, Q queried sites, h heads, d head width, D width, V vocabulary.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskless.decoding.canvas import Canvas, Sites
from maskless.decoding.decode import Predictor
from maskless.decoding.plan import Step
from maskless.layers.attention import Absorbing, Attend, Mask, everywhere, heads, under
from maskless.layers.block import CrossBlock, FinalNorm, SelfBlock
from maskless.layers.embedding import NormalEmbedding, TokenEmbedding
from maskless.layers.groups import Grouping, Groups, dense
from maskless.layers.modulation import Condition
from maskless.layers.rotary import Positions, Rotation, rotation, sinusoids
from maskless.models.base import (
    Conditioned,
    Conditions,
    FullPredictor,
    check_conditions,
    check_grid,
    condition_width,
    initial_head,
    on_grid,
    on_rows,
    pick_labels,
    pick_rows,
)

Look = tuple[tuple[Tensor, Tensor], Attend]
"""What a cross-attention looks at, (k, v), and the rule by which."""
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
        self_layers: the decoder layers (from 0) that are not cross-attention but self-attention among the queries of a group.
        classes: how many labels there are; a label's vector, of the model's width, is then the condition, and `cond_dim` is not used.
        registers: learned vectors in front of the sequence; the first half belongs to group 1, the second to group 0.
        positions: of tokens and queries: along the "line", or "axial", row and column on `grid`.
        grid: rows and columns of an image, whose cells are the last sites, in raster order.

    Raises:
        ValueError: an odd number of registers, a layer that is not there, two conditions, a grid that is no fit for the length.

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
    self_layers: tuple[int, ...] = ()
    classes: int = 0
    registers: int = 0
    positions: Literal["line", "axial"] = "line"
    grid: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_grid(self)
        if self.registers < 0 or self.registers % 2:
            raise ValueError(f"registers is {self.registers}; half of them belong to either group: give an even number, or 0")
        check_conditions(self)
        if any(not 0 <= layer < self.decoder_layers for layer in self.self_layers) or len({*self.self_layers}) < len(self.self_layers):
            raise ValueError(f"self_layers is {list(self.self_layers)}; give different decoder layers, in 0..{self.decoder_layers - 1}")
        if self.decoder_layers == len(self.self_layers):
            raise ValueError(f"decoder_layers is {self.decoder_layers}, none of which looks at the other group; give at least one that does")


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

    def starts(self, positions: Positions) -> Float[Tensor, "N D"]:
        """The data-independent start of the queries at `positions`."""
        waves = sinusoids(positions, self.base.shape[-1], self.base.dtype)
        return self.base.expand_as(waves) if self.query == "learned" else self.base + waves

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
    | query base, labels | standard normal |
    | registers | normal, standard deviation 0.02 |
    | adaLN, head | zero: blocks pass their input on, laws are uniform |
    | everything else | torch's default |
    """

    def __init__(self, config: PartitionConfig):
        super().__init__()
        self.config = config
        sizes: dict[str, Any] = {"cond_dim": condition_width(config), "dropout": config.dropout, "norm_bias": config.norm_bias}
        kinds = [SelfBlock if layer in config.self_layers else CrossBlock for layer in range(config.decoder_layers)]
        self.embedding = TokenEmbedding(config.vocab_size, config.width)
        self.add_conditions(config)
        self.registers = NormalEmbedding(config.registers, config.width, std=0.02) if config.registers else None
        self.encoder = nn.ModuleList(SelfBlock(config.width, config.heads, **sizes) for _ in range(config.encoder_layers))
        self.swap = GroupSwap(config)
        self.decoder: Any = nn.ModuleList(kind(config.width, config.heads, **sizes) for kind in kinds)
        self.final = FinalNorm(config.width, cond_dim=condition_width(config), norm_bias=config.norm_bias)
        self.head = initial_head(config.width, config.vocab_size)

    @property
    def packed_registers(self) -> int:
        """Registers that every call encodes in front of a row's known tokens: those of group 0."""
        return self.config.registers // 2

    @property
    def cross_layers(self) -> list[CrossBlock]:
        return [layer for layer in self.decoder if isinstance(layer, CrossBlock)]

    def positions(self, sites: int) -> Positions:
        """Of registers and sites."""
        at = torch.arange(self.config.registers + sites, device=self.embedding.weight.device)
        return at if self.config.positions == "line" else on_grid(self.config, at - self.config.registers)

    def rotation(self, sites: int) -> Rotation:
        """A table (R + L, d) of all positions."""
        return rotation(self.positions(sites), self.config.width // self.config.heads, self.embedding.weight.dtype)

    def with_registers(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"], present: Bool[Tensor, "B L"] | None,
                       log: Int[Tensor, "B L"] | None) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """The whole sequence (B, R + L): registers as ids -R..-1, first in the log, the last half of them in group 0."""
        count = self.config.registers
        if count == 0:
            return tokens, known, present, log
        own = torch.arange(-count, 0, device=tokens.device).expand(len(tokens), -1)
        return (torch.cat([own, tokens], 1), torch.cat([own >= -(count // 2), known], 1),
                None if present is None else F.pad(present, (count, 0), value=True),
                None if log is None else torch.cat([own + count, log + count], 1))

    def embed(self, ids: Int[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Tokens, and registers by negative ids."""
        if self.registers is None:
            return self.embedding(ids)
        tokens, registers = self.embedding(ids.clamp(min=0)), self.registers(ids.clamp(max=-1) % self.config.registers)
        return torch.where((ids < 0)[..., None], registers, tokens)

    def encode(self, ids: Int[Tensor, "B N"], rotate: Rotation, condition: Condition | None, attend: Attend) -> Float[Tensor, "B N D"]:
        """Self-attention among the tokens and registers that `attend` lets see each other."""
        x = self.embed(ids)
        for block in self.encoder:
            x = block(x, condition, rotate, attend)
        return x

    def keys_values(self, memory: Float[Tensor, "B N D"], rotate: Rotation) -> list[tuple[Tensor, Tensor]]:
        """What the decoder's cross-attention looks at: one (k, v) a layer, all from the encoder's output."""
        return [layer.keys_values(memory, rotate) for layer in self.cross_layers]

    def decode(self, y: Float[Tensor, "B Q D"], rotate: Rotation, condition: Condition | None, looks: Iterable[Look],
               beside: Attend = everywhere) -> Float[Tensor, "B Q D"]:
        """The decoder on the swap's output `y`: the cross layers on `looks`, in turn; the others on the queries that `beside` lets see each other."""
        each = iter(looks)
        for layer in self.decoder:
            y = layer(y, condition, rotate, *next(each)) if isinstance(layer, CrossBlock) else layer(y, condition, rotate, beside)
        return y

    def states(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"], condition: Condition | None, present: Bool[Tensor, "B L"] | None = None,
               grouping: Grouping = dense, log: Int[Tensor, "B L"] | None = None) -> Float[Tensor, "B L D"]:
        """`hidden` under a given condition vector; with a log, a token looks at its own group no later in it than itself."""
        tokens, known, present, log = self.with_registers(tokens, known, present, log)
        return self.between_groups(tokens, known, condition, grouping(known, present, log), present)[:, self.config.registers:]

    def between_groups(self, ids: Int[Tensor, "B M"], known: Bool[Tensor, "B M"], condition: Condition | None, groups: Groups,
                       present: Bool[Tensor, "B M"] | None) -> Float[Tensor, "B M D"]:
        """Every position from the other group; `groups` holds both sides as it attends to them, and the states come back by position."""
        places = self.rotation(ids.shape[1] - self.config.registers)
        at_tokens, at_queries = groups.tokens.rotation(places), groups.queries.rotation(places)
        memory = self.encode(groups.tokens.arrange(ids), at_tokens, condition, groups.own)
        queries = self.swap.queries(self.starts(memory, groups, known, present), places)                # by position
        queries = groups.queries.arrange(queries.transpose(1, 2)).transpose(1, 2)
        y = self.swap(queries, self.swap.keys_values(memory, at_tokens), groups.other)
        looks = [(keys_values, groups.other) for keys_values in self.keys_values(memory, at_tokens)]
        y = self.decode(y, at_queries, condition, looks, groups.beside() if self.config.self_layers else everywhere)
        return groups.queries.restore(self.final(y, condition))

    def starts(self, memory: Float[Tensor, "B M D"], groups: Groups, known: Bool[Tensor, "B M"],
               present: Bool[Tensor, "B M"] | None) -> Float[Tensor, "#B M D"]:
        """Where the queries of a training pass start, by position; `memory` lies as `groups` holds the tokens."""
        starts = self.swap.starts(self.positions(known.shape[1] - self.config.registers))[None]
        if not self.swap.reads_memory:
            return starts
        here = torch.ones_like(known) if present is None else present
        of_known, of_unknown = (self.swap.summary(memory, groups.tokens.arrange(side & here))[:, None] for side in (known, ~known))
        return starts + torch.where(known[..., None], of_unknown, of_known)

    def hidden(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"], *, cond: Int[Tensor, " B"] | None = None,
               t: Float[Tensor, " B"] | None = None, present: Bool[Tensor, "B L"] | None = None,
               grouping: Grouping = dense) -> Float[Tensor, "B L D"]:
        """Both sides of the split `known` | not `known`, each predicted from the other: `known` sites are group 0.

        `grouping` is how that attention is computed (`layers.groups`), not what it computes.
        """
        return self.states(tokens, known, self.condition_at(t, cond), present, grouping)

    def predictor(self, cond: Int[Tensor, " B"] | None = None) -> Predictor:
        return PartitionPredictor(self, cond)

    def full_predictor(self, cond: Int[Tensor, " B"] | None = None) -> Predictor:
        """The naive sampler's way (spec 3.3): a full-length pass per step. The reference that `predictor` equals."""
        return FullPredictor(self, cond)


class Asked(NamedTuple):
    """The queries of one call: their positions (R, Q'), whom self-attention lets them see, and the states of the asked sites among theirs."""

    positions: Tensor
    beside: Attend
    pick: Callable[[Tensor], Tensor]


class PartitionPredictor:
    """Encodes the known tokens, packed in the order in which they became known, and decodes the queried sites (PGM, Algorithm 2).

    What does not depend on tokens is computed once per decode: rotations, modulations (but for a model that is told the time) and, where
    they read no memory, the queries of all sites. No masks where every row knows as many sites. All decoder layers normalise the same
    encoder output and only the weight of the norm differs: it is normalised once, and the weights are folded into the projections. A
    layer's keys and values are made when its turn comes, while they fit in the processor's caches; values of every key are not made at
    all where few sites are asked for (`Absorbing`).
    """

    def __init__(self, model: PartitionTransformer, cond: Int[Tensor, " B"] | None = None):
        self.model, self.head, self.allowed, self.labels = model, model.head, model.allowed, model.labels_of(cond)
        self.kv_weights = [layer.attention.kv.weight * layer.norm_kv.weight for layer in model.cross_layers]
        self.ahead = model.config.registers // 2                                                # of group 0: every row knows them
        self.conditions = Conditions(lambda labels: model.condition_at(None, labels), self.labels)
        self.rotations: Rotation | None = None
        self.starts: Tensor | None = None                                                       # (R + L, D)
        self.queries: Tensor | None = None                                                      # (R + L, h, d)

    def _open(self, canvas: Canvas) -> Rotation:
        self.model.check_canvas(canvas)
        swap, rotations = self.model.swap, self.model.rotation(canvas.length)
        self.starts = swap.starts(self.model.positions(canvas.length))
        if not swap.reads_memory:
            self.queries = swap.queries(self.starts[None], rotations)[0].transpose(0, 1)
        return rotations

    def looks(self, memory: Float[Tensor, "B N D"], rotate: Rotation, mask: Mask, queries: int) -> Iterator[Look]:
        """What the swap and then each cross layer looks at, and the attention that it is made for."""
        normed, count, kv = F.layer_norm(memory, memory.shape[-1:], eps=1e-5), self.model.config.heads, self.model.swap.kv
        few, plain = Absorbing.pays(queries, count, memory.shape[-1]), under(mask)
        for source, weight, bias in [(memory, kv.weight, kv.bias), *((normed, weight, None) for weight in self.kv_weights)]:
            if few:
                (of_k, of_v), (add_k, add_v) = weight.chunk(2), (None, None) if bias is None else bias.chunk(2)
                yield (rotate(heads(F.linear(source, of_k, add_k), count)), source), Absorbing(of_v, add_v, mask)
            else:
                k, v = (heads(part, count) for part in F.linear(source, weight, bias).chunk(2, -1))
                yield (rotate(k), v), plain

    def __call__(self, canvas: Canvas, sites: Sites, step: Step) -> Float[Tensor, "B Q D"]:
        return on_rows(step, canvas, sites, lambda rows: self.rows(canvas, sites, step, rows))

    def rows(self, canvas: Canvas, sites: Sites, step: Step, rows: Tensor | None) -> Float[Tensor, "R Q D"]:
        width = max(0 if self.ahead else 1, canvas.most)
        self.rotations = self.rotations or self._open(canvas)
        where, tokens, count = (pick_rows(x, rows) for x in (canvas.log[:, :width], canvas.tokens, canvas.count))
        visible = F.pad(torch.arange(width, device=count.device) < count[:, None], (self.ahead, 0), value=True)
        mask = visible[:, None, None] if canvas.fewest < width else None
        condition = self.condition(step, rows, where)
        ids, positions = self.known(tokens.gather(1, where), where)
        asked = self.asked(canvas, sites, rows)
        return asked.pick(self.states(ids, positions, visible, mask, asked.positions, condition, asked.beside))

    def states(self, ids: Int[Tensor, "R N"], positions: Int[Tensor, "R N"], visible: Bool[Tensor, "R N"], mask: Mask, asked: Int[Tensor, "R Q"],
               condition: Condition | None, beside: Attend = everywhere) -> Float[Tensor, "R Q D"]:
        """The states at the positions that are asked; `mask` is None where all that is given is visible."""
        assert self.rotations is not None
        model, at_known, at_query = self.model, self.rotations.at(positions), self.rotations.at(asked)
        memory = model.encode(ids, at_known, condition, under(mask))
        looks = self.looks(memory, at_known, mask, asked.shape[1])
        y = model.swap(self._queries(memory, visible, asked, at_query), *next(looks))
        return model.final(model.decode(y, at_query, condition, looks, beside), condition)

    def condition(self, step: Step, rows: Tensor | None, like: Int[Tensor, "R n"]) -> Condition | None:
        """Of the rows of a call: made once per decode, but for a model that is told the time."""
        if not self.model.config.time_conditioned:
            return self.conditions(rows)
        return self.model.condition_at(step.noise_level(rows, like), pick_labels(self.labels, rows))

    def known(self, tokens: Int[Tensor, "R n"], sites: Int[Tensor, "R n"]) -> tuple[Tensor, Tensor]:
        """Ids and positions of what passes the encoder: the registers of group 0, then the known tokens."""
        if self.ahead == 0:
            return tokens, sites
        own = torch.arange(-self.ahead, 0, device=sites.device).expand(len(sites), -1)
        return torch.cat([own, tokens], 1), torch.cat([own, sites], 1) + 2 * self.ahead

    def asked(self, canvas: Canvas, sites: Sites, rows: Tensor | None) -> Asked:
        """Queries that do not see each other: those that are asked for. Else all of group 1, its registers and unknown sites."""
        return self._together(canvas, sites, rows) if self.model.config.self_layers else self._apart(sites, rows)

    def _apart(self, sites: Sites, rows: Tensor | None) -> Asked:
        return Asked(pick_rows(sites.index, rows) + 2 * self.ahead, everywhere, lambda states: states)

    def _together(self, canvas: Canvas, sites: Sites, rows: Tensor | None) -> Asked:
        """A known site that is asked for (it is in group 0) gets zeros."""
        unknown = Sites.of(pick_rows(canvas.unknown, rows), max(1, canvas.length - canvas.fewest))
        own = torch.arange(self.ahead, device=unknown.index.device).expand(len(unknown.index), -1)
        valid = F.pad(unknown.valid, (self.ahead, 0), value=True)
        alike = canvas.whole and canvas.fewest == canvas.most

        def pick(states: Tensor) -> Tensor:
            by_site = states.new_zeros(len(states), canvas.length + 1, states.shape[-1])
            at = torch.where(unknown.valid, unknown.index, canvas.length)[..., None].expand(-1, -1, states.shape[-1])
            return Sites(pick_rows(sites.index, rows), pick_rows(sites.valid, rows)).take(by_site.scatter(1, at, states[:, self.ahead:]))

        return Asked(torch.cat([own, unknown.index + 2 * self.ahead], 1), under(None if alike else valid[:, None, None]), pick)

    def _queries(self, memory: Tensor, visible: Tensor, positions: Tensor, at_query: Rotation) -> Float[Tensor, "R h Q d"]:
        if self.queries is not None:
            return self.queries[positions].transpose(1, 2)
        assert self.starts is not None
        swap = self.model.swap
        return swap.queries(self.starts[positions] + swap.summary(memory, visible)[:, None], at_query)
