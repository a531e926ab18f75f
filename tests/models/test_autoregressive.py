"""The autoregressive model under guidance: the half without the prompt is the row that the prompt was cut out of."""
from __future__ import annotations

import pytest
import torch
from tests.tiny import L, tiny

from maskless.decoding import Canvas, Choice, LeftToRight, Noise, Sampler, Scheduled, decode
from maskless.decoding.guidance import Guided, constant

PROMPTS = (4, 2)                                                    # known sites of each row, BOS among them
W = 1.5
GREEDY = Choice(temperature=0.0)


def canvas() -> Canvas:
    tokens = torch.randint(1, 7, (2, L), generator=torch.Generator().manual_seed(0))
    place = torch.arange(L)
    known = torch.stack([place < n for n in PROMPTS])
    return Canvas(tokens * known, known, anchor=(place == 0).expand(2, -1))


def by_hand(model, row: list[int], prompt: int) -> list[int]:
    """Greedy, every law from two plain passes."""
    row = row[:prompt]
    while len(row) < L:
        with_it, without = (model.head(model.states(torch.tensor([part]))[0, -1]) for part in (row, row[:1] + row[prompt:]))
        row.append(int(((1 + W) * with_it - W * without).argmax()))
    return row


@pytest.mark.parametrize("opened", ["predictor", "full_predictor"])
def test_guidance_forgets_the_prompt_and_not_what_was_drawn(opened):
    model, rows = tiny("autoregressive"), canvas()
    wanted = [by_hand(model, row, n) for row, n in zip(rows.tokens.tolist(), PROMPTS)]
    predictor = Guided(getattr(model, opened)(), constant(W), forget_prompt=True)
    steps = Scheduled(L)(rows, Noise.of(0, 2))
    assert len([*decode(predictor, rows, steps, order=LeftToRight(), choice=GREEDY, noise=Noise.of(0, 2))]) == L - min(PROMPTS)
    assert rows.tokens.tolist() == wanted
    plain = canvas()
    Sampler(Scheduled(L), LeftToRight(), choice=GREEDY)(model, plain, Noise.of(0, 2))
    assert plain.tokens.tolist() != wanted                           # guidance does something here


def test_nothing_is_left_without_the_prompt():
    rows = Canvas(torch.ones(1, L, dtype=torch.int64), (torch.arange(L) < 2)[None])
    with pytest.raises(ValueError, match="make its first token an anchor"):
        Sampler(Scheduled(L), LeftToRight(), guidance=constant(W))(tiny("autoregressive"), rows, Noise.of(0, 1))
