"""What a teacher says, and what a student is told: exact laws, no leak, nothing to learn from oneself, any kind of model."""
from __future__ import annotations

import itertools

import pytest
import torch
from tests.oracle import Oracle
from tests.tiny import CONFIGS, L, V, tiny
from torch import nn

from maskless.data.batch import Batch
from maskless.decoding import Canvas, Choice, LeftToRight, Margin, Noise, Random, Spaced, Stretch, rollout
from maskless.objectives import Draws, draws
from maskless.objectives.sdtt import SDTT, PartitionSDTT, view_of
from maskless.objectives.teacher import Spent, Teacher, chances, exact_times

TWO_SIDED = ["partition", "partition, mean", "causal, token", "causal, set", "causal, logsumexp"]
KINDS = ["masked, imported", *TWO_SIDED]


def batch(rows: int = 5, seed: int = 0, padded: bool = False) -> Batch:
    tokens = torch.randint(V - 1, (rows, L), generator=torch.Generator().manual_seed(seed))
    valid = torch.arange(L) < torch.tensor([L, 7, 4, L, 9])[:rows, None] if padded else torch.ones_like(tokens, dtype=torch.bool)
    return Batch(tokens, valid, torch.zeros_like(valid))


def noise(rows: int, step: int = 3):
    """Times from all nothing to all hidden."""
    return draws(0, step, torch.arange(rows), rows, L, low=1e-5, high=1 - 1e-5)


def objective(kind: type[SDTT], name: str, teacher: Teacher, **more) -> SDTT:
    view, reading = view_of(CONFIGS[name])
    return kind(teacher, view=view, reading=reading, **more)


def test_times_are_those_of_the_grid():
    t = torch.tensor([0.8, 0.1, 1.0], dtype=torch.float64)
    torch.testing.assert_close(exact_times(t, 3, 0.125), torch.tensor([[0.8, 0.1, 1.0], [0.675, 0, 0.875], [0.55, 0, 0.75]]).double())
    torch.testing.assert_close(torch.tensor(chances(exact_times(t, 2, 0.125), 0.125)),
                               torch.tensor([[0.125 / 0.8, 1, 0.125], [0.125 / 0.675, 1, 0.125 / 0.875]]))


class OnADevice(torch.Tensor):
    """Times on a device that knows no float64."""

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_chances_are_in_float64_on_the_host_alone():
    times = exact_times(torch.tensor([0.8, 1.0]), 2, 0.125)
    assert chances(times.as_subclass(OnADevice), 0.125) == chances(times, 0.125)


def test_a_stretch_reveals_as_often_as_it_should():
    rows, length = 200, 80
    canvas = Canvas(torch.zeros(rows, length, dtype=torch.int64), torch.zeros(rows, length, dtype=torch.bool))
    steps = Stretch(((0.25,) * rows, (0.5,) * rows))(canvas, Noise.of(0, rows))
    shares = [sum(step.counts) / (rows * length) for step in steps]
    assert shares == pytest.approx([0.25, 0.375], abs=0.012)
    assert steps[1].done == steps[0].counts


class Exact(Oracle):
    embedding = nn.Identity()


@pytest.mark.parametrize("steps", [1, 3])
def test_an_oracle_says_its_law(steps):
    """The first law is the conditional; later ones, over what the teacher draws in between, have it as their mean."""
    oracle, rows = Exact(4, 3), 600
    row, known = torch.tensor([[2, 0, 1, 0]]), torch.tensor([[True, False, False, False]])
    teacher = Teacher(oracle, steps, 0.25)
    given = Batch.of(row.expand(rows, -1).contiguous())
    aims = teacher.targets(given, known.expand(rows, -1), t=torch.full((rows,), 0.9), rank=torch.rand(rows, 4), seeds=torch.arange(rows))
    law = aims.law(slice(None)).exp().view(rows, 4, 3)
    exact = oracle.conditionals(row, known)[0].exp()
    spread = law[:, 1:].std(0) / rows**0.5
    assert ((law[:, 1:].mean(0) - exact[1:]).abs() <= 4 * spread + 1e-12).all()
    assert (law[:, 1:].std(0).max() > 0.01) == (steps > 1)
    seen = {tuple(x) for x in law[:, 2].round(decimals=9).tolist()}
    drawn = itertools.product([(), (1,), (3,), (1, 3)], range(3), range(3))
    said = set()
    for sites, a, b in drawn:
        tokens, there = row.clone(), known.clone()
        tokens[0, 1], tokens[0, 3] = a, b
        there[0, list(sites)] = True
        said.add(tuple(oracle.conditionals(tokens, there)[0, 2].exp().round(decimals=9).tolist()))
    assert seen <= said and (len(seen) > 5) == (steps > 1)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("kind", "name"), [*((SDTT, name) for name in KINDS), *((PartitionSDTT, name) for name in TWO_SIDED)])
