"""Labelled and guided teachers: targets are the guided sampler's laws, and a student asked once, without guidance, is told all of them."""
from __future__ import annotations

import pytest
import torch
from tests.tiny import CONFIGS, DIGITS, GRID, LABELLED, L, V, labels_of, tiny

from maskless.data.batch import Batch
from maskless.decoding import (
    Canvas,
    Choice,
    Halton,
    Noise,
    Random,
    Sampler,
    Scheduled,
    Sites,
    Stretch,
    constant,
    decode,
    halves,
    ramped,
    rollout,
)
from maskless.decoding.guidance import Guided, ramp
from maskless.objectives import draws
from maskless.objectives.divergence import DIVERGENCES
from maskless.objectives.sdtt import SDTT, PartitionSDTT, view_of
from maskless.objectives.teacher import Guidance, Teacher, chances, exact_times
from maskless.schedules import Arccos, LogLinear

ROWS, NULL = 4, 3
IMAGES = ["maskgit", "maskgit, imported", "partition, image", "partition, axial", "causal, image"]


def batch(seed: int = 0, labels: torch.Tensor | None = None) -> Batch:
    tokens = torch.randint(V - 1, (ROWS, L), generator=torch.Generator().manual_seed(seed))
    return Batch.of(tokens).labelled(torch.tensor([0, 2, NULL, 1]) if labels is None else labels)


def known_sites(seed: int = 1) -> torch.Tensor:
    known = torch.rand(ROWS, L, generator=torch.Generator().manual_seed(seed)) < 0.4
    known[3] = False                                                # where every image begins
    return known


