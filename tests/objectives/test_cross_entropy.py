from __future__ import annotations

import pytest
import torch
from objective_fakes import Tiny

from maskless.objectives.cross_entropy import weighted_nll


def dense(model, hidden, tokens, weights, wanted):
    logits = model.head(hidden)
    if model.allowed is not None:
        logits = logits.masked_fill(~model.allowed, -torch.inf)
    nll = -logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    keep = torch.ones_like(tokens, dtype=torch.bool) if wanted is None else wanted
    return torch.where(keep, nll * weights, 0.0).sum(), torch.where(keep, nll, 0.0)


@pytest.mark.parametrize("chunk", [1, 7, 64, None])
@pytest.mark.parametrize("some", [False, True])
@pytest.mark.parametrize("forbidden", [(), (2, 8)])
def test_chunks_equal_the_dense_path(chunk, some, forbidden):
    torch.manual_seed(0)
    model = Tiny(9, 5, forbidden=forbidden).double()
    hidden = torch.randn(3, 6, 5, dtype=torch.float64, requires_grad=True)
    tokens, weights = torch.randint(0, 2, (3, 6)), torch.rand(3, 6, dtype=torch.float64)
    wanted = torch.rand(3, 6) < 0.6 if some else None
    leaves = (hidden, model.head.weight, model.head.bias)
    want, want_nll = dense(model, hidden, tokens, weights, wanted)
    expected = torch.autograd.grad(3 * want, leaves)
    loss, nll = weighted_nll(model, hidden, tokens, weights, wanted=wanted, chunk=chunk)
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(nll, want_nll)
    for got, exact in zip(torch.autograd.grad(3 * loss, leaves), expected):
        torch.testing.assert_close(got, exact, rtol=1e-12, atol=1e-13)


def test_gradcheck():
    torch.manual_seed(0)
    model = Tiny(5, 4).double()
    hidden = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    tokens, weights = torch.randint(0, 5, (2, 3)), torch.rand(2, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda h: weighted_nll(model, h, tokens, weights, chunk=2)[0], hidden)


def test_nothing_wanted_is_zero_with_zero_gradient():
    model, hidden = Tiny(), torch.randn(2, 3, 6, requires_grad=True)
    tokens, infinite, none = torch.zeros(2, 3).long(), torch.full((2, 3), torch.inf), torch.zeros(2, 3).bool()
    loss, nll = weighted_nll(model, hidden, tokens, infinite, wanted=none)
    loss.backward()
    assert loss.item() == 0 and (nll == 0).all()
    assert hidden.grad is not None and (hidden.grad == 0).all()


def test_without_gradients_nothing_is_kept():
    model, hidden = Tiny(), torch.randn(2, 3, 6)
    with torch.inference_mode():
        loss, _ = weighted_nll(model, hidden, torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3))
    assert not loss.requires_grad


def test_bfloat16_autocast_sums_in_float32():
    torch.manual_seed(0)
    model, hidden = Tiny(50, 6), torch.randn(4, 8, 6, requires_grad=True)
    tokens, weights = torch.randint(0, 50, (4, 8)), torch.ones(4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, nll = weighted_nll(model, hidden, tokens, weights)
    loss.backward()
    assert loss.dtype == nll.dtype == torch.float32
    exact = dense(model, hidden, tokens, weights, None)[0]
    assert loss.item() == pytest.approx(exact.item(), rel=1e-2)
    torch.testing.assert_close(hidden.grad, torch.autograd.grad(exact, hidden)[0], rtol=0.05, atol=0.01)
