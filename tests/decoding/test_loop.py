"""The loop itself: noise that belongs to rows, EOS, windows, no waiting for the device, bad input."""
from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.oracle import Oracle
from tests.tiny import CAUSAL, CONFIGS, L, V, labels_of, prefix_canvas, ragged_canvas, tiny

from maskless.decoding import (
    Adaptive,
    Ancestral,
    Blockwise,
    Canvas,
    Choice,
    Choices,
    Confidence,
    EntropyBound,
    Halton,
    LeftToRight,
    Margin,
    Noise,
    Random,
    Recorded,
    Sampler,
    SamplerOptions,
    Scheduled,
    Spaced,
    arccos,
    arccos_pgm,
    cosine,
    even,
    inverse_linear,
    linear_top_k,
    ramped,
    remask,
    slide,
    square,
    text_of,
)
from maskless.decoding.speculate import Speculative
from maskless.models import build

VARYING = Choices(Choice(), inverse_linear(0.8, 1.2, warmup=1), linear_top_k(4, 8))
ORDERS = {
    "random": Sampler(Scheduled(5), Random(), Choice(0.9, 8, 0.95)),
    "spaced": Sampler(Scheduled(5), Spaced()),
    "left to right": Sampler(Scheduled(5), LeftToRight()),
    "ancestral": Sampler(Ancestral(7), Random()),
    "confidence": Sampler(Scheduled(4, arccos), Confidence()),
    "margin": Sampler(Scheduled(4, cosine), Margin()),
    "blocks": Sampler(Blockwise(5, lambda window: Scheduled(3, window=window)), Confidence()),
    "guided": Sampler(Scheduled(5), Random(), guidance=lambda step: 1.5),
}
IMAGES = {
    "halton": Sampler(Scheduled(5, arccos), Halton((3, 4)), guidance=ramped(2.0)),
    "rolled halton": Sampler(Scheduled(5, square), Halton((1, 11), roll=True), VARYING),
    "published confidence": Sampler(Scheduled(5, arccos_pgm), Confidence(5.0), guidance=ramped(1.0)),
}
ADAPTIVE = {
    "entropy bound": Sampler(Adaptive(6), EntropyBound(3.0)),
    "stop": Sampler(Scheduled(6), Random(), stop_at=4),
}


@pytest.mark.parametrize("sampler", [*ORDERS, *ADAPTIVE])
@pytest.mark.parametrize("name", ["masked", "partition, mean"])
def test_a_row_is_the_same_alone_and_beside_longer_neighbours(name, sampler):
    _alone_and_together(tiny(name), (ORDERS | ADAPTIVE)[sampler])


@pytest.mark.parametrize("sampler", IMAGES)
def test_an_image_model_infills_a_row_the_same_alone_and_beside_others(sampler):
    """Gaps, absent cells and labels; what was known stays."""
    canvas = _alone_and_together(tiny("partition, image"), IMAGES[sampler], labels_of("partition, image", 4))
    given = ragged_canvas()
    assert torch.equal(canvas.tokens[given.known], given.tokens[given.known]) and torch.equal(canvas.known, canvas.present)


def _alone_and_together(model, run, labels=None):
    many = ragged_canvas()
    run(model, many, Noise.of(9, many.rows), cond=labels)
    for row in range(many.rows):
        fresh, one = ragged_canvas(), slice(row, row + 1)
        alone = Canvas(fresh.tokens[one], fresh.known[one], present=fresh.present[one], anchor=fresh.anchor[one])
        run(model, alone, Noise([(9 << 20) + row]), cond=None if labels is None else labels[one])
        known = many.known[one] & many.present[one]
        assert torch.equal(alone.present[one if row == 0 else slice(0, 1)], many.present[one])
        assert torch.equal(alone.tokens[known], many.tokens[one][known])
    return many


@pytest.mark.parametrize("rows", [64])
def test_noise_and_text_in_a_batch_of_64(rows):
    model = tiny("partition")
    known = (torch.arange(L) < 1).expand(rows, -1)
    batch = Canvas(torch.zeros(rows, L, dtype=torch.int64), known, anchor=known)
    Sampler(Ancestral(6))(model, batch, Noise.of(4, rows))
    for row in (0, 13, 63):
        alone = Canvas(torch.zeros(1, L, dtype=torch.int64), known[:1], anchor=known[:1])
        Sampler(Ancestral(6))(model, alone, Noise([(4 << 20) + row]))
        assert torch.equal(alone.tokens[0], batch.tokens[row])
    sites = torch.arange(L).expand(rows, -1)
    assert torch.equal(Noise.of(4, rows).at(1, 3, sites)[13], Noise([(4 << 20) + 13]).at(1, 3, sites[:1])[0])


