"""What a file is, said without reading it."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from maskless.checkpoints import contents, torchfile
from maskless.checkpoints.convert import convert
from maskless.checkpoints.inspect import inspect
from tests.checkpoints import synthetic

GOLDEN = Path(__file__).parents[1] / "golden"


def test_no_storage_is_read(monkeypatch, tmp_path):
    """A file whose storages are holes, and a reader whose storages cannot be opened."""
    path = tmp_path / "pgm_8_8.ckpt"
    synthetic.make(path, 64, 2, 50)
    monkeypatch.setattr(torchfile.TorchFile, "tensor", lambda *_: pytest.fail("a tensor was read"))
    report = inspect(path)
    assert report.kind == "text PGM" and not report.problems
    assert report.architecture["type"] == "partition" and report.architecture["encoder_layers"] == 2 and report.architecture["length"] == 1024
    assert report.parameters == sum(torch.Size(shape).numel() for shape in synthetic.shapes(64, 2, 50).values())
    table = {group.name: group for group in report.groups}
    assert table["encoder.blocks.{i}"].layers == 2 and table["encoder.blocks.{i}"].tensors == 20 and table["vocab_embed"].parameters == 50 * 64
    assert sum(group.parameters for group in report.groups) == report.parameters
    assert report.training == {"step": 1_000_000, "epoch": 0, "lightning": "2.5.1", "ema_decay": 0.9999, "ema_num_updates": 1_000_000,
                               "optimizer": True, "rest": ["callbacks", "loops", "lr_schedulers"]}
    assert "71 tensors" not in report.ema and report.ema.endswith("without names")


def test_words_and_json(call):
    ended = call("inspect", GOLDEN / "text_pgm_tiny_omegaconf.ckpt", "--json")
    tree = json.loads(ended.out)
    assert ended.code == 0 and tree["tokenizer"] == "in the file (gpt2)" and tree["training"]["step"] == 3 and tree["problems"] == []
    shown = call("inspect", GOLDEN / "text_pgm_tiny_omegaconf.ckpt").out
    for word in ("text PGM", "12,344", "encoder.blocks.{i}", "moving average: a list of 41 tensors", "inferred: length 16: from the file's settings"):
        assert word in shown


def test_folders_and_safetensors(tmp_path, call, monkeypatch):
    convert(GOLDEN / "text_pgm_tiny_omegaconf.ckpt", tmp_path / "m")
    monkeypatch.setattr(contents, "partial", lambda *_: lambda: pytest.fail("a tensor was read"))
    report = inspect(tmp_path / "m")
    assert report.kind == "partition" and report.tokenizer == "tokenizer.json" and not report.problems and report.parameters == 12_340
    assert any("length 16" in note for note in report.inferred)
    shutil.copytree(tmp_path / "m", tmp_path / "wrong")
    config = json.loads((tmp_path / "wrong" / "config.json").read_text())
    config["model"]["encoder_layers"] = 2
    (tmp_path / "wrong" / "config.json").write_text(json.dumps(config))
    ended = call("inspect", tmp_path / "wrong")
    assert ended.code == 2 and "problem: " in ended.out and "encoder.1" in ended.out
    assert "does not exist" in call("inspect", tmp_path / "nowhere").err


@pytest.mark.parametrize("name", ["text_mdlm_orig", "text_ar", "image_maskgit_forward", "image_vq_a"])
def test_every_kind(name, tmp_path):
    from safetensors.torch import load_file

    weights = {key.removeprefix("param/"): value for key, value in load_file(GOLDEN / f"{name}.safetensors").items() if key.startswith("param/")}
    torch.save(weights, tmp_path / "x.pt")
    report = inspect(tmp_path / "x.pt", overrides={"heads": 4} if "maskgit" in name else None)
    assert report.kind == {"text_mdlm_orig": "MDLM", "text_ar": "autoregressive baseline", "image_maskgit_forward": "MaskGIT",
                           "image_vq_a": "VQ image tokenizer"}[name]
    assert not report.problems and report.architecture
