"""The U-Net of MDM-Prime: published sizes, what it reads and does not, where planes and digits go."""
from __future__ import annotations

import pytest
import torch
from tests.tiny import V, tiny

from maskless.data.batch import Batch
from maskless.decoding import Ancestral, DigitCanvas, Noise, Sampler
from maskless.models import UNet, UNetConfig, build
from maskless.models.unet import Body, grown, halved
from maskless.objectives import JointCE, Masked, SubNelbo, draws
from maskless.schedules import Polynomial

SMALL = {"width": 12, "multipliers": (1, 2), "blocks": 1, "attention": (2,), "head_width": 12, "dropout": 0.0}
PUBLISHED = [
    ({"digits": 2}, 113_965_680), ({"digits": 3}, 113_965_120), ({"digits": 4}, 113_964_984), ({"digits": 8}, 113_964_900),
    # without sub-tokens the released model has an output for [MASK] as well, in each plane: 288 x 9 weights and a bias
    ({"digits": 1}, 113_997_315 - 3 * (288 * 9 + 1)),
    ({"digits": 1, "vocab_size": 4096, "planes": 2, "length": 2 * 1024}, 133_810_450 - 2 * (288 * 9 + 1)),
]


@pytest.mark.parametrize(("changes", "parameters"), PUBLISHED)
def test_parameters_are_those_of_the_published_models(changes, parameters):
    with torch.device("meta"):
        model = build(UNetConfig(**{"vocab_size": 256, **changes}))
    assert model.parameter_count() == parameters and len(list(model.parameters())) == 430


