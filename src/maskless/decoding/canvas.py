"""What is known of a batch of sequences, and in which order it became known.

B rows, L sites of a row, Q queried sites. Buffers are (B, L + 1): entries that are not valid are written to the last column.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Sites:
    """Some sites of every row; a row may hold fewer than Q of them (`valid` is False on the rest, whose `index` means nothing)."""

    index: Int[Tensor, "B Q"]
    valid: Bool[Tensor, "B Q"]

    @staticmethod
    def of(mask: Bool[Tensor, "B L"], width: int, rank: Tensor | None = None) -> Sites:
        """The sites set in `mask`, lowest `rank` (B, L) first (lowest position without one), at most `width` per row."""
        if rank is None:
            index = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
        else:
            low, high = rank.argsort(dim=1, stable=True), (~mask).to(torch.uint8)
            index = low.gather(1, high.gather(1, low).argsort(dim=1, stable=True))[:, :width]
        return Sites(index, mask.gather(1, index))

    def take(self, values: Shaped[Tensor, "B L ..."]) -> Shaped[Tensor, "B Q ..."]:
        """values[b, index[b, q]]."""
        index = self.index.reshape(*self.index.shape, *[1] * (values.dim() - 2))
        return values.gather(1, index.expand(*self.index.shape, *values.shape[2:]))

    def doubled(self) -> Sites:
        return Sites(self.index.repeat(2, 1), self.valid.repeat(2, 1))


Allowed = Bool[Tensor, " V"] | Callable[[slice], Bool[Tensor, "n V"]]
"""The ids that may be drawn: the same at all sites, or of the sites in a slice of the flattened (B * Q)."""


def allowed_at(allowed: Allowed | None, span: slice) -> Bool[Tensor, "... V"] | None:
    """Of the sites in a slice of the flattened (B * Q)."""
    return allowed if allowed is None or isinstance(allowed, Tensor) else allowed(span)


class BySite(NamedTuple):
    """A canvas site by site; `tokens` mean something where `known`, which says that all of a site is."""

    tokens: Int[Tensor, "B L"]
    known: Bool[Tensor, "B L"]
    present: Bool[Tensor, "B L"]


@dataclass(frozen=True)
class Intact:
    """How many log entries of each row a `forget` left as they were: up to the first that went, and up to the start of its commit."""

    entries: list[int]
    commits: list[int]

    def doubled(self, skip: Sequence[int]) -> Intact:
        return Intact(*([*kept, *(n - s for n, s in zip(kept, skip))] for kept in (self.entries, self.commits)))


def _spare(x: Tensor) -> Tensor:
    """One more column, the bin of invalid entries."""
    return torch.cat([x, x.new_zeros(len(x), 1)], 1)


def _write(buffer: Tensor, index: Tensor, value: Tensor, valid: Tensor) -> None:
    """buffer[b, index[b, q]] = value[b, q] where valid; the rest goes to the bin."""
    buffer.scatter_(1, torch.where(valid, index, buffer.shape[1] - 1), value)


class Canvas:
    """The state of a decode. Models read it, the loop commits to it, and neither keeps books of its own.

    What is committed are slots. Here a slot is a site; a `DigitCanvas` has several slots a site, and its L is their number.

    `log[b, :count[b]]` are the known sites of row b, oldest first: the anchors, then the prompt in reading order, then commit after
    commit. `born` says at which commit each log entry was made (anchors 0, prompt 1). `least[b] <= count[b] <= greatest[b]` are known
    to the host, so that the loop never waits for the device.

    Args:
        tokens: (B, L) token ids; read where `known`.
        known: (B, L) True at anchors and prompts.
        present: (B, L) False at sites a row does not have; all True if None.
        anchor: (B, L) True at known sites that belong to the form rather than to the prompt (BOS); they are never forgotten.

    Raises:
        ValueError: if a known site is absent or an anchor is not known.

    Example:
        >>> canvas = Canvas(torch.tensor([[7, 0, 5, 0]]), torch.tensor([[True, False, True, False]]))
        >>> canvas.log[0, :canvas.count[0]].tolist(), canvas.fewest
        ([0, 2], 2)
    """

    per_site: int = 1                                               # slots of a site

    def __init__(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"], *, present: Bool[Tensor, "B L"] | None = None,
                 anchor: Bool[Tensor, "B L"] | None = None):
        present = torch.ones_like(known) if present is None else present
        anchor = torch.zeros_like(known) if anchor is None else anchor
        if bool((known & ~present).any() | (anchor & ~known).any()):
            raise ValueError("a known site is absent or an anchor is not known; every anchor must be known and every known site present")
        self.present, self.anchor, self.prompt = present, anchor, known & ~anchor
        self._tokens, self._known = _spare(tokens.clone()), _spare(known)
        self._log = _spare((2 - known.long() - anchor.long()).argsort(dim=1, stable=True))
        born = self.prompt.long().gather(1, self._log[:, :-1])
        self._born = _spare(born)
        self.count = known.sum(1)
        self.commits, self.revision = 1, 0
        self.limits: tuple[Tensor, Tensor] | None = None            # `limit`
        self.intact: list[Intact] = []                              # one for each revision: what caches may keep
        self.whole = bool(present.all())                            # every row has every site: no mask for absent ones
        self.prompt_counts: list[int] = self.prompt.sum(1).tolist()
        self.trouble = torch.zeros((), dtype=torch.bool)            # set on the device, read once after the loop
        self._read_host()

    tokens = property(lambda self: self._tokens[:, :-1])
    known = property(lambda self: self._known[:, :-1])
    log = property(lambda self: self._log[:, :-1])
    born = property(lambda self: self._born[:, :-1])
    unknown = property(lambda self: self.present & ~self._known[:, :-1])
    rows = property(lambda self: self._tokens.shape[0])
    length = property(lambda self: self._tokens.shape[1] - 1)
    fewest = property(lambda self: min(self.least))
    most = property(lambda self: max(self.greatest))

    def _read_host(self) -> None:
        """The only place where the host reads the canvas: at the start, and once per step for orders whose counts depend on tokens."""
        both = torch.cat([self.unknown.to(torch.int64), self.count[:, None]], 1).cpu()
        self.open = both[:, :-1].bool()                             # (B, L) on the host, true when last read
        self.least = both[:, -1].tolist()
        self.greatest = list(self.least)

    look = _read_host

    def to(self, device: torch.device | str) -> Canvas:
        """Move the tensors (not the host's copy) in place."""
        for name in ("present", "anchor", "prompt", "_tokens", "_known", "_log", "_born", "count", "trouble"):
            setattr(self, name, getattr(self, name).to(device))
        if self.limits is not None:
            self.limit(*(limit.to(device) for limit in self.limits))
        return self

    # -- sites and slots: the same, for whole tokens --------------------------------------------------------------------------------------------

    def by_site(self) -> BySite:
        """Tokens, known and present of the sites."""
        return BySite(self.tokens, self.known, self.present)

    def another(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"], **named: Tensor) -> Canvas:
        """A canvas of the same kind with other sites."""
        return Canvas(tokens, known, **named)

    def lift(self, slots: Sites) -> Sites:
        """The sites that hold `slots`."""
        return slots

    def drawn(self, slots: Sites, sites: Sites) -> Sites:
        """What each draw belongs to, and so its noise."""
        return sites

    def limit(self, where: Bool[Tensor, "B L"], ids: Bool[Tensor, " V"]) -> None:
        """From now on, only `ids` may be drawn at the sites (not slots) that are set in `where`; the others are free."""
        self.limits = where, ids

    def restrict(self, allowed: Bool[Tensor, " V"] | None, sites: Sites) -> Allowed | None:
        """The ids that may be drawn at `sites`."""
        if self.limits is None:
            return allowed
        where, ids = self.limits
        free = ~(sites.take(where) & sites.valid).flatten()

        def of(span: slice) -> Bool[Tensor, "n V"]:
            fits = ids | free[span, None]
            return fits if allowed is None else fits & allowed
        return of

    def spread(self, values: Shaped[Tensor, "B n"], sites: Sites, slots: Sites) -> Shaped[Tensor, "B Q"]:
        """What was found at `sites` = lift(slots), slot by slot."""
        return values

    def written(self, tokens: Int[Tensor, "B Q"], slots: Sites) -> Int[Tensor, "B Q"]:
        """What a token puts into each slot."""
        return tokens

    # -- changes -------------------------------------------------------------------------------------------------------------------------------

    def commit(self, sites: Sites, tokens: Int[Tensor, "B Q"], kept: Bool[Tensor, "B Q"], counts: Sequence[int] | None) -> None:
        """Make the kept sites known. `counts` says how many per row where the host knows; None where tokens decide."""
        slot = self.count[:, None] + kept.cumsum(1) - 1
        self.commits += 1
        _write(self._log, slot, sites.index, kept)
        _write(self._born, slot, torch.full_like(slot, self.commits), kept)
        _write(self._tokens, sites.index, tokens, kept)
        _write(self._known, sites.index, kept, kept)
        self.count = self.count + kept.sum(1)
        width = sites.index.shape[1]
        self.greatest = [min(self.length, high + (width if counts is None else counts[b])) for b, high in enumerate(self.greatest)]
        if counts is not None:
            self.least = [low + more for low, more in zip(self.least, counts)]

    def forget(self, mask: Bool[Tensor, "B L"]) -> None:
        """Make known sites unknown again (remasking, correctors); anchors and prompts stay. The order of what remains is kept."""
        gone = mask & self.known & ~self.anchor & ~self.prompt
        entry = torch.arange(self.length, device=gone.device) < self.count[:, None]
        stays = entry & ~gone.gather(1, self.log)
        self.intact.append(self._intact(entry & ~stays))
        order = (~stays).to(torch.uint8).argsort(dim=1, stable=True)
        self._log, self._born = _spare(self.log.gather(1, order)), _spare(self.born.gather(1, order))
        self._known = _spare(self.known & ~gone)
        self.count = stays.sum(1)
        self.revision += 1
        self.look()

    def _intact(self, gone: Bool[Tensor, "B L"]) -> Intact:
        first = torch.where(gone.any(1), gone.long().argmax(1), self.count)                    # (B,)
        commit = self._born.gather(1, first[:, None])
        entry = torch.arange(self.length, device=gone.device) < self.count[:, None]
        start = torch.where(gone.any(1), ((self.born < commit) & entry).sum(1), self.count)
        return Intact(*torch.stack([first, start]).tolist())

    def arrange_prompt(self, rank: Float[Tensor, "B L"]) -> None:
        """Log the prompt in ascending order of `rank`, numbers in [0, 1) by site, instead of in reading order."""
        at = torch.arange(self.length, device=rank.device).expand(self.rows, -1)
        prompted = self.prompt.gather(1, self.log) & (at < self.count[:, None])
        anchors = self.anchor.sum(1, keepdim=True)
        key = torch.where(prompted, anchors + rank.gather(1, self.log), torch.where(at < anchors, at, at + 1))
        self._log = _spare(self.log.gather(1, key.argsort(dim=1, stable=True)))

    def stop_at(self, eos: int) -> None:
        """Once a generated `eos` is known and everything left of it too, the sites after it become absent."""
        settled = (self.known | ~self.present).cumprod(1).bool()
        ends = settled & (self.tokens == eos) & ~self.anchor & ~self.prompt
        after = ends.cumsum(1) - ends.long() > 0
        self.present = self.present & ~after

    def doubled(self, forget_prompt: bool = False) -> Canvas:
        """The canvas twice, rows [conditional; unconditional]; the second half may forget the prompt (and keeps its anchors)."""
        two = object.__new__(type(self))
        two.__dict__.update(self.__dict__)
        halves = {name: getattr(self, name) for name in ("_known", "_log", "_born", "count")}
        least, greatest = self.least, self.greatest
        if forget_prompt:
            skip = self.prompt.sum(1)
            start = self.anchor.sum(1, keepdim=True)
            at = torch.arange(self.length + 1, device=skip.device).expand(self.rows, -1)
            at = torch.where(at < start, at, (at + skip[:, None]).clamp(max=self.length))
            halves = {"_known": self._known & ~_spare(self.prompt), "_log": self._log.gather(1, at),
                      "_born": self._born.gather(1, at), "count": self.count - skip}
            least = [low - n for low, n in zip(self.least, self.prompt_counts)]
            greatest = [high - n for high, n in zip(self.greatest, self.prompt_counts)]
        for name, second in halves.items():
            setattr(two, name, torch.cat([getattr(self, name), second]))
        for name in ("present", "anchor", "prompt", "_tokens"):
            setattr(two, name, getattr(self, name).repeat(2, 1))
        two.intact = [kept.doubled(self.prompt_counts if forget_prompt else [0] * self.rows) for kept in self.intact]
        two.least, two.greatest = [*self.least, *least], [*self.greatest, *greatest]
        return two
