"""What is known of a model besides its weights, and from where: every answer that is not in the weights is written down."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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

    def choose(self, name: str, said: Any, assumed: Any) -> Any:
        """The answer for `name`.

        Args:
            said: what the file's settings say, in our words, or None.
            assumed: if nobody says anything; None where that would be a guess.
        """
        self.asked.add(name)
        for source, value in (("as you set it", self.overrides.get(name)), ("from the file's settings", said),
                              ("published default of this file's name", self.published.get(name)), ("assumed, nothing says", assumed)):
            if value is not None:
                self.note(name, value, source)
                return value
        return None

    def check(self, kind: str) -> None:
        """Raise ValueError for an override that nothing asked for."""
        if unknown := sorted(set(self.overrides) - self.asked):
            raise ValueError(f"{unknown[0]} cannot be set for a {kind}; what its weights leave open is {', '.join(sorted(self.asked))}")
