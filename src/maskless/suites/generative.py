"""`generative`: texts drawn from the model, judged by another language model, and by how various they are.

    generative_perplexity               of every token after the first, under the scorer
    generative_perplexity_first_chunk   of the tokens that count in the released code: all but the EOS behind the first
    unigram_entropy                     nats, within a sample, averaged over samples

A low perplexity with a low entropy is a model that repeats itself: neither number says anything without the other.
"""
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskless.api.text import TextModel
from maskless.evaluation.generative import first_chunk, unigram_entropy
from maskless.evaluation.likelihood import ratio_error
from maskless.evaluation.results import Result
from maskless.evaluation.samples import Sample, read_lines
from maskless.evaluation.scorers import Scorer, open_scorer, score
from maskless.evaluation.settings import Generative
from maskless.suites.drawing import drawn, options_of
from maskless.suites.session import Session


def evaluate_generative(session: Session, settings: Generative) -> Iterator[Result]:
    """What can be said of texts without knowing what they should be.

    Raises:
        ValueError: a model of images, a scorer that cannot read the samples, no samples, or numbers that are not finite.
    """
    opened = session.subject.opened
    if not isinstance(opened, TextModel):
        raise ValueError(f"{session.subject.record.path} is a model of images; measure it with the suite images")
    scorer = None if settings.scorer is None else open_scorer(settings.scorer, opened.device)
    by_text = scorer is not None and _reads_text(scorer, settings, opened)
    samples = _samples(session, settings, opened)
    if samples is None:
        return
    about = _about(session, settings, samples)
    if scorer is not None:
        yield from _perplexities(session, settings, samples, scorer, by_text, about)
    yield from _entropy(session, samples, about)


def _samples(session: Session, settings: Generative, opened: TextModel) -> list[Sample] | None:
    """The samples to judge, each with its text and its tokens; None in a process that only draws."""
    if settings.file is None:
        found = drawn(session, settings)
        return None if found is None else found[1]
    samples = read_lines(Path(settings.file))[:settings.samples]
    if not samples:
        raise ValueError(f"{settings.file} holds no samples; give a file with a line of JSON for each")
    return [_completed(sample, opened, settings.file) for sample in samples]


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


def _about(session: Session, settings: Generative, samples: Sequence[Sample]) -> dict[str, Any]:
    """What every result says of the drawing."""
    if settings.file is not None:
        return {"details": {"file": Path(settings.file).name}}
    options, nfe = options_of(session, settings.sampler), max(sample["nfe"] for sample in samples)
    return {"sampler": {**options, "refresh": settings.refresh, "length": settings.length or session.subject.length}, "plan": options["plan"],
            "nfe": nfe, "details": {}}


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


def _perplexities(session: Session, settings: Generative, samples: Sequence[Sample], scorer: Scorer, by_text: bool,
                  about: dict[str, Any]) -> Iterator[Result]:
    texts = [respelled(sample["tokens"], session.subject.opened, scorer) if by_text else sample["tokens"] for sample in samples]
    window = min(settings.window or session.subject.length, scorer.window)
    tokens, valid, nll = score(scorer, texts, window)
    later = valid & (torch.arange(valid.shape[1]) > 0)
    counted = {"generative_perplexity": later}
    if scorer.eos is not None:
        counted["generative_perplexity_first_chunk"] = later & first_chunk(tokens, scorer.eos)
    cut = sum(max(0, len(text) - window) for text in texts)
    for metric, use in counted.items():
        value, error, nats = corpus(nll, use)
        details = {**about["details"], "tokens": int(use.sum()), "tokens_beyond_window": cut, "window": window, "retokenised": by_text,
                   "nats_per_token": nats, "nats_per_token_standard_error": error / value if math.isfinite(error) else None}
        yield session.result(metric, value, error, len(texts), kind="estimate", better="lower", precision=session.sampling, scorer=scorer.named,
                             **{**about, "details": details})


def corpus(nll: Float[Tensor, "N W"], use: Bool[Tensor, "N W"]) -> tuple[float, float, float]:
    """exp(all nats / all tokens), its standard error from the spread between samples, and the nats per token.

    Raises:
        ValueError: no token counts.
    """
    totals, counts = torch.where(use, nll, 0.0).sum(1), use.sum(1)
    if not int(counts.sum()):
        raise ValueError(f"no token of {len(nll)} samples counts: every sample is empty or ends at once; draw others")
    nats = float(totals.sum()) / int(counts.sum())
    value = math.exp(min(nats, 700.0))
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


def _entropy(session: Session, samples: Sequence[Sample], about: dict[str, Any]) -> Iterator[Result]:
    each = torch.stack([entropy_of(torch.tensor(sample["tokens"])) for sample in samples]).double()
    error = float(each.std()) / math.sqrt(len(each)) if len(each) > 1 else None
    yield session.result("unigram_entropy", float(each.mean()), error, len(each), kind="estimate", unit="nats", better=None,
                         precision=session.sampling, **about)


def entropy_of(tokens: Int[Tensor, " L"]) -> Float[Tensor, ""]:
    return unigram_entropy(tokens[None])[0]
