"""What must be equal is equal: packed inference and training forward, caches and recomputation, folded and modulated models."""
from __future__ import annotations

import pytest
import torch
from tests.tiny import ANY_ORDER, CAUSAL, CONFIGS, PARTITION, L, V, prefix_canvas, ragged_canvas, tiny

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
from maskless.models import build, fold

STEP = Step(0, 1)
EXACT = {"rtol": 0, "atol": 1e-12}


@pytest.mark.parametrize("name", PARTITION)
def test_packed_inference_equals_the_training_forward(name):
    model, canvas = tiny(name), ragged_canvas()
    sites = Sites.of(canvas.unknown, L)
    with torch.no_grad():
        packed = model.predictor()(canvas, sites, STEP)
        full = model.full_predictor()(canvas, sites, STEP)
        plain = sites.take(model(canvas.tokens, canvas.known, present=canvas.present))
    torch.testing.assert_close(packed[sites.valid], full[sites.valid], **EXACT)
    torch.testing.assert_close(model.head(packed)[sites.valid], plain[sites.valid], **EXACT)


@pytest.mark.parametrize("name", PARTITION)
def test_no_gradient_flows_from_a_token_to_its_own_group(name):
    model = tiny(name)
    known = torch.rand(3, L, generator=torch.Generator().manual_seed(1)) < 0.5
    tokens = torch.randint(V, (3, L))
    grads, table = {}, model.embedding.weight
    embedded = table.detach()[tokens].requires_grad_()
    model.embedding.forward = lambda _: embedded
    logits = model(tokens, known)
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
        a, b = model.predictor()(canvas, sites, STEP), model.predictor()(other, sites, STEP)
    assert torch.equal(a[sites.valid], b[sites.valid])


@pytest.mark.parametrize("name", ANY_ORDER)
def test_asking_for_more_sites_changes_nothing(name):
    model, canvas = tiny(name), ragged_canvas()
    everything, few = Sites.of(canvas.unknown, L), Sites.of(canvas.unknown, 2)
    with torch.no_grad():
        a, b = model.predictor()(canvas, everything, STEP), model.predictor()(canvas, few, STEP)
    valid = few.valid
    torch.testing.assert_close(a[:, :2][valid], b[valid], **EXACT)


@pytest.mark.parametrize("name", ANY_ORDER)
def test_padding_and_batch_change_nothing(name):
    model, canvas = tiny(name), ragged_canvas()
    sites = Sites.of(canvas.unknown, L)
    with torch.no_grad():
        together = model.predictor()(canvas, sites, STEP)
    for row in range(canvas.rows):
        one = slice(row, row + 1)
        alone = Canvas(canvas.tokens[one], canvas.known[one], present=canvas.present[one], anchor=canvas.anchor[one])
        mine = Sites.of(alone.unknown, L)
        with torch.no_grad():
            hidden = model.predictor()(alone, mine, STEP)
        torch.testing.assert_close(hidden[mine.valid], together[one][sites.valid[one]], **EXACT)


@pytest.mark.parametrize("name", [n for n in CONFIGS if "timed" not in n and n not in ("autoregressive", "partition, learned")])
def test_folding_changes_nothing(name):
    model, canvas = tiny(name), ragged_canvas()
    folded = fold(model)
    assert not any("ada" in key or "time" in key for key in folded.state_dict())
    assert folded.embedding.weight.data_ptr() == model.embedding.weight.data_ptr()
    with torch.no_grad():
        want, got = (m(canvas.tokens, canvas.known, present=canvas.present) for m in (model, folded))
    torch.testing.assert_close(got, want, **EXACT)


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
        assert model.predictor()(canvas, sites, STEP).isfinite().all()


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

    def __init__(self, model):
        self.model, self.left_to_right, self.shuffle_prompt, self.null_label = model, model.left_to_right, model.shuffle_prompt, None
        self.head, self.allowed = model.head, model.allowed

    def predictor(self, cond=None):
        fast, full = self.model.predictor(), self.model.full_predictor()

        def predict(canvas, sites, step):
            a, b = fast(canvas, sites, step), full(canvas, sites, step)
            asked = sites.valid if step.rows is None else sites.valid & torch.zeros_like(sites.valid).index_fill(0, step.rows, True)
            torch.testing.assert_close(a[asked], b[asked], **EXACT)
            return a

        predict.head, predict.allowed = self.head, self.allowed
        return predict


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", ["partition", "partition, logsumexp", *CAUSAL])
def test_every_sampler_fast_equals_full(name, sampler):
    canvas = ragged_canvas()
    before = canvas.tokens.clone()
    prompt = canvas.known.clone()
    with torch.no_grad():
        SAMPLERS[sampler](Both(tiny(name)), canvas, Noise.of(3, canvas.rows))
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
