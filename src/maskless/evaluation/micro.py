"""Micro-batches of one shape: row i always lies in micro-batch i // M at place i % M, and the last one is filled up.

What a kernel computes for a row may depend on the shape of the batch, in the last bits. With one shape, and a place that depends on nothing but
the row's number, a result does not depend on how rows were read.

M rows of a micro-batch, L sites.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from maskless.data.batch import Batch

SITES, ROWS = 8192, 32                                              # of a micro-batch, at most


def micro_rows(length: int) -> int:
    """The usual M: 8 rows of 1024 sites, 32 of 256 or fewer."""
    return max(1, min(ROWS, SITES // length))


def micro_batches(batches: Iterable[Batch], rows: int) -> Iterator[tuple[Batch, int]]:
    """The same rows in the same order, `rows` at a time, each with how many of them are real.

    The last is filled with copies of its last row; drop what is measured of them.

    Example:
        >>> cut = micro_batches([Batch.of(torch.tensor([[1], [2]])), Batch.of(torch.tensor([[3]]))], 2)
        >>> [(batch.tokens[:, 0].tolist(), real) for batch, real in cut]
        [([1, 2], 2), ([3, 3], 1)]
    """
    assert rows >= 1
    waiting: list[Batch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        while count >= rows:
            whole = joined(waiting)
            yield taken(whole, torch.arange(rows)), rows
            count -= rows
            waiting = [taken(whole, torch.arange(rows, len(whole)))] if count else []
    if count:
        yield taken(joined(waiting), torch.arange(rows).clamp_max(count - 1)), count


def joined(batches: list[Batch]) -> Batch:
    """Batches of equal length, one after the other."""
    labels = [batch.labels for batch in batches]
    tokens, valid, given = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("tokens", "valid", "given"))
    return Batch(tokens, valid, given, None if labels[0] is None else torch.cat([each for each in labels if each is not None]))


def taken(batch: Batch, rows: Tensor) -> Batch:
    """Some rows of a batch."""
    return Batch(batch.tokens[rows], batch.valid[rows], batch.given[rows], None if batch.labels is None else batch.labels[rows])
