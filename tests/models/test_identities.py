"""What must be equal is equal: packed inference and training forward, caches and recomputation, folded and modulated models."""
from __future__ import annotations

import pytest
import torch
from tests.tiny import (
    ANY_ORDER,
    CAUSAL,
    CONFIGS,
    FOLDED,
    LABELLED,
    PARTITION,
    L,
    V,
    embed_as,
    labels_of,
    opened,
    prefix_canvas,
    ragged_canvas,
    tiny,
)

from maskless.decoding import (
    Adaptive,
    Ancestral,
    Blockwise,
    Canvas,
    Confidence,
    EntropyBound,
    LeftToRight,
    Margin,
    Noise,
    Random,
    Sampler,
    Scheduled,
    Sites,
    Spaced,
    Step,
)
from maskless.layers import attention
from maskless.models import build, fold

STEP = Step(0, 1)
EXACT = {"rtol": 0, "atol": 1e-12}


@pytest.mark.parametrize("name", PARTITION)
def test_packed_inference_equals_the_training_forward(name):
    model, canvas, labels = tiny(name), ragged_canvas(), labels_of(name, 4)
    sites = Sites.of(canvas.unknown, L)
    with torch.no_grad():
        packed = model.predictor(labels)(canvas, sites, STEP)
        full = model.full_predictor(labels)(canvas, sites, STEP)
        plain = sites.take(model(canvas.tokens, canvas.known, cond=labels, present=canvas.present))
    torch.testing.assert_close(packed[sites.valid], full[sites.valid], **EXACT)
    torch.testing.assert_close(model.head(packed)[sites.valid], plain[sites.valid], **EXACT)


@pytest.mark.parametrize("name", PARTITION)
def test_no_gradient_flows_from_a_token_to_its_own_group(name):
    model = tiny(name)
    known = torch.rand(3, L, generator=torch.Generator().manual_seed(1)) < 0.5
    tokens = torch.randint(V, (3, L))
    grads, table = {}, model.embedding.weight
    embedded = table.detach()[tokens].requires_grad_()
    embed_as(model, embedded)
    logits = model(tokens, known, cond=labels_of(name, 3))
    for row, site in [(0, 2), (1, 5), (2, 0)]:
        grads[row] = torch.autograd.grad(logits[row, site].sum(), embedded, retain_graph=True)[0]
        own = known[row] == known[row, site]
        assert grads[row][row, own].abs().max() == 0
        assert grads[row][row, ~own].abs().max() > 0
        assert grads[row][[r for r in range(3) if r != row]].abs().max() == 0


@pytest.mark.parametrize("name", ANY_ORDER)
def test_what_stands_at_unknown_sites_is_not_read(name):
    model, canvas = tiny(name), ragged_canvas()
    sites = Sites.of(canvas.unknown, L)
    other = Canvas(torch.where(canvas.known, canvas.tokens, (canvas.tokens + 3) % V), canvas.known, present=canvas.present, anchor=canvas.anchor)
    with torch.no_grad():
        a, b = (model.predictor()(opened(model, each), sites, STEP) for each in (canvas, other))
    assert torch.equal(a[sites.valid], b[sites.valid])


@pytest.mark.parametrize("name", ANY_ORDER)
def test_asking_for_more_sites_changes_nothing(name):
    model, canvas = tiny(name), ragged_canvas()
    everything, few = Sites.of(canvas.unknown, L), Sites.of(canvas.unknown, 2)
    with torch.no_grad():
        a, b = (model.predictor()(opened(model, canvas), sites, STEP) for sites in (everything, few))
    valid = few.valid
    torch.testing.assert_close(a[:, :2][valid], b[valid], **EXACT)


@pytest.mark.parametrize("name", ANY_ORDER)
def test_padding_and_batch_change_nothing(name):
    model, canvas = tiny(name), ragged_canvas()
    sites = Sites.of(canvas.unknown, L)
    with torch.no_grad():
        together = model.predictor()(opened(model, canvas), sites, STEP)
    for row in range(canvas.rows):
        one = slice(row, row + 1)
        alone = Canvas(canvas.tokens[one], canvas.known[one], present=canvas.present[one], anchor=canvas.anchor[one])
        mine = Sites.of(alone.unknown, L)
        with torch.no_grad():
            hidden = model.predictor()(opened(model, alone), mine, STEP)
        torch.testing.assert_close(hidden[mine.valid], together[one][sites.valid[one]], **EXACT)


@pytest.mark.parametrize("name", FOLDED)
def test_folding_changes_nothing(name):
    model, canvas = tiny(name), ragged_canvas()
    folded = fold(model)
    assert not any("ada" in key or "time" in key for key in folded.state_dict())
    assert folded.embedding.weight.data_ptr() == model.embedding.weight.data_ptr()
    with torch.no_grad():
        want, got = (m(canvas.tokens, canvas.known, present=canvas.present) for m in (model, folded))
    torch.testing.assert_close(got, want, **EXACT)


