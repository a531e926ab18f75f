"""`likelihood`: -log p of held-out rows, a bound or exact, in nats per token.

    masked, maskgit, partition   nelbo                  a bound; both groups of a partition model are predicted and count
    order-causal partition       nelbo                  one pass an order: the mean over K orders of -log p along an order
                                 weighted_bound         -log of the mean over the same K orders of p: tighter, still a bound
      trained with a dial        bound_of_2_a_step, ..., bound_of_two_groups: its other modes
    digits (Prime)               nelbo                  a bound: digits are hidden one by one
                                 bound_of_tokens        a bound: whole tokens are hidden
                                 ..._unfiltered         a bound of the law that known digits do not filter
    autoregressive               nll                    exact

`details.objective` says whose bound it is. L sites of a row.
"""
from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from maskless.api.image import ImageModel
from maskless.api.text import TextModel
from maskless.config import tree_of
from maskless.data.batch import Batch
from maskless.data.images import ImageCodes
from maskless.data.loader import Rows
from maskless.data.source import Source
from maskless.data.sources import open_data, tokenizer_of
from maskless.evaluation.likelihood import Bound, any_order_bound, bound
from maskless.evaluation.micro import micro_rows
from maskless.evaluation.results import DataRecord, Kind, Result
from maskless.evaluation.settings import Likelihood
from maskless.objectives import FITS, OBJECTIVES, AnyOrder, Complementary, Dial, Masked, Objective, PrimePartition, own
from maskless.suites.names import name_of
from maskless.suites.session import Session
from maskless.suites.subject import Subject

ORDERS = 8                                                          # of an order-causal model, where nobody says


@dataclass(frozen=True)
class Held:
    """Rows to measure.

    Attributes:
        rows: as they were opened.
        count: how many of them, from the first on.
        record: what results say of them.
        units: bytes that their target tokens spell; 0 for images.
    """

    rows: Rows
    count: int
    record: DataRecord
    units: int

    def batches(self, size: int) -> Iterator[Batch]:
        for numbers in torch.arange(self.count).split(size):
            yield self.rows.read(numbers)


def evaluate_likelihood(session: Session, settings: Likelihood) -> Iterator[Result]:
    """The bounds of a model on a part of a data set.

    Raises:
        ValueError: no data, data that the model cannot read, or numbers that are not finite.
    """
    subject, model = session.subject, session.subject.opened.model
    length = settings.length or subject.length
    objective = _objective(subject, settings)
    asked: dict[str, tuple[Objective, Kind]] = {}
    for reported, each in objective.reported(length).items():
        metric, kind = named(model, each, reported)
        asked[metric] = each, kind
    nelbo = asked["nelbo"][0] if "nelbo" in asked else None
    if isinstance(nelbo, AnyOrder):                                 # a mean over orders of single sites, which can be weighted
        asked["weighted_bound"] = nelbo, "bound"
        if settings.budget == 1:
            raise ValueError("budget is 1, and the error of a mean over orders needs at least 2 of them; give budget 2 or more")
    called = settings.name if settings.data is not None else ""
    held = open_held(subject, settings.data, settings.split, length, limit=settings.rows, name=called)
    for metric, (each, _) in asked.items():
        session.refuse_another(metric, _question(session, each), held.record)
    size = micro_rows(held.rows.length)
    if isinstance(nelbo, AnyOrder):
        orders = any_order_bound(model, _read(session, held), orders=settings.budget or ORDERS, seed=settings.seed, anchor=nelbo.anchor, micro=size)
        about = {"orders": orders.orders, "error_over_orders": orders.order_error}
        for metric, found in (("nelbo", orders.average), ("weighted_bound", orders.weighted)):
            del asked[metric]
            yield _result(session, metric, found, "bound", held, size, nelbo, about)
    for metric, (each, kind) in asked.items():
        found = bound(model, each, _read(session, held), seed=settings.seed, samples=budget_of(model, settings), micro=size)
        yield _result(session, metric, found, kind, held, size, each, {"draws_per_row": found.samples})


