"""Texts with gaps: `The ___ sat on the ___{12}.`"""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from numbers import Integral, Number
from typing import Any

from maskless.data.tokenizer import Tokenizer

GAP = re.compile(r"___(?:\{(\d+)\})?")


@dataclass(frozen=True)
class Template:
    """Pieces of text with a gap after each but the last; `sizes[i]` is the length in tokens that gap i states, or None."""

    pieces: tuple[str, ...]
    sizes: tuple[int | None, ...]

    @staticmethod
    def parse(text: str) -> Template:
        """Split at `___` and `___{n}`.

        Raises:
            ValueError: if there is no gap or a gap of no tokens.
        """
        gaps = list(GAP.finditer(text))
        if not gaps:
            raise ValueError(f"the text {_short(text)} has no gap; write ___ or ___{{12}} where tokens are missing")
        edges = [0, *(edge for gap in gaps for edge in gap.span()), len(text)]
        sizes = tuple(int(gap[1]) if gap[1] else None for gap in gaps)
        if 0 in sizes:
            raise ValueError(f"the text {_short(text)} has a gap of 0 tokens; a gap needs at least 1")
        return Template(tuple(text[a:b] for a, b in zip(edges[::2], edges[1::2])), sizes)

    def lengths(self, given: int | Sequence[int] | None) -> list[int]:
        """Tokens of every gap: its own size, else `given` (one number for all, or one per gap).

        Raises:
            ValueError: if a gap is left without a length, or there are more or fewer lengths than gaps.
        """
        if isinstance(given, str):
            raise ValueError(f"lengths is {given!r}; give a number of tokens, one per gap, or \"search\"")
        said: Any = given
        listed: list[Any] = [said] * len(self.sizes) if said is None or isinstance(said, Number) else list(said)
        if len(listed) != len(self.sizes):
            raise ValueError(f"{len(listed)} lengths were given for {len(self.sizes)} gaps; give one per gap or one for all")
        lengths = [own if own is not None else other for own, other in zip(self.sizes, listed)]
        if any(not isinstance(length, Integral) or length < 1 for length in lengths):
            raise ValueError(f"the lengths of the gaps are {lengths}; each needs at least 1 token: write ___{{8}} or pass lengths=8")
        return [length for length in lengths if length is not None]

    @property
    def spaced(self) -> tuple[bool, ...]:
        """Whether a space stands before each gap."""
        return tuple(piece.endswith(" ") for piece in self.pieces[:-1])

    def ids(self, tokenizer: Tokenizer, lent: Sequence[bool] = ()) -> list[list[int]]:
        """The ids of every piece, tokenised by itself, so that nothing merges across a gap.

        Args:
            lent: gaps whose first token will bring the space that stands before them: it is left out of the piece.
        """
        return [tokenizer.encode(piece[:-1] if space else piece) for piece, space in zip_longest(self.pieces, lent)]

    def filled(self, gaps: Sequence[str]) -> str:
        """The text with its gaps filled; the pieces come back as they were given."""
        return "".join(piece + gap for piece, gap in zip(self.pieces, [*gaps, ""]))


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