def test_one_step_of_oneself_teaches_nothing(kind, name, padded):
    """Also where a group is empty, padded rows, and caches: student and teacher look at the same."""
    model = tiny(name)
    found = objective(kind, name, Teacher(model, steps=1))(model, batch(padded=padded), noise(5))
    assert found.token_loss.abs().max() < 1e-12
    gradients = torch.autograd.grad(found.loss, list(model.parameters()), allow_unused=True)
    assert max(float(g.abs().max()) for g in gradients if g is not None) < 1e-10


@pytest.mark.parametrize("name", ["masked", "partition", "causal, token"])
def test_three_steps_of_oneself_teach_something(name):
    model = tiny(name)
    found = objective(SDTT, name, Teacher(model, steps=3, dt=0.2))(model, batch(), noise(5))
    assert found.token_loss.sum() > 1e-3 and (found.token_loss > -1e-12).all()


@pytest.mark.parametrize("order", [Random(), LeftToRight(), Spaced(), Margin()])
@pytest.mark.parametrize("name", ["partition, mean", "causal, token", "causal, logsumexp"])
def test_packed_and_cached_teachers_say_what_full_passes_say(name, order):
    model, known = tiny(name), noise(5).u > 0.5
    said = []
    for predictor in (model.predictor(), model.full_predictor()):
        canvas = Canvas(batch().tokens.masked_fill(~known, 0), known)
        canvas.arrange_prompt(noise(5).u)
        steps = Stretch(chances(exact_times(noise(5).t, 3, 0.2)[:-1], 0.2))(canvas, Noise.of(1, 5))
        said.append(rollout(predictor, canvas, steps, order=order, choice=Choice(), noise=Noise.of(1, 5)))
    torch.testing.assert_close(said[0], said[1], rtol=1e-10, atol=1e-10)
    assert (said[0][known] == 0).all() and (said[0][~known] != 0).any(-1).all()


@pytest.mark.parametrize(("name", "side"), [("partition", 0), ("partition, mean", 1), ("causal, token", 0), ("causal, set", 1)])
def test_no_token_of_a_group_is_in_its_targets(name, side):
    model, rows = tiny(name), batch()
    teaching, u = objective(PartitionSDTT, name, Teacher(model, steps=3, dt=0.2)), noise(5)
    group = teaching.split(rows, u) if side else ~teaching.split(rows, u)
    other = Batch.of(torch.where(group, (rows.tokens + 1) % (V - 1), rows.tokens))

    def told(rows: Batch) -> torch.Tensor:
        return teaching.targets(rows, ~group, u, u.t if side else 1 - u.t, side).hidden[group]

    assert torch.equal(told(rows), told(other))
    changed = Batch.of(torch.where(group, rows.tokens, (rows.tokens + 1) % (V - 1)))
    assert not torch.equal(told(rows), told(changed))


def test_both_groups_are_two_walks_and_one_pass():
    """The sum of the two sides, each as a walk of its own."""
    model, rows, u, other = tiny("partition"), batch(), noise(5), tiny("partition", seed=1)
    teacher = Teacher(other, steps=2, dt=0.3)
    both = PartitionSDTT(teacher, anchor=False)(model, rows, u)
    one = SDTT(teacher, anchor=False)(model, rows, u)
    group = u.u < u.t[:, None]
    assert group.any(1).all() and (~group).any(1).all()
    torch.testing.assert_close(both.token_loss[group] * 2 / sum(SDTT(teacher).times), one.token_loss[group])
    assert (one.token_loss[~group] == 0).all() and (both.token_loss[~group] > 0).all()
    torch.testing.assert_close(both.loss.detach(), both.token_loss.sum())