def reading_order() -> torch.Tensor:
    return torch.rand(ROWS, L, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def told(teacher: Teacher, rows: Batch, known: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """(B, L, V)"""
    with torch.no_grad():
        laws = teacher.targets(rows, known, t=t, rank=reading_order(), seeds=torch.arange(ROWS)).law(slice(None))
    return laws.view(ROWS, L, -1)


@pytest.mark.parametrize("name", [name for name in LABELLED if name not in DIGITS])
@pytest.mark.parametrize("guidance", [Guidance(2.5), Guidance(-0.5), Guidance(3.0, ramped=True)], ids=repr)
def test_targets_are_the_guided_samplers_laws(name, guidance):
    """In one step from what is known: the law that `Sampler` would draw from at this place of its plan, to 1e-12."""
    model, rows, known, steps = tiny(name), batch(), known_sites(), 8
    at = 5                                                          # a step of the plan: t = 1 - 5 / 8
    found = told(Teacher(model, 1, 1 / steps, guidance=guidance), rows, known, torch.full((ROWS,), 1 - at / steps, dtype=torch.float64))
    scale = (ramped if guidance.ramped else constant)(guidance.weight)
    sampler = Sampler(Scheduled(steps), guidance=scale)
    canvas = Canvas(rows.tokens.masked_fill(~known, 0), known)
    if model.shuffle_prompt:
        canvas.arrange_prompt(reading_order())
    plan = Scheduled(steps)(Canvas(rows.tokens, torch.zeros_like(known)), Noise.of(0, ROWS))
    everything = torch.arange(L).expand(ROWS, -1)
    predictor = sampler.predictor(model, rows.labels)
    with torch.no_grad():
        law = Choice().law(predictor.head(predictor(canvas, Sites(everything, ~known), plan[at])).flatten(0, 1), predictor.allowed)
        plain = tiny(name)(rows.tokens, known, cond=rows.labels).log_softmax(-1)
    torch.testing.assert_close(found[~known].exp(), law.view(ROWS, L, -1)[~known].exp(), rtol=1e-12, atol=1e-12)
    if "causal" not in name and "imported" not in name and "self" not in name:
        some = ~known & (rows.labels != NULL)[:, None]
        assert (found[some] - plain[some]).abs().max() > 1e-3       # guidance is no idle word
        torch.testing.assert_close(found[2][~known[2]], plain[2][~known[2]], rtol=1e-10, atol=1e-10)     # no class: guided from itself to itself


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("guidance", [None, Guidance(0.0)], ids=repr)
def test_without_guidance_one_step_is_the_models_own_law(name, guidance):
    model, rows, known = tiny(name), batch(), known_sites()
    found = told(Teacher(model, 1, 0.1, guidance=guidance), rows, known, torch.full((ROWS,), 0.6, dtype=torch.float64))
    with torch.no_grad():
        if "causal" in name:                                        # as its cache sees what is known
            hidden = model.hidden_of_groups(rows.tokens, known, reading_order().argsort(1), cond=rows.labels)
        else:
            hidden = model.hidden(rows.tokens, known, cond=rows.labels)
        law = Choice().law(model.head(hidden).flatten(0, 1), model.allowed).view(ROWS, L, -1)
    torch.testing.assert_close(found[~known].exp(), law[~known].exp(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["maskgit", "partition, image"])
def test_every_site_is_told_the_guided_law_it_was_drawn_from(name):
    """Three steps in Halton order, ramped: each site's target has the strength of its own step and row, whatever steps stand idle."""
    model, rows, known, dt, k = tiny(name), batch(), known_sites(), 0.1, 3
    t = torch.tensor([0.9, 0.35, 0.7, 0.15], dtype=torch.float64)
    order = Halton(GRID["grid"])
    teacher = Teacher(model, k, dt, order=order, guidance=Guidance(2.0, ramped=True))
    found = told(teacher, rows, known, t)
    times = exact_times(t, k, dt)
    canvas = Canvas(rows.tokens.masked_fill(~known, 0), known)
    noise = Noise(list(range(ROWS)))
    steps = Stretch(chances(times[:-1], dt))(canvas, noise)
    weights = 2.0 * ((1 - times) / (1 - dt)).clamp(0, 1)
    predictor = Guided(model.predictor(cond=halves(rows.labels, NULL)), lambda step: weights[step.index])
    expected = torch.zeros_like(found)

    def laws(index: int) -> torch.Tensor:
        both = [model(canvas.tokens, canvas.known, cond=labels) for labels in (rows.labels, torch.full_like(rows.labels, NULL))]
        w = weights[index][:, None, None]
        return ((1 + w) * both[0] - w * both[1]).log_softmax(-1)

    with torch.no_grad():
        before, seen = laws(steps[0].index), canvas.known.clone()
        for place, record in enumerate(decode(predictor, canvas, steps, order=order, choice=Choice(), noise=noise)):
            fresh = canvas.known & ~seen
            assert int(fresh.sum()) == sum(record.step.counts)
            expected[fresh], seen = before[fresh], canvas.known.clone()
            if place + 1 < len(steps):
                before = laws(steps[place + 1].index)
        expected[~seen] = laws(k - 1)[~seen]
    assert seen.sum() > known.sum()
    torch.testing.assert_close(found[~known].exp(), expected[~known].exp(), rtol=1e-11, atol=1e-12)


def test_the_last_law_of_a_walk_has_the_last_strength_though_steps_stood_idle():
    """dt so small that nothing is ever revealed: k - 1 idle steps vanish, and the last one keeps its place."""
    model, rows, known, dt, k = tiny("maskgit"), batch(), known_sites(), 1e-9, 4
    t = torch.full((ROWS,), 0.5, dtype=torch.float64)
    found = told(Teacher(model, k, dt, guidance=Guidance(2.0, ramped=True), times=lambda t, k, dt: exact_times(t, k, 0.1)), rows, known, t)
    expected = told(Teacher(model, 1, dt, guidance=Guidance(2.0, ramped=True)), rows, known, t - 0.3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_ramp_by_time_is_the_ramp_by_step():
    for steps in (2, 5, 64):
        plan = Scheduled(steps)(Canvas(torch.zeros(1, 64, dtype=torch.long), torch.zeros(1, 64, dtype=torch.bool)), Noise.of(0, 1))
        by_step = torch.tensor([ramped(3.0)(step) for step in plan], dtype=torch.float64)
        by_time = 3.0 * ramp(torch.tensor([[step.t for step in plan]], dtype=torch.float64), 1 / steps)
        torch.testing.assert_close(by_time[0], by_step)
    assert ramp(torch.tensor([[1.0, 0.5]]), 1.0).tolist() == [[0.0, 0.0]]
    with pytest.raises(ValueError, match="guidance nan is not a finite number"):
        Guidance(float("nan"))


def noise():
    return draws(0, 3, torch.arange(ROWS), ROWS, L, low=1e-5, high=1 - 1e-5)


def lesson(kind: type[SDTT], name: str, teacher: Teacher) -> SDTT:
    view, reading = view_of(CONFIGS[name])
    return kind(teacher, view=view, reading=reading, anchor=False, from_nothing=True)


@pytest.mark.parametrize("name", [*IMAGES, "partition, self"])
def test_one_step_of_a_labelled_model_teaches_it_nothing_and_a_guided_one_something(name):
    """The student is given its labels: rows without a class, whose guided law is their own, have nothing to learn from guidance either."""
    model, rows = tiny(name), batch()
    own = lesson(SDTT, name, Teacher(model, steps=1))(model, rows, noise())
    assert own.token_loss.abs().max() < 1e-12
    guided = lesson(SDTT, name, Teacher(model, steps=1, guidance=Guidance(2.0)))(model, rows, noise())
    without = rows.labels == NULL
    assert guided.token_loss[without].abs().max() < 1e-12 and (guided.token_loss.sum(1)[~without] > 1e-4).all()
    gradients = torch.autograd.grad(guided.loss, list(model.parameters()), allow_unused=True)
    assert all(g.isfinite().all() for g in gradients if g is not None)


def test_what_is_predicted_from_nothing_is_taught_where_decodes_begin_so():
    u = noise()
    u = type(u)(torch.full((ROWS,), 1 - 1e-7), u.u, u.shared, u.seeds)
    model, other = tiny("partition, image"), tiny("partition, image", seed=1)
    found = lesson(SDTT, "partition, image", Teacher(other))(model, batch(), u)
    assert (found.token_loss > 0).all()
    behind_bos = SDTT(Teacher(other), anchor=False)(model, batch(), u)
    assert (behind_bos.token_loss == 0).all()


@pytest.mark.parametrize(("teacher", "student"), [
    ("maskgit", "partition, image"), ("partition, image", "maskgit"), ("partition, image", "causal, image"), ("causal, image", "partition, image"),
    ("maskgit, axial", "partition")])
def test_students_of_images_of_another_kind(teacher, student):
    kind, model = SDTT if student == "maskgit" else PartitionSDTT, tiny(student)
    rows = batch() if student in LABELLED else batch().labelled(None)
    found = lesson(kind, student, Teacher(tiny(teacher), dt=0.3, order=Halton(GRID["grid"])))(model, rows, noise())
    gradients = torch.autograd.grad(found.loss, list(model.parameters()), allow_unused=True)
    assert found.loss > 0 and all(g.isfinite().all() for g in gradients if g is not None)


# ---------------------------------------------------------------------------------------------------- nucleus, schedule, bidirectional teachers


@pytest.mark.parametrize("name", ["masked", "partition", "causal, token", "partition, image"])
def test_a_nucleus_cuts_the_targets_and_what_is_drawn(name):
    """One step: the law of `Choice(top_p=...)`, to 1e-12. Three steps: no token is on the way that the nucleus leaves out."""
    model, known, top_p = tiny(name), known_sites(), 0.6
    rows = batch(labels=labels_of(name, ROWS)) if name in LABELLED else batch().labelled(None)
    t = torch.full((ROWS,), 0.8, dtype=torch.float64)
    whole = told(Teacher(model, 1, 0.2), rows, known, t)
    cut = told(Teacher(model, 1, 0.2, choice=Choice(top_p=top_p)), rows, known, t)
    expected = Choice(top_p=top_p).law(whole.flatten(0, 1), None).view_as(whole)
    torch.testing.assert_close(cut[~known].exp(), expected[~known].exp(), rtol=1e-12, atol=1e-12)
    kept = whole.exp().masked_fill(cut.exp() == 0, 0).sum(-1)
    assert (cut.exp() == 0)[~known].any() and (kept[~known] >= top_p).all()
    canvas = Canvas(rows.tokens.masked_fill(~known, 0), known)
    steps = Stretch(((0.5,) * ROWS, (0.5,) * ROWS))(canvas, Noise.of(1, ROWS))
    predictor, choice = model.predictor(cond=rows.labels), Choice(top_p=top_p)
    said = rollout(predictor, canvas, steps, order=Random(), choice=choice, noise=Noise.of(1, ROWS))
    drawn = canvas.known & ~known
    laws = choice.law(predictor.head(said).flatten(0, 1), predictor.allowed).view(ROWS, L, -1)
    assert drawn.any() and (laws.gather(-1, canvas.tokens[..., None])[..., 0][drawn] > -torch.inf).all()


@pytest.mark.parametrize("name", ["kl-fwd", "tvd"])
def test_a_cut_teacher_gives_finite_losses_and_gradients(name):
    model, rows = tiny("partition"), batch().labelled(None)
    loss = PartitionSDTT(Teacher(tiny("partition", seed=1), dt=0.3, choice=Choice(top_p=0.5)), DIVERGENCES[name])
    found = loss(model, rows, noise())
    gradients = torch.autograd.grad(found.loss, list(model.parameters()), allow_unused=True)
    assert found.loss.isfinite() and all(g.isfinite().all() for g in gradients if g is not None)


def test_a_schedule_says_how_much_is_known_when():
    """Arccos: walks reveal what the plan of that name does, groups are as large, and the mean weight of a site is 1."""
    t = torch.tensor([0.8, 0.1], dtype=torch.float64)
    found = torch.tensor(chances(exact_times(t, 2, 0.25), 0.25, Arccos()), dtype=torch.float64)
    hiding = Arccos().hiding(torch.tensor([[0.8, 0.25], [0.55, 0.25], [0.3, 0.25]], dtype=torch.float64))
    torch.testing.assert_close(found, torch.stack([1 - hiding[1] / hiding[0], 1 - hiding[2] / hiding[1]]) * torch.tensor([1.0, 0.0]) +
                               torch.tensor([0.0, 1.0]))
    teacher, rows = Teacher(tiny("maskgit"), schedule=Arccos()), 400
    u = draws(0, 0, torch.arange(rows), rows, L, low=1e-5, high=1.0)
    one = SDTT(teacher, anchor=False)
    many = Batch.of(torch.zeros(rows, L, dtype=torch.long))
    share = one.split(many, u).double().mean()
    assert float(share) == pytest.approx(one.mean_share, abs=0.02) and one.mean_share == pytest.approx(2 / torch.pi, abs=1e-3)
    assert SDTT(Teacher(tiny("masked"), schedule=LogLinear())).mean_share == pytest.approx(0.500005, abs=1e-9)
    both = PartitionSDTT(teacher, anchor=False)
    torch.testing.assert_close(Arccos().hiding(both.other_time(u).double()), 1 - Arccos().hiding(u.t.double()), rtol=1e-5, atol=1e-5)


def test_a_bidirectional_teacher_and_a_cached_student():
    """An order-causal teacher that encodes afresh says what its bidirectional pass says; its cached student is asked through its cache."""
    model, rows, known = tiny("causal, token"), batch().labelled(None), known_sites()
    found = told(Teacher(model, 1, 0.2, refresh=1), rows, known, torch.full((ROWS,), 0.5, dtype=torch.float64))
    with torch.no_grad():
        law = model(rows.tokens, known).log_softmax(-1)
    torch.testing.assert_close(found[~known].exp(), law[~known].exp(), rtol=1e-12, atol=1e-12)
    cached = told(Teacher(model, 1, 0.2), rows, known, torch.full((ROWS,), 0.5, dtype=torch.float64))
    assert (cached - found)[~known].abs().max() > 1e-3
    loss = lesson(PartitionSDTT, "causal, token", Teacher(model, 1, 0.2, refresh=1))(model, rows, noise())
    assert loss.loss > 1e-4
