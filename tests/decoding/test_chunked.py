"""Whole tokens above the chunk point, digits below it."""
from __future__ import annotations

import pytest
import torch
from tests.digits import DigitOracle, random_table
from tests.tiny import opened, ragged_canvas, tiny

from maskless.decoding import (
    Ancestral,
    Canvas,
    Chunked,
    DigitCanvas,
    Noise,
    Random,
    Sampler,
    SamplerOptions,
    Scheduled,
    WholeFirst,
)
from maskless.subtokens import SubTokenCode

CODE = SubTokenCode.digits(64, 3)
LINEAR = lambda t: 1 - t
PLANS = {"even": None, "ancestral": LINEAR}


def blank(rows: int, sites: int) -> DigitCanvas:
    return DigitCanvas(torch.zeros(rows, sites, dtype=torch.int64), torch.zeros(rows, sites, dtype=torch.bool), code=CODE)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("steps", [3, 8, 40])
@pytest.mark.parametrize("chunk_point", [0.0, 0.3, 0.5])
def test_no_token_is_half_known_above_the_chunk_point(plan, steps, chunk_point):
    """Below it there are, if there are steps for them."""
    model, halves = tiny("prime"), 0
    canvas = opened(model, ragged_canvas())
    sampler = Sampler(Chunked(steps, chunk_point, PLANS[plan]), WholeFirst(chunk_point))
    planned = sampler.plan(canvas, Noise.of(5, 4))
    for step, record in zip(planned, sampler.records(model, canvas, Noise.of(5, 4)), strict=True):
        known = canvas.known.unflatten(1, (-1, canvas.per_site))
        half = known.any(-1) & ~known.all(-1)
        assert record.step.index == step.index and not (step.t > chunk_point + 1e-9 and half.any())
        halves += int(half.sum())
    assert bool((canvas.known == canvas.present).all())
    assert halves == 0 if chunk_point == 0 else halves > 0 or steps == 3


def test_counts_of_digits_alone_and_of_tokens_alone_are_those_of_the_usual_plans():
    canvas, noise = blank(2, 13), Noise.of(1, 2)
    assert [s.counts for s in Chunked(9, 1.0)(canvas, noise)] == [s.counts for s in Scheduled(9)(canvas, noise)]
    tokens = Canvas(torch.zeros(2, 13, dtype=torch.int64), torch.zeros(2, 13, dtype=torch.bool))
    for chunked, usual in ((Chunked(9, 0.0), Scheduled(9)), (Chunked(9, 0.0, LINEAR), Ancestral(9))):
        assert [s.counts for s in chunked(canvas, noise)] == [tuple(3 * n for n in s.counts or ()) for s in usual(tokens, noise)]


@pytest.mark.parametrize("power", [1, 3])
def test_how_many_digits_an_ancestral_plan_knows(power):
    """Digits known at time s: a share alpha(s), with the variance of whole tokens above the chunk point and of tokens, then digits, below it."""
    rows, sites, steps, c = 4000, 20, 10, 0.5
    alpha = lambda t: (1 - t) ** power
    canvas = blank(rows, sites)
    plan = Chunked(steps, c, alpha)(canvas, Noise.of(2, rows))
    counts = torch.zeros(steps, rows)
    for step in plan:
        counts[step.index] = torch.tensor(step.counts, dtype=torch.float32)
    known = counts.cumsum(0)
    for i in range(steps - 1):
        s = 1 - (i + 1) / steps
        share, whole = alpha(s), alpha(max(s, c))                   # tokens whole so far; s = c ends the last step of tokens
        rest = 0.0 if s >= c else (share - whole) / (1 - whole)     # a digit of a token that was left
        assert known[i].mean().item() / (3 * sites) == pytest.approx(share, abs=4 * (share * (1 - share) / (sites * rows)) ** 0.5 + 1e-9)
        variance = sites * (9 * whole * (1 - whole) * (1 - rest) ** 2 + 3 * (1 - whole) * rest * (1 - rest))
        assert known[i].var().item() == pytest.approx(variance, rel=0.12, abs=0.05)


def test_where_the_chunk_point_lies_and_what_a_model_is_told():
    """0.3 of ten steps is three of them, whatever floats say; the level is the share of digits that is unknown at the call."""
    steps = Chunked(10, 0.3)(blank(1, 100), Noise.of(0, 1))
    assert [step.counts for step in steps] == [(30,)] * 10
    counts = [step.counts[0] for step in Chunked(10, 0.3)(blank(1, 10), Noise.of(0, 1)) if step.counts]
    assert [count % 3 for count in counts[:7]] == [0] * 7 and Chunked(20, 0.15)(blank(1, 1), Noise.of(0, 1))[0].level == (1.0,)
    assert [step.level for step in steps] == [(pytest.approx(1 - i / 10),) for i in range(10)]


def test_plan_and_order_go_together():
    oracle = DigitOracle(random_table(2, 9), SubTokenCode.digits(9, 2))
    for plan, order in ((Chunked(4, 0.5), Random()), (Scheduled(4), WholeFirst(0.5)), (Chunked(4, 0.5), WholeFirst(0.4))):
        with pytest.raises(ValueError, match="Chunked is the plan of WholeFirst"):
            Sampler(plan, order)(oracle, oracle.canvas(1), Noise.of(0, 1))


def test_by_name():
    oracle = DigitOracle(random_table(4, 9), SubTokenCode.digits(9, 2))
    canvas = oracle.canvas(3)
    options = SamplerOptions(steps=8, plan="ancestral", chunk_point=0.5, alpha_power=2.0)
    sampler = options.sampler(4)
    assert isinstance(sampler, Sampler) and sampler.order == WholeFirst(0.5)
    sampler(oracle, canvas, Noise.of(0, 3))
    assert bool(canvas.known.all())


@pytest.mark.parametrize(("options", "word"), [
    ({"chunk_point": 1.5}, "chunk_point is 1.5"), ({"order": "confidence"}, "order is confidence"), ({"plan": "arccos"}, "plan is arccos"),
    ({"block": 4}, "block is 4"),
    ({"draft": 2}, "draft is 2"), ({"factorised_digits": True}, "factorised_digits is True"),
    ({"plan": "ancestral", "corrector": 1.0}, "corrector is 1.0"),
])
def test_what_does_not_go_together_is_refused(options, word):
    with pytest.raises(ValueError, match=word):
        SamplerOptions(**{"chunk_point": 0.5, **options})


def test_whole_tokens_and_half_given_ones_are_refused():
    plain = Canvas(torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="models that write tokens in digits"):
        Chunked(4, 0.5)(plain, Noise.of(0, 1))
    known = torch.tensor([[[True, False, False], [False, False, False]]])
    apart = blank(1, 2)
    apart.factorised = True
    with pytest.raises(ValueError, match="digits are factorised"):
        Chunked(4, 0.5)(apart, Noise.of(0, 1))
    with pytest.raises(ValueError, match="a token is known in part"):
        Chunked(4, 0.5)(DigitCanvas.of_digits(torch.zeros(1, 2, 3, dtype=torch.int64), known, code=CODE), Noise.of(0, 1))
