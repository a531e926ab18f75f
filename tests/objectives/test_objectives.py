from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from objective_fakes import Oracle, Tiny

from maskless.data.batch import Batch
from maskless.objectives import Autoregressive, Complementary, Draws, Masked, Partition
from maskless.schedules import Arccos, LogLinear

ALL = [Masked(), Complementary(), Partition(), Autoregressive()]


def joint() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    table = torch.rand(3, 3, 3, generator=generator, dtype=torch.float64) ** 3
    return table / table.sum()


def every_mask() -> tuple[torch.Tensor, torch.Tensor]:
    """All 27 rows with all 8 masks: the batch (216 rows), the masks, and the row's probability."""
    model = Oracle(joint())
    masks = torch.cartesian_prod(*[torch.tensor([False, True])] * 3)
    rows = model.states.repeat_interleave(8, 0)
    return Batch.of(rows), masks.repeat(27, 1), joint().flatten().repeat_interleave(8)


def expected_bound(objective, low: float, high: float, kinks: tuple[float, ...] = ()) -> float:
    """E over rows and masks exactly, over t in [low, high] by Gauss-Legendre (exact: it is a polynomial in t)."""
    model, (batch, masks, p) = Oracle(joint()), every_mask()
    nodes, weights = np.polynomial.legendre.leggauss(8)
    edges, total = (low, *kinks, high), 0.0
    for a, b in itertools.pairwise(edges):
        for node, weight in zip(nodes, weights):
            t = torch.full((len(p),), a + (b - a) * (node + 1) / 2, dtype=torch.float64)
            u = torch.where(masks, 0.0, 1 - 1e-12).double()
            chance = torch.where(masks, t[:, None], 1 - t[:, None]).prod(1)
            found = objective(model, batch, Draws(t, u)).bound
            total += weight / 2 * (b - a) * float((p * chance * found).sum())
    return total / (high - low)


def entropy() -> float:
    return float(torch.special.entr(joint()).sum())


@pytest.mark.parametrize("kind", [Masked, Complementary, Partition])
def test_with_exact_conditionals_the_bound_is_the_entropy(kind):
    assert expected_bound(kind(low=0.0), 0.0, 1.0) == pytest.approx(entropy(), abs=1e-11)


@pytest.mark.parametrize("kind", [Complementary, Partition])
def test_leaving_out_short_times_keeps_a_bound_and_the_same_one_for_all(kind):
    floor = 0.1
    masked = expected_bound(Masked(low=floor), floor, 1.0)
    two_sided = expected_bound(kind(low=floor), 0.0, 1.0, kinks=(floor, 1 - floor))
    assert two_sided == pytest.approx(masked, abs=1e-11)
    assert entropy() < two_sided < 1.05 * entropy()


def test_autoregressive_is_exact_but_for_its_anchor():
    model, table = Oracle(joint()), joint()
    # an oracle that predicts from the left, whatever is known
    model.hidden = lambda tokens, known, cond=None: torch.stack([
        torch.stack([model.conditional(row, torch.arange(3) < i, i) for i in range(3)]) for row in tokens])
    batch = Batch.of(model.states)
    found = Autoregressive()(model, batch, Draws(torch.zeros(27), torch.zeros(27, 3)))
    first = table.sum((1, 2))
    given_first = entropy() - float(torch.special.entr(first).sum())
    assert float((found.bound * table.flatten()).sum()) == pytest.approx(given_first, abs=1e-12)
    assert found.tokens.tolist() == [2] * 27


def random_case(rows: int = 5, length: int = 8, seed: int = 0) -> tuple[Tiny, Draws]:
    torch.manual_seed(seed)
    batch = Batch.of(torch.randint(7, (rows, length)))
    return Tiny().double().eval(), batch, Draws(torch.rand(rows).clamp(0.1, 0.9), torch.rand(rows, length))


def test_complementary_is_two_masked_losses():
    model, batch, draws = random_case()
    # exactly the complement: a uniform just at the threshold's other side, with time 1 - t
    hidden = draws.u < draws.t[:, None]
    other = Draws(1 - draws.t, torch.where(hidden, 0.999, 0.0))
    both = Complementary()(model, batch, draws).loss
    assert both.item() == pytest.approx(
        (Masked()(model, batch, draws).loss + Masked()(model, batch, other).loss).item() / 2, rel=1e-6)


def test_partition_weights_both_groups_and_halves():
    model, batch, draws = random_case()
    group = draws.u < draws.t[:, None]
    found = Partition()(model, batch, draws)
    nll = -model.head(model.hidden(batch.tokens, ~group)).log_softmax(-1).gather(-1, batch.tokens[..., None])[..., 0]
    own = torch.where(group, draws.t[:, None], 1 - draws.t[:, None])
    torch.testing.assert_close(found.token_loss, (nll / own / 2).detach())
    torch.testing.assert_close(Partition(weights="half")(model, batch, draws).token_loss, (nll / 2).detach())
    torch.testing.assert_close(found.loss, found.token_loss.sum())


