"""Tokenizers that need no training: bytes, and a fixed list of symbols (characters, words, chemical symbols).

V  vocabulary size
"""
from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsInt

import numpy as np
from numpy.typing import NDArray

from maskless.data.definition import digest, utf8, write_json
from maskless.vocabulary import Vocabulary

Ids = NDArray[np.integer]


@dataclass(frozen=True)
class ByteTokenizer:
    """UTF-8 bytes 0..255, then bos 256, eos 257, pad 258 (V = 259). Any text comes back exactly.

    Example:
        >>> tokenizer = ByteTokenizer()
        >>> tokenizer.encode("né"), tokenizer.decode([110, 195, 169, 257])
        ([110, 195, 169], 'né')
    """

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(259, bos=256, eos=257, pad=258, forbidden=(258,))

    @property
    def hash(self) -> str:
        return digest(self.definition)

    @property
    def definition(self) -> dict[str, Any]:
        """What `save` writes."""
        return {"kind": "bytes"}

    def encode(self, text: str) -> list[int]:
        return list(utf8(text))

    def arrays(self, texts: Sequence[str]) -> Iterator[Ids]:
        for text in texts:
            yield np.frombuffer(utf8(text), np.uint8)

    def pieces(self, ids: Iterable[SupportsInt]) -> list[bytes]:
        return [bytes([id]) if 0 <= id < 256 else b"" for id in map(int, ids)]

    def decode_bytes(self, ids: Iterable[SupportsInt]) -> bytes:
        return b"".join(self.pieces(ids))

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def save(self, folder: Path | str) -> None:
        write_json(Path(folder) / "tokenizer.json", self.definition)


@dataclass(frozen=True)
class SymbolTokenizer:
    """A fixed list of symbols, one id each: an alphabet, the words of a small language, the atoms and bonds of SMILES.

    Text is cut into symbols from the left, the longest symbol first (so Cl wins over C), or at `separator`.

    Args:
        symbols: every symbol, specials included; the id of a symbol is its place.
        specials: which of them are no text: they are never read from a text and decode to nothing.
        separator: "" for symbols written one after another, or what stands between them (" ").
        bos, eos, pad: places of these specials.
        unknown: the special that stands for symbols not in the list, or None: such a symbol is an error.
        unused: ids that never occur in data and are never predicted; pad is added to them.

    Raises:
        ValueError: a symbol comes twice, is empty or holds the separator.

    Example:
        >>> smiles = symbol_tokenizer(["C", "Cl", "O", "="])
        >>> smiles.encode("ClC=O"), smiles.decode([1, 0, 3, 2, 5])
        ([1, 0, 3, 2], 'ClC=O')
    """

    symbols: tuple[str, ...]
    specials: tuple[str, ...]
    separator: str = ""
    bos: int | None = None
    eos: int | None = None
    pad: int | None = None
    unknown: int | None = None
    unused: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for symbol in self.symbols:
            if not symbol or symbol in seen:
                raise ValueError(f"the symbol {symbol!r} is empty or listed twice: list every symbol once")
            if self.separator and self.separator in symbol:
                raise ValueError(f"the symbol {symbol!r} holds the separator {self.separator!r}: choose another")
            seen.add(symbol)
        missing = [special for special in self.specials if special not in seen]
        assert not missing, f"specials must be symbols: {missing}"

    @classmethod
    def of(cls, definition: dict[str, Any]) -> SymbolTokenizer:
        """The tokenizer that wrote `definition`."""
        lists = {key: tuple(definition[key]) for key in ("symbols", "specials", "unused")}
        values = {key: definition[key] for key in ("separator", "bos", "eos", "pad", "unknown")}
        return cls(**lists, **values)

    @property
    def vocabulary(self) -> Vocabulary:
        pad = () if self.pad is None else (self.pad,)
        forbidden = tuple(sorted({*self.unused, *pad}))
        return Vocabulary(len(self.symbols), bos=self.bos, eos=self.eos, pad=self.pad, forbidden=forbidden)

    @property
    def definition(self) -> dict[str, Any]:
        """What `save` writes."""
        return {
            "kind": "symbols", "separator": self.separator,
            "symbols": list(self.symbols), "specials": list(self.specials),
            "bos": self.bos, "eos": self.eos, "pad": self.pad, "unknown": self.unknown, "unused": list(self.unused),
        }

    @property
    def hash(self) -> str:
        return digest(self.definition)

    @cached_property
    def _ids(self) -> dict[str, int]:
        specials = set(self.specials)
        return {symbol: id for id, symbol in enumerate(self.symbols) if symbol not in specials}

    @cached_property
    def _cut(self) -> re.Pattern[str]:
        longest_first = sorted(self._ids, key=len, reverse=True)
        return re.compile("|".join([*map(re.escape, longest_first), "."]), re.DOTALL)

    def _symbols_of(self, text: str) -> Iterable[str]:
        if self.separator:
            return filter(None, text.split(self.separator))
        return (match.group() for match in self._cut.finditer(text))

    def _ids_of(self, text: str) -> Iterator[int]:
        for symbol in self._symbols_of(text):
            id = self._ids.get(symbol, self.unknown)
            if id is None:
                shown = ", ".join(map(repr, list(self._ids)[:12])) + (", ..." if len(self._ids) > 12 else "")
                raise ValueError(f"the symbol {symbol!r} is not in the vocabulary ({shown}): correct the text")
            yield id

    def encode(self, text: str) -> list[int]:
        return list(self._ids_of(text))

    def arrays(self, texts: Sequence[str]) -> Iterator[Ids]:
        for text in texts:
            yield np.fromiter(self._ids_of(text), np.int32)

    def pieces(self, ids: Iterable[SupportsInt]) -> list[bytes]:
        texts = self._texts(ids)
        first = next((place for place, text in enumerate(texts) if text), 0)
        return [(self.separator * (place > first and text != "") + text).encode() for place, text in enumerate(texts)]

    def decode_bytes(self, ids: Iterable[SupportsInt]) -> bytes:
        return self.decode(ids).encode()

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        return self.separator.join(filter(None, self._texts(ids)))

    def _texts(self, ids: Iterable[SupportsInt]) -> list[str]:
        specials = set(self.specials)
        inside = [self.symbols[id] if 0 <= id < len(self.symbols) else "" for id in map(int, ids)]
        return ["" if symbol in specials else symbol for symbol in inside]

    def save(self, folder: Path | str) -> None:
        write_json(Path(folder) / "tokenizer.json", self.definition)


