"""`maskless sample` and `infill` with a model of images."""
from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

import maskless
from maskless.demo.images import demo_images
from maskless.demo.run import Scale


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    torch.manual_seed(0)
    sizes = {"length": 24, "width": 16, "heads": 2, "dropout": 0.0, "classes": 2, "grid": (4, 6)}
    network = maskless.build(maskless.PartitionConfig(5, **sizes, encoder_layers=1, decoder_layers=1, registers=2))
    codes = maskless.ImageCodes(maskless.PixelCodec(levels=5), (4, 6), ("hat", "shoe"))
    return maskless.ImageModel(network, codes, device="cpu").save_pretrained(tmp_path_factory.mktemp("images") / "model")


def read(path):
    with Image.open(path) as image:
        return image.format, np.asarray(image)


def test_sample(painter, call, tmp_path):
    how = ["-n", 4, "--label", "hat,1", "--steps", 3, "--guidance", 1.5]
    ended = call("sample", painter, *how, "--out", tmp_path / "a.png", "--animate", tmp_path / "a.gif")
    assert ended.code == 0 and "4 images of 4 x 6, 3 calls" in ended.out
    assert read(tmp_path / "a.png")[1].shape == (4 * 2 + 2, 6 * 2 + 2) and read(tmp_path / "a.gif")[0] == "GIF"
    assert call("sample", painter, *how, "--out", tmp_path / "b.npz").code == 0
    assert np.load(tmp_path / "b.npz")["labels"].tolist() == [0, 1, 0, 1]
    assert "no class" not in ended.out
    assert call("sample", painter, "-n", 3, "--label", "all", "--steps", 2, "--out", tmp_path / "c.npz").code == 0
    assert np.load(tmp_path / "c.npz")["labels"].tolist() == [0, 1, 0]
    more = ["--sampler", "temperature_warmup=1", "--sampler", "steps=2"]
    assert ", 2 calls of the model" in call("sample", painter, "--steps", 3, *more, "--out", tmp_path / "e.png").out
    assert "of no class; --label all goes through the model's 2" in call("sample", painter, "--steps", 2, "--out", tmp_path / "d.png").out


def test_infill(painter, call, tmp_path):
    Image.fromarray(np.full((4, 6), 128, np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(np.eye(4, 6, dtype=np.uint8) * 255).save(tmp_path / "mask.png")
    where = ["--image", tmp_path / "image.png", "--mask", tmp_path / "mask.png", "--out", tmp_path / "c.png"]
    assert call("infill", painter, *where, "--steps", 2, "--label", 1).code == 0
    _, filled = read(tmp_path / "c.png")
    assert (filled[~np.eye(4, 6, dtype=bool)] == 128).all()


@pytest.mark.parametrize("arguments, word", [
    ("sample {model} --prompt x", "--prompt is not for models of images"),
    ("sample {model} --label coat", "hat, shoe"),
    ("sample {model} --label 7", "not in 0..1"),
    ("sample {model} --guidance 2", "guidance is by label, and there is no label; give labels (--label)"),
    ("sample {model} --sampler seed=3", "seed is no option of a sampler"),
    ("infill {model} --image {tmp}/image.png --sampler n=3", "n is no option of a sampler"),
    ("sample {model} --out {tmp}", "exists; give the name of a new folder"),
    ("sample {model} --label 1 --refresh=-1", "refresh is -1; give 0 or more"),
    ("sample {model} --out a.jpg", "ends in .jpg"),
    ("sample {model} --animate a.png", ".gif"),
    ("sample {model} --out {tmp}/nowhere/a.png", "there is no folder"),
    ("sample {model} --animate {tmp}/nowhere/a.gif", "there is no folder"),
    ("sample {model} --label --2", "no class '--2'"),
    ("sample {model} --sampler spin=2", "spin"),
    ("sample {model} --order spiral", "spiral is not known"),
    ("sample {text} --label 1", "--label is not for models of text"),
    ("infill {model}", "--image is missing"),
    ("infill {model} --text ___", "--text is not for models of images"),
    ("infill {model} --image {tmp}/none.png", "none.png cannot be used (No such file or directory); check the path"),
    ("infill {model} --image {tmp}/text.png", "not an image"),
    ("infill {model} --image {tmp}/image.png --mask {tmp}/small.png", "the mask has 2 x 2 pixels"),
    ("infill {model} --image {tmp}/image.png --at 1,1", "do not fit"),
    ("infill {model} --image {tmp}/image.png --at x", "--at x"),
    ("infill {text}", "--text is missing"),
    ("score {model} --text a", "makes images, and texts are scored"),
    ("bench images {model}", "--classifier"),
    ("bench images {model} {model} --classifier {tmp} --real {tmp}/none.npz", "one name in the table"),
])
def test_mistakes_are_one_sentence(arguments, word, painter, model, call, tmp_path):
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no image")
    before = sorted(tmp_path.iterdir())
    ended = call(*arguments.format(model=painter, text=model, tmp=tmp_path).split())
    assert ended.code == 2 and word in ended.err and ended.err.count("\n") == 1 and sorted(tmp_path.iterdir()) == before


def test_the_demo_of_images(tmp_path):
    """One update of either model on the digits; bounds, grids, distances and speeds of both are there."""
    pytest.importorskip("sklearn")
    said: list[str] = []
    found = demo_images(tmp_path / "demo", Scale(1.0, (2,), 1, steps=1), say=said.append, watch=lambda: contextlib.nullcontext(lambda record: None))
    written = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert written["steps"] == found["steps"] == 1
    for name in ("pgm", "maskgit"):
        assert maskless.load(tmp_path / "demo" / name, device="cpu").generate(1, labels=3, steps=2).pixels.shape == (1, 8, 8, 1)
    assert len(list((tmp_path / "demo").glob("*.png"))) >= 2 and any("images/s" in line for line in said)