@pytest.mark.parametrize("name", ["maskgit, imported", "partition, image"])
def test_an_image_is_the_same_alone_and_in_a_batch_of_64(name):
    model, labels = tiny(name), torch.arange(64) % 4
    sampler = Sampler(Scheduled(4, arccos), Halton((3, 4), roll=True), guidance=ramped(1.5))
    blank = lambda rows: Canvas(torch.zeros(rows, L, dtype=torch.int64), torch.zeros(rows, L, dtype=torch.bool))
    batch = blank(64)
    assert sampler(model, batch, Noise.of(4, 64), cond=labels) == 4
    for row in (0, 13, 63):
        alone = blank(1)
        sampler(model, alone, Noise([(4 << 20) + row]), cond=labels[row:row + 1])
        assert torch.equal(alone.tokens[0], batch.tokens[row])
    other = blank(64)
    sampler(model, other, Noise.of(4, 64), cond=(labels + 1) % 4)
    assert not torch.equal(other.tokens, batch.tokens)


def test_steps_need_not_divide_and_idle_steps_vanish():
    for ends in (even, cosine, arccos):
        for sites in (1, 7, 15, 16):
            for steps in (1, 3, 7, 16, 40):
                table = ends(sites, steps)
                assert len(table) == steps and table[-1] == sites and table == sorted(table)
    canvas = ragged_canvas()
    nfe = Sampler(Scheduled(40))(tiny("partition"), canvas, Noise.of(0, 4))
    assert torch.equal(canvas.known, canvas.present) and nfe <= 4 * L < 160


def test_ancestral_counts_are_binomial():
    rows, length, steps = 4000, 20, 5
    canvas = Canvas(torch.zeros(rows, length, dtype=torch.int64), torch.zeros(rows, length, dtype=torch.bool))
    plan = Ancestral(steps, alpha=lambda t: (1 - t) ** 2)(canvas, Noise.of(0, rows))
    for step in plan:
        share = ((1 - step.s) ** 2 - (1 - step.t) ** 2)
        counts = torch.tensor(step.counts, dtype=torch.float64)
        assert counts.mean().item() == pytest.approx(length * share, abs=5 * (length * share * (1 - share) / rows) ** 0.5)
        assert counts.var().item() == pytest.approx(length * share * (1 - share), rel=0.2)


def test_eos_ends_a_row_and_spares_what_is_left_of_it():
    tokens = torch.tensor([[9, 0, 0, 0, 0, 0]] * 2)
    known = (torch.arange(6) < 1).expand(2, -1)

    class Script(Oracle):
        """Writes 1 4 1 1 1 into the first row and 1 1 1 1 1 into the second."""

        def __init__(self):
            self.script = torch.tensor([[9, 1, 4, 1, 1, 1], [9, 1, 1, 1, 1, 1]])

        def __call__(self, canvas, sites, step):
            logits = torch.full((*sites.index.shape, 10), -50.0, dtype=torch.float64)
            return logits.scatter(2, self.script.gather(1, sites.index)[..., None], 0.0)

    canvas = Canvas(tokens, known, anchor=known)
    nfe = Sampler(Scheduled(5), LeftToRight(), stop_at=4)(Script(), canvas, Noise.of(0, 2))
    assert canvas.present.sum(1).tolist() == [3, 6] and nfe == 5
    first = Canvas(tokens[:1], known[:1], anchor=known[:1])
    assert Sampler(Scheduled(5), LeftToRight(), stop_at=4)(Script(), first, Noise.of(0, 1)) == 2
    assert first.tokens[0, :3].tolist() == [9, 1, 4]


def test_blocks_finish_one_after_the_other():
    for order in (Random(), Confidence()):
        canvas = ragged_canvas()
        Sampler(Blockwise(5, lambda window: Scheduled(2, window=window)), order)(tiny("masked"), canvas, Noise.of(0, 4))
        for row in range(4):
            made = canvas.log[row, :canvas.count[row]][int(ragged_canvas().count[row]):]
            assert (made.div(5, rounding_mode="floor").diff() >= 0).all()


