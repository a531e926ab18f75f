"""Sampling of digits through the one loop: the joint draw, its law, reveals, and codes that no class has."""
from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.digits import DigitOracle, as_prime, random_table
from tests.oracle import chi_square
from tests.tiny import L, V, opened, ragged_canvas, tiny

from maskless.decoding import (
    Adaptive,
    Ancestral,
    Blockwise,
    Canvas,
    Choice,
    Chunked,
    CoarseFirst,
    Confidence,
    DigitCanvas,
    DigitDraw,
    EntropyBound,
    Halton,
    LeftToRight,
    Margin,
    Noise,
    Random,
    Sampler,
    SamplerOptions,
    Scheduled,
    Spaced,
    TokenByToken,
    WholeFirst,
    constant,
    decode,
    remask,
    slide,
    text_of,
)
from maskless.subtokens import SubTokenCode, idle_share

ROWS = 10_000
LINEAR = lambda t: 1 - t
ORDERS = {
    "random": Sampler(Scheduled(5), Random(), Choice(0.9, 8, 0.95)), "coarse first": Sampler(Scheduled(5), CoarseFirst()),
    "token by token": Sampler(Scheduled(5), TokenByToken()),
    "left to right": Sampler(Scheduled(5), LeftToRight()), "spaced": Sampler(Scheduled(5), Spaced()), "ancestral": Sampler(Ancestral(7)),
    "confidence": Sampler(Scheduled(4), Confidence()), "margin": Sampler(Scheduled(4), Margin()),
    "blocks": Sampler(Blockwise(5, lambda window: Scheduled(3, window=window)), Confidence()),
    "guided": Sampler(Scheduled(5), guidance=constant(1.5)),
}
WHOLE = {"whole first": Sampler(Chunked(6, 0.5), WholeFirst(0.5)), "whole first, ancestral": Sampler(Chunked(7, 0.3, LINEAR), WholeFirst(0.3))}
ADAPTIVE = {"entropy bound": Sampler(Adaptive(6), EntropyBound(3.0)), "stop": Sampler(Scheduled(6), Random(), stop_at=4)}
EXACT = {
    "first hitting": Sampler(Scheduled(6), Random()), "token by token": Sampler(Scheduled(6), TokenByToken()),
    "coarse first": Sampler(Scheduled(6), CoarseFirst()),
    "left to right": Sampler(Scheduled(6), LeftToRight()), "margin": Sampler(Scheduled(6), Margin()),
    "ancestral, 150 steps": Sampler(Ancestral(150)),
    "whole first": Sampler(Chunked(12, 0.5), WholeFirst(0.5)),
    "whole first, ancestral, 150 steps": Sampler(Chunked(150, 0.5, LINEAR), WholeFirst(0.5)),
}


@pytest.mark.parametrize("name", EXACT)
def test_one_digit_per_step_samples_the_joint(name):
    table = random_table(3, 3)
    oracle = DigitOracle(table, SubTokenCode.shuffled(3, 2, seed=1))
    canvas = oracle.canvas(ROWS if "150" not in name else 3000)
    EXACT[name](oracle, canvas, Noise.of(1, canvas.rows))
    assert bool(canvas.known.all()) and not bool(canvas.invalid.any())
    assert chi_square(canvas.by_site().tokens, table) < 5


def test_the_joint_draw_of_one_token_is_exact_in_one_step_and_factorised_digits_are_not():
    table, code = random_table(1, 4, seed=2), SubTokenCode.digits(4, 2)
    oracle = DigitOracle(table, code)
    joint, apart = oracle.canvas(ROWS), oracle.canvas(ROWS, factorised=True)
    for canvas in (joint, apart):
        Sampler(Scheduled(1))(oracle, canvas, Noise.of(1, ROWS))
    assert chi_square(joint.by_site().tokens, table) < 5 and chi_square(apart.by_site().tokens, table) > 20
    square = table.view(2, 2)
    product = (square.sum(1)[:, None] * square.sum(0)).flatten()
    assert chi_square(apart.by_site().tokens, product) < 5


def test_two_tokens_in_one_step_are_independent():
    table = random_table(2, 3, seed=4)
    oracle = DigitOracle(table, SubTokenCode.digits(3, 2))
    canvas = oracle.canvas(ROWS)
    Sampler(Scheduled(1))(oracle, canvas, Noise.of(1, ROWS))
    assert chi_square(canvas.by_site().tokens, table.sum(1)[:, None] * table.sum(0)) < 5


