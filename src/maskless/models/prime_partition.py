"""Partial masking without masks: the digits of tokens in two groups that predict each other (ours: MDM-Prime on the partition transformer).

    site            0     1     2              group 0 holds the digits 4 . of site 1, group 1 the digits . 7
    digits         6 1   4 7   0 2
    group          0 0   0 1   1 1
    elements       61-0  4.-0  .7-1  02-1      one for each site and group that owns a digit of it: the sum of their vectors, no filler

encoder: an element attends to the elements of its own group. swap and decoder: the query of a site and group looks at the other group, in
which the rest of its own token may be: that element is handed to it directly as well (the skip). A query predicts a token; losses filter by the
digits of the other group and charge the digits of its own. Late fusion instead lets only whole tokens into the encoder; the rest of a token
reaches its own query alone. With one digit both are PGM.

B rows, L sites, l digits, S = L l slots, R registers, W elements of a row, M positions of the memory, Q queries, h heads, d head width, D width.
"""
from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskless.decoding.canvas import Canvas, Sites
from maskless.decoding.decode import Predictor
from maskless.decoding.plan import Step
from maskless.layers.attention import Attend, Masked
from maskless.layers.embedding import TokenEmbedding
from maskless.layers.groups import Grouping, dense
from maskless.layers.norm import LayerNorm
from maskless.layers.rotary import Rotation
from maskless.models.base import FullPredictor, on_rows, pick_labels, pick_rows
from maskless.models.partition import PartitionConfig, PartitionTransformer
from maskless.models.prime import CodeName, WrittenInDigits, code_of


@dataclass(frozen=True)
class PrimePartitionConfig:
    """Sizes of a `PrimePartitionTransformer`.

    Args:
        digits, base, code, code_seed: as for a `PrimeConfig`.
        fusion: "elements": parts of tokens pass the encoder; "late": whole tokens only, parts reach their own query alone.
        registers: learned vectors in front, half of them in either group, so that a query always has a key; 0 for none.
        query, query_mlp, cond_dim, forbidden, norm_bias, classes, positions, grid: as for a `PartitionConfig`.

    Raises:
        ValueError: sizes that do not fit.

    Example:
        >>> from maskless.models import build
        >>> build(PrimePartitionConfig(vocab_size=50, digits=2, length=8, width=16, heads=2, encoder_layers=1, decoder_layers=1)).per_site
        2
    """

    vocab_size: int
    digits: int = 2
    base: int = 0
    code: CodeName = "digits"
    code_seed: int = 0
    fusion: Literal["elements", "late"] = "elements"
    length: int = 1024
    width: int = 768
    heads: int = 12
    encoder_layers: int = 8
    decoder_layers: int = 8
    query: Literal["learned", "position"] = "position"
    query_mlp: bool = False
    cond_dim: int = 128
    dropout: float = 0.1
    forbidden: tuple[int, ...] = ()
    time_conditioned: bool = False
    norm_bias: bool = False
    registers: int = 0
    classes: int = 0
    positions: Literal["line", "axial"] = "line"
    grid: tuple[int, int] | None = None

    self_layers: ClassVar[tuple[int, ...]] = ()

    def __post_init__(self) -> None:
        if self.digits < 1 or self.base < 0:
            raise ValueError(f"digits is {self.digits} and base {self.base}; give at least 1 digit, and a base of at least 2 (0: the smallest)")
        if self.fusion not in ("elements", "late") or self.code not in ("digits", "shuffled"):
            raise ValueError(f"fusion {self.fusion!r} and code {self.code!r}: choose elements or late, and digits or shuffled")
        if self.query not in ("learned", "position"):
            raise ValueError(f"query {self.query!r} sums up whole tokens; choose learned or position")
        self.of_tokens()                                            # checks what they share

    @property
    def masks_alone(self) -> bool:
        """Whether the attention has no other form: with late fusion an element may ask and not be looked at, which masks alone can say."""
        return self.fusion == "late"

    def of_tokens(self) -> PartitionConfig:
        """The partition transformer that this one is, but for its table."""
        names = {field.name for field in fields(PartitionConfig)} & {field.name for field in fields(self)}
        return PartitionConfig(**{name: getattr(self, name) for name in names})


class Memory(NamedTuple):
    """What queries look at.

    Attributes:
        states: of the encoder, registers first.
        at: their rotation.
        beside: (B, Q, D) what each query is handed of its own token, zeros where the other group has none of it.
    """

    states: Float[Tensor, "B M D"]
    at: Rotation
    beside: Float[Tensor, "B Q D"]


