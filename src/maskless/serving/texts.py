"""What can be asked of a model of texts: the arguments of `TextModel`'s calls."""
from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

from maskless.api.template import Template
from maskless.api.text import Completion, TextModel
from maskless.api.watching import shown
from maskless.decoding import Canvas, SamplerOptions
from maskless.decoding.decode import Record
from maskless.serving.asked import Sampled


@dataclass(frozen=True, kw_only=True)
class Written(Sampled):
    """Texts are asked for."""

    def open_sites(self, model: TextModel) -> int:
        """Sites to fill; 0 where that is not known yet."""
        raise NotImplementedError

    def steps(self, model: TextModel) -> int:
        """Calls of the model; 0 where that is not known yet."""
        slots = self.open_sites(model) * model.model.per_site
        return slots and replace(SamplerOptions(), **self.options).calls(slots, left_to_right=model.model.left_to_right)

    def frame(self, model: TextModel, canvas: Canvas, record: Record) -> dict[str, Any]:
        return {"sites": [[site.text, site.fresh] for site in shown(model.tokenizer, canvas, record)]}

    def told(self, found: Sequence[Completion]) -> dict[str, Any]:
        return {"texts": [{"text": text.text, "gaps": text.gaps, "nfe": text.nfe} for text in found]}


@dataclass(frozen=True, kw_only=True)
class Generate(Written):
    """Texts that begin with `prompt`, of `length` sites (BOS and prompt included; the model's length if left out)."""

    prompt: str = ""
    length: int | None = None

    def open_sites(self, model: TextModel) -> int:
        row, _ = model.read_prompt(self.prompt)
        return max(0, (model.model.config.length if self.length is None else self.length) - len(row))

    def like(self, model: TextModel) -> Hashable | None:
        return (steps, self.length) if self.may_share and (steps := self.steps(model)) else None

    def alone(self, model: TextModel, **watched: Any) -> list[Completion]:
        return model.generate(self.n, prompt=self.prompt, length=self.length, seed=self.seed, refresh=self.refresh, **self.options, **watched)

    def together(self, model: TextModel, all: Sequence[Generate]) -> list[Completion]:
        prompts, seeds, options = [each.prompt for each in all], [each.seed for each in all], {**self.options, "steps": self.steps(model)}
        return model.generate(prompt=prompts, length=self.length, seed=seeds, refresh=self.refresh, **options)


@dataclass(frozen=True, kw_only=True)
class Infill(Written):
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

    def like(self, model: TextModel) -> Hashable | None:
        return self.steps(model) or None if self.may_share else None

    def alone(self, model: TextModel, **watched: Any) -> list[Completion]:
        found = model.infill(self.text, n=self.n, lengths=self.lengths, seed=self.seed, refresh=self.refresh, **self.options, **watched)
        return found if isinstance(found, list) else [found]

    def together(self, model: TextModel, all: Sequence[Infill]) -> list[Completion]:
        texts, seeds, options = [each.stating[0] for each in all], [each.seed for each in all], {**self.options, "steps": self.steps(model)}
        return model.infill(texts, seed=seeds, refresh=self.refresh, **options)


@dataclass(frozen=True, kw_only=True)
class Score:
    """log p(of | given), as `TextModel.logprob`."""

    of: str | list[str]
    given: str = "___"
    samples: int = 128
    seed: int = 0

    def alone(self, model: TextModel) -> dict[str, Any]:
        found = model.logprob(self.of, self.given, samples=self.samples, seed=self.seed)
        return {**asdict(found), "nats_per_token": found.nats_per_token}
