"""Training a codec: from a recipe as models are, exact on resume, and the codebook stays in use."""
from __future__ import annotations

import json
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from maskless.checkpoints.native import load_model
from maskless.data.batch import Batch
from maskless.data.codec import load_codec
from maskless.data.loader import Loader
from maskless.data.store import MemoryStore
from maskless.data.vq import VQCodec
from maskless.data.vqgan import VQ, VQConfig
from maskless.objectives.base import Draws
from maskless.training.codec import (
    Reconstruction,
    Revive,
    load_codec_recipe,
    measure_codec,
    pictures,
    trains_codec,
)
from maskless.training.distributed import start
from maskless.training.loop import Update
from maskless.training.recipe import Validation, load_recipe, recipe_tree
from maskless.training.run import train
from maskless.training.state import TrainState
from tests.training.runs import losses, several
from tests.training.test_train_command import app

SIZES = {"ch": 4, "ch_mult": [1, 2], "res_blocks": 1, "z_channels": 8, "codebook_size": 16, "codebook_dim": 4, "channels": 1, "groups": 2}


def stripes(n: int = 96) -> np.ndarray:
    """Images of 8 x 8 pixels that a few codes can say: bars of two shades."""
    rng = np.random.default_rng(0)
    bars = rng.integers(0, 2, (n, 1, 4)).repeat(2, 2).repeat(8, 1) * 200 + 20
    return np.where(rng.random((n, 1, 1)) < 0.5, bars, bars.transpose(0, 2, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    images = stripes()
    np.savez(folder / "a.npz", x_train=images[:72], y_train=np.arange(72) % 2, x_test=images[72:], y_test=np.arange(24) % 2)
    return {
        "codec": SIZES,
        "data": {"source": {"type": "arrays", "train": str(folder / "a.npz")}, "size": 8, "channels": 1},
        "objective": {"revive": 4},
        "training": {"steps": 10, "batch_size": 8, "lr": 1e-2, "warmup": 2, "threads": 1, "device": "cpu", "precision": "fp32"},
        "validation": {"every": 5, "batch_size": 8},
        "checkpoints": {"every": 5},
        "log": {"every": 1},
    }


def test_a_run_ends_in_a_codec(recipe, tmp_path):
    out = tmp_path / "run"
    run = train(recipe, "training.steps=40", "validation.every=10", out=out)
    measured = [record for record in run.metrics if "psnr" in record]
    assert len(measured) == 4 and measured[-1]["images"] == 24
    assert measured[-1]["psnr"] > measured[0]["psnr"] + 0.5
    assert 0.3 < measured[-1]["codes_used"] <= 1 and 1 < measured[-1]["code_perplexity"] <= 16
    codec = load_codec(out)
    assert isinstance(codec, VQCodec) and (codec.factor, codec.channels, codec.vocab_size) == (2, 1, 16)
    images = torch.from_numpy(stripes()[72:])[:, None] / 127.5 - 1
    assert torch.equal(codec.encode(images), run.tokenizer.codec.encode(images)) and run.tokenizer.grid == (4, 4)
    error = (codec.decode(codec.encode(images)) - images).square().mean()
    assert abs(10 * torch.log10(4 / error) - measured[-1]["psnr"]) < 0.01
    assert (run.checkpoint / "codec.json").is_file() and not (run.checkpoint / "ema.safetensors").exists()
    with pytest.raises(ValueError, match="holds a codec of images, not a model"):
        load_model(out)
    again = train(recipe, "training.steps=1", f"training.start={out}", out=tmp_path / "again")
    assert next(record for record in again.metrics if "loss" in record)["loss"] < losses(out)[0][1]


def tensors(step):
    return {f"{file}:{name}": tensor for file in ("model.safetensors", "trainer/optimizer.safetensors", "codec.safetensors")
            for name, tensor in load_file(step / file).items()}


def test_a_killed_run_continues_bit_for_bit(recipe, tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    train(recipe, out=tmp_path / "whole")
    killed = several("tests.training.runs", tmp_path / "recipe.json", tmp_path / "killed", "--die", "after", "5", processes=1)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = train(tmp_path / "killed", out=tmp_path / "killed", resume=True)
    assert resumed.metrics[0]["note"].startswith("resumed from step-00000005")
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    ours, theirs = (tensors(tmp_path / run / "checkpoints" / "step-00000010") for run in ("killed", "whole"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_command(recipe, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(recipe))
    result = CliRunner().invoke(app, [str(tmp_path / "mine.json"), "training.steps=5", "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert " dB, " in result.output and "of the codes used" in result.output and "saved step-00000005" in result.output
    result = CliRunner().invoke(app, ["--resume", str(tmp_path / "run"), "training.steps=6", "-q"])
    assert result.exit_code == 0 and (tmp_path / "run" / "latest").read_text() == "step-00000006\n"


def test_unused_codes_become_vectors_of_the_encoder():
    torch.manual_seed(0)
    model = VQ(VQConfig(**{**SIZES, "ch_mult": (1, 2)}))
    with torch.no_grad():
        model.quantize.embedding.weight.copy_(torch.ones(16, 4) + torch.randn(16, 4) * 0.01)  # collapsed
    rows = MemoryStore(torch.from_numpy(stripes()).long().flatten(1))
    loader, state = Loader(rows, batch_size=16, seed=3), TrainState(model, None, torch.optim.AdamW(model.parameters()), None)
    Reconstruction()(model, loader.batch(0), Draws(torch.zeros(16), torch.zeros(16, 64))).loss.backward()
    state.optimizer.step()
    before = measure_codec(model.eval(), rows, Validation())
    hook = Revive(start("cpu", "fp32", "ddp"), Reconstruction(revive=4, seen=2), loader, last=100)
    zero = torch.zeros(())
    old = model.quantize.embedding.weight.clone()
    hook(state, Update(4, zero, zero, zero, 0.1))
    new, moments = model.quantize.embedding.weight, state.optimizer.state[model.quantize.embedding.weight]
    changed = (new != old).any(1)
    assert 8 <= int(changed.sum()) < 16
    assert not moments["exp_avg"][changed].any() and not moments["exp_avg_sq"][changed].any()
    assert torch.allclose(new[changed].norm(dim=1), torch.ones(int(changed.sum())))
    assert measure_codec(model, rows, Validation())["codes_used"] > before["codes_used"]
    copy = new.detach().clone()
    for step in (3, 88):  # not a step to look at; the last fifth
        hook(state, Update(step, zero, zero, zero, 0.1))
    assert torch.equal(new, copy)


def test_the_loss_is_what_it_says():
    torch.manual_seed(1)
    model = VQ(VQConfig(**{**SIZES, "ch_mult": (1, 2)})).double()
    batch = Batch.of(torch.from_numpy(stripes(3)).long().flatten(1))
    images = pictures(batch, model.config)
    assert images.shape == (3, 1, 8, 8) and torch.allclose(images, torch.from_numpy(stripes(3))[:, None] / 255 * 2 - 1)
    model = model.float()
    found = Reconstruction(commitment=0.5, codebook=2.0)(model, batch, Draws(torch.zeros(3), torch.zeros(3, 64)))
    z = torch.nn.functional.normalize(model.latents(images), dim=1)
    e = model.vectors(model.codes(images))
    wanted = (model.images(e) - images).square().mean() + 2.5 * (z - e).square().mean()
    assert torch.allclose(found.loss / found.tokens.sum(), wanted, rtol=1e-5) and found.tokens.tolist() == [64] * 3
    found.loss.backward()
    assert model.encoder.conv_in.weight.grad.abs().sum() > 0 and model.quantize.embedding.weight.grad.abs().sum() > 0


def test_recipes_of_codecs(recipe, tmp_path):
    made = load_codec_recipe(recipe)
    assert load_codec_recipe(recipe_tree(made)) == made and trains_codec(recipe) and not trains_codec("tiny/pgm")
    assert made.training.ema == 0 and made.length == 64
    for name in ("image/vq_fashion", "image/vq_fashion_16", "image/vq_digits", "image/vq_cifar"):
        with torch.device("meta"):
            VQ(load_codec_recipe(name).codec)
    for change, message in (
        ("codec.channels=3", "codec.channels is 3 and data.channels 1; make them equal"),
        ("data.size=9", "data.size is 9, no multiple of the 2 pixels of a cell"),
        ("training.ema=0.9", "training.ema is 0.9, which training a codec does not have"),
        ("training.strategy=fsdp", "training.strategy is fsdp"),
        ("codec.groups=3", "codec: a level of 4 channels cannot be cut into 3 groups"),
        ("codec.codebook_size=0", "codec: codebook_size is 0"),
        ("objective.revive=-1", "objective: revive is -1"),
        ("codec.depth=3", "unknown key codec.depth"),
        ("data.source.type=video", "data.source.type is 'video'"),
    ):
        with pytest.raises(ValueError, match=message):
            train(recipe, change, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_takes_its_sizes_from_images(recipe, tmp_path):
    train(recipe, "training.steps=1", out=tmp_path / "vq")
    source = recipe["data"]["source"]
    tree = {
        "model": {"type": "masked", "width": 8, "heads": 2, "layers": 1},
        "objective": {"type": "masked"},
        "data": {"type": "images", "source": source, "size": 8, "codec": str(tmp_path / "vq"), "labels": False},
        "training": {"steps": 2, "batch_size": 8, "warmup": 0, "device": "cpu", "precision": "fp32"},
        "validation": {"rows": 4},
        "sampling": {"count": 1, "sampler": {"steps": 4}},
    }
    run = train(tree, out=tmp_path / "run")
    assert (run.recipe.model.length, run.recipe.model.vocab_size) == (16, 16)
    model, codes = load_model(tmp_path / "run")
    assert codes.grid == (4, 4) and codes.codec.hash == load_codec(tmp_path / "vq").hash and model.config.length == 16
    pictures = [record["picture"] for record in run.metrics if "picture" in record]
    assert len(pictures) == 1 and (tmp_path / "run" / pictures[0]).is_file()
    resumed = train(tree, "training.steps=3", out=tmp_path / "run", resume=True)
    assert resumed.state.step == 3 and "model." not in resumed.metrics[0]["note"]


def test_what_does_not_fit_the_images(recipe, tmp_path):
    from maskless.data.codec import PixelCodec
    from maskless.data.images import ImageCodes
    from maskless.training.recipe import complete

    data = {"type": "images", "source": recipe["data"]["source"], "size": 8, "codec": {"type": "pixels", "levels": 4}}
    tree = {"model": {"type": "maskgit", "width": 16, "heads": 2, "layers": 1}, "objective": {"type": "masked"}, "data": data,
            "training": {"steps": 2, "batch_size": 8}}
    codes = ImageCodes(PixelCodec(4), (8, 8), ("a", "b"))

    def made(*changes, images=codes):
        return complete(load_recipe(tree, *changes), images.vocabulary, images).model

    model = made()
    assert (model.length, model.grid, model.classes, model.vocab_size) == (64, (8, 8), 2, 4)
    assert made("model.classes=5").classes == 5
    assert made("model.positions=axial", "model.grid=[8,8]").length == 64
    for changes, message in (
        (["model.length=63"], "model.length is 63 and an image has 8 x 8 codes"),
        (["model.grid=[4,16]"], r"model.grid is \[4, 16\] and an image has 8 x 8 codes"),
        (["model.classes=1"], "model.classes is 1 and the images have 2"),
        (["sampling.sampler.steps=65"], "sampling.sampler.steps is 65, more than the 64 sites"),
        (["model.vocab_size=5"], "has 4 ids and the model has vocab_size 5"),
        (["model.type=autoregressive", "objective.type=autoregressive"],
         "the images have 2 classes and a model of type autoregressive takes none; set data.labels=false"),
    ):
        with pytest.raises(ValueError, match=message):
            made(*changes)
    with pytest.raises(ValueError, match=r"model\.classes is 2 and the images have none"):
        made("model.classes=2", images=ImageCodes(PixelCodec(4), (8, 8)))
