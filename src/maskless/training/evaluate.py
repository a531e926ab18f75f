"""What a run measures of itself: the bound on held-out rows, samples, and puzzles completed from their givens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from maskless.data.batch import Batch
from maskless.data.images import ImageCodes
from maskless.data.pictures import grid_of, picture, to_bytes
from maskless.decoding.canvas import Canvas
from maskless.decoding.noise import Noise
from maskless.decoding.sampler import Sampler
from maskless.decoding.speculate import Speculative
from maskless.evaluation.likelihood import bound
from maskless.training.distributed import Machine
from maskless.training.hooks import Every
from maskless.training.records import Journal

if TYPE_CHECKING:
    from maskless.data.loader import Rows
    from maskless.training.data import Data
    from maskless.training.recipe import Recipe


def hooks_of(recipe: Recipe, data: Data, journal: Journal, machine: Machine, folder: Path) -> list[Every]:
    """The measuring hooks a recipe asks for; pictures of samples go to `folder`."""
    hooks: list[Every] = []

    def add(measure: Callable[[Any, int], dict[str, Any]], every: int) -> None:
        hooks.append(Every(journal, machine, measure, every=every, last=recipe.training.steps))

    if data.validation is not None:
        add(lambda model, step: measure_bound(model, recipe, data.validation), recipe.validation.every)
        if recipe.validation.complete:
            add(lambda model, step: measure_completion(model, recipe, data), recipe.validation.every)
    if recipe.sampling.count and isinstance(data.tokenizer, ImageCodes):
        codes = data.tokenizer
        add(lambda model, step: paint(model, recipe, codes, folder / f"samples-{step:08d}.png"), recipe.sampling.every)
    elif recipe.sampling.count:
        add(lambda model, step: generate(model, recipe, data), recipe.sampling.every)
    return hooks


def first_rows(rows: Rows, limit: int | None, batch_size: int) -> Iterator[Batch]:
    """The first `limit` rows (None: all) in batches."""
    count = len(rows) if limit is None else min(limit, len(rows))
    for numbers in torch.arange(count).split(batch_size):
        yield rows.read(numbers)


def measure_bound(model: Any, recipe: Recipe, rows: Any) -> dict[str, Any]:
    """Nats per token of the validation rows, with their standard error; the perplexity where the bound is one."""
    begin, how = time.perf_counter(), recipe.validation
    record: dict[str, Any] = {}
    for name, objective in recipe.objective.reported(recipe.length).items():
        found = bound(model, objective, first_rows(rows, how.rows, how.batch_size), seed=how.seed, samples=how.samples)
        record[name] = found.nats_per_token
        if name == "bound":
            record |= {"standard_error": found.standard_error, "validation_tokens": found.tokens}
            record |= {} if found.perplexity is None else {"perplexity": found.perplexity}
        else:
            record[f"{name}_standard_error"] = found.standard_error
    return {**record, "validation_seconds": round(time.perf_counter() - begin, 3)}


@dataclass(frozen=True)
class Drawing:
    """A canvas, on the model's device, and how the recipe fills it."""

    model: Any
    canvas: Canvas
    sampler: Sampler | Speculative
    noise: Noise
    labels: Int[Tensor, " B"] | None = None

    def fill(self) -> Canvas:
        self.sampler(self.model, self.canvas, self.noise, cond=self.labels)
        return self.canvas

    def begin(self) -> None:
        """Make the first step alone."""
        walk = self.sampler.rounds if isinstance(self.sampler, Speculative) else self.sampler.records
        next(iter(walk(self.model, self.canvas, self.noise, self.labels)), None)


def drawing(model: Any, canvas: Canvas, recipe: Recipe, coding: Any, labels: Int[Tensor, " B"] | None = None) -> Drawing:
    """How the recipe fills a canvas. BOS stands in front and is never drawn. Raises ValueError for options that do not fit the model."""
    device, vocabulary = model.head.weight.device, coding.vocabulary
    forbid = () if vocabulary.bos in (None, vocabulary.eos) else (vocabulary.bos,)
    sampler = recipe.sampling.sampler.sampler(int(canvas.open.sum(1).max()), coding.grid if isinstance(coding, ImageCodes) else None,
                                              left_to_right=model.left_to_right, eos=vocabulary.eos, forbid=forbid)
    noise = Noise.of(recipe.sampling.seed, canvas.rows, device)
    return Drawing(model, canvas.to(device), sampler, noise, None if labels is None else labels.to(device))


def from_nothing(model: Any, recipe: Recipe, coding: Any, count: int) -> Drawing:
    """So many whole rows: texts from nothing but BOS, images of class after class."""
    tokens = torch.zeros(count, recipe.length, dtype=torch.int64)
    anchor = torch.zeros_like(tokens, dtype=torch.bool)
    if (bos := coding.vocabulary.bos) is not None:
        tokens[:, 0], anchor[:, 0] = bos, True
    labels = None if model.null_label is None else torch.arange(count) % model.null_label
    return drawing(model, model.canvas(tokens, anchor, anchor=anchor), recipe, coding, labels)


def from_givens(model: Any, recipe: Recipe, coding: Any, batch: Batch) -> Drawing:
    """Puzzles, without their answers."""
    known = batch.given & batch.valid
    return drawing(model, model.canvas(batch.tokens.masked_fill(~known, 0), known, present=batch.valid), recipe, coding)


def rehearse(model: Any, recipe: Recipe, data: Data) -> None:
    """Make the first step of what samples the recipe asks for. Raises ValueError for options that this model cannot be sampled with."""
    if recipe.sampling.count:
        from_nothing(model, recipe, data.tokenizer, 1).begin()
    if recipe.validation.complete and data.validation is not None:
        from_givens(model, recipe, data.tokenizer, next(first_rows(data.validation, 1, 1))).begin()


def paint(model: Any, recipe: Recipe, codes: ImageCodes, path: Path) -> dict[str, Any]:
    """Images of class after class, as one picture in the run's folder."""
    canvas = from_nothing(model, recipe, codes, recipe.sampling.count).fill()
    picture(grid_of(to_bytes(codes.images(canvas.by_site().tokens.cpu())))).save(path)
    return {"picture": path.name}


def generate(model: Any, recipe: Recipe, data: Data) -> dict[str, Any]:
    """Whole rows from nothing but BOS, as texts."""
    canvas = from_nothing(model, recipe, data.tokenizer, recipe.sampling.count).fill()
    return {"samples": [data.tokenizer.decode(row) for row in canvas.by_site().tokens.tolist()]}


def measure_completion(model: Any, recipe: Recipe, data: Data) -> dict[str, Any]:
    """Fill the unknown sites of validation rows from their givens, for puzzles, where the answer is unique.

    Returns:
        `cell_accuracy` over the sites that were not given, `solved`, the share of rows right everywhere, and `boards`.
    """
    assert data.validation is not None
    right, cells, solved, boards = 0, 0, 0, 0
    for batch in first_rows(data.validation, recipe.validation.complete, recipe.validation.batch_size):
        canvas = from_givens(model, recipe, data.tokenizer, batch).fill()
        hits = (canvas.by_site().tokens.cpu() == batch.tokens) | ~batch.targets
        right += int((hits & batch.targets).sum())
        cells += int(batch.targets.sum())
        solved += int(hits.all(1).sum())
        boards += len(batch)
    return {"cell_accuracy": right / max(cells, 1), "solved": solved / max(boards, 1), "boards": boards}
