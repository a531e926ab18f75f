"""Plans in blocks, and rows with steps of their own."""
from __future__ import annotations

import pytest
import torch
from tests.oracle import Oracle, chi_square
from tests.tiny import ragged_canvas, tiny

from maskless import SamplerOptions
from maskless.decoding import (
    Ancestral,
    Blockwise,
    Canvas,
    Corrected,
    EntropyBound,
    Noise,
    Sampler,
    Scheduled,
    remask,
    slide,
)
from maskless.decoding.decode import decode
from maskless.decoding.plan import Adaptive

ROWS = 4000


def blank(rows: int, length: int) -> Canvas:
    return Canvas(torch.zeros(rows, length, dtype=torch.int64), torch.zeros(rows, length, dtype=torch.bool))


@pytest.mark.parametrize("plan", [lambda window: Ancestral(2, window=window), lambda window: Corrected(2, strength=lambda t: 1.0, window=window)])
def test_every_block_has_numbers_of_its_own(plan):
    """How many of two sites come first, in one block and in the next: independent, so both are rarely alike."""
    steps = {step.index: step.counts for step in Blockwise(2, plan)(blank(ROWS, 4), Noise.of(0, ROWS))}
    one, other = (torch.tensor(steps[index], dtype=torch.float64) for index in (0, 2))
    assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 5 / ROWS**0.5
    assert one.mean().item() == pytest.approx(1, abs=5 * (0.5 / ROWS) ** 0.5)


def test_unblocked_counts_are_what_they_were():
    counts = [step.counts for step in Ancestral(3)(blank(2, 7), Noise.of(0, 2))]
    window = [step.counts for step in Ancestral(3, window=(0, 7))(blank(2, 7), Noise.of(0, 2))]
    assert counts == window and [sum(row) for row in zip(*counts)] == [7, 7]


@pytest.mark.parametrize("plan", [Scheduled(None), Ancestral(None)])
def test_rows_without_a_number_of_steps_have_their_own(plan):
    """One a site, at most 64: what a row does alone it does beside others."""
    lengths = (3, 100, 9)
    known = torch.arange(100) >= torch.tensor(lengths)[:, None]
    together = plan(Canvas(torch.zeros(3, 100, dtype=torch.int64), known), Noise.of(0, 3))
    for row, length in enumerate(lengths):
        alone = plan(Canvas(torch.zeros(1, 100, dtype=torch.int64), known[row:row + 1]), Noise([row]))
        busy = {step.index: (step.counts[row], step.level[row]) for step in together if step.counts[row]}
        assert busy == {step.index: (step.counts[0], step.level[0]) for step in alone} and max(busy) < min(64, length)


def test_rises_of_the_temperature_go_over_all_blocks():
    choice = SamplerOptions(steps=3, block=4, temperature_rise=1.0).sampler(12).choice
    plan = SamplerOptions(steps=3, block=4).sampler(12).plan
    heat = [choice.temperature(step) for step in plan(blank(1, 12), Noise.of(0, 1))]
    assert heat == pytest.approx([1 + i / 9 for i in range(9)])


def test_a_model_that_knows_of_time_is_told_how_much_is_left_where_tokens_decide():
    oracle, told, left = Oracle(5, 3), [], []

    class Listening(Oracle):
        def __init__(self):
            self.__dict__ = oracle.__dict__

        def __call__(self, canvas, sites, step):
            told.append(step.noise_level(None, canvas.tokens).tolist())
            left.append((canvas.unknown.sum(1) / 5).tolist())
            return super().__call__(canvas, sites, step)

    canvas = blank(3, 5)
    for window in (None, (0, 3)):
        for _ in decode(Listening(), canvas, Adaptive(window=window)(canvas, Noise.of(0, 3)), order=EntropyBound(0.3), choice=Sampler().choice,
                        noise=Noise.of(0, 3)):
            pass
    assert len(told) > 1 and told == left


def test_remasking_again_and_again_leaves_an_exact_law_alone():
    oracle, canvas, noise = Oracle(3, 3), blank(20_000, 3), Noise.of(5, 20_000)
    Sampler(Scheduled(3))(oracle, canvas, noise)
    for round in range(1, 5):
        remask(canvas, 0.5, noise, round=round)
        Sampler(Scheduled(3))(oracle, canvas, noise.again(round))
    assert chi_square(canvas.tokens, oracle.joint) < 5


def test_windows_do_not_slide_past_the_end_of_a_text():
    model, whole = tiny("partition"), blank(2, 13)
    for sampler, canvas in ((Sampler(stop_at=4), whole), (Sampler(), ragged_canvas())):
        with pytest.raises(ValueError, match="a text that ends inside a window has no next one"):
            next(slide(sampler, model, canvas, Noise.of(0, canvas.rows), stride=5, windows=1))
