"""What a label's condition makes of every adaLN is made once per decode, and changes no bit of what is decoded."""
from __future__ import annotations

import pytest
import torch
from tests.tiny import CONFIGS, LABELLED, SIZES, L, labels_of, opened, ragged_canvas, tiny

from maskless.decoding import (
    Ancestral,
    Canvas,
    Confidence,
    Noise,
    Random,
    Sampler,
    Scheduled,
    Sites,
    Step,
    constant,
    ramped,
)
from maskless.layers.modulation import AdaLN
from maskless.models import PartitionConfig, build
from maskless.models.base import Conditions, pick_labels

MODULATED = [name for name in LABELLED if name.startswith(("maskgit", "partition", "causal"))]        # the others make them at every call
SAMPLERS = {
    "plain": Sampler(Scheduled(5)), "guided": Sampler(Scheduled(5), guidance=constant(1.5)), "ramped": Sampler(Scheduled(5), guidance=ramped(2.0)),
    "rows apart": Sampler(Ancestral(9), Random()), "rows apart, guided": Sampler(Ancestral(9), guidance=ramped(2.0)),
    "scored": Sampler(Scheduled(4), Confidence(), guidance=constant(0.5)),
}


def at_every_call(self, rows):
    """What `Conditions` would be without keeping anything."""
    return self.make(pick_labels(self.labels, rows))


def decoded(model, sampler: Sampler, labels: torch.Tensor | None, canvas: Canvas | None = None) -> tuple[Canvas, list[torch.Tensor]]:
    """The canvas (by default a ragged one), and log-probabilities of everything that was drawn on the way."""
    canvas = opened(model, ragged_canvas()) if canvas is None else canvas
    return canvas, [record.draw.logp for record in sampler.records(model, canvas, Noise.of(3, canvas.rows), labels)]


def empty(model) -> Canvas:
    """Four rows of which all sites are open: every step asks for all of them."""
    return model.canvas(torch.zeros(4, L, dtype=torch.int64), torch.zeros(4, L, dtype=torch.bool))


def ada_calls(model) -> list[str]:
    """A list that grows by the name of a layer whenever it makes modulations."""
    called: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, AdaLN) or name == "ada":
            module.register_forward_hook(lambda module, given, made, name=name: called.append(name))
    return called


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("how", SAMPLERS)
@pytest.mark.parametrize("name", MODULATED)
def test_decodes_are_the_same_bit_for_bit(name, how, dtype, monkeypatch):
    """Rows have different labels, one of them none; the ancestral plans ask for some rows only."""
    model, labels = tiny(name, dtype), labels_of(name, 4)
    kept = decoded(model, SAMPLERS[how], labels)
    monkeypatch.setattr(Conditions, "__call__", at_every_call)
    anew = decoded(model, SAMPLERS[how], labels)
    assert torch.equal(kept[0].tokens, anew[0].tokens) and torch.equal(kept[0].log, anew[0].log)
    assert len(kept[1]) == len(anew[1]) > 1 and all(map(torch.equal, kept[1], anew[1]))


@pytest.mark.parametrize("name", MODULATED)
def test_modulations_are_made_once_a_decode(name):
    model, labels = tiny(name), labels_of(name, 4)
    called, layers = ada_calls(model), sorted(name for name, module in model.named_modules() if isinstance(module, AdaLN) or name == "ada")
    for how, given in (("plain", labels), ("plain", None), ("guided", labels), ("scored", labels)):
        called.clear()
        decoded(model, SAMPLERS[how], given, empty(model))
        assert sorted(called) == layers
    called.clear()
    decoded(model, SAMPLERS["ramped"], labels, empty(model))                # the first half alone while w is 0, then both
    assert len(layers) < len(called) <= 2 * len(layers)


@pytest.mark.parametrize("name", MODULATED)
def test_the_next_decode_sees_changed_weights(name):
    model, labels = tiny(name), labels_of(name, 4)
    before = decoded(model, SAMPLERS["plain"], labels)[1]
    with torch.no_grad():
        next(module for module in model.modules() if isinstance(module, AdaLN)).weight.mul_(3)
    assert not torch.equal(before[0], decoded(model, SAMPLERS["plain"], labels)[1][0])


@pytest.mark.parametrize("name", MODULATED)
def test_rows_keep_their_own_labels(name):
    model, canvas = tiny(name), opened(tiny(name), ragged_canvas())
    sites = Sites.of(canvas.unknown, L)
    predictor, other = model.predictor(torch.tensor([0, 1, 2, 3])), model.predictor(torch.tensor([0, 2, 2, 3]))
    with torch.no_grad():
        first, changed = (each(canvas, sites, Step(0, 1)) for each in (predictor, other))
    same = [torch.equal(a[valid], b[valid]) for a, b, valid in zip(first, changed, sites.valid)]
    assert same == [True, False, True, True]


def test_a_model_that_is_told_the_time_is_told_every_time():
    torch.manual_seed(0)
    model = build(PartitionConfig(**SIZES, encoder_layers=1, decoder_layers=1, cond_dim=8, time_conditioned=True)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    canvas = ragged_canvas()
    sites, predictor = Sites.of(canvas.unknown, L), model.predictor()
    with torch.no_grad():
        states = [predictor(canvas, sites, Step(0, 4, t=t))[sites.valid] for t in (0.9, 0.4)]
        full = [model.full_predictor()(canvas, sites, Step(0, 4, t=t))[sites.valid] for t in (0.9, 0.4)]
    for found, wanted in zip(states, full):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert (states[0] - states[1]).abs().max() > 1e-3


def test_every_labelled_kind_is_here():
    assert {CONFIGS[name].__class__.__name__ for name in MODULATED} == {"MaskGITConfig", "PartitionConfig", "CausalPartitionConfig"}
