"""Labels and guidance by label, against tables whose laws are known."""
from __future__ import annotations

import math

import pytest
import torch
from tests.oracle import Oracle, all_sequences, chi_square

from maskless.decoding import (
    Canvas,
    Guided,
    Halton,
    LeftToRight,
    Noise,
    Random,
    Sampler,
    Scheduled,
    Step,
    constant,
    halves,
    ramped,
    slide,
)
from maskless.decoding.speculate import Speculative

ROWS, CLASSES = 20_000, 2


def blank(rows: int, length: int = 3) -> Canvas:
    return Canvas(torch.zeros(rows, length, dtype=torch.int64), torch.zeros(rows, length, dtype=torch.bool))


class Counting(Oracle):
    """Writes down how many rows it was asked for at each step."""

    asked: list[int]

    def __init__(self, *sizes, **more):
        super().__init__(*sizes, **more)
        self.asked = []

    def __call__(self, canvas, sites, step):
        self.asked.append(canvas.rows if step.rows is None else len(step.rows))
        found = super().__call__(canvas, sites, step)
        return found if step.rows is None else torch.zeros_like(found).index_copy(0, step.rows, found[step.rows])


def labels_of_thirds(rows: int) -> torch.Tensor:
    return torch.arange(rows) % (CLASSES + 1)


@pytest.mark.parametrize("sampler", [
    Sampler(Scheduled(3), Halton((1, 3))), Sampler(Scheduled(3), Halton((3, 1), roll=True)), Sampler(Scheduled(3), Random(), guidance=constant(0.0)),
    Sampler(Scheduled(3), LeftToRight(), guidance=ramped(0.0)),
])
def test_every_row_follows_the_law_of_its_label(sampler):
    oracle, canvas, labels = Oracle(3, 3, classes=CLASSES), blank(ROWS), labels_of_thirds(ROWS)
    sampler(oracle, canvas, Noise.of(1, ROWS), cond=labels)
    for label in range(CLASSES + 1):
        assert chi_square(canvas.tokens[labels == label], oracle.tables[label]) < 5
    assert chi_square(canvas.tokens[labels == 0], oracle.tables[1]) > 20


def test_no_labels_are_no_class():
    oracle = Oracle(3, 3, classes=CLASSES)
    plain, null = blank(50), blank(50)
    Sampler(Scheduled(3))(oracle, plain, Noise.of(3, 50))
    Sampler(Scheduled(3))(oracle, null, Noise.of(3, 50), cond=torch.full((50,), CLASSES))
    assert torch.equal(plain.tokens, null.tokens)


@pytest.mark.parametrize("schedule", [constant, ramped])
def test_guidance_tilts_each_step(schedule):
    """The whole law of two sites from left to right, (1 + w) log p(. | label) - w log p(. | no class) at each step."""
    oracle, w, label = Oracle(2, 3, classes=CLASSES), 1.5, 1
    law = torch.ones(9, dtype=torch.float64)
    sequences = all_sequences(2, 3)
    for site, strength in ((0, schedule(w)(Step(0, 2))), (1, schedule(w)(Step(1, 2)))):
        known = (torch.arange(2) < site).expand(9, -1)
        with_label = oracle.conditionals(sequences, known, torch.full((9,), label))[:, site]
        tilted = ((1 + strength) * with_label - strength * oracle.conditionals(sequences, known)[:, site]).log_softmax(-1)
        law *= tilted.exp().gather(1, sequences[:, site:site + 1])[:, 0]
    canvas = blank(ROWS, 2)
    Sampler(Scheduled(2), LeftToRight(), guidance=schedule(w))(oracle, canvas, Noise.of(2, ROWS), cond=torch.full((ROWS,), label))
    assert chi_square(canvas.tokens, law.view(3, 3)) < 5
    assert chi_square(canvas.tokens, oracle.tables[label]) > 10


