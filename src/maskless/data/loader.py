"""Which rows make up which batch: a pure function of (seed, step, rank). There is no state to save or resume.

N  rows of the store        B  rows of this rank's part        L  sites of a row
"""
from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from maskless.data.batch import Batch
from maskless.noise import hashed

SHUFFLE = 0x5348_5546  # the purpose word of these hashes, so that no other use of the same seed sees them


@runtime_checkable
class Rows(Protocol):
    """What a loader reads from: `Store` on disk, `MemoryStore` in memory."""

    @property
    def length(self) -> int: ...

    def __len__(self) -> int: ...

    def read(self, rows: Int[Tensor, " B"]) -> Batch: ...


@lru_cache(maxsize=4)
def permutation(n: int, seed: int, epoch: int) -> Int[Tensor, " n"]:
    """A random order of 0..n-1: the order of their hashes. Costs a sort an epoch and 8n bytes."""
    return torch.argsort(hashed(SHUFFLE, seed, epoch, torch.arange(n)), stable=True)


class Loader:
    """Batches of a store in a new random order each epoch; the last, incomplete batch of an epoch is dropped.

    `batch(step)` depends on nothing but its arguments: a resumed run asks for the step it needs. The rows of ranks
    0..world-1, one after another, are exactly the batch a single process gets.

    Args:
        store: the rows.
        batch_size: the GLOBAL batch size, over all ranks and micro-batches.
        seed: of the shuffling.
        rank: this process, 0..world-1.
        world: number of processes.

    Raises:
        ValueError: `world` does not divide `batch_size`, or the store has fewer rows than one batch.

    Example:
        >>> from maskless.data.store import MemoryStore
        >>> loader = Loader(MemoryStore(torch.arange(12).view(6, 2)), batch_size=2, seed=0)
        >>> loader.steps_per_epoch, loader.batch(100).tokens.shape
        (3, torch.Size([2, 2]))
    """

    def __init__(self, store: Rows, *, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        if batch_size < 1 or batch_size % world:
            raise ValueError(f"the global batch size {batch_size} must be a positive multiple of the {world} processes")
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} does not exist among {world} processes")
        if len(store) < batch_size:
            raise ValueError(
                f"the data has {len(store)} sequences of length {store.length}, fewer than one batch of {batch_size}: "
                "use a smaller batch, shorter sequences or more data"
            )
        self.store, self.batch_size, self.seed, self.rank, self.world = store, batch_size, seed, rank, world

    @property
    def steps_per_epoch(self) -> int:
        """Number of whole global batches in the store."""
        return len(self.store) // self.batch_size

    def rows(self, step: int) -> Int[Tensor, " B"]:
        """Places of this rank's rows in the global batch of `step`, 0..batch_size-1: they number its noise."""
        share = self.batch_size // self.world
        return torch.arange(self.rank * share, (self.rank + 1) * share)

    def indices(self, step: int) -> Int[Tensor, " B"]:
        """Rows of the store, 0..N-1, that this rank sees at `step`."""
        if step < 0:
            raise ValueError(f"steps are counted from 0, not {step}")
        epoch, place = divmod(step, self.steps_per_epoch)
        order = permutation(len(self.store), self.seed, epoch)
        return order[place * self.batch_size + self.rows(step)]

    def batch(self, step: int) -> Batch:
        """This rank's rows of the global batch of `step` (0, 1, ...; any step, in any order)."""
        return self.store.read(self.indices(step))

    def epoch(self, batch_size: int) -> Iterator[Batch]:
        """Every row once, in the order of the store, the last batch possibly shorter: for validation.

        The same on every rank; row i of the store is row i of what comes out.
        """
        if batch_size < 1:
            raise ValueError(f"a batch needs at least one row: batch_size is {batch_size}")
        for rows in torch.arange(len(self.store)).split(batch_size):
            yield self.store.read(rows)
