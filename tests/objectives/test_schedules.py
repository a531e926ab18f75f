"""Every schedule of hiding gives the same bound, and each is the published masking rate."""
from __future__ import annotations

import dataclasses
import itertools
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from objective_fakes import Oracle
from safetensors.torch import load_file

from maskless.config import build, tree_of
from maskless.data.batch import Batch
from maskless.evaluation.likelihood import bound
from maskless.objectives import Complementary, Draws, Masked, Partition
from maskless.schedules import SCHEDULES, Arccos, LogLinear, Polynomial, Root, Square

GOLDEN = Path(__file__).parents[1] / "golden"
KINDS = [Masked, Complementary, Partition]
EVERY = [pytest.param(kind(), id=name) for name, kind in SCHEDULES.items()]


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "polynomial"])
def test_the_published_masking_rates(name):
    found = load_file(GOLDEN / "image_schedules.safetensors")
    r = found["mask_rate/r"]
    torch.testing.assert_close(SCHEDULES[name]().hiding(1 - r), found[f"mask_rate/{name}"], atol=2e-7, rtol=0)


@pytest.mark.parametrize("power, other", [(1.0, LogLinear()), (2.0, Square()), (0.5, Root())])
def test_polynomials_have_the_known_schedules_among_them(power, other):
    t = torch.linspace(0.01, 0.99, 21, dtype=torch.float64)
    for name in ("alpha", "hiding", "rate", "weight"):
        torch.testing.assert_close(getattr(Polynomial(power), name)(t), getattr(other, name)(t), rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match=r"power is 0\.0; give a positive number"):
        Polynomial(0.0)


@pytest.mark.parametrize("schedule", EVERY)
def test_a_schedule_agrees_with_itself(schedule):
    t = torch.linspace(1e-6, 1 - 1e-6, 41, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(schedule.alpha(t).sum(), t)
    torch.testing.assert_close(schedule.rate(t), slope, rtol=1e-9, atol=0)
    torch.testing.assert_close(schedule.hiding(t), 1 - schedule.alpha(t), rtol=0, atol=1e-13)
    torch.testing.assert_close(schedule.weight(t), -slope / schedule.hiding(t), rtol=1e-9, atol=0)
    torch.testing.assert_close(schedule.weight_of_known(t), -slope / schedule.alpha(t), rtol=1e-7, atol=0)
    torch.testing.assert_close(schedule.reveal(t, t / 2), (schedule.alpha(t / 2) - schedule.alpha(t)) / (1 - schedule.alpha(t)))
    told = t.detach()[schedule.alpha(t.detach()) > 1e-9]             # nearer to 0, all that is hidden rounds to 1
    again = torch.tensor([schedule.time(float(share)) for share in schedule.linear(told)], dtype=torch.float64)
    torch.testing.assert_close(again, told, rtol=1e-9, atol=1e-14)
    assert (schedule.time(0.0), schedule.time(1.0)) == pytest.approx((0.0, 1.0), abs=1e-15)


@pytest.mark.parametrize("schedule", EVERY)
def test_no_digits_are_lost_near_the_ends(schedule):
    t = torch.tensor([2.0**-24, 1e-3, 0.5, 1 - 2.0**-24])
    for value in (schedule.hiding, schedule.alpha, schedule.rate, schedule.weight, schedule.weight_of_known):
        torch.testing.assert_close(value(t).double(), value(t.double()), rtol=2e-6, atol=0)


def test_recipes_name_schedules_and_old_ones_stay_what_they_were():
    assert build(Masked, {"schedule": {"type": "arccos"}}) == Masked(Arccos())
    assert build(Masked, {"schedule": {"eps": 0}}) == build(Masked, {"schedule": {"eps": 0.0, "type": "linear"}}) == Masked()
    assert build(Partition, tree_of(Partition(Root()))) == Partition(Root())
    with pytest.raises(ValueError, match=r"schedule.type is 'arcos'; did you mean arccos\?"):
        build(Masked, {"schedule": {"type": "arcos"}})
    with pytest.raises(ValueError, match=r"schedule.eps is a key of linear, and schedule.type is arccos, .*\(keys of arccos: none\)"):
        build(Masked, {"schedule": {"type": "arccos", "eps": 0.1}})


# ---------------------------------------------------------------------------------------------- one bound for all of them


class Table:
    """An oracle whose states for every row and mask of a small joint are looked up: they do not depend on the time."""

    allowed = registers = None

    def __init__(self) -> None:
        table = torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64) ** 3
        self.joint = table / table.sum()
        self.oracle = Oracle(self.joint)
        self.masks = torch.cartesian_prod(*[torch.tensor([False, True])] * 3).repeat(27, 1)
        self.rows = self.oracle.states.repeat_interleave(8, 0)                              # (216, 3)
        self.p, self.head = self.joint.flatten().repeat_interleave(8), self.oracle.head
        self.found = self.oracle.hidden(self.rows, ~self.masks)

    def hidden(self, tokens, known, **_):
        place = (known.long() * torch.tensor([4, 2, 1])).sum(1)                             # known = 7 - the mask's number
        row = (tokens * torch.tensor([9, 3, 1])).sum(1)
        return self.found[row * 8 + 7 - place]