def image_rates(draws: Draws) -> torch.Tensor:
    """The published masking rate of every row: arccos(r) 2 / pi, r = 1 - t."""
    return torch.arccos(1 - draws.t)[:, None] * 2 / torch.pi


def test_unit_weights_and_all_targets_are_the_published_loss_of_maskgit():
    model, batch, draws = random_case()
    hidden = draws.u < image_rates(draws)
    logits = model.head(model.hidden(batch.tokens, ~hidden))
    every = Masked(Arccos(), weights="unit", targets="all")(model, batch, draws)
    plain = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.tokens.flatten())
    torch.testing.assert_close(every.loss / every.tokens.sum(), plain)
    assert every.bound.equal(Masked(Arccos())(model, batch, draws).bound)                       # is not about known sites
    only = Masked(Arccos(), weights="unit")(model, batch, draws)
    torch.testing.assert_close(only.token_loss, torch.where(hidden, every.token_loss, 0.0))


def test_unit_weights_are_the_published_loss_of_image_pgm():
    model, batch, draws = random_case()
    logits = model.head(model.hidden(batch.tokens, draws.u >= image_rates(draws)))
    plain = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.tokens.flatten())
    found = Partition(Arccos(), weights="unit")(model, batch, draws)
    torch.testing.assert_close(found.loss / found.tokens.sum(), plain)
    torch.testing.assert_close(found.loss, 2 * Partition(Arccos(), weights="half")(model, batch, draws).loss)
    assert found.bound.equal(Partition(Arccos())(model, batch, draws).bound)


def test_impossible_objectives_are_refused():
    with pytest.raises(ValueError, match="targets is all and weights is bound"):
        Masked(targets="all")
    for kind in (Masked, Complementary, Partition):
        with pytest.raises(ValueError, match=r"low is 0.5; the smallest share of hidden sites lies in \[0, 0.5\)"):
            kind(low=0.5)


def test_given_sites_are_known_and_train_one_side_whole():
    model, batch, draws = random_case()
    given = torch.zeros_like(batch.valid)
    given[0, 2] = given[1, 0] = True  # a Sudoku given; an anchor
    found = Partition()(model, dataclasses.replace(batch, given=given), draws)
    group = (draws.u < draws.t[:, None]) & ~given
    nll = -model.head(model.hidden(batch.tokens, ~group)).log_softmax(-1).gather(-1, batch.tokens[..., None])[..., 0]
    torch.testing.assert_close(found.token_loss[0], torch.where(group, nll / draws.t[:, None], 0.0)[0].detach())
    own = torch.where(group, draws.t[:, None], 1 - draws.t[:, None])
    torch.testing.assert_close(found.token_loss[1, 1:], (nll / own / 2)[1, 1:].detach())
    assert found.token_loss[1, 0] == 0
    assert found.tokens.tolist() == [7, 7, 8, 8, 8]
    for objective in (Masked(), Complementary()):
        assert (objective(model, dataclasses.replace(batch, given=given), draws).token_loss[given] == 0).all()


@pytest.mark.parametrize("objective", ALL[:3], ids=lambda o: type(o).__name__)
def test_padding_counts_nowhere(objective):
    model, batch, draws = random_case()
    valid = torch.ones_like(batch.valid)
    valid[:, 5:] = False
    padded = dataclasses.replace(batch, valid=valid)
    other = dataclasses.replace(padded, tokens=torch.where(valid, batch.tokens, 0))
    a, b = objective(model, padded, draws), objective(model, other, draws)
    torch.testing.assert_close(a.loss, b.loss, rtol=0, atol=0)
    torch.testing.assert_close(a.bound, b.bound, rtol=0, atol=0)
    assert (a.token_loss[~valid] == 0).all()
    assert a.tokens.tolist() == objective.count(padded).tolist() == [5] * 5
    assert Autoregressive().count(padded).tolist() == [4] * 5


@pytest.mark.parametrize("objective", [*ALL, Partition(LogLinear(1e-3)), Masked(weights="unit")], ids=repr)
@pytest.mark.parametrize("u", [0.0, 0.999999])
def test_an_empty_group_gives_no_nan(objective, u):
    model, batch, _ = random_case()
    model.float()
    found = objective(model, batch, Draws(torch.full((5,), 0.5), torch.full((5, 8), u)))
    found.loss.backward()
    assert found.loss.isfinite() and found.bound.isfinite().all()
    for parameter in (model.head.weight, model.head.bias):
        assert parameter.grad is not None and parameter.grad.isfinite().all()


@pytest.mark.parametrize("objective", ALL, ids=lambda o: type(o).__name__)
def test_arithmetic_is_at_least_float32(objective):
    model, batch, draws = random_case()
    assert objective(model, batch, draws).loss.dtype == torch.float64
    half = objective(model.bfloat16(), batch, draws)
    assert half.loss.dtype == half.bound.dtype == torch.float32


def test_only_an_exact_schedule_is_called_valid():
    reference = LogLinear(1e-3)
    for kind in (Masked, Complementary, Partition):
        assert kind().valid and not kind(schedule=reference).valid
    assert Partition().times == (1e-3, 1 - 1e-3) and Partition(reference).times == (1e-3, 1.0)