def test_a_window_slides_past_the_length():
    model = tiny("partition")
    known = (torch.arange(L) < 1).expand(2, -1)
    canvas = Canvas(torch.full((2, L), 3), known, anchor=known)
    sliding = slide(Sampler(Scheduled(3)), model, canvas, Noise.of(1, 2), stride=5, windows=3)
    windows = {start: window for start, window, _ in sliding}
    text = text_of(iter((start, window, None) for start, window in windows.items()))
    assert text.shape == (2, L + 15)
    for start, window in windows.items():
        assert torch.equal(text[:, start:start + L][:, :L - 5], window.tokens[:, :L - 5])
    with pytest.raises(ValueError, match="stride"):
        next(slide(Sampler(), model, canvas, Noise.of(1, 2), stride=L, windows=1))


def test_remasking_keeps_the_log_in_order():
    canvas, model = ragged_canvas(), tiny("partition")
    prompt = canvas.known.clone()
    Sampler(Scheduled(4))(model, canvas, Noise.of(0, 4))
    before = [canvas.log[row, :canvas.count[row]].tolist() for row in range(4)]
    remask(canvas, 0.5, Noise.of(0, 4))
    assert canvas.known[prompt].all() and canvas.revision == 1
    for row in range(4):
        after = canvas.log[row, :canvas.count[row]].tolist()
        assert after == [site for site in before[row] if canvas.known[row, site]]
        assert canvas.least[row] == canvas.greatest[row] == len(after)
    Sampler(Scheduled(4))(model, canvas, Noise.of(7, 4))
    assert torch.equal(canvas.known, canvas.present)
    ar, left = tiny("autoregressive"), prefix_canvas()
    predictor = ar.predictor()
    from maskless.decoding import Sites, Step, decode

    steps = Scheduled(L)(left, Noise.of(0, 3))
    for _ in decode(predictor, left, steps, order=LeftToRight(), choice=Choice(), noise=Noise.of(0, 3)):
        pass
    left.forget(torch.arange(L).expand(3, -1) > 8)
    with pytest.raises(ValueError, match="forgotten"):
        predictor(left, Sites.of(left.unknown, 1), Step(0, 1))


def test_guidance_without_the_prompt_keeps_anchors_and_later_commits():
    canvas = ragged_canvas()
    sites = Sampler(Scheduled(4))
    next(iter(sites.records(tiny("partition"), canvas, Noise.of(0, 4))))
    two, n = canvas.doubled(forget_prompt=True), canvas.rows
    assert torch.equal(two.known[:n], canvas.known)
    assert torch.equal(two.known[n:], canvas.known & ~canvas.prompt)
    for row in range(n):
        forgotten = set(canvas.prompt[row].nonzero().flatten().tolist())
        log = canvas.log[row, :canvas.count[row]].tolist()
        assert two.log[n + row, :two.count[n + row]].tolist() == [site for site in log if site not in forgotten]
    assert two.least[n:] == two.count[n:].tolist()


# every order with one model of each kind, and every other model with one order that scores all sites and one that reads the model twice
@pytest.mark.parametrize(("model", "name"), [(model, name) for model in ("partition", "partition, self", "maskgit", *CAUSAL) for name in ORDERS
                                             if model in ("partition", "maskgit", "causal, token") or name in ("confidence", "guided")])
def test_the_loop_never_waits_for_the_device(model, name):
    """Tensors without data (the meta device) raise wherever the host wants a value; the adaptive orders are the ones that must."""
    _run_without_data(ORDERS[name], tiny(model, torch.float32))


@pytest.mark.parametrize("model", ["maskgit", "partition, image"])
@pytest.mark.parametrize("name", IMAGES)
def test_labels_make_nobody_wait(name, model):
    _run_without_data(IMAGES[name], tiny(model, torch.float32), labels=labels_of(model, 4))


def test_masked_and_autoregressive_predictors_never_wait_either():
    _run_without_data(Sampler(Ancestral(7), Random()), tiny("masked", torch.float32))
    _run_without_data(Sampler(Scheduled(L), LeftToRight()), tiny("autoregressive", torch.float32), prefix_canvas((1, 1, 1)))


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_test_above_can_fail(name):
    with pytest.raises((RuntimeError, NotImplementedError), match="meta tensor"):
        _run_without_data(ADAPTIVE[name], tiny("partition", torch.float32))


def _run_without_data(sampler, model, canvas=None, labels=None):
    from maskless.decoding import decode

    canvas = ragged_canvas() if canvas is None else canvas
    noise = Noise.of(0, canvas.rows)
    steps = sampler.plan(canvas, noise)
    canvas.to("meta")
    noise.seeds = noise.seeds.to("meta")
    predictor = sampler.predictor(model.to("meta"), None if labels is None else labels.to("meta"))
    count = sum(1 for _ in decode(predictor, canvas, steps, order=sampler.order, choice=sampler.choice, noise=noise, stop_at=sampler.stop_at))
    assert count == len(steps)


