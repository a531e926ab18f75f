"""One site per step samples an exact joint, for every order that chooses sites without looking at the drawn token."""
from __future__ import annotations

import math

import pytest
import torch
from tests.oracle import Oracle, all_sequences, chi_square

from maskless.decoding import (
    Adaptive,
    Ancestral,
    Blockwise,
    Canvas,
    Choice,
    Confidence,
    EntropyBound,
    Guided,
    LeftToRight,
    Margin,
    Noise,
    Random,
    Sampler,
    Scheduled,
    Spaced,
    decode,
    remask,
)

ROWS = 20_000


def blank(rows: int, length: int) -> Canvas:
    return Canvas(torch.zeros(rows, length, dtype=torch.int64), torch.zeros(rows, length, dtype=torch.bool))


EXACT = {
    "random": Sampler(Scheduled(3), Random()),
    "left to right": Sampler(Scheduled(3), LeftToRight()),
    "spaced": Sampler(Scheduled(3), Spaced()),
    "margin": Sampler(Scheduled(3), Margin()),
    "entropy bound": Sampler(Adaptive(), EntropyBound(-1.0)),
    "blocks": Sampler(Blockwise(2, lambda window: Scheduled(2, window=window)), Random()),
    "ancestral, 300 steps": Sampler(Ancestral(300), Random()),
}


@pytest.mark.parametrize("name", EXACT)
def test_one_site_per_step_samples_the_joint(name):
    oracle = Oracle(3, 3)
    canvas = blank(ROWS if "300" not in name else 4000, 3)
    EXACT[name](oracle, canvas, Noise.of(1, canvas.rows))
    assert canvas.known.all()
    assert chi_square(canvas.tokens, oracle.joint) < 5


def test_few_ancestral_steps_do_not_sample_the_joint():
    oracle = Oracle(3, 3)
    canvas = blank(ROWS, 3)
    Sampler(Ancestral(1))(oracle, canvas, Noise.of(1, ROWS))
    assert chi_square(canvas.tokens, oracle.joint) > 20


def test_confidence_has_its_own_law():
    """Drawing first and keeping the most probable draw biases the joint; without noise its law can be enumerated, and is met."""
    oracle, law = Oracle(2, 3), torch.zeros(3, 3, dtype=torch.float64)
    single = oracle.conditionals(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.bool))[0].exp()
    for a, b in all_sequences(2, 3).tolist():
        first = 0 if single[0, a] >= single[1, b] else 1
        for other in range(3):
            pair = (a, other) if first == 0 else (other, b)
            given = oracle.joint[a] if first == 0 else oracle.joint[:, b]
            law[pair] += single[0, a] * single[1, b] * given[other] / given.sum()
    canvas = blank(ROWS, 2)
    Sampler(Scheduled(2), Confidence(noise=0.0))(oracle, canvas, Noise.of(2, ROWS))
    assert chi_square(canvas.tokens, law) < 5
    assert chi_square(canvas.tokens, oracle.joint) > 5


def test_guidance_of_strength_zero_is_no_guidance():
    oracle = Oracle(3, 3)
    plain, guided = blank(50, 3), blank(50, 3)
    Sampler(Scheduled(3))(oracle, plain, Noise.of(3, 50))
    Sampler(Scheduled(3), guidance=lambda step: 0.0)(oracle, guided, Noise.of(3, 50))
    assert torch.equal(plain.tokens, guided.tokens)


def test_guidance_extrapolates_from_the_law_without_the_prompt():
    oracle, rows = Oracle(3, 3), 4
    tokens, known = torch.tensor([[2, 0, 0]] * rows), torch.tensor([[True, False, False]] * rows)
    canvas = Canvas(tokens, known)
    steps = Scheduled(2)(canvas, Noise.of(0, rows))
    record = next(decode(Guided(oracle, lambda step: 2.0, forget_prompt=True), canvas, steps, order=LeftToRight(), choice=Choice(temperature=0),
                         noise=Noise.of(0, rows)))
    with_prompt = oracle.conditionals(tokens, known)[0, 1]
    without = oracle.conditionals(tokens, torch.zeros_like(known))[0, 1]
    law = (3 * with_prompt - 2 * without).log_softmax(-1)
    assert record.sites.index[0, 0] == 1
    assert record.draw.token[0, 0] == law.argmax()
    assert record.draw.logp[0, 0].item() == pytest.approx(law.max().item(), abs=1e-12)


def test_remasking_leaves_an_exact_law_alone():
    oracle = Oracle(3, 3)
    canvas, noise = blank(ROWS, 3), Noise.of(5, ROWS)
    Sampler(Scheduled(3))(oracle, canvas, noise)
    before = canvas.tokens.clone()
    remask(canvas, 0.5, noise)
    assert not canvas.known.all()
    Sampler(Scheduled(3))(oracle, canvas, Noise.of(6, ROWS))
    assert canvas.known.all() and not torch.equal(before, canvas.tokens)
    assert chi_square(canvas.tokens, oracle.joint) < 5


def test_inverse_cdf_follows_the_law_and_never_draws_the_impossible():
    p = torch.tensor([0.0, 0.5, 0.0, 0.25, 0.25, 0.0])
    noise = Noise.of(0, 1)
    from maskless.decoding.noise import inverse_cdf

    logp = p.log().expand(ROWS, -1)
    u = noise.at(1, 0, torch.arange(ROWS)[None])[0]
    tokens = inverse_cdf(logp, u)
    seen = torch.bincount(tokens, minlength=6) / ROWS
    assert seen[p == 0].sum() == 0
    assert (seen - p).abs().max() < 5 * math.sqrt(0.25 / ROWS)
    assert inverse_cdf(p.log()[None], torch.ones(1, dtype=torch.float64)).item() == 4
    assert inverse_cdf(p.log()[None], torch.zeros(1, dtype=torch.float64)).item() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 255, 256, 257, 1000])
def test_inverse_cdf_among_blocks_is_the_cumulative_sum(size, dtype):
    from maskless.decoding.noise import inverse_cdf

    torch.manual_seed(size)
    logits = 3 * torch.randn(1, size, dtype=dtype)
    logits[:, torch.rand(size) < 0.5] = -torch.inf                  # and a block in which nothing may be drawn
    logits[:, 256:512] = -torch.inf
    logits[:, 0] = 0.0
    p = logits.softmax(-1).double()[0]
    u = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    tokens = inverse_cdf(logits.log_softmax(-1).expand(len(u), -1), u)
    assert bool((p[tokens] > 0).all())
    ends = p.cumsum(0) / p.sum()
    slack = 1e-12 if dtype == torch.float64 else 1e-6
    assert bool((ends[tokens] >= u - slack).all()) and bool((ends[tokens] - p[tokens] / p.sum() <= u + slack).all())


def test_inverse_cdf_of_a_law_that_is_not_finite_is_an_id_all_the_same():
    from maskless.decoding.noise import inverse_cdf

    logp = torch.full((2, 300), torch.nan)
    assert bool((inverse_cdf(logp, torch.tensor([0.0, 1.0], dtype=torch.float64)) < 300).all())
