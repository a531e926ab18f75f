"""The released U-Nets of MDM-Prime: a file as the training code writes it, from names and shapes alone (no weights could be fetched)."""
from __future__ import annotations

import argparse

import pytest
import torch

import maskless
from maskless.checkpoints.convert import convert
from maskless.checkpoints.native import load_model
from maskless.checkpoints.reference.foreign import open_foreign
from maskless.models import UNetConfig, build

SIZES = {"width": 12, "multipliers": (3, 4, 4), "blocks": 2, "head_width": 12}
PARTS = {"norm_in": "in_layers.0", "conv_in": "in_layers.2", "norm_out": "out_layers.0", "conv_out": "out_layers.3", "skip": "skip_connection"}


def released(model: torch.nn.Module, masked: bool) -> dict[str, torch.Tensor]:
    """The weights of a model here under the names, in the order and in the shapes of the released code."""
    config, found = model.config, {"pixel_embedding.embedding_table.weight": model.embedding.weight}

    def block(at: str, residual: torch.nn.Module) -> None:
        order = ("norm_in", "conv_in", "modulation", "norm_out", "conv_out", "skip")
        for part in order:
            for leaf, value in getattr(residual, part).named_parameters():
                name = "emb_layers.1.embedding_table" if part == "modulation" else f"{PARTS[part]}.{leaf}"
                found[f"unet.{at}.{name}"] = value

    def attention(at: str, module: torch.nn.Module) -> None:
        for part, name in (("norm", "norm"), ("qkv", "qkv"), ("out", "proj_out")):
            for leaf, value in getattr(module, part).named_parameters():
                found[f"unet.{at}.{name}.{leaf}"] = value[..., None] if name != "norm" and leaf == "weight" else value

    number = 1
    for stages in model.body.down:
        for stage in stages:
            block(f"input_blocks.{number}.0", stage.residual)
            if stage.attention is not None:
                attention(f"input_blocks.{number}.1", stage.attention)
            number += 1
        number += 1                                                 # what halves the plane
    block("middle_block.0", model.body.middle.residual)
    attention("middle_block.1", model.body.middle.attention)
    block("middle_block.2", model.body.after)
    for number, stage in enumerate(stage for stages in model.body.up for stage in stages):
        block(f"output_blocks.{number}.0", stage.residual)
        if stage.attention is not None:
            attention(f"output_blocks.{number}.1", stage.attention)
    for leaf, value in model.norm.named_parameters():
        found[f"unet.out.0.{leaf}"] = value
    for leaf, value in model.out.named_parameters():
        planes = value.unflatten(0, (config.planes, -1))
        more = torch.full_like(planes[:, :1], 50.0)                 # the output for [MASK], far above the others
        found[f"unet.out.2.{leaf}"] = (torch.cat([planes, more], 1) if masked else planes).flatten(0, 1)
    return {key: value.detach() for key, value in found.items()}


def made(config: UNetConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    model = build(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
    return model


def write(path, model: torch.nn.Module, masked: bool) -> None:
    weights = released(model, masked)
    shadows = {f"shadow_params.{n}": value for n, value in enumerate(weights.values())}
    wrong = {f"model.{key}": torch.zeros_like(value) for key, value in weights.items()}
    torch.save({"model": {**wrong, "num_updates": torch.tensor(7), **shadows}, "optimizer": {}, "lr_schedule": {}, "epoch": 3, "scaler": {},
                "args": argparse.Namespace(dataset="cifar10", dropout=0.4)}, path)


CONFIGS = {
    "two digits": UNetConfig(256, digits=2, length=3 * 64, grid=(24, 8), **SIZES),
    "three digits": UNetConfig(256, digits=3, length=3 * 64, grid=(24, 8), **SIZES),
    "masked": UNetConfig(256, digits=1, length=3 * 64, grid=(24, 8), **SIZES),
    "super-tokens": UNetConfig(4096, digits=1, length=2 * 64, planes=2, grid=(16, 8), **SIZES),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_file_of_the_training_code_becomes_the_model(name, tmp_path):
    config = CONFIGS[name]
    model = made(config)
    write(tmp_path / "checkpoint-2.pth", model, masked=config.digits == 1)
    file = open_foreign(tmp_path / "checkpoint-2.pth", overrides={"size": 8, "head_width": 12})
    assert file.importer.kind == "Prime image model" and file.averaged
    ours = file.model()
    assert ours.config == UNetConfig(**{**vars(config), "base": ours.base})
    tokens, known = torch.randint(config.vocab_size, (2, config.length)), torch.rand(2, config.length) < 0.5
    with torch.no_grad():
        assert torch.equal(ours(tokens, known), model(tokens, known))
    assert not file.model(average=False).out.weight.detach().any()


def test_it_needs_no_codec_and_makes_images(tmp_path):
    write(tmp_path / "checkpoint-2.pth", made(CONFIGS["two digits"]), masked=False)
    convert(tmp_path / "checkpoint-2.pth", tmp_path / "model", overrides={"size": 8, "head_width": 12})
    again, codes = load_model(tmp_path / "model")
    assert codes.codec == maskless.PixelCodec(256, 3, 3) and again.config.grid == (24, 8)
    assert maskless.load(tmp_path / "model", device="cpu").generate(2, steps=2).pixels.shape == (2, 8, 8, 3)


def test_what_does_not_fit_is_said(tmp_path):
    model = made(CONFIGS["two digits"])
    weights = released(model, False)
    table = weights.pop("pixel_embedding.embedding_table.weight")
    for name, changed, says in (("odd", {"pixel_embedding.embedding_table.weight": table[:-1]}, "fit no number of planes and digits"),
                                ("more", {"pixel_embedding.embedding_table.weight": table, "unet.time_embed.0.weight": table}, "unknown parameter")):
        torch.save({"model": {**weights, **changed}}, tmp_path / f"{name}.pth")
        with pytest.raises(ValueError, match=says):
            open_foreign(tmp_path / f"{name}.pth", overrides={"size": 8}).model()
