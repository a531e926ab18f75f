"""What every request for something drawn from a model has, read from JSON as strictly as a recipe.

The fields of a request that are not its own are those of `SamplerOptions`: {"prompt": "It was", "length": 40, "steps": 8, "order": "spaced"}.
"""
from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from maskless.config import build
from maskless.decoding import Canvas, SamplerOptions
from maskless.decoding.decode import Record

SHARED = {"steps", "order", "plan", "temperature", "temperature_last", "top_k", "top_k_last", "top_p", "confidence_noise", "candidates",
          "guidance", "guidance_schedule"}
"""Options under which a row of a batch is what it is alone; requests with others get calls of their own."""

S = TypeVar("S", bound="Sampled")


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """What all requests have whose answers are drawn; `model` is one of the kind that the request is for.

    Attributes:
        n: texts, ways to fill the gaps, images.
        seed: the same seed gives the same answer.
        refresh: as in `TextModel.generate`.
        stream: send what there is after every step, as server-sent events.
        options: those of `SamplerOptions` that were given.
    """

    n: int = 1
    seed: int = 0
    refresh: int = 0
    stream: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def may_share(self) -> bool:
        return not self.stream and self.n == 1 and SHARED.issuperset(self.options)

    def like(self, model: Any) -> Hashable | None:
        """What requests of this type have in common, beside options, that go through the model together; None for one that goes alone."""
        raise NotImplementedError

    def alone(self, model: Any, **watched: Any) -> list[Any]:
        """A call for this request."""
        raise NotImplementedError

    def together(self, model: Any, all: Sequence[Any]) -> list[Any]:
        """A call for several that are alike, with one result for each."""
        raise NotImplementedError

    def frame(self, model: Any, canvas: Canvas, record: Record) -> dict[str, Any]:
        """What there is after a step, of the first row."""
        raise NotImplementedError

    def told(self, found: Sequence[Any]) -> dict[str, Any]:
        """Results as they are sent."""
        raise NotImplementedError


def sampled(kind: type[S], tree: Mapping[str, Any]) -> S:
    """A request of this kind.

    Raises:
        ValueError: for a name that is neither its own nor an option, and for values of the wrong kind: one sentence.
    """
    names = {each.name for each in fields(kind)} - {"options"}
    options = {name: value for name, value in tree.items() if name not in names}
    if unknown := sorted(set(options) - {each.name for each in fields(SamplerOptions)}):
        raise ValueError(f"{unknown[0][:40]!r} is nothing that can be asked for here; there are {', '.join(sorted(names))}, "
                         "and the options of a sampler (GET /v1/model lists them)")
    build(SamplerOptions, options)
    return replace(build(kind, {name: value for name, value in tree.items() if name in names}), options=options)
