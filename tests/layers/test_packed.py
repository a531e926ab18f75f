"""Packed weights give what the layers give, no less precisely, and leave the model that they come from alone."""
import copy
import functools

import pytest
import torch
from tests.tiny import CONFIGS, ragged_canvas, tiny

from maskless.layers.mlp import MLP
from maskless.layers.packed import Packed, linear_map, pack, packing_pays
from maskless.models import for_sampling

here = pytest.mark.skipif(not packing_pays(torch.zeros(1, 1, dtype=torch.bfloat16)), reason="this processor multiplies no bfloat16")


@here
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_a_packed_map_is_as_precise_as_the_layer(rows):
    torch.manual_seed(0)
    exact = MLP(32).double()
    x = torch.randn(2, rows, 32).bfloat16()
    layer = copy.deepcopy(exact).bfloat16()
    packed = torch.nn.Sequential(copy.deepcopy(layer))
    pack(packed)
    with torch.inference_mode():
        want = layer.double()(x.double())
        ours, theirs = ((module(x).double() - want).abs().mean() for module in (packed, layer.bfloat16()))
    assert ours <= 1.1 * theirs and ours < 0.01


@here
def test_a_model_that_is_left_unpacked_packs_nothing_later():
    """torch.compile cannot read packed weights: not those of the cache either."""
    for packed in (True, False):
        model = for_sampling(tiny("causal, token").float().eval(), torch.bfloat16, packed=packed)
        with torch.inference_mode():
            predictor = model.predictor()
            predictor._open(ragged_canvas())
        assert isinstance(predictor.kv, functools.partial) is not packed


@here
def test_a_map_without_bias_is_its_weight():
    weight = torch.randn(5, 8).bfloat16()
    x = torch.randn(3, 8).bfloat16()
    layer = torch.nn.Linear(8, 5, bias=False)
    for like in (layer, Packed(layer.bfloat16())):
        torch.testing.assert_close(linear_map(weight, like)(x), torch.nn.functional.linear(x, weight))


@here
@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_made_for_sampling_is_packed_and_its_source_is_as_it_was(name):
    model = tiny(name).float().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    packed = for_sampling(model, torch.bfloat16)
    assert any(isinstance(module, Packed) for module in packed.modules()) and packed.head.weight.dtype == torch.bfloat16
    assert not any(isinstance(module, Packed) for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_nothing_is_copied_or_packed_in_single_precision():
    model = tiny("autoregressive").float().eval()
    assert for_sampling(model, torch.float32) is model
    assert for_sampling(model, torch.float64).head.weight.dtype == torch.float64 and model.head.weight.dtype == torch.float32