@pytest.mark.parametrize("model", ["masked", "masked, axial"])
def test_one_digit_is_mdlm_to_the_bit(model):
    masked = tiny(model, torch.float32)
    prime = as_prime(masked)
    for name, sampler in ORDERS.items():
        other = replace(sampler, order=Random()) if isinstance(sampler.order, CoarseFirst | TokenByToken) else sampler  # of one digit: random
        plain, digits = ragged_canvas(), opened(prime, ragged_canvas())
        assert isinstance(digits, DigitCanvas)
        for mine, theirs in zip(other.records(masked, plain, Noise.of(3, 4)), sampler.records(prime, digits, Noise.of(3, 4)), strict=True):
            assert torch.equal(mine.kept, theirs.kept) and torch.equal(mine.draw.logp, theirs.draw.logp), name
        assert torch.equal(plain.known, digits.known) and torch.equal(plain.tokens[plain.known], digits.by_site().tokens[plain.known])


@pytest.mark.parametrize("sampler", [*ORDERS, *WHOLE, *ADAPTIVE])
@pytest.mark.parametrize("name", ["prime", "prime, bits", "prime, groups, late"])
def test_a_row_is_the_same_alone_and_beside_others_and_what_was_known_stays(name, sampler):
    model, run, given = tiny(name), (ORDERS | WHOLE | ADAPTIVE)[sampler], ragged_canvas()
    many = opened(model, ragged_canvas())
    run(model, many, Noise.of(9, 4))
    assert not bool(many.invalid.any())
    found = many.by_site()
    assert torch.equal(found.tokens[given.known], given.tokens[given.known])
    if sampler != "stop":
        assert torch.equal(found.known, given.present)
    for row in range(4):
        one = slice(row, row + 1)
        alone = model.canvas(given.tokens[one], given.known[one], present=given.present[one], anchor=given.anchor[one])
        run(model, alone, Noise([(9 << 20) + row]))
        seen = found.known[one] & found.present[one]
        assert torch.equal(alone.by_site().tokens[seen], found.tokens[one][seen])


@pytest.mark.parametrize(("name", "sampler"), [*(("prime", sampler) for sampler in [*ORDERS, *WHOLE]), *(
    (name, sampler) for name in ("prime, bits", "prime, groups") for sampler in ("confidence", "guided", "whole first"))])
def test_the_loop_never_waits_for_the_device(name, sampler):
    model, run = tiny(name, torch.float32), (ORDERS | WHOLE)[sampler]
    canvas, noise = opened(model, ragged_canvas()), Noise.of(0, 4)
    canvas.factorised = name == "prime" and sampler not in WHOLE    # which take whole tokens
    steps = run.plan(canvas, noise)
    canvas.to("meta")
    noise.seeds = noise.seeds.to("meta")
    predictor = run.predictor(model.to("meta"), None)
    assert sum(1 for _ in decode(predictor, canvas, steps, order=run.order, choice=run.choice, noise=noise)) == len(steps)


def test_codes_without_a_class_come_only_from_draws_that_allow_them():
    torch.manual_seed(0)
    code = SubTokenCode.digits(10, 3)                               # 27 codes
    oracle = DigitOracle(random_table(3, 10), code)
    found = {}
    for observed in (True, False):
        for factorised in (True, False):
            canvas = oracle.canvas(300, filter_observed=observed, factorised=factorised)
            Sampler(Ancestral(2), choice=Choice(temperature=3.0))(oracle, canvas, Noise.of(0, 300))
            found[observed, factorised] = int(canvas.invalid.sum())
            assert bool(canvas.known.all()) and int(canvas.by_site().tokens.max()) < 10
    assert found[True, False] == 0 and min(found[True, True], found[False, True]) > 0


def test_unfiltered_draws_can_leave_the_code():
    """A network that does not look at what is known, as one that was trained without the filter may."""
    class Deaf(DigitOracle):
        def forward(self, canvas, sites, step):
            return torch.zeros(*sites.index.shape, self.vocab, dtype=torch.float64)

    oracle = Deaf(random_table(2, 10), SubTokenCode.digits(10, 3))
    free, held = (oracle.canvas(200, filter_observed=observed) for observed in (False, True))
    for canvas in (free, held):
        Sampler(Ancestral(4))(oracle, canvas, Noise.of(0, 200))
    assert bool(free.invalid.any()) and not bool(held.invalid.any())
    assert int(free.by_site().tokens.max()) < 10


