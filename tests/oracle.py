"""An exact model: every conditional of a joint table p(x_1 .. x_L). What samplers are tested against."""
from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor

from maskless.decoding import Canvas, Sites, Step


class Oracle:
    """A predictor and a model at once; its hidden states are log-probabilities and its head does nothing.

    With `classes`, every class has a table of its own (`tables`), and no class, the last row, is their mean: `joint`.
    """

    left_to_right = False
    shuffle_prompt = False
    null_label: int | None = None
    labels: Tensor | None = None
    allowed = None

    def __init__(self, length: int, vocab: int, seed: int = 0, classes: int = 0):
        generator = torch.Generator().manual_seed(seed)
        tables = torch.rand((max(classes, 1), *(vocab,) * length), generator=generator, dtype=torch.float64) ** 3
        tables = tables / tables.flatten(1).sum(1).view(-1, *[1] * length)
        self.tables = torch.cat([tables, tables.mean(0, keepdim=True)])
        self.joint, self.null_label = self.tables[-1], classes or None
        self.length, self.vocab = length, vocab

    def head(self, hidden: Tensor) -> Tensor:
        return hidden

    def predictor(self, cond: Tensor | None = None) -> Oracle:
        opened = copy.copy(self)
        opened.labels = cond
        return opened

    def conditionals(self, tokens: Tensor, known: Tensor, labels: Tensor | None = None) -> Tensor:
        """log p(x_i | known, label) for every site, (B, L, V)."""
        rows, length, vocab = *known.shape, self.vocab
        p = self.joint.expand(rows, *self.joint.shape) if labels is None else self.tables[labels]
        for i in range(length):
            fits = torch.nn.functional.one_hot(tokens[:, i].clamp(max=vocab - 1), vocab).bool() | ~known[:, i, None]
            p = p * fits.view(rows, *[vocab if j == i else 1 for j in range(length)])
        sums = [p.sum([j + 1 for j in range(length) if j != i]) for i in range(length)]
        return torch.stack(sums, 1).clamp_min(1e-300).log().log_softmax(-1)

    def __call__(self, canvas: Canvas, sites: Sites, step: Step) -> Tensor:
        return sites.take(self.conditionals(canvas.tokens, canvas.known, self.labels))


def frequencies(tokens: Tensor, vocab: int) -> Tensor:
    """The empirical joint table of (B, L) tokens."""
    length = tokens.shape[1]
    weights = torch.tensor([vocab ** (length - 1 - i) for i in range(length)])
    counts = torch.bincount(tokens @ weights, minlength=vocab**length)
    return counts.double().view((vocab,) * length) / len(tokens)


def chi_square(tokens: Tensor, joint: Tensor) -> float:
    """Pearson's statistic in units of its standard deviation: beyond 5 the samples do not follow `joint`."""
    expected = joint.flatten() * len(tokens)
    seen = frequencies(tokens, joint.shape[0]).flatten() * len(tokens)
    freedom = len(expected) - 1
    return float((((seen - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5)


def all_sequences(length: int, vocab: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(vocab), repeat=length)))
