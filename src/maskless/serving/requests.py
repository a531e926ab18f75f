"""What can be asked of a served model: the arguments of `TextModel`'s calls, read from JSON as strictly as a recipe.

The fields of a request that are not its own are those of `SamplerOptions`: {"prompt": "It was", "length": 40, "steps": 8, "order": "spaced"}.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

from maskless.api.template import Template
from maskless.api.text import Completion, TextModel
from maskless.config import build
from maskless.decoding import SamplerOptions
from maskless.decoding.options import check_names

SHARED = {"steps", "order", "plan", "temperature", "temperature_last", "top_k", "top_k_last", "top_p", "confidence_noise", "candidates",
          "guidance", "guidance_schedule"}
"""Options under which a row of a batch is what it is alone; requests with others get calls of their own."""

S = TypeVar("S", bound="Sampled")


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """What all requests for texts have.

    Attributes:
        n: texts, or ways to fill the gaps.
        seed: the same seed gives the same texts.
        refresh: as in `TextModel.generate`.
        stream: send the text after every step, as server-sent events.
        options: those of `SamplerOptions` that were given.
    """

    n: int = 1
    seed: int = 0
    refresh: int = 0
    stream: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def steps(self, model: TextModel) -> int | None:
        """Calls of the model, where this request may go with others that take as many; else None."""
        slots = self.open_sites(model) * model.model.per_site
        if self.stream or self.n != 1 or slots < 1 or not SHARED.issuperset(self.options):
            return None
        return min(replace(SamplerOptions(), **self.options).calls(slots, left_to_right=model.model.left_to_right), slots)

    def open_sites(self, model: TextModel) -> int:
        """Sites to fill; 0 where that is not known yet."""
        raise NotImplementedError

    def alone(self, model: TextModel, **watched: Any) -> list[Completion]:
        """A call for this request."""
        raise NotImplementedError

    def together(self, model: TextModel, all: Sequence[Any], **options: Any) -> list[Completion]:
        """A call for several, which differ in texts and seeds."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Generate(Sampled):
    """Texts that begin with `prompt`, of `length` sites (BOS and prompt included; the model's length if left out)."""

    prompt: str = ""
    length: int | None = None

    def open_sites(self, model: TextModel) -> int:
        row, _ = model.read_prompt(self.prompt)
        return (model.model.config.length if self.length is None else self.length) - len(row)

    def alone(self, model: TextModel, **watched: Any) -> list[Completion]:
        return model.generate(self.n, prompt=self.prompt, length=self.length, seed=self.seed, refresh=self.refresh, **self.options, **watched)

    def together(self, model: TextModel, all: Sequence[Generate], **options: Any) -> list[Completion]:
        prompts, seeds = [each.prompt for each in all], [each.seed for each in all]
        return model.generate(prompt=prompts, length=self.length, seed=seeds, refresh=self.refresh, **options)


@dataclass(frozen=True, kw_only=True)
class Infill(Sampled):
    """A text with gaps (`___`, `___{12}`); `lengths` of those that state none: a number, one per gap, or "search"."""

    text: str
    lengths: int | list[int] | Literal["search"] = "search"

    @cached_property
    def stating(self) -> tuple[str, int]:
        """The text with all lengths in it, and their sum; the text as it is, and 0, where they are searched for."""
        template, given = Template.parse(self.text), None if isinstance(self.lengths, str) else self.lengths
        if given is None and not all(template.sizes):
            return self.text, 0
        lengths = template.lengths(given)
        return template.stating(lengths), sum(lengths)

    def open_sites(self, model: TextModel) -> int:
        return self.stating[1]

    def alone(self, model: TextModel, **watched: Any) -> list[Completion]:
        found = model.infill(self.text, n=self.n, lengths=self.lengths, seed=self.seed, refresh=self.refresh, **self.options, **watched)
        return found if isinstance(found, list) else [found]

    def together(self, model: TextModel, all: Sequence[Infill], **options: Any) -> list[Completion]:
        texts, seeds = [each.stating[0] for each in all], [each.seed for each in all]
        return model.infill(texts, seed=seeds, refresh=self.refresh, **options)


@dataclass(frozen=True, kw_only=True)
class Score:
    """log p(of | given), as `TextModel.logprob`."""

    of: str | list[str]
    given: str = "___"
    samples: int = 128
    seed: int = 0


def sampled(kind: type[S], tree: Mapping[str, Any]) -> S:
    """A request for texts.

    Raises:
        ValueError: for a name that is neither its own nor an option, and for values of the wrong kind: one sentence.
    """
    names = {each.name for each in fields(kind)} - {"options"}
    options = {name: value for name, value in tree.items() if name not in names}
    check_names(options)
    build(SamplerOptions, options)
    return replace(build(kind, {name: value for name, value in tree.items() if name in names}), options=options)
