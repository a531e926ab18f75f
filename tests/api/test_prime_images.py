"""Image models of digits: planes of pixels, the usual sampler, in-painting, imputation of chosen digits, and a run from a recipe."""
from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import maskless
from maskless.api.image_files import Film
from maskless.training.recipe import load_recipe

SMALL = {"width": 12, "multipliers": (1, 2), "blocks": 1, "attention": (2,), "head_width": 12, "dropout": 0.0}
CODECS = {"grey": maskless.PixelCodec(16), "colour": maskless.PixelCodec(16, 3, 3)}


def opened(name: str, digits: int = 2) -> maskless.ImageModel:
    codec, planes = CODECS[name], CODECS[name].planes
    torch.manual_seed(0)
    network = maskless.build(maskless.UNetConfig(16, digits=digits, length=planes * 16, planes=planes, grid=(planes * 4, 4), **SMALL))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3)
    return maskless.ImageModel(network, maskless.ImageCodes(codec, (planes * 4, 4)), device="cpu")


@pytest.mark.parametrize("name", CODECS)
def test_images_have_their_size_and_the_seed_decides(name):
    model = opened(name)
    film = Film(model)
    images = model.generate(2, seed=4, watch=film)
    assert images.pixels.shape == (2, 4, 4, CODECS[name].channels) and 1 < images.nfe <= min(64, 2 * model.model.config.length)
    assert torch.equal(images.codes, model.generate(2, seed=4).codes) and not torch.equal(images.codes, model.generate(2, seed=5).codes)
    assert len(film.frames) == images.nfe


@pytest.mark.parametrize("options", [
    {"steps": 5, "corrector": 4.0, "corrector_power": 2.0}, {"steps": 5, "time_power": 1.7, "temperature_rise": -0.2, "temperature_rise_power": 2.0},
    {"steps": 5, "alpha_power": 2.0}, {"plan": "even", "steps": 4}, {"plan": "even", "order": "coarse-first", "steps": 4},
    {"plan": "even", "order": "halton", "steps": 4}, {"order": "confidence", "plan": "cosine", "steps": 4},
], ids=str)
def test_ways_of_sampling(options):
    images = opened("grey").generate(2, **options)
    assert images.pixels.shape == (2, 4, 4, 1) and images.nfe <= options["steps"]


@pytest.mark.parametrize("name", CODECS)
def test_what_is_not_masked_comes_back_in_every_plane(name):
    model, channels = opened(name), CODECS[name].channels
    image = np.random.default_rng(0).integers(0, 256, (4, 4, channels)).astype(np.uint8)
    mask = np.zeros((4, 4), bool)
    mask[1:3, 1:] = True
    filled = model.infill(image, mask, n=2, steps=3, seed=1)
    assert (filled.pixels[:, ~mask] == image[~mask]).all() and not (filled.pixels[0][mask] == filled.pixels[1][mask]).all()


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("kept", [(0,), (1,)])
def test_chosen_digits_of_all_pixels_are_kept(name, kept):
    model, channels = opened(name), CODECS[name].channels
    image = np.random.default_rng(0).integers(0, 256, (4, 4, channels)).astype(np.uint8)
    made = model.impute(image, kept, n=3, steps=4)
    want = model.codec.encode(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1)
    ours, theirs = (model.model.code.encode(codes) for codes in (made.codes, want))
    assert torch.equal(ours[..., list(kept)], theirs[..., list(kept)].expand(3, -1, -1, -1))
    assert not torch.equal(made.codes[0], made.codes[1]) and made.nfe <= 4
    if kept == (0,):                                                # the first digit of 16 shades is worth four: nothing moves further
        assert (made.codes - want).abs().max() <= 3


@pytest.mark.parametrize(("digits", "says"), [((), "some of 0..1, not all"), ((0, 1), "not all of them"), ((2,), "some of 0..1")])
def test_digits_that_cannot_be_kept(digits, says):
    with pytest.raises(ValueError, match=says):
        opened("grey").impute(np.zeros((4, 4), np.uint8), digits)


def test_an_entropy_bound_is_its_own_plan():
    assert 1 <= opened("grey").generate(1, order="entropy-bound", steps=6).nfe <= 6