def _question(session: Session, objective: Objective) -> dict[str, Any]:
    """What a bound depends on."""
    return {**session.question(), "objective": tree(objective)}


def _read(session: Session, held: Held) -> Iterator[Batch]:
    """The rows, with their classes only if the model tells them apart."""
    labelled = session.subject.opened.model.null_label is not None
    read = (batch if labelled else batch.labelled(None) for batch in held.batches(session.batch_size))
    return session.counted("rows", read, held.count, len)


def budget_of(model: Any, settings: Likelihood) -> int:
    """Draws per row; nothing is drawn for a model that goes from left to right."""
    return 1 if model.left_to_right else settings.budget or 1


def named(model: Any, objective: Objective, reported: str) -> tuple[str, Kind]:
    """The metric and kind of what an objective reports. Of digits, what is hidden and whether known digits filter is part of the name."""
    if model.left_to_right:
        return "nll", "exact"
    kind = "bound" if objective.valid else "joint_ce"
    metric = reported if reported != "bound" else "nelbo" if objective.valid else "joint_ce"
    if model.per_site == 1:
        return metric, kind
    if hides_tokens(objective):
        return ("bound_of_tokens" if metric == "nelbo" else metric), kind
    return metric if getattr(objective, "filter_observed", True) else f"{metric}_unfiltered", kind


def hides_tokens(objective: Objective) -> bool:
    """Whether all digits of a token are hidden together: they are then charged the law over V, and there is no digit to filter by."""
    if isinstance(objective, PrimePartition):
        return objective.token_groups == 1
    return isinstance(objective, Masked | Complementary) or getattr(objective, "chunk_point", 1) == 0


def tag(objective: Objective) -> str:
    """The `type:` of an objective."""
    return next(name for name, cls in OBJECTIVES.items() if type(objective) is cls)


def tree(objective: Objective) -> dict[str, Any]:
    """An objective as a recipe would say it, every field filled in."""
    return {"type": tag(objective), **tree_of(objective)}


def _objective(subject: Subject, settings: Likelihood) -> Objective:
    """What is measured: the objective that was asked for, or the one of the model's kind; of a model that a dial trained, all its modes.

    Raises:
        ValueError: an objective that does not fit the model.
    """
    kind = subject.record.kind
    if settings.objective is None:
        trained = None if subject.recipe is None else subject.recipe.objective
        objective = trained if isinstance(trained, Dial) else own(kind)
        return replace(objective, anchor=_anchored(subject)) if isinstance(objective, AnyOrder | Dial) else objective
    asked = tag(settings.objective)
    if asked not in FITS[kind]:
        raise ValueError(f"objective {asked} does not fit a {kind} model; use {' or '.join(FITS[kind])}, or leave it out")
    if (reason := getattr(settings.objective, "no_bound", None)) is not None:
        raise ValueError(reason)
    return settings.objective


def _anchored(subject: Subject) -> bool:
    """Whether site 0 opens every order: the model's rows begin with a BOS."""
    return subject.length > subject.coding.length if isinstance(subject.coding, ImageCodes) else subject.coding.vocabulary.bos is not None


def _result(session: Session, metric: str, found: Bound, kind: Kind, held: Held, size: int, objective: Objective, about: dict[str, Any]) -> Result:
    details: dict[str, Any] = {"tokens": found.tokens, "length": held.rows.length, "micro_batch": size, "objective": tree(objective), **about,
                               "bits_per_token": found.bits_per_token}
    if kind != "joint_ce" and math.isfinite(found.nats_per_token) and found.nats_per_token < 700:
        details["perplexity"] = math.exp(found.nats_per_token)
        details["perplexity_standard_error"] = _finite(details["perplexity"] * found.standard_error)
    if held.units:
        details["bits_per_byte"] = found.bits_per(held.units)
    return session.result(metric, found.nats_per_token, found.standard_error, found.rows, kind=kind, unit="nats per token", data=held.record,
                          details=details, asked=_question(session, objective))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# ------------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Opened:
    """Rows behind a first site that is given: the BOS of imported models of images."""

    rows: Rows
    bos: int

    @property
    def length(self) -> int:
        return self.rows.length + 1

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: Int[Tensor, " B"]) -> Batch:
        batch = self.rows.read(rows)
        columns = zip((batch.tokens, batch.valid, batch.given), (self.bos, True, True))
        tokens, valid, given = (torch.cat([column.new_full((len(batch), 1), first), column], 1) for column, first in columns)
        return Batch(tokens, valid, given, batch.labels)


