"""The canvas of partial masking: tokens written as digits, of which some may be known (MDM-Prime, arXiv 2505.18495).

    site         0          1          2
    slots      0   1      2   3      4   5         slot i l + j is digit j of site i
    known      4   1      2   .      .   .         site 0 is whole, site 1 half known, site 2 open

The loop, the plans and the orders see slots. A token is drawn for each site that holds a slot to reveal, from the law over the V classes
that agree with the site's known digits, and its digits go into those slots: the joint draw.

B rows, L sites, l digits, S = L l slots, Q queried, V classes.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from maskless.decoding.canvas import Allowed, BySite, Canvas, Sites, allowed_at
from maskless.decoding.noise import ORDER, Noise
from maskless.decoding.order import Planned
from maskless.subtokens import SubTokenCode

CHUNK = 1 << 24                         # numbers of a mask held at once while a canvas is checked


class DigitCanvas(Canvas):
    """What is known of the digits of a batch of sequences.

    With the joint draw and the filter, as by default, no code without a class can come to be: the token drawn last for a site is the
    witness. Factorised digits and unfiltered laws can make one; it is read as the class of the nearest number below, and `invalid` counts it.

    Args:
        tokens: (B, L) token ids; read where `known`.
        known: (B, L) True at anchors and prompts.
        code: how tokens are written.
        present, anchor: as for a `Canvas`, by site.
        filter_observed: draw only classes that agree with a site's known digits, in models trained with or without that. False as in
            the released samplers, with `carry_over` off.
        factorised: draw every slot by itself, from the marginal of its digit, instead of one token for all slots of a site.

    Raises:
        ValueError: as `Canvas`.

    Example:
        >>> code = SubTokenCode.digits(50, 2)
        >>> canvas = DigitCanvas(torch.tensor([[49, 0]]), torch.tensor([[True, False]]), code=code)
        >>> canvas.tokens.tolist(), canvas.known.tolist(), canvas.length
        ([[6, 1, 0, 0]], [[True, True, False, False]], 4)
    """

    def __init__(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"], *, code: SubTokenCode, present: Bool[Tensor, "B L"] | None = None,
                 anchor: Bool[Tensor, "B L"] | None = None, filter_observed: bool = True, factorised: bool = False):
        digits = code.encode(tokens.masked_fill(~known, 0)).masked_fill(~known[..., None], 0)
        self._open(digits, known[..., None].expand_as(digits), code, present, anchor)
        self.filter_observed, self.factorised = filter_observed, factorised

    @staticmethod
    def of_digits(digits: Int[Tensor, "B L l"], known: Bool[Tensor, "B L l"], *, code: SubTokenCode, present: Bool[Tensor, "B L"] | None = None,
                  anchor: Bool[Tensor, "B L"] | None = None, filter_observed: bool = True, factorised: bool = False,
                  allowed: Bool[Tensor, " V"] | None = None) -> DigitCanvas:
        """A canvas on which single digits are known (imputation).

        Args:
            allowed: the classes that may be drawn (`Denoiser.allowed`); None: all.

        Raises:
            ValueError: digits out of range, or known digits of a site that no class has, or none that may be drawn.
        """
        digits = digits.masked_fill(~known, 0)
        if bool(((digits < 0) | (digits >= code.base)).any()):
            raise ValueError(f"digits go from {int(digits.min())} to {int(digits.max())}; in base {code.base} they lie in 0..{code.base - 1}")
        _check_possible(digits, known, code, allowed)
        canvas = object.__new__(DigitCanvas)
        canvas._open(digits, known, code, present, anchor)
        canvas.filter_observed, canvas.factorised = filter_observed, factorised
        return canvas

    def _open(self, digits: Tensor, known: Tensor, code: SubTokenCode, present: Tensor | None, anchor: Tensor | None) -> None:
        self.code = code.to(digits.device)
        self.per_site = code.length

        def by_slot(sites: Tensor | None) -> Tensor | None:
            return None if sites is None else sites.repeat_interleave(code.length, 1)
        super().__init__(digits.flatten(1), known.flatten(1), present=by_slot(present), anchor=by_slot(anchor))

    def to(self, device: torch.device | str) -> DigitCanvas:
        super().to(device)
        self.code = self.code.to(self.count.device)
        return self

    def _of_sites(self, slots: Shaped[Tensor, "B S"]) -> Shaped[Tensor, "B L l"]:
        return slots.unflatten(1, (-1, self.per_site))

    def by_site(self) -> BySite:
        tokens, _ = self.code.decode(self._of_sites(self.tokens))
        return BySite(tokens, self._of_sites(self.known).all(-1), self._of_sites(self.present).all(-1))

    @property
    def invalid(self) -> Bool[Tensor, "B L"]:
        """Sites whose digits are all known and the code of no class."""
        return self._of_sites(self.known).all(-1) & ~self.code.decode(self._of_sites(self.tokens))[1]

    def another(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"], **named: Any) -> DigitCanvas:
        code = self.code.to(tokens.device)
        return DigitCanvas(tokens, known, code=code, filter_observed=self.filter_observed, factorised=self.factorised, **named)

    # -- sites and slots -------------------------------------------------------------------------------------------------------------------------

    def lift(self, slots: Sites) -> Sites:
        """The sites of the slots, each once; of factorised digits as often as they have slots."""
        if self.per_site == 1:
            return slots
        sites = slots.index // self.per_site
        if self.factorised:
            return Sites(sites, slots.valid)
        length = self.length // self.per_site
        held = torch.zeros(self.rows, length + 1, dtype=torch.bool, device=sites.device)
        held.scatter_(1, torch.where(slots.valid, sites, length), slots.valid)
        return Sites.of(held[:, :-1], min(length, sites.shape[1]))

    def drawn(self, slots: Sites, sites: Sites) -> Sites:
        return slots if self.factorised else sites

    def restrict(self, allowed: Bool[Tensor, " V"] | None, sites: Sites) -> Allowed | None:
        """The classes that agree with the known digits of each site; all that are allowed where factorised digits left none."""
        rest = super().restrict(allowed, sites)
        if not self.filter_observed or self.per_site == 1:
            return rest
        digits, known = (sites.take(self._of_sites(x)) for x in (self.tokens, self.known))
        digits, known = digits.flatten(0, 1), (known & sites.valid[..., None]).flatten(0, 1)        # the rest may stand at any site

        def of(span: slice) -> Bool[Tensor, "n V"]:
            fits, others = self.code.consistent(digits[span], known[span]), allowed_at(rest, span)
            both = fits if others is None else fits & others
            if not self.factorised:
                return both
            none = ~both.any(1, keepdim=True)
            return both | none if others is None else both | (none & others)
        return of

    def spread(self, values: Shaped[Tensor, "B n"], sites: Sites, slots: Sites) -> Shaped[Tensor, "B Q"]:
        if self.per_site == 1 or self.factorised:
            return values
        place = torch.zeros(self.rows, self.length // self.per_site + 1, dtype=torch.int64, device=values.device)
        at = torch.arange(sites.index.shape[1], device=values.device).expand_as(sites.index)
        place.scatter_(1, torch.where(sites.valid, sites.index, place.shape[1] - 1), at)
        return values.gather(1, place.gather(1, slots.index // self.per_site))

    def written(self, tokens: Int[Tensor, "B Q"], slots: Sites) -> Int[Tensor, "B Q"]:
        digits = self.code.table[tokens.clamp(max=self.code.classes - 1)]                    # (B, Q, l); a law of NaN may give any id
        return digits.gather(2, (slots.index % self.per_site)[..., None])[..., 0]

    def stop_at(self, eos: int) -> None:
        tokens, known, present = self.by_site()
        settled = (known | ~present).cumprod(1).bool()
        given = self._of_sites(self.anchor | self.prompt).all(-1)
        ends = settled & (tokens == eos) & known & ~given
        after = ends.cumsum(1) - ends.long() > 0
        self.present = self.present & ~after.repeat_interleave(self.per_site, 1)


@dataclass(frozen=True)
class DigitDraw:
    """How digits become known; see `DigitCanvas`, whose words these are.

    Args:
        factorised: every digit from its own marginal, not one token for all digits of a site.
        filter_observed: draw only classes that agree with the known digits.
    """

    factorised: bool = False
    filter_observed: bool = True

    def prepare(self, canvas: Canvas) -> None:
        """Let a canvas be filled in this way.

        Raises:
            ValueError: a canvas of whole tokens.
        """
        _check_digits(canvas, "factorised_digits" if self.factorised else "filter_observed")
        assert isinstance(canvas, DigitCanvas)
        canvas.factorised, canvas.filter_observed = self.factorised, self.filter_observed


def _check_digits(canvas: Canvas, asked: str) -> None:
    """Raise ValueError for a canvas of whole tokens, to which what was `asked` says nothing."""
    if not isinstance(canvas, DigitCanvas):
        said = "order goes by digits" if asked == "order" else f"{asked} was set"
        raise ValueError(f"{said}, which is of models that write tokens in digits (Prime), and this one does not; leave it out")


def _check_possible(digits: Int[Tensor, "B L l"], known: Bool[Tensor, "B L l"], code: SubTokenCode, allowed: Bool[Tensor, " V"] | None) -> None:
    """Raises ValueError for known digits that no class has, or only forbidden ones where digits are to be drawn; each pattern is looked at once."""
    some = known.any(-1)
    key = torch.where(known, digits, code.base)
    patterns = key[some].unique(dim=0)
    for part in patterns.split(max(1, CHUNK // code.classes)):
        fits, open_ones = code.consistent(part.clamp(max=code.base - 1), part < code.base), (part == code.base).any(1, keepdim=True)
        left = fits.any(1) if allowed is None else (fits & (allowed | ~open_ones)).any(1)
        if not bool(left.all()):
            bad = part[int((~left).long().argmax())]
            row, site = ((key == bad).all(-1)).nonzero()[0].tolist()
            shown = " ".join("_" if digit == code.base else str(digit) for digit in bad.tolist())
            classes = f"{code.classes} classes" if allowed is None else f"{int(allowed.sum())} classes that may be drawn"
            raise ValueError(f"row {row}, site {site}: none of the {classes} has the digits {shown} (_ is not known); "
                             "give digits of a class, or fewer of them")


@dataclass(frozen=True)
class TokenByToken(Planned):
    """Sites in random order, the digits of each one after the other: at most two tokens are half known, as few as can be.

    Example:
        >>> code = SubTokenCode.digits(9, 2)
        >>> canvas = DigitCanvas(torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.bool), code=code)
        >>> (TokenByToken().start(canvas, [], Noise.of(0, 1)).sites[0] % 2).tolist()
        [0, 1, 0, 1, 0, 1]
    """

    def key(self, canvas: Canvas, noise: Noise) -> Float[Tensor, "B S"]:
        return noise.at(ORDER, 0, torch.arange(canvas.length, device=canvas.count.device)[None] // canvas.per_site)


@dataclass(frozen=True)
class CoarseFirst(Planned):
    """All first digits in random order, then all second ones, ...: the coarse before the fine, where a code means that.

    Example:
        >>> code = SubTokenCode.digits(9, 2)
        >>> canvas = DigitCanvas(torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.bool), code=code)
        >>> (CoarseFirst().start(canvas, [], Noise.of(0, 1)).sites[0] % 2).tolist()
        [0, 0, 0, 1, 1, 1]
    """

    def key(self, canvas: Canvas, noise: Noise) -> Float[Tensor, "B S"]:
        _check_digits(canvas, "order")
        slot = torch.arange(canvas.length, device=canvas.count.device)[None]
        return slot % canvas.per_site + noise.at(ORDER, 0, slot)