def in_groups(**changes) -> maskless.ImageModel:
    torch.manual_seed(0)
    sizes = {"length": 16, "width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "classes": 3, "positions": "axial", "grid": (4, 4)}
    network = maskless.build(maskless.PrimePartitionConfig(16, digits=2, registers=2, dropout=0.0, **{**sizes, **changes}))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3)
    return maskless.ImageModel(network, maskless.ImageCodes(CODECS["grey"], (4, 4)), device="cpu")


def test_digits_in_two_groups_are_drawn_and_kept_as_in_any_prime_model():
    model, image = in_groups(), np.random.default_rng(0).integers(0, 256, (4, 4)).astype(np.uint8)
    kept = model.impute(image, (0,), n=3, steps=4, labels=1)
    want = model.codec.encode(torch.from_numpy(image)[None, None].float() / 127.5 - 1)
    digits = model.model.code.encode(kept.codes)
    assert torch.equal(model.impute(image, 0, n=3, steps=4, labels=1).codes, kept.codes)
    assert (digits[..., 0] == model.model.code.encode(want)[..., 0]).all() and not (digits[0] == digits[1]).all()
    assert 16 < model.generate(1, labels=1).nfe <= 32               # 32 digits, one or more at a time: the usual sampler of Prime images
    assert model.generate(2, corrector=2.0, steps=5, guidance=1.5, labels=2).pixels.shape == (2, 4, 4, 1)


def test_corrector_and_drafts_bring_their_own_plan():
    plain = maskless.build(maskless.PartitionConfig(16, length=16, width=16, heads=2, encoder_layers=1, decoder_layers=1, grid=(4, 4)))
    model = maskless.ImageModel(plain, maskless.ImageCodes(CODECS["grey"], (4, 4)), device="cpu")
    assert model.generate(1, corrector=2.0, steps=5).nfe <= 5
    with pytest.raises(ValueError, match="cannot verify drafts"):
        model.generate(1, draft=4)


def test_imputation_needs_digits_and_a_whole_image():
    with pytest.raises(ValueError, match="writes a code in one digit"):
        opened("grey", digits=1).impute(np.zeros((4, 4), np.uint8), (0,))
    with pytest.raises(ValueError, match="2 x 4 pixels and the model makes 4 x 4"):
        opened("grey").impute(np.zeros((2, 4), np.uint8), (0,))


def test_a_run_from_the_tiny_recipe(tmp_path):
    """Trained, measured by a bound, sampled; opened again with its codec and classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "digits.npz", x_train=pixels, y_train=np.arange(60) % 10)
    changes = ("training.steps=3", "training.batch_size=8", "model.width=8", "model.head_width=8", "sampling.count=2", "sampling.sampler.steps=4",
               "validation.samples=1", "training.device=cpu", f"data.source={{type: arrays, train: {tmp_path / 'digits.npz'}}}")
    maskless.train("tiny/prime_digits", *changes, out=tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = next(line for line in lines if "bound" in line)
    assert 0 < found["bound"] < 10 and found["validation_tokens"] % 64 == 0 and any("picture" in line for line in lines)
    model = maskless.load(tmp_path / "run", device="cpu")
    assert isinstance(model, maskless.ImageModel) and model.model.null_label == 10 and model.codec == maskless.PixelCodec(16)
    assert model.generate(2, labels=[1, None], steps=3).pixels.shape == (2, 8, 8, 1)


@pytest.mark.parametrize(("changes", "says"), [
    (("model.planes=3", "model.width=36", "model.vocab_size=16"), "model.planes is 3 and the codec writes 1 codes a pixel"),
    (("model.classes=3",), "model.classes is 3 and the images have 10"),
])
def test_recipes_that_do_not_fit_their_images(changes, says, tmp_path):
    pixels = np.zeros((60, 8, 8), np.uint8)
    np.savez(tmp_path / "digits.npz", x_train=pixels, y_train=np.arange(60) % 10)
    with pytest.raises(ValueError, match=says):
        maskless.train("tiny/prime_digits", f"data.source={{type: arrays, train: {tmp_path / 'digits.npz'}}}", *changes, out=tmp_path / "run")


def test_a_recipe_says_what_its_digits_do_not_fit():
    with pytest.raises(ValueError, match="no multiple of 1 planes x 3 digits"):
        load_recipe("tiny/prime_digits", "model.digits=3")
