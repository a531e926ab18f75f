"""Going back before going on: the counts are binomial, the noise level stays that of the schedule, and errors of few steps are repaired."""
from __future__ import annotations

import pytest
import torch
from tests.oracle import Oracle, frequencies
from tests.tiny import L, ragged_canvas, tiny

from maskless.decoding import (
    Ancestral,
    Anew,
    Canvas,
    Choices,
    Corrected,
    Noise,
    Random,
    Sampler,
    SamplerOptions,
    Step,
    rising,
)
from maskless.decoding.corrector import binomial


def blank(rows: int, length: int = L) -> Canvas:
    return Canvas(torch.zeros(rows, length, dtype=torch.int64), torch.zeros(rows, length, dtype=torch.bool))


@pytest.mark.parametrize(("n", "p"), [(1, 0.3), (7, 0.5), (40, 0.02), (40, 0.97), (3000, 0.4)])
def test_counts_are_binomial(n, p):
    u = (torch.arange(20000) + 0.5).double() / 20000                # every quantile once: the histogram is the law
    found = binomial(torch.full((20000,), n), p, u).bincount(minlength=n + 1) / 20000
    want = torch.distributions.Binomial(n, torch.tensor(p, dtype=torch.float64)).log_prob(torch.arange(n + 1).double()).exp()
    assert (found - want).abs().max() < 1.1 / 20000


def test_counts_of_a_row_are_its_own():
    u = torch.rand(50, dtype=torch.float64)
    n = torch.arange(50) * 40
    together = binomial(n, 0.3, u)
    assert together.tolist() == [int(binomial(n[i:i + 1], 0.3, u[i:i + 1])) for i in range(50)]
    assert binomial(n, 0.0, u).tolist() == [0] * 50 and torch.equal(binomial(n, 1.0, u), n)


@pytest.mark.parametrize("strength", [0.0, 1.0, 6.0])
def test_the_share_that_is_known_is_the_schedules_whatever_is_forgotten(strength):
    canvas, total = blank(400, 50), 8
    steps = Corrected(total, lambda t: (1 - t) ** 3, lambda t: strength)(canvas, Noise.of(1, 400))
    known = torch.zeros(400)
    for step in steps:
        known = known + torch.tensor(step.counts) - torch.tensor(step.forget or [0] * 400)
        want = (1 - step.s) ** 3
        busy = torch.tensor(step.counts) > 0                        # the others forget what is due when they next reveal something
        if bool(busy.all()) or step.s == 0:
            assert abs(float(known.mean()) / 50 - want) < 5 * (want * (1 - want) / 20000) ** 0.5 + 1e-9
    assert (known == 50).all() and (sum(sum(step.forget or ()) for step in steps) > 0) == (strength > 0)


def test_blocks_forget_their_own_sites():
    sampler = SamplerOptions(plan="ancestral", steps=5, corrector=4.0, block=4).sampler(L)
    canvas = blank(6)
    for record in sampler.records(tiny("masked"), canvas, Noise.of(1, 6)):
        start, stop = record.step.window
        assert bool(canvas.known[:, :start].all()) and not bool(canvas.known[:, stop:].any())
    assert bool(canvas.known.all())


def test_what_was_given_is_never_forgotten_and_everything_is_filled():
    model, canvas, given = tiny("masked"), ragged_canvas(), ragged_canvas()
    nfe = Sampler(Corrected(12, strength=lambda t: 5.0), Anew())(model, canvas, Noise.of(0, 4))
    assert nfe <= 12 and torch.equal(canvas.known, canvas.present)
    assert torch.equal(canvas.tokens[given.known], given.tokens[given.known]) and canvas.revision > 0


def test_a_row_is_the_same_alone_and_beside_others():
    model, sampler = tiny("masked"), Sampler(Corrected(6, strength=lambda t: 3.0), Anew())
    many = ragged_canvas()
    sampler(model, many, Noise.of(9, 4))
    for row in range(4):
        fresh, one = ragged_canvas(), slice(row, row + 1)
        alone = Canvas(fresh.tokens[one], fresh.known[one], present=fresh.present[one], anchor=fresh.anchor[one])
        sampler(model, alone, Noise([(9 << 20) + row]))
        assert torch.equal(alone.tokens[alone.known], many.tokens[one][many.known[one]])


