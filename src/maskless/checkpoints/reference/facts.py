"""What is known of a model besides its weights, and from where: every answer that is not in the weights is written down."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


def whole(name: str, value: Any) -> int:
    """A whole number, also one written as text. Raises ValueError for anything else."""
    number = real(name, value)
    if number != int(number):
        raise ValueError(f"{name} is {value!r}; it must be a whole number")
    return int(number)


def real(name: str, value: Any) -> float:
    """A finite number, also one written as text. Raises ValueError for anything else."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} is {value!r}; it must be a number")
    return number


def flag(name: str, value: Any) -> bool:
    """True or false, also as text. Raises ValueError for anything else."""
    said = {"true": True, "false": False}.get(str(value).lower())
    if said is None:
        raise ValueError(f"{name} is {value!r}; it must be true or false")
    return said


def words(name: str, value: Any) -> str:
    """A word. Raises ValueError for anything else."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}; it must be a word")
    return value


@dataclass
class Facts:
    """Answers to what weights cannot tell, in order of trust: the user's, the file's, the published defaults of that file's name.

    Args:
        settings: the model's configuration in the words of the released code.
        overrides: the user's, by the names of the configuration here.
        published: defaults by file name (`released.py`), by the same names.
        notes: one sentence an inference, added to by `choose` and `note`.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    def note(self, name: str, value: Any, source: str) -> None:
        self.notes.append(f"{name} {value}: {source}")

    def choose(self, name: str, said: Any, assumed: Any, read: Callable[[str, Any], Any] = whole) -> Any:
        """The answer for `name`. Raises ValueError if it is not of its kind.

        Args:
            said: what the file's settings say, in our words, or None.
            assumed: if nobody says anything; None where that would be a guess.
            read: what an answer must be: `whole`, `real`, `flag` or `words`.
        """
        self.asked.add(name)
        for source, value in (("as you set it", self.overrides.get(name)), ("from the file's settings", said),
                              ("published default of this file's name", self.published.get(name)), ("assumed, nothing says", assumed)):
            if value is not None:
                answer = read(name, value)
                self.note(name, answer, source)
                return answer
        return None

    def check(self, kind: str) -> None:
        """Raise ValueError for an override that nothing asked for."""
        if unknown := sorted(set(self.overrides) - self.asked):
            open = f"what its weights leave open is {', '.join(sorted(self.asked))}" if self.asked else "its weights leave nothing open"
            raise ValueError(f"{unknown[0]} cannot be set for a {kind}; {open}")
