"""Measures of generated text: unigram entropy, and perplexity under another language model.

Letters: B samples, L tokens, V vocabulary.
"""
from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def unigram_entropy(tokens: Int[Tensor, "B L"]) -> Float[Tensor, " B"]:
    """Entropy in nats of the token frequencies within each sample: low where a sample repeats itself.

    Example:
        >>> unigram_entropy(torch.tensor([[1, 1, 2, 2]])).exp().round().tolist()
        [2.0]
    """
    seen, place = tokens.unique(return_inverse=True)
    counts = torch.zeros(len(tokens), len(seen), dtype=torch.float64, device=tokens.device)
    counts.scatter_add_(1, place, torch.ones_like(place, dtype=torch.float64))
    return torch.special.entr(counts / tokens.shape[1]).sum(1).float()


def first_chunk(tokens: Int[Tensor, "B L"], eos: int) -> Bool[Tensor, "B L"]:
    """Tokens that count in the released generative perplexity: all but EOS, and what lies between the first two EOS.

    Where the first token is an EOS (= BOS) this is every token but the EOS after it.
    """
    ends = tokens == eos
    return (ends.cumsum(1) == 1) | ~ends


def corpus_perplexity(
    logits: Float[Tensor, "B L V"], tokens: Int[Tensor, "B L"], counted: Bool[Tensor, "B L"],
) -> Float[Tensor, ""]:
    """exp(total nats / total tokens) of tokens 1.. given those before them, under the logits of a causal model.

    Args:
        logits: at site i, of the token at i + 1; those of the last site predict nothing that is known.
        counted: tokens that count; the first never does.
    """
    exact = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    nll = -exact.gather(-1, tokens[:, 1:, None])[..., 0].double()
    use = counted[:, 1:]
    return (torch.where(use, nll, 0.0).sum() / use.sum()).exp()
