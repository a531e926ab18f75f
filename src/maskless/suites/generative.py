"""`generative`: texts drawn from the model, judged by another language model, and by how various they are.

    generative_perplexity               of every token after the first, under the scorer
    generative_perplexity_first_chunk   of the tokens that count in the released code: all but the EOS behind the first
    unigram_entropy                     nats, within a sample, averaged over samples
    distinct_2, repetition_4, self_bleu_4
    mauve                               against real texts, by the scorer's last hidden states

A low perplexity with a low entropy is a model that repeats itself: neither number says anything without the other.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from maskless.api.text import TextModel
from maskless.evaluation.generative import first_chunk
from maskless.evaluation.likelihood import ratio_error
from maskless.evaluation.results import Result
from maskless.evaluation.samples import Sample, read_lines
from maskless.evaluation.scorers import Read, Scorer, in_micro_batches, open_scorer, table
from maskless.evaluation.settings import Generative
from maskless.evaluation.text_metrics import clusters_of, distinct, entropy, mauve, repetition, self_bleu
from maskless.suites.drawing import drawn, options_of
from maskless.suites.likelihood import Held, open_held
from maskless.suites.session import Session

LARGEST = 700.0                                                     # nats per token whose exponential is a float
LONGEST = 4                                                         # tokens of the n-grams that repetition and self-BLEU look at


def evaluate_generative(session: Session, settings: Generative) -> Iterator[Result]:
    """What can be said of texts without knowing what they should be.

    Raises:
        ValueError: a model of images, a scorer that cannot read the samples, no samples, too few for MAUVE, or numbers that are not finite.
    """
    opened = session.subject.opened
    if not isinstance(opened, TextModel):
        raise ValueError(f"{session.subject.record.path} is a model of images; measure it with the suite images")
    if session.shard.alone:
        if settings.file is None:
            drawn(session, settings)
        return
    scorer = None if settings.scorer is None else open_scorer(settings.scorer, opened.device)
    for metric in judged(settings):
        session.refuse_another(metric, _question(session, metric))
    by_text = scorer is not None and _reads_text(scorer, settings, opened)
    given = None if settings.file is None else _given(session, settings.file, settings.samples, opened)
    held = _held(session, settings, settings.samples if given is None else len(given.samples))
    samples = drawn(session, settings) if given is None else given.samples
    about = _about(session, settings, samples, given)
    if scorer is not None:
        yield from _judged(session, settings, samples, scorer, by_text, held, about)
    yield from _variety(session, samples, about)


def judged(settings: Generative) -> list[str]:
    """The metrics that the scorer gives."""
    perplexities = [] if settings.scorer is None else ["generative_perplexity", "generative_perplexity_first_chunk"]
    return [*perplexities, *([] if settings.real is None else ["mauve"])]


def _question(session: Session, metric: str) -> dict[str, Any]:
    """What a number depends on that the scorer says of the samples."""
    return session.question("scorer", "retokenise", "window", *(["real"] if metric == "mauve" else []))


@dataclass(frozen=True)
class Given:
    """Samples of a file.

    Attributes:
        samples: those that are judged, each with its text and its tokens.
        lines: how many the file holds.
    """

    samples: list[Sample]
    lines: int


def _given(session: Session, file: str, most: int, opened: TextModel) -> Given:
    """The first samples of a file, `most` of them; what is left out is said."""
    found = read_lines(Path(file))
    if not found:
        raise ValueError(f"{file} holds no samples; give a file with a line of JSON for each")
    if len(found) > most:
        session.say(f"{file} holds {len(found)} samples and the first {most} are judged; generative.samples={len(found)} judges all")
    return Given([_completed(sample, opened, file) for sample in found[:most]], len(found))


def _held(session: Session, settings: Generative, samples: int) -> Held | None:
    """As many real rows as samples, for MAUVE; None where it is not asked for.

    Raises:
        ValueError: no such data, or fewer rows or samples than MAUVE needs.
    """
    if settings.real is None:
        return None
    held = open_held(session.subject, settings.real, "valid", settings.length or session.subject.length, limit=samples)
    clusters_of(held.count, samples)
    return held


def _completed(sample: Sample, opened: TextModel, place: str) -> Sample:
    text, tokens = sample.get("text"), sample.get("tokens")
    if tokens is None and isinstance(text, str):
        bos = opened.tokenizer.vocabulary.bos
        return {**sample, "tokens": [*([] if bos is None else [bos]), *opened.tokenizer.encode(text)]}
    size = opened.tokenizer.vocabulary.size
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, int) and 0 <= token < size for token in tokens):
        raise ValueError(f"sample {sample['index']} of {place} has neither `text` nor `tokens` in 0..{size - 1}, the ids of the model's tokenizer; "
                         "correct it, or give the model that drew it")
    return {**sample, "text": opened.tokenizer.decode(tokens)} if text is None else sample


def _about(session: Session, settings: Generative, samples: Sequence[Sample], given: Given | None) -> dict[str, Any]:
    """What every result says of the drawing, or of the file."""
    if settings.file is not None and given is not None:
        return {"precision": replace(session.sampling, draws=None), "details": {"file": Path(settings.file).name, "samples_in_file": given.lines}}
    options, nfe = options_of(session, settings.sampler), max(sample["nfe"] for sample in samples)
    return {"precision": session.sampling, "plan": options["plan"], "nfe": nfe, "details": {},
            "sampler": {**options, "refresh": settings.refresh, "length": settings.length or session.subject.length}}


# -------------------------------------------------------------------------------------------------------- perplexity


def _reads_text(scorer: Scorer, settings: Generative, opened: TextModel) -> bool:
    """Whether the scorer reads the samples as text, in tokens of its own.

    Raises:
        ValueError: it is to read ids and means other tokens by them.
    """
    same = scorer.tokenizer_hash == opened.tokenizer.hash
    by_text = settings.retokenise if settings.retokenise is not None else scorer.tokenizer_hash is None
    if not by_text and not same:
        raise ValueError(f"the scorer {scorer.named.name} has another vocabulary than the model, so the ids of the samples mean other tokens to it; "
                         "set generative.retokenise=true to let it read their text, or give a scorer with the model's tokenizer")
    return by_text


def _judged(session: Session, settings: Generative, samples: Sequence[Sample], scorer: Scorer, by_text: bool, held: Held | None,
            about: dict[str, Any]) -> Iterator[Result]:
    """What the scorer says of the samples."""
    spell = (lambda tokens: respelled(tokens, session.subject.opened, scorer)) if by_text else list
    window = min(settings.window or session.subject.length, scorer.window)
    texts = [spell(sample["tokens"]) for sample in samples]
    read = table(texts, window)
    nll = in_micro_batches(scorer.nll, read, scorer.named.name)
    tokens, valid = read
    later = valid & (torch.arange(valid.shape[1]) > 0)
    counted = {"generative_perplexity": later}
    if scorer.eos is not None:
        counted["generative_perplexity_first_chunk"] = later & first_chunk(tokens, scorer.eos)
    shared = {**about["details"], "tokens_beyond_window": sum(max(0, len(text) - window) for text in texts), "window": window,
              "retokenised": by_text}
    made = {**about, "scorer": scorer.named}
    for metric, use in counted.items():
        value, error, nats = corpus(nll, use)
        details = {**shared, "tokens": int(use.sum()), "nats_per_token": nats}
        yield session.result(metric, value, error, len(texts), kind="estimate", asked=_question(session, metric), **{**made, "details": details})
    if held is not None:
        yield _mauve(session, held, read, scorer, spell, {**made, "details": shared})


def _mauve(session: Session, held: Held, read: Read, scorer: Scorer, spell: Callable[[list[int]], list[int]], made: dict[str, Any]) -> Result:
    """MAUVE against the real rows, written and read as the samples were."""
    rows = [spell(row[here].tolist()) for batch in held.batches(session.batch_size) for row, here in zip(batch.tokens, batch.valid)]
    real = in_micro_batches(scorer.features, table(rows, made["details"]["window"]), scorer.named.name)
    found = mauve(real, in_micro_batches(scorer.features, read, scorer.named.name))
    details = {**made["details"], "error_from": found.error_from, "real_rows": held.count}
    return session.result("mauve", found.value, found.standard_error, found.count, kind="estimate", better="higher", data=held.record,
                          asked=_question(session, "mauve"), **{**made, "details": details})


def corpus(nll: Float[Tensor, "N W"], use: Bool[Tensor, "N W"]) -> tuple[float, float, float]:
    """exp(all nats / all tokens), its standard error from the spread between samples, and the nats per token.

    Raises:
        ValueError: no token counts, or a perplexity beyond all numbers.
    """
    totals, counts = torch.where(use, nll, 0.0).sum(1), use.sum(1)
    if not int(counts.sum()):
        raise ValueError(f"no token of {len(nll)} samples counts: every sample is empty or ends at once; draw others")
    nats = float(totals.sum()) / int(counts.sum())
    if nats > LARGEST:
        raise ValueError(f"the scorer gives {nats:.4g} nats per token, whose exponential is no number; look at its weights")
    value = math.exp(nats)
    return value, value * ratio_error(totals, counts), nats


def respelled(tokens: Sequence[int], opened: Any, scorer: Scorer) -> list[int]:
    """A sample in the scorer's tokens: its opening, then document after document, the scorer's EOS between them."""
    vocabulary = opened.tokenizer.vocabulary
    documents: list[list[int]] = [[]]
    for token in tokens[1:] if vocabulary.bos is not None and list(tokens[:1]) == [vocabulary.bos] else tokens:
        if token == vocabulary.eos:
            documents.append([])
        else:
            documents[-1].append(token)
    spelled = [scorer.encode(opened.tokenizer.decode(document)) if document else [] for document in documents]
    end = [] if scorer.eos is None else [scorer.eos]
    found = [*scorer.opening, *spelled[0]]
    for document in spelled[1:]:
        found += [*end, *document]
    return found


# ----------------------------------------------------------------------------------------------------------- variety


def _variety(session: Session, samples: Sequence[Sample], about: dict[str, Any]) -> Iterator[Result]:
    """How samples repeat themselves and each other, in the model's own tokens; those of fewer than `LONGEST` say nothing."""
    rows = [sample["tokens"] for sample in samples if len(sample["tokens"]) >= LONGEST]
    if not rows:
        raise ValueError(f"all {len(samples)} samples have fewer than {LONGEST} tokens, too few to measure their variety; draw longer ones")
    measured = {"unigram_entropy": entropy(rows), "distinct_2": distinct(rows, 2), f"repetition_{LONGEST}": repetition(rows, LONGEST)}
    if len(rows) > 1:
        measured[f"self_bleu_{LONGEST}"] = self_bleu(rows, LONGEST)
    for metric, found in measured.items():
        details = {**about["details"], "error_from": found.error_from, "too_short": len(samples) - len(rows)}
        yield session.result(metric, found.value, found.standard_error, found.count, kind="estimate", better=found.better,
                             unit="nats" if metric == "unigram_entropy" else "", **{**about, "details": details})