def distance(sampler: Sampler, oracle: Oracle, rows: int = 6000) -> float:
    """Total variation between what is drawn and the oracle's table."""
    canvas = blank(rows, oracle.length)
    sampler(oracle, canvas, Noise.of(0, rows))
    return float((frequencies(canvas.tokens, oracle.vocab) - oracle.joint).abs().sum()) / 2


class Flawed(Oracle):
    """Right once a site is known; knows nothing of the first."""

    def __call__(self, canvas, sites, step):
        exact = super().__call__(canvas, sites, step)
        return torch.where((canvas.known.sum(1) == 0)[:, None, None], torch.zeros_like(exact), exact)


def test_forgetting_repairs_errors_of_the_model_and_leaves_an_exact_one_alone():
    often = Sampler(Corrected(40, strength=lambda t: 8 * t * (1 - t)), Anew())
    assert distance(often, Flawed(3, 3)) < 0.75 * distance(Sampler(Ancestral(40)), Flawed(3, 3))
    assert distance(Sampler(Corrected(60, strength=lambda t: 2 * t * (1 - t)), Anew()), Oracle(3, 3)) < 0.05


def test_without_strength_it_is_ancestral_sampling():
    oracle = Oracle(3, 3)
    assert distance(Sampler(Corrected(4), Anew()), oracle) == pytest.approx(distance(Sampler(Ancestral(4)), oracle), abs=0.03)


def test_only_the_order_that_draws_anew_can_follow():
    with pytest.raises(ValueError, match="use the order Anew"):
        Sampler(Corrected(12, strength=lambda t: 5.0), Random())(tiny("masked"), blank(2), Noise.of(0, 2))
    with pytest.raises(ValueError, match=r"the strength of the corrector is -1\.0 at time 1"):
        Corrected(12, strength=lambda t: -1.0)(blank(2), Noise.of(0, 2))


def test_the_options_are_identities_until_they_are_given():
    usual, bent = (SamplerOptions(plan="ancestral", steps=5, **more).sampler(L) for more in ({}, {"alpha_power": 1.0, "time_power": 1.0}))
    tokens = []
    for sampler in (Sampler(Ancestral(5)), usual, bent):
        canvas = blank(4)
        sampler(tiny("masked"), canvas, Noise.of(3, 4))
        tokens.append(canvas.tokens)
    assert torch.equal(tokens[0], tokens[1]) and torch.equal(tokens[0], tokens[2])


def test_powers_bend_time_and_the_schedule():
    sampler = SamplerOptions(plan="ancestral", steps=4, alpha_power=3.0, time_power=2.0, corrector=4.0, corrector_power=2.0).sampler(L)
    assert isinstance(sampler, Sampler) and isinstance(sampler.plan, Corrected) and sampler.order == Anew()
    assert sampler.plan.alpha(0.5) == pytest.approx((1 - 0.25) ** 3)
    assert sampler.plan.strength(0.5) == pytest.approx(4 * 0.25**2)
    assert sampler.plan.strength(1.0) == sampler.plan.strength(0.0) == 0


def test_a_temperature_that_rises_or_falls():
    choice = SamplerOptions(temperature=1.0, temperature_rise=-0.2, temperature_rise_power=2.0).sampler(L).choice
    assert isinstance(choice, Choices)
    assert [choice.at(Step(i, 4)).temperature for i in (0, 2, 3)] == pytest.approx([1.0, 0.95, 0.8875])
    with pytest.raises(ValueError, match="all three must be positive"):
        rising(1.0, -1.0)


@pytest.mark.parametrize(("given", "says"), [
    ({"alpha_power": 3.0}, "choose plan ancestral, or leave alpha_power out"),
    ({"time_power": 2.0, "plan": "cosine"}, "choose plan ancestral, or leave time_power out"),
    ({"corrector": -1.0, "plan": "ancestral"}, "corrector -1.0 is not a positive number"),
    ({"corrector": 1.0, "plan": "ancestral", "order": "halton"}, "choose order random, or no corrector"),
    ({"corrector_power": 2.0, "plan": "ancestral"}, "there is no corrector"),
    ({"temperature_rise_power": 2.0}, "nothing rises"),
    ({"temperature_rise": 0.5, "temperature_last": 2.0}, "choose one of them"),
])
def test_no_option_is_read_in_vain(given, says):
    with pytest.raises(ValueError, match=says):
        SamplerOptions(**given)
