"""What every source of data does: give the texts of a split, make a tokenizer for them, turn both into rows.

A source is a frozen dataclass of plain values (a recipe's `data:` section) with the few methods below. Splits are
"train" and "valid". Where a data set brings no validation part, documents are held out by a hash of their text: the
choice depends on nothing else, not on their order, and equal documents never end up on both sides.

L  sites of a row
"""
from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from maskless.data.definition import utf8
from maskless.data.loader import Rows
from maskless.data.pack import PACKINGS, Row
from maskless.data.tokenizer import Coding, Tokenizer, learn_symbols, load_tokenizer, train_bpe

Split = Literal["train", "valid"]
SPLITS: tuple[Split, ...] = ("train", "valid")

BATCH_TEXTS, BATCH_CHARACTERS = 1000, 1 << 20  # texts are tokenised in batches of at most about these


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source of rows.

    Args:
        holdout: share of the documents held out for validation, 0 to 1, where the data has no validation part.
        seed: of that choice.
    """

    holdout: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.holdout < 1:
            raise ValueError(f"holdout is {self.holdout}: it is a share of the documents, at least 0 and below 1")

    def texts(self, split: Split) -> Iterator[str]:
        """The documents of a split, one after another, in a fixed order."""
        raise NotImplementedError

    def identity(self) -> Any:
        """What the texts depend on besides the fields: JSON-able, cheap to find out."""
        raise NotImplementedError

    @property
    def divided(self) -> bool:
        """Whether the data has a validation part of its own."""
        return False

    @property
    def learned(self) -> str:
        """The name under which a tokenizer learned from this source is kept, "" if none is learned."""
        raise NotImplementedError

    def make_tokenizer(self) -> Coding:
        """Load the tokenizer, or learn it from the texts (slow)."""
        raise NotImplementedError

    def rows(self, split: Split, tokenizer: Any, length: int) -> Iterator[Row]:
        """The rows of a split, L = `length`, written in what `make_tokenizer` gave."""
        raise NotImplementedError

    def stored(self, split: Split, length: int) -> Rows | None:
        """The rows of a split where they lie ready for reading; None: a store is to be built of `rows`."""
        return None

    def in_split(self, split: Split, document: str) -> bool:
        """Whether a document of undivided data belongs to `split`."""
        hashed = hashlib.blake2b(utf8(document), digest_size=8, salt=str(self.seed).encode()[:16]).digest()
        held_out = int.from_bytes(hashed, "big") < self.holdout * 2.0**64
        return held_out == (split == "valid")


@dataclass(frozen=True, kw_only=True)
class TextSource(Source):
    """A source of documents.

    Args:
        tokenizer: "bytes"; "characters" (those that occur); "bpe" (a byte-level BPE trained on the training part);
            "text8"; a tokenizer.json or its folder; a model, to write in its ids (a folder, a run, "tiny"); or a Hugging Face Hub name
            such as "gpt2".
        bpe_size: number of ids if the tokenizer is "bpe".
        packing: how documents become rows, one of `PACKINGS`: "wrap", "stream", "pad" or "fill".
    """

    tokenizer: str = "bytes"
    bpe_size: int = 4096
    packing: str = "wrap"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("packing", self.packing, PACKINGS)

    @property
    def learned(self) -> str:
        return self.tokenizer if self.tokenizer in ("characters", "bpe") else ""

    def make_tokenizer(self) -> Tokenizer:
        if self.tokenizer == "characters":
            # Of both splits: an alphabet is not a statistic, and a rare character would end the validation.
            return learn_symbols(text for split in SPLITS for text in self.texts(split))
        if self.tokenizer == "bpe":
            return train_bpe(self.texts("train"), self.bpe_size)
        return load_tokenizer(self.tokenizer)

    def rows(self, split: Split, tokenizer: Tokenizer, length: int) -> Iterator[Row]:
        return PACKINGS[self.packing](encoded(self.texts(split), tokenizer), length, tokenizer.vocabulary)


def encoded(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[NDArray[np.integer]]:
    """The ids of each text, without specials; only a batch of texts is held at a time."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if len(batch) >= BATCH_TEXTS or characters >= BATCH_CHARACTERS:
            yield from tokenizer.arrays(batch)
            batch, characters = [], 0
    yield from tokenizer.arrays(batch)


def one_of(name: str, value: str, known: Iterable[str]) -> None:
    """Raise ValueError unless `value` is one of `known`."""
    if value not in (known := list(known)):
        raise ValueError(f"{name} is {value!r}: it must be one of {', '.join(known)}")
