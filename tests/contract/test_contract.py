"""The battery that every model runs. A new model lists a configuration in `tests/tiny.py` and is held to all of it."""
from __future__ import annotations

import pytest
import torch
from tests.tiny import ANY_ORDER, CAUSAL, CONFIGS, LABELLED, L, V, opened, prefix_canvas, ragged_canvas, tiny

from maskless.checkpoints.native import load_model, save_model
from maskless.data.batch import Batch
from maskless.decoding import Choice, LeftToRight, Noise, Random, Sampler, Scheduled, Sites, Step
from maskless.models import build, for_sampling, kind_of
from maskless.objectives import draws, own
from maskless.vocabulary import Vocabulary

EVERY = list(CONFIGS)
ONE_OF_EACH = ("masked", "partition", "causal, token", "maskgit", "partition, image", "causal, image", "autoregressive", "prime", "unet")
WHOLE = [name for name in EVERY if name.startswith("unet")]         # images as a whole: no shorter rows, and states that are logits


def sampler_of(name: str) -> Sampler:
    return Sampler(Scheduled(L), LeftToRight()) if name == "autoregressive" else Sampler(Scheduled(4), Random())


def canvas_of(name: str):
    return opened(tiny(name), prefix_canvas() if name == "autoregressive" else ragged_canvas())


@pytest.mark.parametrize("name", EVERY)
def test_logits_have_the_vocabulary_without_mask(name):
    model = tiny(name, torch.float32)
    tokens, known = torch.randint(V, (2, L)), torch.rand(2, L) < 0.5
    logits = model(tokens, known, t=torch.full((2,), 0.5))
    assert logits.shape == (2, L, V) and logits.isfinite().all()
    states = model.hidden(tokens, known, t=torch.full((2,), 0.5))
    assert model.head.weight.shape == (V, states.shape[-1]) and states.shape[-1] == (V if name in WHOLE else model.config.width)
    assert torch.equal(model.head(states), logits)


@pytest.mark.parametrize("name", EVERY)
def test_a_new_model_is_uniform(name):
    torch.manual_seed(0)
    model = build(CONFIGS[name]).eval()
    logits = model(torch.randint(V, (1, L)), torch.rand(1, L) < 0.5, t=torch.full((1,), 0.5))
    assert logits.abs().max() <= (1 if name.startswith("maskgit") else 0)       # its head is the embedding's: nearly uniform


@pytest.mark.parametrize("name", [name for name in EVERY if name not in WHOLE])
def test_shorter_sequences_work(name):
    model, tokens = tiny(name), torch.randint(V, (1, L))
    known = torch.arange(L)[None] % 2 == 0
    t = torch.full((1,), 0.5, dtype=torch.float64)
    assert model(tokens[:, :7], known[:, :7], t=t).shape == (1, 7, V)


@pytest.mark.parametrize("name", EVERY)
def test_it_is_saved_and_loaded_bit_for_bit(name, tmp_path):
    model = tiny(name, torch.float32)
    save_model(tmp_path / "saved", model, vocabulary=Vocabulary(V))
    again, _ = load_model(tmp_path / "saved")
    assert again.config == model.config
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


@pytest.mark.parametrize("name", [name if name in ONE_OF_EACH else pytest.param(name, marks=pytest.mark.slow) for name in EVERY])
def test_it_learns_a_constant_sequence(name):
    torch.manual_seed(0)
    model = build(CONFIGS[name])
    objective = own(kind_of(model.config))
    late = name == "prime, groups, late"                            # four bits in two halves that meet in the head: slower
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3 if name in LABELLED or late else 1e-2)     # the label is the whole condition
    batch, losses = Batch.of(torch.arange(L).remainder(7).expand(8, -1)), []
    low, high = objective.times
    for step in range(240 if late else 120):
        terms = objective(model, batch, draws(0, step, torch.arange(8), 8, L, low=low, high=high))
        loss = terms.loss / terms.tokens.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_samples_in_other_precisions(name, dtype):
    canvas = canvas_of(name)
    nfe = sampler_of(name)(for_sampling(tiny(name), dtype), canvas, Noise.of(0, canvas.rows))
    assert torch.equal(canvas.known, canvas.present) and nfe >= 1


@pytest.mark.parametrize("name", [name for name in EVERY if CONFIGS[name].forbidden])
def test_forbidden_ids_are_never_drawn(name):
    model = tiny(name)
    if name not in WHOLE and model.head.bias is None:
        model.head.bias = torch.nn.Parameter(model.head.weight.new_zeros(V))
    with torch.no_grad():
        (model.out.bias.view(-1, V)[:, 10] if name in WHOLE else model.head.bias[10:]).fill_(100.0)
    for choice in (Choice(), Choice(temperature=0), Choice(top_k=2), Choice(top_p=0.3)):
        canvas = opened(model, ragged_canvas())
        fresh = ~canvas.by_site().known & canvas.by_site().present
        Sampler(Scheduled(4), Random(), choice)(model, canvas, Noise.of(0, 4))
        assert (canvas.by_site().tokens[fresh] != 10).all()


@pytest.mark.parametrize("name", [name for name in ANY_ORDER if name not in CAUSAL])
def test_rows_that_reveal_nothing_are_not_computed(name):
    model, canvas = tiny(name), ragged_canvas()
    sites = Sites.of(canvas.unknown, 3)
    some = torch.tensor([0, 3])
    passed = []
    model.embedding.register_forward_pre_hook(lambda _, args: passed.append(len(args[0])))
    with torch.no_grad():
        everything = model.predictor()(opened(model, canvas), sites, Step(0, 1))
        few = model.predictor()(opened(model, canvas), sites, Step(0, 1, rows=some))
    assert passed == [4, 2]
    torch.testing.assert_close(few[some], everything[some], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_normalisation_keeps_float64_and_is_exact_for_bfloat16(name):
    from maskless.layers.norm import LayerNorm

    norm = LayerNorm(32)
    x = torch.randn(5, 32, dtype=torch.float64) * 100 + 1000
    exact = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    assert norm.double()(x).dtype == torch.float64
    torch.testing.assert_close(norm(x), exact, rtol=1e-12, atol=1e-12)
    short = x.bfloat16()
    wide = short.float()
    want = (wide - wide.mean(-1, keepdim=True)) / (wide.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(norm.bfloat16()(short), want.bfloat16(), rtol=1e-2, atol=1e-2)