@pytest.mark.parametrize(("teacher", "student"), [("partition", "causal, token"), ("causal, token", "partition"), ("masked", "partition"),
                                                   ("partition, mean", "masked"), ("causal, set", "causal, token")])
def test_a_student_may_be_of_another_kind(teacher, student):
    kind = SDTT if student == "masked" else PartitionSDTT
    model = tiny(student)
    found = objective(kind, student, Teacher(tiny(teacher), dt=0.3))(model, batch(), noise(5))
    gradients = torch.autograd.grad(found.loss, list(model.parameters()))
    assert found.loss > 0 and all(g.isfinite().all() for g in gradients)


def test_a_row_is_told_the_same_in_any_batch():
    model = tiny("partition")
    aims = Teacher(model, steps=3, dt=0.2)
    rows, u = batch(), noise(5)
    known = u.u >= u.t[:, None]
    among = aims.targets(rows, known, t=u.t, rank=u.u, seeds=u.seeds).hidden
    for b in range(5):
        alone = aims.targets(Batch.of(rows.tokens[b:b + 1]), known[b:b + 1], t=u.t[b:b + 1], rank=u.u[b:b + 1], seeds=u.seeds[b:b + 1]).hidden
        torch.testing.assert_close(alone[0], among[b], rtol=1e-10, atol=1e-10)


def test_given_sites_are_no_targets():
    rows = batch()
    given = torch.zeros_like(rows.given)
    given[:2, 3:6] = True
    rows = Batch(rows.tokens, rows.valid, given)
    u, model = noise(5), tiny("partition")
    found = PartitionSDTT(Teacher(model, dt=0.3))(model, rows, u)
    assert (found.token_loss[given] == 0).all()
    assert (found.token_loss[:2][:, 1:][(u.u >= u.t[:, None])[:2, 1:]] == 0).all() and found.tokens.tolist() == [9, 9, 12, 12, 12]


def test_a_walk_that_begins_with_little_knows_site_0():
    rows, u = batch(), noise(5)
    one, both = SDTT(Teacher(tiny("partition"))), PartitionSDTT(Teacher(tiny("partition")))
    assert not one.split(rows, u)[:, 0].any()
    group = both.split(rows, u)
    assert group[:, 0].tolist() == (u.t < 0.5).tolist() and group.any(1).all() and (~group).any(1).all()
    assert torch.equal(group[:, 1:], (u.u < u.t[:, None])[:, 1:]) and (both.rank(u)[:, 0] == 0).all()


def test_what_is_predicted_from_nothing_is_not_taught():
    rows, u = batch(2), draws(0, 3, torch.arange(2), 2, L)
    u = Draws(torch.tensor([1e-5, 1 - 1e-5]), torch.full((2, L), 0.5), seeds=u.seeds)
    model = tiny("partition")
    found = PartitionSDTT(Teacher(model, dt=0.3), anchor=False)(model, rows, u)
    assert (found.token_loss == 0).all() and found.tokens.tolist() == [L, L]


def test_costs_are_counted():
    spent = Spent()
    rows, u = batch(), noise(5)
    SDTT(Teacher(tiny("masked"), steps=1, spent=spent))(tiny("masked"), rows, u)
    assert spent.take() == Spent(1, 5 * L) and spent.take() == Spent()
    both = PartitionSDTT(Teacher(tiny("partition"), steps=1, spent=spent))
    both(tiny("partition"), rows, u)
    known = (~both.split(rows, u)).sum(1)
    assert spent.take() == Spent(2, 5 * int(known.max()) + 5 * int((L - known).max()))
    SDTT(Teacher(tiny("causal, token"), steps=3, dt=0.3, spent=spent))(tiny("causal, token"), rows, u)
    assert spent.calls == 3 and spent.tokens <= 2 * 5 * L


def test_without_seeds_it_refuses():
    from dataclasses import replace

    with pytest.raises(AssertionError, match="seeds"):
        SDTT(Teacher(tiny("masked")))(tiny("masked"), batch(), replace(noise(5), seeds=None))