@pytest.mark.parametrize("name", [n for n in CONFIGS if n not in FOLDED])
def test_what_cannot_be_folded_stays_as_it_is(name):
    model = tiny(name)
    assert fold(model) is model


@pytest.mark.parametrize("name", LABELLED)
def test_no_labels_is_the_null_label(name):
    model, canvas = tiny(name), ragged_canvas()
    null = torch.full((4,), model.null_label)
    with torch.no_grad():
        without, nulls, labelled = (model(canvas.tokens, canvas.known, cond=cond, present=canvas.present) for cond in (None, null, null - 1))
    torch.testing.assert_close(without, nulls, **EXACT)
    assert (labelled - nulls).abs().amax((1, 2)).min() > 1e-3


@pytest.mark.parametrize("name", LABELLED)
def test_each_row_has_its_own_label(name):
    """Together and alone, of all rows or of some: labels follow their rows."""
    model, canvas, labels = tiny(name), ragged_canvas(), labels_of(name, 4)
    sites, some = Sites.of(canvas.unknown, L), torch.tensor([3, 1])
    with torch.no_grad():
        together = model.predictor(labels)(opened(model, canvas), sites, STEP)
        few = model.predictor(labels)(opened(model, canvas), sites, Step(0, 1, rows=some))
    torch.testing.assert_close(few[some][sites.valid[some]], together[some][sites.valid[some]], **EXACT)
    for row in range(canvas.rows):
        one = slice(row, row + 1)
        alone = Canvas(canvas.tokens[one], canvas.known[one], present=canvas.present[one], anchor=canvas.anchor[one])
        mine = Sites.of(alone.unknown, L)
        with torch.no_grad():
            hidden = model.predictor(labels[one])(opened(model, alone), mine, STEP)
        torch.testing.assert_close(hidden[mine.valid], together[one][sites.valid[one]], **EXACT)


@pytest.mark.parametrize("name", [name for name in PARTITION if CONFIGS[name].registers])
def test_registers_of_either_group_are_read(name):
    """And by the right side alone: those of group 1 by what predicts group 0, and the reverse."""
    model, half = tiny(name), CONFIGS[name].registers // 2
    tokens, known = torch.randint(V, (2, L)), torch.arange(L) % 3 == 0
    logits = model(tokens, known.expand(2, -1))
    for site, other in [(0, slice(0, half)), (1, slice(half, None))]:
        grad = torch.autograd.grad(logits[0, site].sum(), model.registers.weight, retain_graph=True)[0]
        assert (grad[other].abs().sum(1) > 0).all()
        silent = torch.ones(2 * half, dtype=torch.bool)
        silent[other] = False
        assert CONFIGS[name].self_layers or grad[silent].abs().max() == 0


@pytest.mark.parametrize("name", [n for n in CONFIGS if n != "autoregressive"])
def test_a_row_that_knows_nothing_gives_finite_states_and_gradients(name):
    model = tiny(name)
    for parameter in model.parameters():
        parameter.requires_grad_()
    known = torch.zeros(2, L, dtype=torch.bool)
    known[1] = True
    t = torch.full((2,), 0.5, dtype=torch.float64)
    logits = model(torch.randint(V, (2, L)), known, t=t)
    logits.square().sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    canvas = Canvas(torch.zeros(1, L, dtype=torch.int64), torch.zeros(1, L, dtype=torch.bool))
    sites = Sites.of(canvas.unknown, L)
    with torch.no_grad():
        assert model.predictor()(opened(model, canvas), sites, STEP).isfinite().all()


SAMPLERS = {
    "random": Sampler(Scheduled(5), Random()),
    "spaced": Sampler(Scheduled(3), Spaced()),
    "ancestral": Sampler(Ancestral(6), Random()),
    "confidence": Sampler(Scheduled(4), Confidence()),
    "margin": Sampler(Scheduled(4), Margin()),
    "entropy bound": Sampler(Adaptive(8), EntropyBound(4.0)),
    "blocks": Sampler(Blockwise(5, lambda window: Scheduled(2, window=window)), Confidence()),
    "blocks, random": Sampler(Blockwise(5, lambda window: Scheduled(2, window=window)), Random()),
    "guided": Sampler(Scheduled(5), Random(), guidance=lambda step: 2 * step.progress),
    "guided confidence": Sampler(Ancestral(5), Confidence(), guidance=lambda step: 1.0),
}