def open_held(subject: Subject, data: Source | None, split: str, length: int, *, limit: int | None = None, name: str = "") -> Held:
    """The first `limit` rows of a part, written in the model's own tokenizer or codec.

    Args:
        length: L, with the BOS of models that have one.
        name: what results call the data; empty: by its source.

    Raises:
        ValueError: the model is too short for the rows, images are not whole, their first code cannot be scored, or the data cannot be had or
            read by the model.
    """
    _check_length(subject, length)
    source = subject.data(data)
    _check_coding(subject, source)
    opening = subject.opened.opening if isinstance(subject.opened, ImageModel) else 0
    rows: Rows = open_data(source, length=length - opening, split=split, tokenizer=subject.coding)
    if opening:
        rows = Opened(rows, subject.opened.model.vocab_size - 1)    # BOS is the last id of imported models
    count = len(rows) if limit is None else min(limit, len(rows))
    digest, units = _described(subject, rows, count)
    return Held(rows, count, DataRecord(name or name_of(source, split), split, digest, _documents(source, split, rows)), units)


def _check_length(subject: Subject, length: int) -> None:
    """Texts may be shorter than the model, images are whole; an autoregressive model has nothing to predict the first code from but a BOS."""
    model, path = subject.opened, subject.record.path
    if length > subject.length:
        raise ValueError(f"length is {length} and the model has {subject.length} sites; give at most those")
    if isinstance(model, ImageModel) and length != subject.length:
        raise ValueError(f"length is {length} and an image of {path} takes {subject.length} sites; leave likelihood.length out")
    if isinstance(model, ImageModel) and model.model.left_to_right and not model.opening:
        raise ValueError(f"{path} is an autoregressive model of images without a BOS, which cannot score the first code; measure its images "
                         "(suite images), or train with a BOS")


def _check_coding(subject: Subject, source: Source) -> None:
    """Images come in the codes of one codec, texts in any tokenizer that is asked."""
    coding = subject.coding
    pictures = isinstance(coding, ImageCodes)
    if pictures is not hasattr(source, "labels"):
        what, other = ("images", "texts") if pictures else ("texts", "images")
        raise ValueError(f"{subject.record.path} is a model of {what} and the data are {other}; name data of {what}")
    if pictures and tokenizer_of(source).hash != coding.hash:
        raise ValueError(f"the data are written in another codec or grid than {subject.record.path} was trained with; encode them with its own")


def _described(subject: Subject, rows: Rows, count: int) -> tuple[str, int]:
    """sha256 of the rows as they are measured, and the bytes that their target tokens spell."""
    digest, units = hashlib.sha256(), 0
    tokenizer = subject.opened.tokenizer if isinstance(subject.opened, TextModel) else None
    for numbers in torch.arange(count).split(1024):
        batch = rows.read(numbers)
        for column in (batch.tokens.int(), batch.valid, batch.given):
            digest.update(column.contiguous().view(torch.uint8).numpy().tobytes())
        if tokenizer is not None:
            units += sum(len(tokenizer.decode_bytes(row[here].tolist())) for row, here in zip(batch.tokens, batch.targets))
    return digest.hexdigest(), units


def _documents(source: Source, split: Any, rows: Rows) -> int:
    """Texts of the whole part; of images, rows."""
    return len(rows) if hasattr(source, "labels") else sum(1 for _ in source.texts(split))