def test_twelve_attentions_and_constant_modulation_as_published():
    with torch.device("meta"):
        model = build(UNetConfig(256))
    kinds = [type(module).__name__ for module in model.modules()]
    assert kinds.count("PlaneAttention") == 12 and kinds.count("ConstantModulation") == 3 * 5 + 3 * 6 + 2
    assert not any("time" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("name", ["unet", "unet, planes"])
def test_what_stands_at_unknown_digits_is_not_read_and_every_known_digit_is(name):
    model = tiny(name)
    code, slots = model.code, model.config.length * model.per_site
    digits, known = torch.randint(code.base, (2, slots)), torch.rand(2, slots) < 0.5
    with torch.no_grad():
        first = model.hidden_of_digits(digits, known)
        other = torch.where(known, digits, torch.randint(code.base, (2, slots)))
        assert torch.equal(model.hidden_of_digits(other, known), first)
        at = int(known[0].nonzero()[0])
        other = digits.clone()
        other[0, at] = (digits[0, at] + 1) % code.base
        changed = model.hidden_of_digits(other, known)
        assert not torch.equal(changed[0], first[0]) and torch.equal(changed[1], first[1])


def test_whole_tokens_are_all_their_digits():
    model = tiny("unet")
    tokens, known = torch.randint(V, (2, 12)), torch.rand(2, 12) < 0.5
    digits = model.code.encode(tokens).flatten(1)
    assert torch.equal(model.hidden(tokens, known), model.hidden_of_digits(digits, known.repeat_interleave(model.per_site, 1)))


def test_planes_and_digits_lie_side_by_side_in_the_channels():
    """Channel (p l + j) d + k at (y, x) is number k of the vector of digit j of the code of plane p there."""
    model = build(UNetConfig(16, digits=2, length=3 * 2 * 4, planes=3, grid=(6, 4), **SMALL))
    assert isinstance(model, UNet)
    digits = torch.randint(4, (1, 48))
    x = model.embed(digits, torch.ones_like(digits, dtype=torch.bool))
    assert x.shape == (1, 12, 2, 4)
    by_code = digits.view(3, 2, 4, 2)
    for plane, row, column, digit in ((0, 0, 0, 0), (1, 1, 2, 1), (2, 0, 3, 1)):
        channel = (plane * 2 + digit) * 2
        vector = model.embedding.weight[by_code[plane, row, column, digit]]
        assert torch.equal(x[0, channel:channel + 2, row, column], vector)


def test_logits_of_a_code_are_its_planes_outputs():
    model = tiny("unet, planes")
    with torch.no_grad():
        model.out.weight.zero_()
        model.out.bias.copy_(torch.arange(3 * V))
    logits = model.hidden(torch.zeros(1, 12, dtype=torch.int64), torch.zeros(1, 12, dtype=torch.bool))
    for site in range(12):
        assert logits[0, site].tolist() == list(range(site // 4 * V, site // 4 * V + V))


def test_the_head_does_nothing_and_losses_get_the_same_from_it():
    model = tiny("unet", torch.float32)
    states = torch.randn(5, V)
    assert model.head(states) is states and torch.equal(torch.nn.functional.linear(states, model.head.weight, model.head.bias), states)


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (1, 1), (7, 2)])
def test_planes_of_any_size_come_back(shape):
    x = torch.randn(1, 2, *shape)
    small = halved(x)
    assert small.shape[2:] == tuple(-(-side // 2) for side in shape) and grown(small, x).shape == x.shape
    assert torch.allclose(small[0, :, 0, 0], x[0, :, :2, :2].mean((1, 2)))
    body = Body(12, UNetConfig(4, digits=1, length=shape[0] * shape[1], planes=1, grid=shape, **SMALL))
    assert body(torch.randn(1, 12, *shape), torch.zeros(1, dtype=torch.int64)).shape == (1, 12, *shape)


def test_one_digit_is_a_masked_model():
    model = build(UNetConfig(V, digits=1, length=12, planes=1, grid=(3, 4), **SMALL)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    batch, noise = Batch.of(torch.randint(V, (4, 12))), draws(0, 0, torch.arange(4), 4, 12)
    ours, masked = SubNelbo()(model, batch, noise), Masked()(model, batch, noise)
    torch.testing.assert_close(ours.loss, masked.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.bound, masked.bound, rtol=1e-12, atol=0)


def test_the_published_loss_of_images_charges_every_code_alike():
    model = tiny("unet")
    batch, noise = Batch.of(torch.randint(V, (4, 12))), draws(0, 0, torch.arange(4), 4, 12)
    found = JointCE(Polynomial(3.0), weights="unit", filter_observed=False, low=0.0)(model, batch, noise)
    assert int(found.tokens.sum()) == 48 and bool((found.token_loss > 0).all())
    assert found.bound.isnan().all()
    reported = JointCE(Polynomial(3.0), weights="unit", filter_observed=False).reported(12)["bound"]
    assert isinstance(reported, SubNelbo) and reported.valid and bool(reported(model, batch, noise).bound.isfinite().all())


def test_chosen_digits_stay_and_the_others_are_drawn():
    model = tiny("unet, planes")
    tokens = torch.randint(V - 1, (3, 12))
    kept = torch.tensor([True, False, True, False])                 # two of four bits
    canvas = DigitCanvas.of_digits(model.code.encode(tokens), kept.expand(3, 12, 4), code=model.code)
    assert Sampler(Ancestral(5))(model, canvas, Noise.of(0, 3)) <= 5
    found = canvas.by_site()
    assert found.known.all() and not canvas.invalid.any() and not torch.equal(found.tokens, tokens)
    assert torch.equal(model.code.encode(found.tokens)[..., kept], model.code.encode(tokens)[..., kept])


@pytest.mark.parametrize(("changes", "says"), [
    ({"digits": 5}, "no multiple of 3 planes x 5 digits"), ({"length": 100}, "is not 3 planes of"), ({"planes": 0}, "planes is 0"),
    ({"multipliers": ()}, "give one number for each level"), ({"grid": (32, 32)}, "is not 3 planes of 10 x 32"), ({"blocks": -1}, "blocks is -1"),
])
def test_sizes_that_do_not_fit_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        UNetConfig(**{"vocab_size": 256, **changes})


def test_rows_of_another_length_are_refused():
    with pytest.raises(ValueError, match="rows of 7 codes were given and the images of this model have 12"):
        tiny("unet")(torch.zeros(1, 7, dtype=torch.int64), torch.zeros(1, 7, dtype=torch.bool))
