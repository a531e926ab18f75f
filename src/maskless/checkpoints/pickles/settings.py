"""Settings out of what a pickle was read into: plain trees of omegaconf, namespaces, paths; the JSON of a tokenizer."""
from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from maskless.checkpoints.pickles.values import Inert, InertClass, Refused

MAX_DEPTH, MAX_NODES = 64, 100_000


def plain(value: Any) -> Any:
    """Mappings, lists and scalars; records become what they hold, tensors and types their description.

    Raises:
        Refused: nested too deeply (or in a circle), or one list shared so often that it would fill the memory.
    """
    return _plain(value, MAX_DEPTH, [MAX_NODES])


def _plain(value: Any, depth: int, budget: list[int]) -> Any:
    budget[0] -= 1
    if depth < 0 or budget[0] < 0:
        raise Refused("has settings that are nested in a circle or without end")
    inside = lambda each: _plain(each, depth - 1, budget)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Inert):
        return inside(content(value))
    if isinstance(value, dict):
        return {str(inside(key)): inside(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [inside(each) for each in value]
    return value.name if isinstance(value, InertClass) else f"<{type(value).__name__}>"


def content(record: Inert) -> Any:
    """What an inert record is about."""
    state = record.state if isinstance(record.state, dict) else {}
    if record.name.startswith("omegaconf."):
        return state.get("_content", state.get("_val"))
    if record.name.startswith("pathlib."):
        return "/".join(part for part in record.args if isinstance(part, str)).replace("//", "/")
    if record.items and all(isinstance(item, tuple) and len(item) == 2 for item in record.items):
        return {str(key): value for key, value in record.items}
    return state or record.items or list(record.args) or None


def records(value: Any, depth: int = 8, budget: list[int] | None = None) -> Iterator[Inert]:
    """Inert records inside containers and other records, as deep as one needs to look."""
    budget = [MAX_NODES] if budget is None else budget
    budget[0] -= 1
    if depth < 0 or budget[0] < 0:
        return
    if isinstance(value, Inert):
        yield value
        yield from records([value.args, value.state, value.items], depth - 1, budget)
    elif isinstance(value, dict):
        for each in value.values():
            yield from records(each, depth - 1, budget)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from records(each, depth - 1, budget)


def tokenizer(value: Any) -> dict[str, Any] | None:
    """The definition (the content of a tokenizer.json) of a pickled `tokenizers.Tokenizer`, if there is one: its state is JSON."""
    for record in records(value):
        if record.name == "tokenizers.Tokenizer" and isinstance(record.state, bytes | str):
            try:
                definition = json.loads(record.state)
            except (ValueError, RecursionError):
                return None
            return definition if isinstance(definition, dict) else None
    return None
