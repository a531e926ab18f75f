"""What a model is trained on: token ids, and which of them count.

B  rows of the batch        L  sites of a row
"""
from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """B sequences of L token ids.

    Args:
        tokens: ids, int64.
        valid: False on padding: such a site holds no token and never enters a loss.
        given: True on sites that are always known (the givens of a Sudoku, an anchor): seen by the model,
            never in a loss.
        labels: class of each row, 0..classes-1, int64; None where the data has no classes.

    Attributes:
        padded: whether any site is not valid. Read once, when the batch is made on the host; moving and splitting keep it.
        prompted: whether any site but the first is given; read with it.

    Example:
        >>> batch = Batch.of(torch.tensor([[0, 5, 7], [0, 6, 8]]))
        >>> batch.targets.sum().item(), len(batch.split(2))
        (6, 2)
    """

    tokens: Int[Tensor, "B L"]
    valid: Bool[Tensor, "B L"]
    given: Bool[Tensor, "B L"]
    labels: Int[Tensor, " B"] | None = None
    padded: bool = field(init=False)
    prompted: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "padded", not bool(self.valid.all()))
        object.__setattr__(self, "prompted", bool(self.given[:, 1:].any()))

    @classmethod
    def of(cls, tokens: Int[Tensor, "B L"]) -> Batch:
        """The batch in which every token counts and none is given."""
        return cls(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.zeros_like(tokens, dtype=torch.bool))

    @property
    def targets(self) -> Bool[Tensor, "B L"]:
        """The sites that may enter a loss: valid and not given."""
        return self.valid & ~self.given

    def __len__(self) -> int:
        """B."""
        return self.tokens.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`; the copy does not wait for the device."""
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        return self._alike(labels, *(column.to(device, non_blocking=True) for column in self._columns))

    def split(self, n: int) -> list[Batch]:
        """`n` micro-batches of B / n consecutive rows each.

        Raises:
            ValueError: `n` does not divide B.
        """
        if n < 1 or len(self) % n:
            raise ValueError(f"a batch of {len(self)} rows has no {n} equal micro-batches: choose a divisor")
        labels = [None] * n if self.labels is None else self.labels.chunk(n)
        return [self._alike(*parts) for parts in zip(labels, *(column.chunk(n) for column in self._columns), strict=True)]

    def in_order(self, log: Int[Tensor, "B L"]) -> Batch:
        """The same rows with their sites in the order of `log`."""
        return self._alike(self.labels, *(column.gather(1, log) for column in self._columns))

    def labelled(self, labels: Int[Tensor, " B"] | None) -> Batch:
        """The same rows with other labels, or with none."""
        return self._alike(labels, *self._columns)

    def _alike(self, labels: Tensor | None, tokens: Tensor, valid: Tensor, given: Tensor) -> Batch:
        """A batch of these columns that reads nothing from them."""
        batch = object.__new__(Batch)
        batch.__dict__.update(
            tokens=tokens, valid=valid, given=given, labels=labels, padded=self.padded, prompted=self.prompted
        )
        return batch

    @property
    def _columns(self) -> tuple[Tensor, Tensor, Tensor]:
        """What has a value a site."""
        return self.tokens, self.valid, self.given