def symbol_tokenizer(symbols: Iterable[str], *, separator: str = "") -> SymbolTokenizer:
    """`symbols` in their order, then [BOS], [EOS] and [PAD]; a symbol that is not listed is an error."""
    listed = tuple(symbols)
    if not listed:
        raise ValueError("a vocabulary needs at least one symbol: the list is empty")
    n, specials = len(listed), ("[BOS]", "[EOS]", "[PAD]")
    return SymbolTokenizer((*listed, *specials), specials, separator, bos=n, eos=n + 1, pad=n + 2)


def learn_symbols(texts: Iterable[str], pattern: str = ".") -> SymbolTokenizer:
    """A `symbol_tokenizer` of every symbol that occurs in `texts`, sorted.

    Args:
        texts: the texts, read once.
        pattern: regular expression of the symbols longer than one character (for SMILES ``Br|Cl|\\[[^]]*\\]``); every
            character outside its matches is a symbol of its own.

    Raises:
        ValueError: no symbol was found, or `pattern` is no regular expression.
    """
    try:
        cut = re.compile(f"(?:{pattern})|.", re.DOTALL)
    except re.error as error:
        raise ValueError(f"the pattern {pattern!r} is not a regular expression: {error}") from None
    found = {match.group() for text in texts for match in cut.finditer(text)}
    return symbol_tokenizer(sorted(found - {""}))


def learn_words(texts: Iterable[str], separator: str) -> SymbolTokenizer:
    """A `symbol_tokenizer` of everything that stands between separators in `texts`, sorted."""
    found = {word for text in texts for word in text.split(separator)}
    return symbol_tokenizer(sorted(found - {""}), separator=separator)


def text8_tokenizer() -> SymbolTokenizer:
    """The 35 ids of text8 (spec section 4.1): eight specials, a..z, space; any other character is [UNK].

    [MASK] keeps its place among the ids so that imported rows fit; it, [PAD] and the reserved ids are never predicted.
    """
    specials = ("[CLS]", "[SEP]", "[BOS]", "[EOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]")
    symbols = (*specials, *string.ascii_lowercase, " ")
    return SymbolTokenizer(symbols, specials, bos=2, eos=3, pad=5, unknown=7, unused=(0, 1, 4, 6))
