"""The ids a model speaks: how many there are, which are special, which are never predicted. [MASK] is not one of them.

V  vocabulary size, the number of data ids
"""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Vocabulary:
    """What a model needs to know of a tokenizer.

    Args:
        size: V, the number of data ids; a mask token is never counted (DESIGN section 4).
        bos: id that opens a sequence, or None.
        eos: id that closes a document, or None. May equal `bos` (GPT-2).
        pad: id written where there is no token, or None (then `filler` is used). Never a target of a loss.
        forbidden: ids a model must never predict (padding, a [MASK] inside an imported vocabulary).

    Raises:
        ValueError: an id lies outside 0..size-1, or every id is forbidden.

    Example:
        >>> Vocabulary(259, bos=256, eos=257, pad=258, forbidden=(258,)).filler
        258
    """

    size: int
    bos: int | None = None
    eos: int | None = None
    pad: int | None = None
    forbidden: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"a vocabulary needs at least one id: size is {self.size}")
        named = {"bos": self.bos, "eos": self.eos, "pad": self.pad}
        named |= {f"forbidden[{n}]": id for n, id in enumerate(self.forbidden)}
        for name, id in named.items():
            if id is not None and not 0 <= id < self.size:
                raise ValueError(f"{name} is {id}, outside the vocabulary of {self.size} ids")
        if len(set(self.forbidden)) == self.size:
            raise ValueError(f"all {self.size} ids are forbidden: at least one must be left to predict")

    @property
    def filler(self) -> int:
        """The id written at sites without a token: pad, else eos, else 0. Such sites are never valid."""
        return next((id for id in (self.pad, self.eos) if id is not None), 0)
