"""Golden files without a network: schedules, the categorical draw, the nucleus, generative metrics, text processing."""
from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskless.checkpoints.reference.quirks import RoundedLogLinear
from maskless.checkpoints.reference.replay import race
from maskless.decoding.choice import nucleus, top_k
from maskless.evaluation.generative import corpus_perplexity, first_chunk, unigram_entropy
from maskless.evaluation.golden.case import Case
from maskless.schedules import stratified_times


def check_schedule(case: Case) -> None:
    """text_schedule*: alpha, its rate, sigma, the weight, and stratified times."""
    schedule, t = RoundedLogLinear(eps=float(case.meta.get("noise_eps", 1e-3))), case.input("t")
    case.expect("alpha_t", schedule.alpha(t))
    case.expect("dalpha_t", schedule.rate(t))
    case.expect("sigma", -schedule.alpha(t).log())
    case.expect("weight_dalpha_over_1malpha", -schedule.weight(t))
    low = float(case.meta.get("sampling_eps", 1e-3))
    if case.has("train_t/eps_draw"):
        case.expect("train_t/t", stratified_times(case.input("train_t/eps_draw"), low))
    if case.has("train_t/plain_draw"):
        case.expect("train_t/plain_t", low + (1 - low) * case.input("train_t/plain_draw"))


def check_categorical(case: Case) -> None:
    """text_categorical*: the exponential race, in each recorded precision."""
    for name in case.names("index"):
        suffix = name.removeprefix("index")
        case.expect(name, race(case.input(f"probs{suffix}"), case.input(f"uniform{suffix}")))


def check_nucleus(case: Case) -> None:
    """text_nucleus*: every top_k_K, top_p_P and both."""
    logits = case.input("logits")
    for name in case.names("top_"):
        k, p = re.search(r"top_k_(\d+)", name), re.search(r"top_p_([\d.]+)", name)
        cut = logits if k is None or int(k[1]) == 0 else top_k(logits, int(k[1]))
        case.expect(name, cut if p is None or float(p[1]) in (0, 1) else nucleus(cut, float(p[1])))


def check_metrics(case: Case) -> None:
    """text_metrics*: unigram entropy, generative perplexity, validation totals."""
    if case.has("tokens"):
        tokens = case.input("tokens")
        case.expect("entropy_mean", unigram_entropy(tokens).mean())
        if case.has("lm_logits"):
            _check_generative(case, tokens, case.input("lm_logits"))
    if case.has("val_updates"):
        nats, tokens = case.input("val_updates").double().sum(0)
        case.expect("val_nll", nats / tokens)
        case.expect("val_ppl", (nats / tokens).exp())
        case.expect("val_bpd", nats / tokens / torch.log(torch.tensor(2.0, dtype=torch.float64)))


def _check_generative(case: Case, tokens: Tensor, logits: Tensor) -> None:
    """The released generative perplexity: whole batches only, and the last token of a sample does not count."""
    early = torch.arange(tokens.shape[1], device=tokens.device) < tokens.shape[1] - 1
    spans = {
        "gen_ppl_all": early.expand_as(tokens),
        "gen_ppl_first_chunk_retok": first_chunk(tokens, int(case.meta.get("eos", logits.shape[-1] - 1))) & early,
    }
    recorded = case.meta.get("batch_size")
    sizes = range(1, len(tokens) + 1) if recorded is None else [int(recorded)]  # not recorded: the closest is meant
    for name, counted in spans.items():
        wholes = sorted({len(tokens) // size * size for size in sizes})
        found = [corpus_perplexity(logits[:whole], tokens[:whole], counted[:whole]) for whole in wholes]
        if case.has(name):
            want = case.tensors[name].to(found[0])
            case.expect(name, min(found, key=lambda value: float((value - want).abs())))


def check_text(path: Path) -> dict[str, bool]:
    """text_data*.json: detokenizers, packing and the text8 alphabet; whether each agrees.

    What belongs to no part of this library (the synthetic data set, the reference's file names) is not looked at.
    """
    from maskless.data import detokenize
    from maskless.data.symbols import text8_tokenizer

    data = _json(path)
    rules = {
        "wt": detokenize.wikitext, "ptb": detokenize.penn_treebank, "lm1b": detokenize.one_billion_words,
        "lambada": detokenize.lambada, "scientific_papers": detokenize.scientific_papers,
    }
    found = {}
    for name, rule in rules.items():
        for number, (before, after) in enumerate(data.get(f"{name}_detokenizer", [])):
            found[f"{name}_detokenizer/{number}"] = rule(before) == after
    if "group_texts" in data:
        found |= _check_packing(data["group_texts"])
    if "text8" in data:
        tokenizer, alphabet = text8_tokenizer(), data["text8"]["map"]
        letters = [symbol for symbol in alphabet if len(symbol) == 1]
        found["text8/map"] = [tokenizer.encode(symbol) for symbol in letters] == [[alphabet[s]] for s in letters]
        found["text8/vocab_size"] = tokenizer.vocabulary.size == data["text8"]["vocab_size"]
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or no JSON file ({error})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds no JSON object")
    return data


def _check_packing(expected: dict[str, Any]) -> dict[str, bool]:
    from maskless.data.pack import wrap
    from maskless.vocabulary import Vocabulary

    documents = [np.array(document[:-1]) for document in expected["docs_with_eos_appended"]]
    largest = max(max(document) for document in expected["docs_with_eos_appended"])
    size = 1 + max(expected["bos"], expected["eos"], largest)
    vocabulary = Vocabulary(size=size, bos=expected["bos"], eos=expected["eos"], pad=None)
    rows = list(wrap(documents, expected["block_size"], vocabulary))
    return {
        "group_texts/input_ids": [row.tokens.tolist() for row in rows] == expected["input_ids"],
        "group_texts/attention_mask": [[1.0] * len(row.tokens) for row in rows] == expected["attention_mask"],
    }
