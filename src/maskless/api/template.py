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
NO_GAP = re.compile(r"_{4,}|___\{(?!\d+\})[^}]{0,12}\}?")           # what looks like one


@dataclass(frozen=True)
class Template:
    """Pieces of text with a gap after each but the last; `sizes[i]` is the length in tokens that gap i states, or None."""

    pieces: tuple[str, ...]
    sizes: tuple[int | None, ...]

    @staticmethod
    def parse(text: str) -> Template:
        """Split at `___` and `___{n}`.

        Raises:
            ValueError: if there is no gap, a gap of no tokens, or what only looks like a gap.
        """
        check_text("text", text)
        if odd := NO_GAP.search(text):
            raise ValueError(f"the text {_short(text)} has {odd[0]!r}, which is no gap; write ___ or ___{{12}}")
        gaps = list(GAP.finditer(text))
        if not gaps:
            raise ValueError(f"the text {_short(text)} has no gap; write ___ or ___{{12}} where tokens are missing")
        edges = [0, *(edge for gap in gaps for edge in gap.span()), len(text)]
        if long := [gap[0] for gap in gaps if len(gap[1] or "") > 99]:
            raise ValueError(f"the text {_short(text)} has a gap of {_short(long[0])}, more tokens than any model has sites; give fewer")
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
        if not (said is None or isinstance(said, Number | Sequence)):
            raise ValueError(f"lengths is {said!r}; give a number of tokens, one per gap, or \"search\"")
        listed: list[Any] = [said] * len(self.sizes) if said is None or isinstance(said, Number) else list(said)
        if len(listed) != len(self.sizes):
            raise ValueError(f"{len(listed)} lengths were given for {len(self.sizes)} gaps; give one per gap or one for all")
        lengths = [own if own is not None else other for own, other in zip(self.sizes, listed)]
        if any(not isinstance(length, Integral) or length < 1 for length in lengths):
            raise ValueError(f"the lengths of the gaps are {lengths}; each needs at least 1 token: write ___{{8}} or pass lengths=8")
        return [length for length in lengths if length is not None]

    def stating(self, lengths: Sequence[int]) -> str:
        """The text in which every gap states its length.

        Example:
            >>> Template.parse("a ___ b ___{2}").stating([3, 2])
            'a ___{3} b ___{2}'
        """
        return "".join(f"{piece}___{{{length}}}" for piece, length in zip(self.pieces, lengths)) + self.pieces[-1]

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


class Script:
    """A text that grows part by part together with its tokens: what a user wrote as it was written, what was drawn as it reads behind that.

    Tokens that are not byte-level have something between them (a separator, the space between two words); so have the parts.

    Args:
        tokenizer: of the tokens.
        ids: tokens in front of the text (BOS).

    Example:
        >>> from maskless.data.tokenizer import symbol_tokenizer
        >>> script = Script(symbol_tokenizer(["do", "re", "mi"], separator=" "))
        >>> script.write("do", [0]), script.read([1, 2]), script.text
        (None, ' re mi', 'do re mi')
    """

    def __init__(self, tokenizer: Tokenizer, ids: Sequence[int] = ()):
        self.tokenizer, self.ids, self.text = tokenizer, [*ids], ""
        self.separator: str | None = getattr(tokenizer, "separator", "") or None                # None: white space
        self.space = self.separator or " "

    def write(self, part: str, ids: Sequence[int]) -> None:
        """Append what a user wrote, with a space in front of it if its tokens have one that neither side of the seam has."""
        read = self._behind(ids)
        if self.text and part and read.startswith(self.space) and not self._open(self.text) and part == part.lstrip(self.separator):
            self.text += self.space
        self.text += part

    def read(self, ids: Sequence[int]) -> str:
        """Append what was drawn, and return it; a space that ends the text already, and not its tokens, is left out."""
        spaced = self._open(self.text) > self._open(self.tokenizer.decode(self.ids))
        read = self._behind(ids)
        part = read.removeprefix(self.space) if spaced else read
        self.text += part
        return part

    def _open(self, text: str) -> int:
        """Characters of white space, or of separators, at the end."""
        return len(text) - len(text.rstrip(self.separator))

    def _behind(self, ids: Sequence[int]) -> str:
        """How more tokens read behind those that are there."""
        before = self.tokenizer.decode_bytes(self.ids)
        self.ids += ids
        both = self.tokenizer.decode_bytes(self.ids)
        # A character of several tokens reads otherwise while it is not finished.
        read = both.removeprefix(before) if both.startswith(before) else self.tokenizer.decode_bytes(ids)
        return read.decode("utf-8", errors="replace")


def check_text(name: str, value: Any) -> None:
    """Raises ValueError if an argument called `name` is no text."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}; give one text, a str")


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