@pytest.mark.parametrize("name", ["partition", "causal, token", "masked"])
def test_a_canvas_of_digits_is_refused_by_models_of_whole_tokens(name):
    prime = tiny("prime")
    canvas = prime.canvas(torch.zeros(2, 12, dtype=torch.int64), torch.arange(12).expand(2, -1) < 1)
    with pytest.raises(ValueError, match="slots a site"):
        Sampler(Scheduled(12), LeftToRight())(tiny(name), canvas, Noise.of(0, 2))


def test_blocks_that_are_full_cost_no_call():
    """An entropy bound that lets all pass reveals a block a call; the steps that a block did not need call nobody."""
    sampler = SamplerOptions(steps=4, order="entropy-bound", gamma=1e9, block=4).sampler(12)
    canvas = Canvas(torch.zeros(2, 12, dtype=torch.int64), torch.zeros(2, 12, dtype=torch.bool))
    assert sampler(tiny("partition"), canvas, Noise.of(0, 2)) == 3 and bool(canvas.known.all())


@pytest.mark.parametrize("sampler", [Sampler(Scheduled(4)), Speculative(2)])
@pytest.mark.parametrize("prompt", ["random", "reading"])
def test_noise_of_another_number_of_rows_is_refused(prompt, sampler):
    model = build(dataclasses.replace(CONFIGS["causal, token"], prompt=prompt)).eval()
    with pytest.raises(ValueError, match="the noise has 1 seeds and the canvas 4 rows"):
        sampler(model, ragged_canvas(), Noise.of(0, 1))


def test_a_law_that_is_not_finite_is_reported_after_the_loop():
    model = tiny("partition")
    with torch.no_grad():
        model.head.bias[3] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        Sampler(Scheduled(4))(model, ragged_canvas(), Noise.of(0, 4))
    with pytest.raises(ValueError, match="allows no token"):
        Sampler(Scheduled(4), choice=Choice(forbid=tuple(range(V))))(tiny("partition"), ragged_canvas(), Noise.of(0, 4))


@pytest.mark.parametrize("make, word", [
    (lambda: Scheduled(0), "steps 0"), (lambda: Ancestral(-1), "steps -1"), (lambda: Choice(temperature=-1), "temperature"),
    (lambda: Choice(top_p=0), "top_p"), (lambda: Blockwise(0, Scheduled), "block size"),
    (lambda: Sampler(Adaptive(), Random())(tiny("masked"), ragged_canvas(), Noise.of(0, 4)), "Adaptive"),
    (lambda: Sampler(Scheduled(3), EntropyBound())(tiny("masked"), ragged_canvas(), Noise.of(0, 4)), "EntropyBound"),
    (lambda: Canvas(torch.zeros(1, 3).long(), torch.ones(1, 3).bool(), present=torch.zeros(1, 3).bool()), "absent"),
    (lambda: remask(ragged_canvas(), 2.0, Noise.of(0, 4)), "share 2.0"),
])
def test_bad_input_is_refused(make, word):
    with pytest.raises(ValueError, match=word):
        make()


@pytest.mark.parametrize("options", [
    {}, {"order": "confidence", "plan": "arccos"}, {"order": "entropy-bound", "steps": 5},
    {"order": "margin", "plan": "cosine", "block": 4, "steps": 2},
    {"plan": "ancestral", "steps": 6}, {"order": "spaced", "top_k": 4}, {"order": "left-to-right", "temperature": 0.0}, {"stop": True},
    {"guidance": 1.0, "order": "entropy-bound", "block": 5},
])
def test_samplers_by_name(options):
    canvas = ragged_canvas()
    sampler = SamplerOptions(**options).sampler(11, eos=4)
    sampler(tiny("partition"), canvas, Noise.of(0, 4))
    assert torch.equal(canvas.known & canvas.present, canvas.present)


def test_recorded_counts_are_replayed():
    canvas = ragged_canvas()
    table = tuple(tuple(int(n) if i == 1 else 0 for n in canvas.open.sum(1)) for i in range(3))
    assert Sampler(Recorded(table))(tiny("partition"), canvas, Noise.of(0, 4)) == 1
    assert torch.equal(canvas.known, canvas.present)
