"""A mark on a field that holds one of several dataclasses. It knows neither YAML nor recipes: `config.build` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tagged:
    """The `type:` tags of a field that holds one of several dataclasses; `default` is the tag meant when none is
    given; `word` the tag and the key meant by plain text in place of a mapping."""

    kinds: Mapping[str, Any]
    default: str | None = None
    word: tuple[str, str] | None = None

    def __hash__(self) -> int:
        return hash(tuple(self.kinds))