def test_the_unconditional_half_is_not_asked_while_w_is_0():
    oracle = Counting(3, 3, classes=CLASSES)
    Sampler(Scheduled(3), guidance=ramped(2.0))(oracle, blank(4), Noise.of(0, 4), cond=torch.tensor([0, 1, 2, 0]))
    assert oracle.asked == [4, 8, 8]


def test_a_ramp_goes_from_0_to_w():
    steps = [Step(i, 8) for i in range(8)]
    assert [ramped(3.0)(step) for step in steps] == pytest.approx([3 * i / 7 for i in range(8)])
    assert ramped(3.0)(Step(0, 1)) == 0 and {constant(3.0)(step) for step in steps} == {3.0}


def test_a_row_does_not_depend_on_other_rows_labels():
    oracle, labels = Oracle(3, 3, classes=CLASSES), labels_of_thirds(64)
    sampler = Sampler(Scheduled(2), Halton((1, 3), roll=True), guidance=ramped(1.0))
    batch = blank(64)
    sampler(oracle, batch, Noise.of(4, 64), cond=labels)
    for row in (0, 13, 63):
        alone = blank(1)
        sampler(oracle, alone, Noise([(4 << 20) + row]), cond=labels[row:row + 1])
        assert torch.equal(alone.tokens[0], batch.tokens[row])


def test_with_labels_the_prompt_stays_in_both_halves():
    oracle = Oracle(3, 3, classes=CLASSES)
    canvas = Canvas(torch.tensor([[2, 0, 0]] * 4), torch.tensor([[True, False, False]] * 4))
    sampler = Sampler(Scheduled(2), LeftToRight(), guidance=constant(1.0))
    drawn = next(sampler.records(oracle, canvas, Noise.of(0, 4), cond=torch.zeros(4, dtype=torch.int64))).draw
    known = torch.tensor([[True, False, False]])
    label = oracle.conditionals(torch.tensor([[2, 0, 0]]), known, torch.tensor([0]))[0, 1]
    law = (2 * label - oracle.conditionals(torch.tensor([[2, 0, 0]]), known)[0, 1]).log_softmax(-1)
    assert drawn.logp[:, 0].tolist() == pytest.approx(law[drawn.token[:, 0]].tolist(), abs=1e-12)


def test_windows_that_slide_keep_their_labels():
    oracle = Oracle(3, 3, classes=CLASSES)
    for _, canvas, _ in slide(Sampler(Scheduled(1)), oracle, blank(4), Noise.of(0, 4), stride=1, windows=2, cond=torch.tensor([0, 1, 0, 1])):
        assert canvas.rows == 4


def test_callbacks_see_the_canvas_as_it_fills():
    seen = []
    watch = lambda canvas, record: seen.append((canvas.known.sum(1).tolist(), record.step.index))
    Sampler(Scheduled(3))(Oracle(3, 3), blank(2), Noise.of(0, 2), watch)
    assert seen == [([1, 1], 0), ([2, 2], 1), ([3, 3], 2)]


def run(cond, *, classes=CLASSES, guidance=None):
    Sampler(Scheduled(2), guidance=guidance)(Oracle(3, 3, classes=classes), blank(2), Noise.of(0, 2), cond=cond)


@pytest.mark.parametrize("make, word", [
    (lambda: run(torch.tensor([0, 3])), "label 3 is not in 0..2"),
    (lambda: run(torch.tensor([-1, 0])), "label -1"),
    (lambda: run(torch.tensor([0])), "one label per row"),
    (lambda: run(torch.tensor([0, 1]), classes=0), "without classes"),
    (lambda: run(torch.tensor([0, 1]), guidance=lambda step: math.inf), "guidance inf"),
    (lambda: constant(math.nan), "guidance nan"), (lambda: ramped(math.inf), "guidance inf"),
    (lambda: Speculative(guidance=math.nan), "guidance nan"),
])
def test_bad_labels_and_strengths_are_refused(make, word):
    with pytest.raises(ValueError, match=word):
        make()


def test_halves():
    assert halves(torch.tensor([1, 0]), 2).tolist() == [1, 0, 2, 2]
    assert Guided(Oracle(2, 2), constant(1.0)).forget_prompt is False
