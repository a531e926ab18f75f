"""Documents become rows of one length. Every packing is one function of the whole stream of documents.

With documents "ab", "cde" and B = BOS, E = EOS, . = no token:

    wrap   (L = 6)   B a b E c E | B d e E ...        blocks of L-2, each between BOS and EOS (spec section 4.2)
    stream (L = 6)   B a b E c d | B e E ...          blocks of L-1 after BOS
    pad    (L = 6)   B a b E . . | B c d e E .        a document a row, cut if too long; padding is not valid
    fill   (L = 6)   B a b E E E | B c d e E E        a sequence a row, EOS to the end, learned like any token

L  sites of a row
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from maskless.vocabulary import Vocabulary

Ids = NDArray[np.integer]
Mask = NDArray[np.bool_]


class Row(NamedTuple):
    """One sequence of L ids; `valid` and `given` as in `Batch`, or None where they are all True and all False; its class."""

    tokens: Ids
    valid: Mask | None = None
    given: Mask | None = None
    label: int | None = None


Packing = Callable[[Iterable[Ids], int, Vocabulary], Iterator[Row]]


def wrap(documents: Iterable[Ids], length: int, vocabulary: Vocabulary) -> Iterator[Row]:
    """[BOS] block [EOS]: each document and an EOS, all joined, cut in blocks of L-2.

    The documents are one stream, so rows do not depend on how the work was shared out (the reference starts afresh
    every 1000 documents of every worker); only the end of the whole stream, less than a block, is dropped.
    """
    bos, eos = _ends(vocabulary, length, least=3)
    for block in _blocks(documents, length - 2, eos):
        yield Row(np.concatenate([bos, block, eos]))


def stream(documents: Iterable[Ids], length: int, vocabulary: Vocabulary) -> Iterator[Row]:
    """[BOS] block: as `wrap` but without a closing EOS, so an EOS always means the end of a document."""
    bos, eos = _ends(vocabulary, length, least=2)
    for block in _blocks(documents, length - 1, eos):
        yield Row(np.concatenate([bos, block]))


def pad(documents: Iterable[Ids], length: int, vocabulary: Vocabulary) -> Iterator[Row]:
    """[BOS] document [EOS] and padding that is not valid; longer documents lose their end."""
    bos, eos = _ends(vocabulary, length, least=3)
    for document in documents:
        tokens = np.concatenate([bos, document[: length - 2], eos])
        yield padded(Row(tokens), length, vocabulary)


def fill(documents: Iterable[Ids], length: int, vocabulary: Vocabulary) -> Iterator[Row]:
    """[BOS] sequence [EOS] [EOS] ...: the EOS up to the end are ordinary tokens, so a model of any order learns how
    long sequences are. A sequence that does not fit is an error, for half a molecule is another molecule."""
    bos, eos = _ends(vocabulary, length, least=3)
    for number, document in enumerate(documents, 1):
        missing = length - 1 - len(document)
        if missing < 1:
            needed, longest = len(document) + 2, max([len(document), *map(len, documents)]) + 2
            too_short = f"length {length} is too short, set model.length={longest} for the longest"
            raise ValueError(f"sequence {number} needs {needed} sites with BOS and EOS: {too_short}")
        yield Row(np.concatenate([bos, document, eos.repeat(missing)]))


PACKINGS: dict[str, Packing] = {"wrap": wrap, "stream": stream, "pad": pad, "fill": fill}


def padded(row: Row, length: int, vocabulary: Vocabulary) -> Row:
    """`row` with sites that are not valid appended up to `length`."""
    missing = length - len(row.tokens)
    assert missing >= 0, "the row is longer than the rows of this store"
    valid = np.arange(length) < len(row.tokens)
    given = None if row.given is None else np.concatenate([row.given, np.zeros(missing, bool)])
    return Row(np.concatenate([row.tokens, np.full(missing, vocabulary.filler, np.int32)]), valid, given)


def _ends(vocabulary: Vocabulary, length: int, *, least: int) -> tuple[Ids, Ids]:
    """BOS and EOS as arrays of one."""
    if length < least:
        raise ValueError(f"a length of {length} leaves no room beside BOS and EOS: use at least {least}")
    if vocabulary.bos is None or vocabulary.eos is None:
        raise ValueError("the tokenizer has no BOS or no EOS token: name them in the tokenizer_config.json beside it")
    return np.array([vocabulary.bos], np.int32), np.array([vocabulary.eos], np.int32)


def _blocks(documents: Iterable[Ids], size: int, eos: Ids) -> Iterator[Ids]:
    """The documents, an EOS after each, as one stream cut in blocks of `size`; the last, shorter one is dropped."""
    waiting: list[Ids] = []
    held = 0
    for document in documents:
        waiting += [document, eos]
        held += len(document) + 1
        if held >= size:
            joined = np.concatenate(waiting)
            whole = held - held % size
            yield from joined[:whole].reshape(-1, size)
            waiting, held = [joined[whole:]], held - whole