def test_a_step_reveals_the_digits_of_one_draw():
    model = tiny("prime")
    canvas = model.canvas(torch.zeros(64, L, dtype=torch.int64), torch.zeros(64, L, dtype=torch.bool))
    (record,) = list(Sampler(Scheduled(1)).records(model, canvas, Noise.of(0, 64)))
    logp = torch.zeros(64, 2 * L, dtype=torch.float64).scatter(1, record.sites.index, record.draw.logp)
    assert torch.equal(logp[:, ::2], logp[:, 1::2])                 # one token, one probability


def test_fixed_and_first_hitting_reveals():
    model = tiny("prime")
    for steps, counts in ((2 * L, {1}), (L, {2}), (4, {2 * L // 4})):
        canvas = model.canvas(torch.zeros(3, L, dtype=torch.int64), torch.zeros(3, L, dtype=torch.bool))
        revealed = [int(n) for record in Sampler(Scheduled(steps)).records(model, canvas, Noise.of(0, 3)) for n in record.kept.sum(1)]
        assert set(revealed) == counts


@pytest.mark.parametrize(("length", "steps"), [(1, 8), (2, 8), (3, 16)])
def test_idle_steps_of_ancestral_decodes(length, steps):
    rows, sites = 1000, 4
    code = SubTokenCode.digits(27, length)
    canvas = DigitCanvas(torch.zeros(rows, sites, dtype=torch.int64), torch.zeros(rows, sites, dtype=torch.bool), code=code)
    plan = Ancestral(steps)(canvas, Noise.of(0, rows))
    busy = sum(sum(n > 0 for n in step.counts or ()) for step in plan)
    share, want = 1 - busy / (rows * steps), idle_share(steps, sites * length)
    assert share == pytest.approx(want, abs=5 * math.sqrt(want * (1 - want) / (rows * steps)))
    assert want == pytest.approx((1 - 1 / steps) ** (sites * length))


def test_the_nucleus_is_of_the_classes_and_not_of_digits():
    table = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)  # the digits' marginals are 0.7 and 0.6
    oracle = DigitOracle(table, SubTokenCode.digits(4, 2))
    canvas = oracle.canvas(2000)
    Sampler(Scheduled(1), choice=Choice(top_p=0.65))(oracle, canvas, Noise.of(0, 2000))
    seen = canvas.by_site().tokens.flatten().bincount(minlength=4)
    assert seen[2:].sum() == 0 and float(seen[0] / 2000) == pytest.approx(4 / 7, abs=0.06)


def test_coarse_digits_first_and_whole_tokens_in_turn():
    model = tiny("prime, bits")
    canvas = model.canvas(torch.zeros(2, L, dtype=torch.int64), torch.zeros(2, L, dtype=torch.bool))
    slots = CoarseFirst().start(canvas, [], Noise.of(0, 2)).sites % 4
    assert torch.equal(slots, torch.arange(4).repeat_interleave(L).expand(2, -1))
    canvas = model.canvas(torch.zeros(1, L, dtype=torch.int64), torch.zeros(1, L, dtype=torch.bool))
    slots = TokenByToken().start(canvas, [], Noise.of(0, 1)).sites[0].view(L, 4)
    assert sorted((slots[:, 0] // 4).tolist()) == list(range(L)) and torch.equal(slots, slots[:, :1] + torch.arange(4))
    for order in (Spaced(), LeftToRight(), Halton((3, 4))):
        canvas = model.canvas(torch.zeros(1, L, dtype=torch.int64), torch.zeros(1, L, dtype=torch.bool))
        slots = order.start(canvas, [], Noise.of(0, 1)).sites[0].view(L, 4)
        plain = order.start(Canvas(canvas.by_site().tokens, canvas.by_site().known), [], Noise.of(0, 1)).sites[0]
        assert torch.equal(slots // 4, plain[:, None].expand(-1, 4)) and torch.equal(slots % 4, torch.arange(4).expand(L, -1))


def test_some_digits_may_be_given():
    model, code = tiny("prime"), tiny("prime").code
    digits = code.encode(torch.randint(V - 1, (3, L)))
    known = torch.zeros_like(digits, dtype=torch.bool)
    known[..., 0] = True
    canvas = DigitCanvas.of_digits(digits, known, code=code)
    Sampler(Ancestral(5))(model, canvas, Noise.of(0, 3))
    assert torch.equal(code.encode(canvas.by_site().tokens)[..., 0], digits[..., 0]) and not bool(canvas.invalid.any())


def test_digits_that_no_class_has_are_refused():
    code = SubTokenCode.digits(10, 2)                               # base 4: 2 2 and above are nobody's
    digits, known = torch.tensor([[[0, 0], [3, 1]]]), torch.tensor([[[True, True], [True, False]]])
    with pytest.raises(ValueError, match="row 0, site 1: none of the 10 classes has the digits 3 _ "):
        DigitCanvas.of_digits(digits, known, code=code)
    allowed = torch.ones(10, dtype=torch.bool)
    allowed[[8, 9]] = False                                         # the only ones that begin with 2
    half = torch.tensor([[[True, False]]])
    assert DigitCanvas.of_digits(torch.tensor([[[2, 0]]]), half, code=code).known.tolist() == [[True, False]]
    with pytest.raises(ValueError, match="none of the 8 classes that may be drawn has the digits 2 _ "):
        DigitCanvas.of_digits(torch.tensor([[[2, 0]]]), half, code=code, allowed=allowed)
    assert DigitCanvas.of_digits(torch.tensor([[[2, 0]]]), half | True, code=code, allowed=allowed).by_site().tokens.tolist() == [[8]]
    with pytest.raises(ValueError, match="row 0, site 0: none of the 10 classes has the digits 2 3 "):
        DigitCanvas.of_digits(torch.tensor([[[2, 3]]]), torch.ones(1, 1, 2, dtype=torch.bool), code=code)
    with pytest.raises(ValueError, match=r"they lie in 0\.\.3"):
        DigitCanvas.of_digits(torch.tensor([[[4, 0]]]), torch.ones(1, 1, 2, dtype=torch.bool), code=code)


def test_a_canvas_of_tokens_is_refused():
    with pytest.raises(ValueError, match=r"make the canvas with model.canvas"):
        Sampler(Scheduled(3))(tiny("prime"), ragged_canvas(), Noise.of(0, 4))


def test_remasking_windows_and_stops():
    model = tiny("prime")
    canvas = opened(model, ragged_canvas())
    given = canvas.known.clone()
    Sampler(Scheduled(3))(model, canvas, Noise.of(0, 4))
    remask(canvas, 0.5, Noise.of(1, 4))
    assert bool(canvas.known[given].all()) and bool((~canvas.known & canvas.present).any())
    Sampler(Scheduled(3))(model, canvas, Noise.of(2, 4))
    assert torch.equal(canvas.known, canvas.present) and not bool(canvas.invalid.any())
    known = (torch.arange(L) < 1).expand(2, -1)
    first = model.canvas(torch.full((2, L), 3), known, anchor=known)
    windows = {start: window for start, window, _ in slide(Sampler(Scheduled(3)), model, first, Noise.of(1, 2), stride=5, windows=2)}
    text = text_of(iter((start, window, None) for start, window in windows.items()))
    assert text.shape == (2, L + 10) and bool((text[:, 0] == 3).all())
    assert torch.equal(windows[5].by_site().tokens[:, :L - 5], windows[0].by_site().tokens[:, 5:])


@pytest.mark.parametrize(("named", "made"), [
    ({"factorised_digits": True}, {"factorised": True}), ({"filter_observed": False}, {"filter_observed": False}),
    ({"factorised_digits": True, "filter_observed": False}, {"factorised": True, "filter_observed": False}), ({}, {}),
])
def test_options_by_name_draw_as_a_canvas_made_so(named, made):
    """Every pair differs from the usual draw; that of no options is the usual one."""
    model, nothing = tiny("prime"), torch.zeros(40, L, dtype=torch.bool)
    by_name, by_hand, usual = (DigitCanvas(nothing.long(), nothing, code=model.code, **how) for how in ({}, made, {}))
    SamplerOptions(steps=5, **named).sampler(2 * L)(model, by_name, Noise.of(2, 40))
    for canvas in (by_hand, usual):
        Sampler(Scheduled(5))(model, canvas, Noise.of(2, 40))
    assert torch.equal(by_name.tokens, by_hand.tokens)
    assert torch.equal(by_name.tokens, usual.tokens) == (not named)


@pytest.mark.parametrize("named", [{"factorised_digits": True}, {"filter_observed": False}])
def test_ways_to_draw_digits_are_refused_where_tokens_are_whole(named):
    with pytest.raises(ValueError, match=f"{next(iter(named))} was set, .* does not; leave it out"):
        SamplerOptions(**named).sampler(6)(tiny("masked"), ragged_canvas(), Noise.of(0, 4))
    with pytest.raises(ValueError, match="models of whole tokens"):
        SamplerOptions(draft=2, **named).sampler(6)


def test_the_usual_options_leave_a_canvas_as_it_was_made():
    assert SamplerOptions().sampler(6).digits is None
    assert SamplerOptions(factorised_digits=True).sampler(6).digits == DigitDraw(factorised=True)
