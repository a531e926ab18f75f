"""Tokens written as digits: the sub-tokens of MDM-Prime (arXiv 2505.18495), and the classes that agree with some of them.

V classes, l digits of a token (most significant first), b base, n sites of a chunk. A code's number is sum_j digit_j b^(l-1-j).
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskless.noise import uniform

MOST_CODES = 1 << 22                    # for marginals the numbers below b^l are enumerated, for every site of a chunk
SHUFFLE = 301                           # purpose of the random numbers
POWERS = 8                              # iterations towards a principal axis


def smallest_base(classes: int, length: int) -> int:
    """The smallest b with b^length >= classes, in whole numbers: the double `ceil(V ** (1 / l))` is one too large for 3125 with l = 5.

    Example:
        >>> [smallest_base(50257, l) for l in (2, 3, 4, 6, 8, 16)], smallest_base(3125, 5)
        ([225, 37, 15, 7, 4, 2], 5)
    """
    if classes < 1 or length < 1:
        raise ValueError(f"{classes} classes in {length} digits: both must be at least 1")
    base = max(1, round(classes ** (1 / length)))
    while base**length < classes:
        base += 1
    while base > 1 and (base - 1) ** length >= classes:
        base -= 1
    return base


def digits_of(numbers: Int[Tensor, "*n"], length: int, base: int) -> Int[Tensor, "*n l"]:
    """floor(number / b^(l-1-j)) mod b."""
    powers = [base ** (length - 1 - j) for j in range(length)]
    return torch.stack([numbers // power % base for power in powers], -1)


@dataclass(frozen=True, eq=False)
class SubTokenCode:
    """l digits in base b for every class: y = f(v), and back.

    Codes that no class has are invalid; nothing pads the vocabulary, a head keeps its V outputs.

    Args:
        table: (V, l) the digits of every class, each code once.
        base: b; digits lie in 0..b-1. The input of a network has one more, b, for a digit that is not known.

    Raises:
        ValueError: from the makers below, for digits out of range, or codes that two classes share.

    Example:
        >>> code = SubTokenCode.digits(50, 2)
        >>> code.base, code.encode(torch.tensor([49])).tolist()
        (8, [[6, 1]])
        >>> [x.tolist() for x in code.decode(torch.tensor([[6, 1], [7, 7]]))]
        [[49, 49], [True, False]]

    Source: arXiv 2505.18495, section 3.1; index shuffling: arXiv 2603.16077.
    """

    table: Int[Tensor, "V l"]
    base: int

    @staticmethod
    def digits(classes: int, length: int, base: int | None = None) -> SubTokenCode:
        """The digits of the ids themselves, in the smallest base that holds them (or a larger one)."""
        base = _checked(classes, length, base)
        return SubTokenCode(digits_of(torch.arange(classes), length, base), base)

    @staticmethod
    def shuffled(classes: int, length: int, *, seed: int = 0, base: int | None = None) -> SubTokenCode:
        """Index shuffling: the digits of a random one of all b^l numbers, another for each class, the same for a seed everywhere."""
        base = _checked(classes, length, base)
        numbers = uniform(seed, SHUFFLE, torch.arange(enumerable(classes, length, base))).argsort(stable=True)[:classes]
        return SubTokenCode(digits_of(numbers, length, base), base)

    @staticmethod
    def permuted(classes: int, length: int, permutation: Int[Tensor, " n"], base: int | None = None) -> SubTokenCode:
        """The digits of permutation[v], for a recorded shuffle of at least V numbers below b^l."""
        base = _checked(classes, length, base)
        if len(permutation) < classes:
            raise ValueError(f"a permutation of {len(permutation)} numbers was given for {classes} classes; give one number for each")
        numbers = _whole(permutation, 1)[:classes]
        if bool(((numbers < 0) | (numbers >= base**length)).any()):
            raise ValueError(f"a permutation goes from {int(numbers.min())} to {int(numbers.max())}; in {length} digits of base {base} numbers lie "
                             f"in 0..{base**length - 1}")
        return SubTokenCode.given(digits_of(numbers, length, base), base)

    @staticmethod
    def given(table: Any, base: int | None = None) -> SubTokenCode:
        """Any code: one row of digits for each class, none twice (a tensor or nested lists, (V, l)). The base is one more than the largest digit if
        None."""
        table = _whole(table, 2)
        base = _checked(len(table), table.shape[1], int(table.max()) + 1 if base is None else base)
        if bool(((table < 0) | (table >= base)).any()):
            raise ValueError(f"digits go from {int(table.min())} to {int(table.max())}; in base {base} they lie in 0..{base - 1}")
        code = SubTokenCode(table, base)
        same = code._sorted[1:] == code._sorted[:-1]
        if bool(same.any()):
            at = int(same.long().argmax())
            one, two = code._order[at:at + 2].tolist()
            raise ValueError(f"classes {one} and {two} have the same code {table[one].tolist()}; every class needs its own")
        return code

    @staticmethod
    def balanced_tree(vectors: Any, length: int, base: int | None = None) -> SubTokenCode:
        """Codes whose first digits say the coarse, from embeddings: classes are halved along their principal axis until there are b equal parts.

        The first digit is the part, the second the part of a part, found the same way: classes that share digits from the left lie near each
        other. Parts are never larger than what the digits left can tell apart, so the smallest base always does.

        Args:
            vectors: (V, D) an embedding of each class (a model's table, a VQ codebook), a tensor or an array; float64 inside, no randomness.
            length: l.

        Example:
            >>> line = torch.tensor([[3.0], [0.0], [2.0], [1.0]])
            >>> code = SubTokenCode.balanced_tree(line, 2)
            >>> sorted(code.table[[1, 3], 0].tolist()) in ([0, 0], [1, 1])
            True
        """
        vectors = torch.as_tensor(vectors)
        if vectors.dim() != 2:
            raise ValueError(f"embeddings of shape {tuple(vectors.shape)} were given; give one vector for each class, (V, D)")
        base = _checked(len(vectors), length, base)
        if not bool(vectors.isfinite().all()):
            raise ValueError("the embeddings hold numbers that are not finite; check the table they come from")
        table = torch.zeros(len(vectors), length, dtype=torch.int64)
        _cut(vectors.double().cpu(), torch.arange(len(vectors)), table, 0, range(base), base)
        return SubTokenCode(table, base)

    # -- sizes -------------------------------------------------------------------------------------------------------------------------------

    @property
    def classes(self) -> int:
        return self.table.shape[0]

    @property
    def length(self) -> int:
        """l."""
        return self.table.shape[1]

    @property
    def codes(self) -> int:
        """b^l, valid or not."""
        return self.base**self.length

    @property
    def perfect(self) -> bool:
        """Whether every code has a class."""
        return self.codes == self.classes

    def to(self, device: torch.device | str) -> SubTokenCode:
        return self if self.table.device == torch.device(device) else SubTokenCode(self.table.to(device), self.base)

    # -- there and back ----------------------------------------------------------------------------------------------------------------------

    @cached_property
    def _powers(self) -> Int[Tensor, " l"]:
        return torch.tensor([self.base ** (self.length - 1 - j) for j in range(self.length)], device=self.table.device)

    def number_of(self, digits: Int[Tensor, "*n l"]) -> Int[Tensor, "*n"]:
        return (digits * self._powers).sum(-1)

    @cached_property
    def numbers(self) -> Int[Tensor, " V"]:
        """The number of every class's code."""
        return self.number_of(self.table)

    @cached_property
    def _order(self) -> Int[Tensor, " V"]:
        return self.numbers.argsort(stable=True)

    @cached_property
    def _sorted(self) -> Int[Tensor, " V"]:
        return self.numbers[self._order]

    def encode(self, tokens: Int[Tensor, "*n"]) -> Int[Tensor, "*n l"]:
        """Raises ValueError for a token that is no class (on a CPU: elsewhere asking would wait for the device)."""
        if tokens.device.type == "cpu" and bool(((tokens < 0) | (tokens >= self.classes)).any()):
            raise ValueError(f"tokens go from {int(tokens.min())} to {int(tokens.max())}; classes are 0..{self.classes - 1}")
        return self.table[tokens]

    def decode(self, digits: Int[Tensor, "*n l"]) -> tuple[Int[Tensor, "*n"], Bool[Tensor, "*n"]]:
        """(tokens, valid): where a code has no class, the class of the nearest number below it (above, for the lowest); a digit out of range, such
        as the one that is not known, makes a code invalid."""
        numbers, inside = self.number_of(digits), ((digits >= 0) & (digits < self.base)).all(-1)
        at = (torch.searchsorted(self._sorted, numbers.contiguous(), right=True) - 1).clamp(min=0)
        return self._order[at], inside & (self._sorted[at] == numbers)

    def one_hot(self) -> Float[Tensor, "V n"]:
        """(V, l b): a one for every digit of every class, so that `p @ one_hot()` are the marginals of all digits."""
        return torch.nn.functional.one_hot(self.table, self.base).flatten(1).float()

    @cached_property
    def _halved(self) -> tuple[Int[Tensor, " V"], Int[Tensor, " V"]]:
        """The numbers of the first and of the second half of every class's digits."""
        right = self.base ** (self.length - _half(self.length))
        return self.numbers // right, self.numbers % right

    # -- what agrees with what is known ------------------------------------------------------------------------------------------------------

    def consistent(self, digits: Int[Tensor, "n l"], known: Bool[Tensor, "n l"]) -> Bool[Tensor, "n V"]:
        """The classes whose digits are `digits` wherever `known`: the filter of observed digits.

        Made of outer products over each half of the digits, so that it costs two passes over V and no (n, l, V) tensor.
        """
        fits = ~known[..., None] | (digits[..., None] == torch.arange(self.base, device=digits.device))        # (n, l, b)
        if self.length == 1:
            return fits[:, 0][:, self.table[:, 0]]
        left, right = self._halved
        return _outer(fits[:, :_half(self.length)])[:, left] & _outer(fits[:, _half(self.length):])[:, right]

    def by_number(self, values: Float[Tensor, "n V"], empty: float) -> Float[Tensor, "n c"]:
        """(n, b^l): the values of the classes at their numbers, `empty` at codes without a class.

        Raises:
            ValueError: more than 4 million codes.
        """
        codes = enumerable(self.classes, self.length, self.base)
        return values.new_full((len(values), codes), empty).index_copy_(1, self.numbers, values)

    def log_marginals(self, logits: Float[Tensor, "n V"]) -> Float[Tensor, "n l b"]:
        """log sum of exp(logits) over the classes with each digit, in log space throughout: -inf where there is none."""
        return torch.stack(_log_sums(self.by_number(logits, -torch.inf), self.length, self.base), 1)

    def of_digits(self, values: Float[Tensor, "n l b"]) -> Float[Tensor, "n V"]:
        """sum_j values[n, j, digit_j(v)] for every class."""
        if self.length == 1:
            return values[:, 0][:, self.table[:, 0]]
        left, right = self._halved
        return _spread(values[:, :_half(self.length)])[:, left] + _spread(values[:, _half(self.length):])[:, right]


def _whole(given: Any, dims: int) -> Tensor:
    """As int64. Raises ValueError for anything but whole numbers in so many dimensions."""
    numbers = torch.as_tensor(given)
    if numbers.is_floating_point() or numbers.dim() != dims or numbers.numel() == 0:
        raise ValueError(f"{numbers.dtype} of shape {tuple(numbers.shape)} was given; give whole numbers in {dims} dimension{'s' * (dims > 1)}")
    return numbers.long()


def _checked(classes: int, length: int, base: int | None) -> int:
    for name, number in (("classes", classes), ("length", length), ("base", base)):
        if number is not None and (not isinstance(number, Integral) or isinstance(number, bool)):
            raise ValueError(f"{name} is {number!r}; give a whole number")
    least = smallest_base(classes, length)
    base = max(least, 2) if base is None else base
    if base < least:
        raise ValueError(f"base {base} with {length} digits tells {base**length} classes apart, and there are {classes}; take base {least} or more, "
                         "or more digits")
    if base**length >= 1 << 62:
        raise ValueError(f"{length} digits in base {base} are {base**length} codes, more than 64 bits can number; take fewer digits")
    return base


def enumerable(classes: int, length: int, base: int) -> int:
    """b^l. Raises ValueError where these are more numbers than marginals can go through."""
    if base**length > max(MOST_CODES, classes):
        raise ValueError(f"{length} digits in base {base} are {base**length} codes for {classes} classes, beyond {MOST_CODES}; "
                         "take another number of digits")
    return base**length


def _cut(vectors: Tensor, some: Tensor, table: Tensor, digit: int, parts: range, base: int) -> None:
    """Give `some` classes one of `parts` as their digit, and then the digits after it: halves of the parts until there is one."""
    if len(some) == 0 or digit == table.shape[1]:
        return
    if len(parts) == 1:
        table[some, digit] = parts.start
        _cut(vectors, some, table, digit + 1, range(base), base)
        return
    middle = len(parts) // 2
    size = len(some) * middle // len(parts)                         # neither half gets more than its digits can tell apart
    ranked = some[(vectors[some] @ _axis(vectors[some])).argsort(stable=True)] if len(some) > 1 else some
    _cut(vectors, ranked[:size], table, digit, parts[:middle], base)
    _cut(vectors, ranked[size:], table, digit, parts[middle:], base)


def _axis(vectors: Float[Tensor, "n D"]) -> Float[Tensor, " D"]:
    """The principal axis of some vectors, by power iteration from the one farthest from their mean; it has no sign of its own, and gets one."""
    centred = vectors - vectors.mean(0)
    axis = centred[centred.norm(dim=1).argmax()]
    for _ in range(POWERS if len(vectors) > 2 else 0):              # between two the axis is exact
        axis = torch.nn.functional.normalize(centred.T @ (centred @ axis), dim=0)
    return axis * axis[axis.abs().argmax()].sign()


def _half(length: int) -> int:
    return length // 2


def _outer(fits: Bool[Tensor, "n l b"]) -> Bool[Tensor, "n c"]:
    """(n, b^l): whether every digit of a number fits."""
    if fits.shape[1] == 1:
        return fits[:, 0]
    middle = _half(fits.shape[1])
    return (_outer(fits[:, :middle])[:, :, None] & _outer(fits[:, middle:])[:, None]).flatten(1)


def _spread(values: Float[Tensor, "n l b"]) -> Float[Tensor, "n c"]:
    """(n, b^l): the sum over the digits of a number."""
    if values.shape[1] == 1:
        return values[:, 0]
    middle = _half(values.shape[1])
    return (_spread(values[:, :middle])[:, :, None] + _spread(values[:, middle:])[:, None]).flatten(1)


def _log_sums(values: Float[Tensor, "n c"], length: int, base: int) -> list[Float[Tensor, "n b"]]:
    """For each digit, logsumexp over all others: both halves of the digits are summed out once, then the same inside each."""
    if length == 1:
        return [values]
    middle = _half(length)
    halves = values.view(len(values), base**middle, base ** (length - middle))
    return [*_log_sums(halves.logsumexp(2), middle, base), *_log_sums(halves.logsumexp(1), length - middle, base)]


def idle_share(steps: int, slots: int) -> float:
    """P(a step of an ancestral decode reveals nothing): every digit's step is one of `steps` at random, (1 - 1/T)^(L l).

    Arithmetic, not learned: T = L = 1024 gives the published 36.77 % for l = 1 and 13.52 % for l = 2.
    """
    return math.exp(slots * math.log1p(-1 / steps)) if steps > 1 else float(slots == 0)