class PrimePartitionTransformer(WrittenInDigits, PartitionTransformer):  # type: ignore[override]
    """p(x_i | the digits of the other group) for every site and group in one pass; sampling passes known digits alone.

    | part | initialisation |
    |---|---|
    | tables of digits | uniform in +-1/sqrt(D) |
    | skip | zero: a query begins without the rest of its own token |
    | everything else | as a `PartitionTransformer` |
    """

    def __init__(self, config: PrimePartitionConfig):
        super().__init__(config.of_tokens())
        self.config: Any = config
        self.write_in(code_of(config))
        self.embedding = TokenEmbedding(self.base * config.digits, config.width)
        self.beside = LayerNorm(config.width)
        self.skip = nn.Linear(config.width, config.width, bias=False)
        nn.init.zeros_(self.skip.weight)

    @property
    def packed_registers(self) -> int:
        """None that are counted: what is known are digits, and elements are packed in the order of their sites."""
        return 0

    # -- parts -----------------------------------------------------------------------------------------------------------------------------------

    def sums(self, digits: Int[Tensor, "B n l"], *owned: Bool[Tensor, "B n l"]) -> Float[Tensor, "B n g D"]:
        """For each of some choices of digits, the sum of their vectors: (B, n, len(owned), D)."""
        vectors = self.embedding(digits + self.base * torch.arange(self.per_site, device=digits.device))       # (B, n, l, D)
        return torch.stack([(vectors * own[..., None]).sum(2) for own in owned], 2)

    def enters(self, owned: Bool[Tensor, "B n l"]) -> Bool[Tensor, "B n"]:
        """Whether what a group owns of a token passes the encoder."""
        return owned.any(-1) if self.config.fusion == "elements" else owned.all(-1)

    def behind_registers(self, x: Float[Tensor, "B n D"], registers: Int[Tensor, " r"]) -> Float[Tensor, "B r+n D"]:
        """Some registers, then elements."""
        return x if self.registers is None else torch.cat([self.registers.weight[registers].expand(len(x), -1, -1), x], 1)

    def encoded(self, x: Float[Tensor, "B M D"], at: Rotation, condition: Tensor | None, attend: Attend) -> Float[Tensor, "B M D"]:
        """Registers and elements through the encoder."""
        for block in self.encoder:
            x = block(x, condition, at, attend)
        return x

    def answers(self, memory: Memory, positions: Int[Tensor, "B Q"], places: Rotation, condition: Tensor | None,
                attend: Attend) -> Float[Tensor, "B Q D"]:
        """The states of queries at `positions` that look at `memory`."""
        at = places.at(positions)
        queries = self.swap.queries(self.swap.starts(self.positions(places.cos.shape[0] - self.config.registers))[None], places)
        queries = queries[0].transpose(0, 1)[positions].transpose(1, 2)                       # (B, h, Q, d)
        y = self.swap(queries, self.swap.keys_values(memory.states, memory.at), attend)
        if self.per_site > 1:
            y = y + self.skip(self.beside(memory.beside))
        looks = [(keys_values, attend) for keys_values in self.keys_values(memory.states, memory.at)]
        return self.final(self.decode(y, at, condition, looks), condition)

    # -- both sides of a split -------------------------------------------------------------------------------------------------------------------

    def hidden_of_digit_groups(self, digits: Int[Tensor, "B S"], known: Bool[Tensor, "B S"], *, cond: Int[Tensor, " B"] | None = None,
                               t: Float[Tensor, " B"] | None = None, present: Bool[Tensor, "B S"] | None = None,
                               grouping: Grouping = dense) -> Float[Tensor, "B L 2 D"]:
        """For every site, the state that predicts its digits in group 0 from group 1 (`known` digits are group 0), and the reverse.

        Zeros for a site that has no digit in the group. `grouping` is how the attention is computed (`layers.groups`), where the model has a choice.
        """
        condition, count = self.condition_at(t, cond), self.config.registers
        y, own = (x.unflatten(1, (-1, self.per_site)) for x in (digits, known))
        here = torch.ones_like(own[..., 0]) if present is None else present[:, ::self.per_site]
        has = torch.stack([own.any(-1), ~own.all(-1)], 2) & here[..., None]                                    # (B, L, 2)
        enters = torch.stack([self.enters(own), self.enters(~own)], 2) & here[..., None]
        # elements in order of their sites, absent ones last; with one digit there are as many as sites
        order = (~has).flatten(1).to(torch.uint8).argsort(dim=1, stable=True)[:, :has.shape[1] * min(2, self.per_site)]
        x = self.sums(y, own, ~own).flatten(1, 2)                                                              # (B, 2 L, D)
        group, keys = padded_groups(order % 2 == 0, count), padded_keys(enters.flatten(1).gather(1, order), count)
        groups = (dense if self.config.masks_alone else grouping)(group, keys)

        places, registers = self.rotation(has.shape[1]), torch.arange(count, device=order.device)
        positions = torch.cat([registers.expand(len(order), -1), order // 2 + count], 1)                       # (B, M)
        packed = self.behind_registers(x.gather(1, order[..., None].expand(-1, -1, x.shape[-1])), registers)
        at = places.at(groups.tokens.arrange(positions))
        states = self.encoded(groups.tokens.arrange(packed), at, condition, groups.own)
        rest = self._beside(x, groups.tokens.restore(states)[:, count:], order, has.flatten(1))
        memory = Memory(states, at, groups.queries.arrange(nn.functional.pad(rest, (0, 0, count, 0))))
        found = self.answers(memory, groups.queries.arrange(positions), places, condition, groups.other)
        found = groups.queries.restore(found)[:, count:]
        out = found.new_zeros(len(x), x.shape[1], found.shape[-1]).scatter(1, order[..., None].expand_as(found), found)
        return out.unflatten(1, (-1, 2)) * has[..., None]

    def _beside(self, x: Float[Tensor, "B n D"], states: Float[Tensor, "B W D"], order: Int[Tensor, "B W"],
                has: Bool[Tensor, "B n"]) -> Float[Tensor, "B W D"]:
        """What each element's query is handed of the rest of its token: of the encoder, or (late fusion) of the table."""
        index = (order ^ 1)[..., None].expand(-1, -1, x.shape[-1])
        source = x if self.config.fusion == "late" else torch.zeros_like(x).scatter(1, order[..., None].expand_as(states), states)
        return source.gather(1, index) * has.gather(1, order ^ 1)[..., None]

    def hidden_of_digits(self, digits: Int[Tensor, "B S"], known: Bool[Tensor, "B S"], *, cond: Int[Tensor, " B"] | None = None,
                         t: Float[Tensor, " B"] | None = None, present: Bool[Tensor, "B S"] | None = None,
                         grouping: Grouping = dense) -> Float[Tensor, "B L D"]:
        """The states that predict what is not known; at sites that are known whole, what the other group says of them."""
        both = self.hidden_of_digit_groups(digits, known, cond=cond, t=t, present=present, grouping=grouping)
        whole = known.unflatten(1, (-1, self.per_site)).all(-1)
        return torch.where(whole[..., None], both[:, :, 0], both[:, :, 1])

    def predictor(self, cond: Int[Tensor, " B"] | None = None) -> Predictor:
        return DigitPartitionPredictor(self, cond)

    def full_predictor(self, cond: Int[Tensor, " B"] | None = None) -> Predictor:
        """A training forward per step: the reference that `predictor` equals."""
        return FullPredictor(self, cond, self.hidden_of_digits)


class DigitPartitionPredictor:
    """Encodes what is known of every site, whole or in part, and answers the queries of the sites that are asked for."""

    def __init__(self, model: PrimePartitionTransformer, cond: Int[Tensor, " B"] | None = None):
        self.model, self.head, self.allowed, self.labels = model, model.head, model.allowed, model.labels_of(cond)

    def __call__(self, canvas: Canvas, sites: Sites, step: Step) -> Float[Tensor, "B Q D"]:
        self.model.check_canvas(canvas)
        return on_rows(step, canvas, sites, lambda rows: self.rows(canvas, sites, step, rows))

    def rows(self, canvas: Canvas, sites: Sites, step: Step, rows: Tensor | None) -> Float[Tensor, "R Q D"]:
        model, count = self.model, self.model.config.registers
        digits, known = (pick_rows(x, rows).unflatten(1, (-1, model.per_site)) for x in (canvas.tokens, canvas.known))
        index = pick_rows(sites.index, rows)
        length, most = known.shape[1], canvas.most // (model.per_site if model.config.fusion == "late" else 1)
        held = Sites.of(model.enters(known), max(1, min(length, most)))
        condition = model.condition_at(step.noise_level(rows, digits), pick_labels(self.labels, rows))
        x = model.sums(digits, known)[:, :, 0]                                                # (R, L, D)
        places, ahead = model.rotation(length), torch.arange(count // 2, count, device=known.device)         # the registers of group 0
        at = places.at(torch.cat([ahead.expand(len(known), -1), held.index + count], 1))
        attend = Masked(padded_keys(held.valid, count // 2)[:, None, None])
        states = model.encoded(model.behind_registers(held.take(x), ahead), at, condition, attend)
        asked = Sites(index, torch.ones_like(index, dtype=torch.bool))
        memory = Memory(states, at, asked.take(x if model.config.fusion == "late" else self._by_site(states[:, count // 2:], held, length)))
        return model.answers(memory, index + count, places, condition, attend)

    @staticmethod
    def _by_site(states: Float[Tensor, "R n D"], held: Sites, length: int) -> Float[Tensor, "R L D"]:
        """Zeros where nothing is held."""
        by_site = states.new_zeros(len(states), length + 1, states.shape[-1])
        place = torch.where(held.valid, held.index, length)[..., None].expand_as(states)
        return by_site.scatter(1, place, states)[:, :length]


def padded_groups(group: Bool[Tensor, "B W"], count: int) -> Bool[Tensor, "B n"]:
    """With the registers in front: the first half in group 1, the second in group 0."""
    own = torch.arange(count, device=group.device) >= count // 2
    return torch.cat([own.expand(len(group), -1), group], 1)


def padded_keys(keys: Bool[Tensor, "B W"], count: int) -> Bool[Tensor, "B n"]:
    """With the registers in front, which are always there."""
    return nn.functional.pad(keys, (count, 0), value=True)
