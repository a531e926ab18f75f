"""MDM-Prime (Chao et al. 2025, arXiv 2505.18495; v2: arXiv 2603.16077): MDLM's transformer over tokens of which some digits may be known.

B rows, L sites, l digits of a site (`digits`), S = L l slots (slot i l + j is digit j of site i), b base, D width, V vocabulary, C width of
the condition.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskless.decoding.canvas import Canvas
from maskless.decoding.decode import Predictor
from maskless.decoding.digits import DigitCanvas
from maskless.layers.embedding import TokenEmbedding
from maskless.models.base import Denoiser, FullPredictor, check_conditions, check_grid
from maskless.models.masked import Bidirectional
from maskless.subtokens import SubTokenCode, smallest_base

CodeName = Literal["digits", "shuffled"]
Merge = Literal["concatenate", "sum"]
Tables = Literal["shared", "separate"]


@dataclass(frozen=True)
class PrimeConfig:
    """Sizes of a `PrimeTransformer`; the defaults are the published model of text with l = 2.

    Args:
        digits: l. With 1 the model is MDLM.
        base: b; 0 for the smallest that holds the vocabulary.
        code: the digits of the ids ("digits"), or of ids shuffled over all b^l numbers ("shuffled", v2). A model can be given any other code
            before it is trained (`recode`); the code is stored with its weights.
        code_seed: of the shuffle.
        merge: "concatenate": digits have vectors of width D / l, joined (v1); "sum": of width D, added (v2).
        tables: "shared": one table for all digits (v1); "separate": one for each (v2).
        cond_dim: width of the condition; 0 builds blocks without modulation.
        forbidden: ids that are never drawn.
        norm_bias: set by folding (`models.fold`).
        classes, positions, grid: as for a `PartitionConfig`.

    Raises:
        ValueError: sizes that do not fit, or a sum from one shared table, which could not tell digits from each other.

    Example:
        >>> from maskless.models import build
        >>> with torch.device("meta"):
        ...     model = build(PrimeConfig(vocab_size=50257))
        >>> f"{model.parameter_count():,}"
        '131,115,089'
    """

    vocab_size: int
    digits: int = 2
    base: int = 0
    code: CodeName = "digits"
    code_seed: int = 0
    merge: Merge = "concatenate"
    tables: Tables = "shared"
    length: int = 1024
    width: int = 768
    heads: int = 12
    layers: int = 12
    cond_dim: int = 128
    dropout: float = 0.1
    forbidden: tuple[int, ...] = ()
    time_conditioned: bool = False
    norm_bias: bool = False
    classes: int = 0
    positions: Literal["line", "axial"] = "line"
    grid: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_conditions(self)
        check_grid(self)
        for name, value, names in (("code", self.code, CodeName), ("merge", self.merge, Merge), ("tables", self.tables, Tables)):
            if value not in get_args(names):
                raise ValueError(f"{name} {value!r} is not known; choose {', '.join(get_args(names))}")
        if self.digits < 1 or self.base < 0:
            raise ValueError(f"digits is {self.digits} and base {self.base}; give at least 1 digit, and a base of at least 2 (0: the smallest)")
        if self.merge == "concatenate" and self.width % self.digits:
            raise ValueError(f"width {self.width} is no multiple of {self.digits} digits, whose vectors are joined; "
                             "change width or digits, or set merge=sum")
        if self.merge == "sum" and self.tables == "shared" and self.digits > 1:
            raise ValueError("merge is sum and tables is shared: 1 2 and 2 1 would be the same; set tables=separate")


def base_of(config: Any) -> int:
    """b of a configuration: what it says, or the smallest that its digits write the vocabulary in."""
    return config.base or max(2, smallest_base(config.vocab_size, config.digits))


def code_of(config: Any) -> SubTokenCode:
    """The code that a configuration describes by vocab_size, digits, base, code and code_seed."""
    base = base_of(config)
    if config.code == "shuffled":
        return SubTokenCode.shuffled(config.vocab_size, config.digits, seed=config.code_seed, base=base)
    return SubTokenCode.digits(config.vocab_size, config.digits, base)


class WrittenInDigits(Denoiser):
    """A model that reads tokens as digits of which some may be known.

    The law of a site is joint over its digits and factorised over sites. It is not filtered by the digits that are known: losses and
    canvases do that.
    """

    table: Tensor
    base: int

    def write_in(self, code: SubTokenCode) -> None:
        """The code that tokens are written in, when the model is made."""
        self.base = code.base
        self.register_buffer("table", code.table)

    @property
    def per_site(self) -> int:
        return self.config.digits

    @property
    def code(self) -> SubTokenCode:
        """How this model writes tokens."""
        return SubTokenCode(self.table, self.base)

    @torch.no_grad()
    def recode(self, code: SubTokenCode) -> WrittenInDigits:
        """Write tokens in another code from now on (a cluster tree, say); what was learned of the old one means nothing then.

        Raises:
            ValueError: a code of other sizes.
        """
        if code.table.shape != self.table.shape or code.base != self.base:
            raise ValueError(f"the code has {code.classes} classes, {code.length} digits and base {code.base}; the model {len(self.table)}, "
                             f"{self.per_site} and {self.base}: make one that fits (SubTokenCode.given(table, base={self.base}))")
        self.table.copy_(code.table)
        return self

    def hidden_of_digits(self, digits: Int[Tensor, "B S"], known: Bool[Tensor, "B S"], *, cond: Int[Tensor, " B"] | None = None,
                         t: Float[Tensor, " B"] | None = None, present: Bool[Tensor, "B S"] | None = None) -> Float[Tensor, "B L D"]:
        """`hidden`, where single digits are known.

        Args:
            digits: in [0, b); what stands where a digit is not known is not read.
            known, present: of every slot; a site is present with all its slots or not at all.
        """
        raise NotImplementedError

    def hidden(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"], *, cond: Int[Tensor, " B"] | None = None,
               t: Float[Tensor, " B"] | None = None, present: Bool[Tensor, "B L"] | None = None) -> Float[Tensor, "B L D"]:
        """Whole tokens are known, or none of their digits."""
        seen, there = (None if x is None else x.repeat_interleave(self.per_site, 1) for x in (known, present))
        assert seen is not None
        return self.hidden_of_digits(self.table[tokens].flatten(1), seen, cond=cond, t=t, present=there)

    def canvas(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"], *, present: Bool[Tensor, "B L"] | None = None,
               anchor: Bool[Tensor, "B L"] | None = None) -> Canvas:
        """A `DigitCanvas` with the joint draw and the filter; make one of your own (`DigitCanvas`, `.of_digits`) for other draws."""
        return DigitCanvas(tokens, known, code=self.code.to(tokens.device), present=present, anchor=anchor)


class OverDigits(WrittenInDigits):
    """What the networks of MDM-Prime have in common: a full-length pass a call."""

    def predictor(self, cond: Int[Tensor, " B"] | None = None) -> Predictor:
        return FullPredictor(self, cond, self.hidden_of_digits)


class FromTables(OverDigits):
    """A network that looks digits up in tables: the input of slot (i, j) is row y of the table, y = b where the digit is not known."""

    def add_table(self, config: Any) -> None:
        """Make the code and the tables of a configuration that says `merge` and `tables`."""
        self.write_in(code_of(config))
        rows = (self.base + 1) * (config.digits if config.tables == "separate" else 1)
        self.embedding = TokenEmbedding(rows, config.width // config.digits if config.merge == "concatenate" else config.width)

    def embed(self, digits: Int[Tensor, "B S"], known: Bool[Tensor, "B S"]) -> Float[Tensor, "B L D"]:
        ids = torch.where(known, digits, self.base).unflatten(1, (-1, self.per_site))        # (B, L, l)
        if self.config.tables == "separate":
            ids = ids + (self.base + 1) * torch.arange(self.per_site, device=ids.device)
        vectors = self.embedding(ids)
        return vectors.flatten(2) if self.config.merge == "concatenate" else vectors.sum(2)

    def sites(self, present: Bool[Tensor, "B S"] | None) -> Bool[Tensor, "B L"] | None:
        """Which sites there are, of slots."""
        return None if present is None else present[:, ::self.per_site]


class PrimeTransformer(FromTables, Bidirectional):
    """p(x_i | known digits) for every site: L positions pass the network, whatever l is; the head has V outputs and no [MASK].

    | part | initialisation |
    |---|---|
    | tables | uniform in +-1/sqrt(width of a digit) |
    | adaLN, head | zero: blocks pass their input on, laws are uniform |
    | everything else | torch's default |
    """

    def __init__(self, config: PrimeConfig):
        super().__init__()
        self.config = config
        self.add_table(config)
        self.add_trunk(config)

    def hidden_of_digits(self, digits: Int[Tensor, "B S"], known: Bool[Tensor, "B S"], *, cond: Int[Tensor, " B"] | None = None,
                         t: Float[Tensor, " B"] | None = None, present: Bool[Tensor, "B S"] | None = None) -> Float[Tensor, "B L D"]:
        return self.through(self.embed(digits, known), self.condition_at(t, cond), self.sites(present))
