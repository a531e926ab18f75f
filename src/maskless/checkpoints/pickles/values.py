"""What a pickle is read into, besides plain Python values: records that do nothing."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch


class Refused(ValueError):
    """A pickle asks for something that is not read; the message is a clause that follows the file's name."""


@dataclass(frozen=True)
class StorageType:
    """The class of a storage: the type of its elements (bytes for an untyped one)."""

    dtype: torch.dtype


@dataclass(frozen=True)
class Storage:
    """Bytes that lie elsewhere in the file.

    Attributes:
        key: its name there.
        dtype: of its elements, as declared.
        nbytes: its size, as declared and found to be there.
    """

    key: str
    dtype: torch.dtype
    nbytes: int


@dataclass(frozen=True)
class Stored:
    """A tensor that was not read: where it lies and how. Its extent is checked: it stays inside its storage and
    has no more elements than that."""

    storage: Storage
    dtype: torch.dtype
    offset: int  # in elements
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def count(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class InertClass:
    """A class that is known by name and never imported."""

    name: str


@dataclass(eq=False)
class Inert:
    """An object of such a class: what the pickle said about it, and nothing else."""

    name: str
    args: tuple[Any, ...] = field(default=(), repr=False)
    state: Any = field(default=None, repr=False)
    items: list[Any] = field(default_factory=list, repr=False)  # what was appended or set, pairs for mappings


@dataclass
class NumpyType:
    """A numpy dtype of plain numbers."""

    code: str
    order: str = "="


@dataclass
class NumpyArray:
    """A numpy array of plain numbers; its bytes are kept, not read."""

    state: Any = field(default=None, repr=False)
