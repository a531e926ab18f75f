"""Divergences against their formulas, dense and in float64; their gradients; what is cut off."""
from __future__ import annotations

import pytest
import torch
from objective_fakes import Tiny
from torch import nn

from maskless.decoding import Choice
from maskless.objectives.divergence import DIVERGENCES, LEAST, Targets, distance

FORMULAS = {
    "kl-bwd": lambda S, Q: (S.exp() * (S - Q)).sum(-1),
    "kl-fwd": lambda S, Q: (Q.exp() * (Q - S)).sum(-1),
    "mse": lambda S, Q: ((S - Q) ** 2).mean(-1),
    "tvd": lambda S, Q: 0.5 * (S.exp() - Q.exp()).abs().sum(-1),
}


def targets(vocabulary: int, *, allowed=None, choice: Choice | None = None, dtype=torch.float64) -> Targets:
    """Three rows of six sites, under a head of another width than the student's."""
    head = nn.Linear(4, vocabulary, dtype=dtype).requires_grad_(False)
    return Targets(torch.randn(3, 6, 4, dtype=dtype), head, allowed, choice or Choice())


def laws(model, hidden, aims: Targets) -> tuple[torch.Tensor, torch.Tensor]:
    allowed = torch.ones(model.head.weight.shape[0], dtype=torch.bool) if model.allowed is None else model.allowed
    student = model.head(hidden).masked_fill(~allowed, -torch.inf).log_softmax(-1).clamp(min=LEAST)
    teacher = aims.head(aims.hidden).masked_fill(~allowed, -torch.inf).log_softmax(-1).clamp(min=LEAST)
    return student, teacher


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("chunk", [1, 7, None])
@pytest.mark.parametrize("some", [False, True])
@pytest.mark.parametrize("forbidden", [(), (2, 8)])
def test_chunks_equal_the_dense_formula(name, chunk, some, forbidden):
    torch.manual_seed(0)
    model = Tiny(9, 5, forbidden=forbidden).double()
    aims = targets(9, allowed=model.allowed)
    hidden = torch.randn(3, 6, 5, dtype=torch.float64, requires_grad=True)
    weights, wanted = torch.rand(3, 6, dtype=torch.float64), torch.rand(3, 6) < 0.6 if some else None
    keep = torch.ones(3, 6) if wanted is None else wanted
    each = FORMULAS[name](*laws(model, hidden, aims))
    leaves = (hidden, model.head.weight, model.head.bias)
    expected = torch.autograd.grad(3 * (each * weights * keep).sum(), leaves)
    loss, found = distance(model, hidden, aims, weights, DIVERGENCES[name], wanted=wanted, chunk=chunk)
    torch.testing.assert_close(found, (each * keep).detach(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(loss, (each * weights * keep).sum())
    for got, exact in zip(torch.autograd.grad(3 * loss, leaves), expected):
        torch.testing.assert_close(got, exact, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", FORMULAS)
def test_gradcheck(name):
    torch.manual_seed(1)
    model, aims = Tiny(5, 4).double(), targets(5)
    hidden, weights = torch.randn(3, 6, 4, dtype=torch.float64, requires_grad=True), torch.rand(3, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda h: distance(model, h, aims, weights, DIVERGENCES[name], chunk=4)[0], hidden)


@pytest.mark.parametrize("name", FORMULAS)
def test_the_same_law_is_no_distance_and_no_gradient(name):
    model = Tiny(9, 4, forbidden=(3,)).double()
    hidden = torch.randn(3, 6, 4, dtype=torch.float64, requires_grad=True)
    aims = Targets(hidden.detach(), model.head, model.allowed, Choice())
    loss, each = distance(model, hidden, aims, torch.ones(3, 6, dtype=torch.float64), DIVERGENCES[name])
    assert each.abs().max() < 1e-15 and torch.autograd.grad(loss, hidden)[0].abs().max() < 1e-15


@pytest.mark.parametrize("name", ["kl-fwd", "tvd"])
def test_a_nucleus_cuts_the_targets(name):
    torch.manual_seed(2)
    model, aims = Tiny(9, 5).double(), targets(9, choice=Choice(top_p=0.5))
    hidden = torch.randn(3, 6, 5, dtype=torch.float64, requires_grad=True)
    law = aims.law(slice(None)).exp().view(3, 6, 9)
    assert 1 <= (law > 0).sum(-1).min() < 9 and torch.allclose(law.sum(-1), torch.ones(3, 6, dtype=torch.float64))
    student = model.head(hidden).log_softmax(-1)
    each = (torch.special.xlogy(law, law) - law * student).sum(-1) if name == "kl-fwd" else 0.5 * (student.exp() - law).abs().sum(-1)
    loss, found = distance(model, hidden, aims, torch.ones(3, 6, dtype=torch.float64), DIVERGENCES[name])
    torch.testing.assert_close(found, each.detach())
    expected = torch.autograd.grad(each.sum(), hidden)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, hidden)[0], expected)


@pytest.mark.parametrize("name", FORMULAS)
def test_what_is_not_a_number_stays_none(name):
    model, aims = Tiny(9, 5, forbidden=(1,)), targets(9, dtype=torch.float32)
    hidden = torch.randn(3, 6, 5)
    hidden[1, 2, 0] = torch.nan
    _, each = distance(model, hidden, aims, torch.ones(3, 6), DIVERGENCES[name])
    assert each.isnan().sum() == 1 and each[1, 2].isnan()


@pytest.mark.parametrize("name", FORMULAS)
def test_bfloat16_products_are_summed_in_float32(name):
    torch.manual_seed(3)
    model, aims = Tiny(50, 6), targets(50, dtype=torch.float32)
    hidden, ones = torch.randn(3, 6, 6), torch.ones(3, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, each = distance(model, hidden, aims, ones, DIVERGENCES[name])
    assert loss.dtype == each.dtype == torch.float32
    exact = distance(model, hidden, aims, ones, DIVERGENCES[name])[0]
    assert loss.item() == pytest.approx(exact.item(), rel=3e-2)
