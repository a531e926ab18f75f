"""An exact model of digits: every conditional of a joint table of tokens, given any digits. What Prime's samplers and bounds are tested against."""
from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor, nn

from maskless.decoding import Canvas, DigitCanvas, Sites, Step
from maskless.models import MaskedTransformer, PrimeConfig, PrimeTransformer
from maskless.subtokens import SubTokenCode


class DigitOracle(nn.Module):
    """log p(x_i | known digits) as hidden states, with a head that does nothing; `table` is (V, ..., V)."""

    left_to_right = False
    shuffle_prompt = False
    null_label = None
    allowed = None

    def __init__(self, table: Tensor, code: SubTokenCode):
        super().__init__()
        self.table, self.code, self.per_site = table.double(), code, code.length
        self.length, self.vocab = table.dim(), table.shape[0]
        self.head = nn.Linear(self.vocab, self.vocab).double().requires_grad_(False)
        self.head.weight.copy_(torch.eye(self.vocab))
        self.head.bias.zero_()

    def canvas(self, rows: int, **named) -> DigitCanvas:
        blank = torch.zeros(rows, self.length, dtype=torch.int64)
        return DigitCanvas(blank, blank.bool(), code=self.code, **named)

    def hidden_of_digits(self, digits: Tensor, known: Tensor, *, cond=None, t=None, present=None) -> Tensor:
        rows = len(digits)
        digits, known = (x.view(rows, self.length, self.per_site) for x in (digits, known))
        p = self.table.expand(rows, *self.table.shape)
        for i in range(self.length):
            fits = self.code.consistent(digits[:, i], known[:, i])
            p = p * fits.view(rows, *[self.vocab if j == i else 1 for j in range(self.length)])
        sums = [p.movedim(i + 1, 1).flatten(2).sum(2) if self.length > 1 else p for i in range(self.length)]
        return torch.stack(sums, 1).clamp_min(1e-300).log().log_softmax(-1)

    def predictor(self, cond=None) -> DigitOracle:
        return self

    def forward(self, canvas: Canvas, sites: Sites, step: Step) -> Tensor:
        return sites.take(self.hidden_of_digits(canvas.tokens, canvas.known))


def random_table(length: int, vocab: int, seed: int = 0) -> Tensor:
    table = torch.rand((vocab,) * length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 3
    return table / table.sum()


def entropy(table: Tensor) -> float:
    return float(torch.special.entr(table).sum())


def as_prime(model: MaskedTransformer) -> PrimeTransformer:
    """The same network as a Prime model with one digit: [MASK] is the last row of its table."""
    config = model.config
    shared = {field.name for field in fields(config)} & {field.name for field in fields(PrimeConfig)}
    made = PrimeTransformer(PrimeConfig(**{name: getattr(config, name) for name in shared}, digits=1))
    state = {**model.state_dict(), "table": made.table}
    state["embedding.weight"] = torch.cat([state["embedding.weight"], state.pop("mask.weight")])
    made.load_state_dict(state)
    return made.to(model.head.weight.dtype).eval()
