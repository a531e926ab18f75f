"""`likelihood`: -log p of held-out rows, a bound or exact, in nats per token.

    masked, maskgit, partition   nelbo                  a bound; both groups of a partition model are predicted and count
    order-causal partition       nelbo                  one pass an order: the mean over K orders of -log p along an order
                                 weighted_bound         -log of the mean over the same K orders of p: tighter, still a bound
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
from dataclasses import dataclass
from typing import Any

import torch

from maskless.api.text import TextModel
from maskless.config import tree_of
from maskless.data.batch import Batch
from maskless.data.images import ImageCodes
from maskless.data.loader import Rows
from maskless.data.source import Source
from maskless.data.sources import ORIGINS, open_data, tokenizer_of
from maskless.evaluation.likelihood import Bound, any_order_bound, bound
from maskless.evaluation.micro import micro_rows
from maskless.evaluation.results import DataRecord, Kind, Result
from maskless.evaluation.settings import Likelihood
from maskless.objectives import FITS, OBJECTIVES, AnyOrder, Complementary, Masked, Objective, PrimePartition, own
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
    subject = session.subject
    held = open_held(subject, settings.data, settings.split, settings.length or subject.length, limit=settings.rows, name=settings.name)
    model, size = subject.opened.model, micro_rows(held.rows.length)
    objective = _objective(subject, settings)
    if isinstance(objective, AnyOrder) and objective.commit == 1 and not objective.left_to_right:
        budget, anchor = settings.budget or ORDERS, _anchored(subject)
        found = any_order_bound(model, _read(session, held), orders=max(budget, 2), seed=settings.seed, anchor=anchor, micro=size)
        about = {"objective": tree(AnyOrder(anchor=anchor)), "orders": found.orders, "error_over_orders": found.order_error}
        yield _result(session, "nelbo", found.average, "bound", held, size, about)
        yield _result(session, "weighted_bound", found.weighted, "bound", held, size, about)
        return
    for reported, each in objective.reported(held.rows.length).items():
        found = bound(model, each, _read(session, held), seed=settings.seed, samples=budget_of(model, settings), micro=size)
        metric, kind = named(model, each, reported)
        yield _result(session, metric, found, kind, held, size, {"objective": tree(each), "draws_per_row": found.samples})


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
    """What is measured: the objective that was asked for, or the one of the model's kind.

    Raises:
        ValueError: an objective that does not fit the model.
    """
    kind = subject.record.kind
    if settings.objective is None:
        return own(kind)
    asked = tag(settings.objective)
    if asked not in FITS[kind]:
        raise ValueError(f"objective {asked} does not fit a {kind} model; use {' or '.join(FITS[kind])}, or leave it out")
    return settings.objective


def _anchored(subject: Subject) -> bool:
    """Whether site 0 opens every order: the model's rows begin with a BOS."""
    return getattr(subject.coding.vocabulary, "bos", None) is not None


def _result(session: Session, metric: str, found: Bound, kind: Kind, held: Held, size: int, about: dict[str, Any]) -> Result:
    details: dict[str, Any] = {"tokens": found.tokens, "length": held.rows.length, "micro_batch": size, **about,
                               "bits_per_token": found.bits_per_token}
    if kind != "joint_ce" and math.isfinite(found.nats_per_token) and found.nats_per_token < 700:
        details["perplexity"] = math.exp(found.nats_per_token)
        details["perplexity_standard_error"] = _finite(details["perplexity"] * found.standard_error)
    if held.units:
        details["bits_per_byte"] = found.bits_per(held.units)
    return session.result(metric, found.nats_per_token, found.standard_error, found.rows, kind=kind, unit="nats per token", data=held.record,
                          details=details)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# ------------------------------------------------------------------------------------------------------------- data


def open_held(subject: Subject, data: Source | None, split: str, length: int, *, limit: int | None = None, name: str = "") -> Held:
    """The first `limit` rows of a part, written in the model's own tokenizer or codec.

    Args:
        name: what results call the data; empty: by its source.

    Raises:
        ValueError: the model is too short for the rows, or the data cannot be had or read by it.
    """
    if length > subject.length:
        raise ValueError(f"length is {length} and the model has {subject.length} sites; give at most those")
    source = subject.data(data)
    _check_coding(subject, source)
    rows = open_data(source, length=length, split=split, tokenizer=subject.coding)
    count = len(rows) if limit is None else min(limit, len(rows))
    digest, units = _described(subject, rows, count)
    kind = next(name for name, cls in ORIGINS.items() if type(source) is cls)
    record = DataRecord(name or str(getattr(source, "name", kind)), split, digest, _documents(source, split, rows))
    return Held(rows, count, record, units)


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