class Both:
    """The fast predictor and the full one side by side; they must agree at every step."""

    def __init__(self, model, labels=None):
        self.model, self.left_to_right, self.shuffle_prompt = model, model.left_to_right, model.shuffle_prompt
        self.head, self.allowed, self.labels, self.null_label = model.head, model.allowed, labels, model.null_label

    def predictor(self, cond=None):
        opened = []

        def predict(canvas, sites, step):
            if not opened:
                labels = cond if cond is not None or self.labels is None else self.labels
                if labels is not None and len(labels) < canvas.rows:            # guided: the second half has no class
                    labels = torch.cat([labels, torch.full_like(labels, self.model.null_label)])
                opened.extend([self.model.predictor(labels), self.model.full_predictor(labels)])
            a, b = (predictor(canvas, sites, step) for predictor in opened)
            asked = sites.valid if step.rows is None else sites.valid & torch.zeros_like(sites.valid).index_fill(0, step.rows, True)
            torch.testing.assert_close(a[asked], b[asked], **EXACT)
            return a

        predict.head, predict.allowed = self.head, self.allowed
        return predict


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", ["partition", "partition, logsumexp", "partition, self", *CAUSAL])
def test_every_sampler_fast_equals_full(name, sampler):
    canvas = ragged_canvas()
    before = canvas.tokens.clone()
    prompt = canvas.known.clone()
    with torch.no_grad():
        SAMPLERS[sampler](Both(tiny(name), labels_of(name, 4)), canvas, Noise.of(3, canvas.rows))
    assert torch.equal(canvas.known, canvas.present)
    assert torch.equal(canvas.tokens[prompt | ~canvas.present], before[prompt | ~canvas.present])
    assert canvas.count.tolist() == canvas.present.sum(1).tolist()
    assert canvas.least == canvas.greatest == canvas.count.tolist()
    for row in range(canvas.rows):
        assert sorted(canvas.log[row, :canvas.count[row]].tolist()) == canvas.present[row].nonzero().flatten().tolist()


@pytest.mark.parametrize("lengths", [(1, 4, 2), (3, 3), (1,)])
def test_autoregressive_cache_equals_recomputation(lengths):
    canvas = prefix_canvas(lengths)
    with torch.no_grad():
        nfe = Sampler(Scheduled(L - min(lengths)), LeftToRight())(Both(tiny("autoregressive")), canvas, Noise.of(0, len(lengths)))
    assert canvas.known.all()
    assert nfe == L - min(lengths)


def test_the_autoregressive_cache_by_products(monkeypatch):
    monkeypatch.setattr(attention, "_by_vectors", lambda x: True)
    monkeypatch.setattr(attention, "SPAN", 5)
    test_autoregressive_cache_equals_recomputation([1, 1, 1])
    test_autoregressive_cache_equals_recomputation([1, 4, 2])


def test_autoregressive_refuses_what_it_cannot_do():
    model = tiny("autoregressive")
    with pytest.raises(ValueError, match="Random"):
        Sampler(Scheduled(L - 1), Random())(model, prefix_canvas(), Noise.of(0, 3))
    with pytest.raises(ValueError, match="one site a step"):
        Sampler(Scheduled(3), LeftToRight())(model, prefix_canvas(), Noise.of(0, 3))
    with pytest.raises(ValueError, match="without gaps"):
        Sampler(Scheduled(L), LeftToRight())(model, ragged_canvas(), Noise.of(0, 4))


def test_impossible_sizes_are_refused():
    from dataclasses import replace

    with pytest.raises(ValueError, match="heads"):
        build(replace(CONFIGS["masked"], heads=5))
    image = CONFIGS["partition, axial"]
    for field, value in [("registers", 3), ("registers", -2), ("self_layers", (2,)), ("self_layers", (0, 0)), ("time_conditioned", True),
                         ("grid", (3, 5)), ("grid", None), ("grid", (-3, -4)), ("heads", 16), ("decoder_layers", 0)]:
        with pytest.raises(ValueError, match=field):
            replace(image, **{field: value})
    for field, value in [("registers", -1), ("heads", 33), ("classes", -1), ("grid", (2, 2))]:
        with pytest.raises(ValueError, match=field):
            replace(CONFIGS["maskgit"], **{field: value})
    with pytest.raises(ValueError, match="self_layers"):
        replace(CONFIGS["causal, image"], decoder_layers=2, self_layers=(0,))


@pytest.mark.parametrize("name", ["masked", "partition", "causal, token", "causal, set", "maskgit, axial", "autoregressive"])
def test_labels_are_refused_by_models_without_any(name):
    model, labels = tiny(name), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="labels were given"):
        model.predictor(labels)
    with pytest.raises(ValueError, match="labels were given"):
        model(torch.zeros(2, L, dtype=torch.int64), torch.ones(2, L, dtype=torch.bool), cond=labels)


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("label", [-1, 4])
def test_labels_that_do_not_exist_are_refused(name, label):
    with pytest.raises(ValueError, match=r"0\.\.3"):
        tiny(name).predictor(torch.tensor([0, label]))