class Looked(torch.nn.Module):
    """The table as the module that `bound` wants."""

    def __init__(self, table: Table) -> None:
        super().__init__()
        self.head, self.allowed, self.registers, self.hidden = table.head, None, None, table.hidden


@cache
def table() -> Table:
    return Table()


def expectation(objective, interval: tuple[float, float], *kinks: float, of: str = "bound") -> float:
    """Over rows and masks exactly, over t by Gauss-Legendre in s, t = (1 - cos pi s) / 2 within each piece: ends may be infinite."""
    model, low, high = table(), *interval
    nodes, weights = (torch.from_numpy(x) / 2 for x in np.polynomial.legendre.leggauss(32))
    angle = math.pi * (nodes + 0.5)
    pieces = list(itertools.pairwise((low, *kinks, high)))
    times = torch.cat([a + (b - a) * (1 - angle.cos()) / 2 for a, b in pieces])
    measure = torch.cat([(b - a) * weights * angle.sin() * math.pi / 2 for a, b in pieces])
    t = times.repeat_interleave(216)
    masks, rows = model.masks.repeat(len(times), 1), model.rows.repeat(len(times), 1)
    hiding = objective.schedule.hiding(t)[:, None]
    chance = torch.where(masks, hiding, 1 - hiding).prod(1) * model.p.repeat(len(times)) * measure.repeat_interleave(216)
    found = objective(model, Batch.of(rows), Draws(t, torch.where(masks, 0.0, 1.0).double()))
    value = found.bound if of == "bound" else found.token_loss.sum(1)
    return float((chance * value).sum()) / (high - low)


def entropy() -> float:
    return float(torch.special.entr(table().joint).sum())


@pytest.mark.parametrize("schedule", EVERY)
@pytest.mark.parametrize("kind", KINDS)
def test_every_schedule_has_the_same_bound_the_entropy(kind, schedule):
    objective = kind(schedule, low=0.0)
    assert objective.valid
    assert expectation(objective, (0.0, 1.0)) == pytest.approx(entropy(), abs=1e-8)
    assert expectation(objective, (0.0, 1.0), of="loss") == pytest.approx(entropy(), abs=1e-8)


@pytest.mark.parametrize("schedule", EVERY)
@pytest.mark.parametrize("kind", KINDS)
def test_leaving_out_what_hides_little_keeps_that_bound(kind, schedule):
    linear, objective, low = kind(low=0.1), kind(schedule, low=0.1), 0.1
    kinks = () if kind is Masked else (low, 1 - low)
    want = expectation(linear, linear.bound_times, *kinks)
    assert entropy() < want < 1.05 * entropy()
    assert expectation(objective, objective.bound_times, *map(schedule.time, kinks)) == pytest.approx(want, abs=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_trained_the_bound_is_measured_with_the_linear_schedule(kind):
    trained = kind(Arccos(), weights="unit")
    assert trained.reported(8) == {"bound": dataclasses.replace(trained, schedule=LogLinear())}
    assert kind(LogLinear(1e-3)).reported(8) == {"bound": kind(LogLinear(1e-3))} and not kind(LogLinear(1e-3)).valid
    generator = torch.Generator().manual_seed(0)
    rows = table().oracle.states[torch.multinomial(table().joint.flatten(), 300, replacement=True, generator=generator)]
    (objective,) = trained.reported(3).values()
    found = bound(Looked(table()), objective, [Batch.of(rows)], seed=1)
    assert abs(found.nats_per_token - entropy() / 3) < 3.5 * found.standard_error and found.standard_error < 0.06
