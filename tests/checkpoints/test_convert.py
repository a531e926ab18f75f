"""Released files into folders: the same numbers, complete or absent, everything said that was inferred."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import maskless
from maskless.checkpoints.convert import convert
from maskless.checkpoints.native import load_checkpoint, load_model, write_model
from maskless.checkpoints.reference.foreign import open_foreign
from maskless.checkpoints.reference.importer import import_state
from maskless.checkpoints.reference.names import stripped
from maskless.checkpoints.source import find
from maskless.data.codec import load_codec
from maskless.models import MaskedConfig, PartitionConfig

GOLDEN = Path(__file__).parents[1] / "golden"
PGM, OMEGACONF, SDTT = (GOLDEN / f"{name}.ckpt" for name in ("text_pgm_tiny", "text_pgm_tiny_omegaconf", "text_sdtt_pgm_tiny"))


@pytest.fixture(scope="session")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "text_pgm_tiny_io.safetensors")


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert (ours - theirs).abs().max() < 1e-4 * max(1.0, float(theirs.abs().max()))


def parameters(name: str) -> dict[str, torch.Tensor]:
    found = load_file(GOLDEN / f"{name}.safetensors")
    return {key.removeprefix("param/"): value for key, value in found.items() if key.startswith("param/")}


def state(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


# ---------------------------------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("path", [PGM, OMEGACONF], ids=["plain", "omegaconf"])
@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_logits_of_converted_files(path, weights, golden, tmp_path):
    """Through the whole way: file, folder, model."""
    convert(path, tmp_path / "model", average=weights == "ema")
    model, _ = load_model(tmp_path / "model")
    with torch.no_grad():
        close(model(golden["x"], golden["group_idxs"] == 0), golden[f"logits_{weights}"])
    other = "raw" if weights == "ema" else "ema"
    assert (golden[f"logits_{weights}"] - golden[f"logits_{other}"]).abs().max() > 1e-3       # or the choice would not be tested


@pytest.mark.parametrize("average", [True, False])
def test_logits_of_distilled_files(average):
    """No logits are recorded for this one: against torch's own reader and the importer of bare state dicts."""
    content = torch.load(SDTT, weights_only=True)
    weights = content["state_dict"]
    if average:
        names = [key for key in weights if not key.endswith("inv_freq")]
        weights = {**weights, **dict(zip(names, content["ema"]["shadow_params"]))}
    tokens, known = torch.randint(27, (2, 16)), torch.rand(2, 16) < 0.5
    with torch.no_grad():
        assert torch.equal(open_foreign(SDTT).model(average=average)(tokens, known), import_state(weights)(tokens, known))


@pytest.mark.parametrize("name", ["text_mdlm_orig", "text_ar", "text_pgm_backbone_mlp4"])
def test_safetensors_with_settings_beside(name, tmp_path):
    """As MDLM and SDTT are published on the Hub: prefixed names in model.safetensors, the configuration in config.json."""
    weights = parameters(name)
    save_file({f"backbone.{key}": value for key, value in weights.items()}, tmp_path / "model.safetensors")
    settings = {"model_type": "mdlm", "model_length": 16, "hidden_dim": 32, "n_heads": 4, "dropout": 0.0, "vocab_size": 28}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    file = open_foreign(find(tmp_path).path)
    wanted = import_state(weights, {"length": 16, "dropout": 0.0})
    ours = file.model()
    assert ours.config == wanted.config and ours.config.length == 16
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in wanted.state_dict().items())


def test_names_of_the_image_code(tmp_path):
    """`model_state_dict`, `model` and bare mappings, with the prefixes of wrappers."""
    weights = state(PGM)
    plain = {stripped(key): value for key, value in weights.items()}
    files = {
        "a.pth": {"model_state_dict": {f"module._orig_mod.{key}": value for key, value in plain.items()}, "iter": 7, "optimizer_state_dict": None},
        "b.pt": {"model": plain}, "c.pth": plain,
    }
    for name, content in files.items():
        torch.save(content, tmp_path / name)
        made = open_foreign(tmp_path / name, overrides={"length": 16}).model()
        assert torch.equal(made.embedding.weight, plain["vocab_embed.embedding"]), name
    assert open_foreign(tmp_path / "a.pth").contents.training == {"step": 7, "optimizer": False}


def test_round_trips_are_exact(tmp_path):
    """Released file, folder, safetensors, folder: every bit, also of numbers that are not numbers."""
    convert(PGM, tmp_path / "one")
    weights = load_checkpoint(tmp_path / "one").weights
    weights["head.bias"][:4] = torch.tensor([torch.nan, torch.inf, -0.0, 1e-45])
    (tmp_path / "two").mkdir()
    write_model(tmp_path / "two", load_checkpoint(tmp_path / "one").config, weights)
    again = load_file(tmp_path / "two" / "model.safetensors")
    assert list(weights) and set(again) == set(weights)
    for name, value in weights.items():
        assert torch.equal(again[name].view(torch.int32), value.view(torch.int32)), name
    model, _ = load_model(tmp_path / "two")
    maskless.TextModel(model, open_tokenizer(OMEGACONF)).save_pretrained(tmp_path / "three")
    assert (tmp_path / "three" / "model.safetensors").read_bytes() == (tmp_path / "two" / "model.safetensors").read_bytes()


def open_tokenizer(path: Path):
    from maskless.data.subwords import SubwordTokenizer

    return SubwordTokenizer(open_foreign(path).contents.tokenizer)


# --------------------------------------------------------------------------------------------------- what is inferred


def test_everything_inferred_is_said(call, tmp_path):
    ended = call("convert", SDTT, tmp_path / "m", "--set", "length=64", "--set", "query=learned", "--weights", "raw")
    assert ended.code == 0, ended.err
    for said in ("length 64: as you set it", "query learned: as you set it", "mask_id 27: assumed", "weights as trained", "tokenizer: none known"):
        assert said in ended.out
    config = load_checkpoint(tmp_path / "m").config
    assert isinstance(config, PartitionConfig) and config.length == 64 and config.query == "learned"
    noted = load_checkpoint(tmp_path / "m").extra["converted"]
    assert noted["weights"] == "raw" and "length 64: as you set it" in noted["inferred"]


def test_settings_come_before_published_defaults_and_those_before_guesses(tmp_path):
    for name, said in (("pgm_8_8.ckpt", "published default"), ("mine.ckpt", "assumed")):
        shutil.copy(SDTT, tmp_path / name)
        file = open_foreign(tmp_path / name)
        file.outline()
        assert any(note.startswith("length 1024") and said in note for note in file.facts.notes), file.facts.notes
    shutil.copy(PGM, tmp_path / "pgm_8_8.ckpt")
    file = open_foreign(tmp_path / "pgm_8_8.ckpt")
    assert file.outline().config.length == 16 and "length 16: from the file's settings" in file.facts.notes


def test_masks_inside_a_vocabulary(tmp_path):
    content = torch.load(PGM, weights_only=True)
    content["hyper_parameters"]["config"]["data"]["tokenizer_name_or_path"] = "text8"
    torch.save(content, tmp_path / "x.ckpt")
    assert open_foreign(tmp_path / "x.ckpt").outline().config.forbidden == (4,)
    torch.save(parameters("text_mdlm_orig"), tmp_path / "y.pt")
    config = open_foreign(tmp_path / "y.pt", overrides={"mask_id": 3}).outline().config
    assert isinstance(config, MaskedConfig) and config.mask_id == 3 and config.forbidden == (3,)


def test_the_tokenizer_of_the_file(tmp_path, capsys):
    model = maskless.load(OMEGACONF)
    assert "tokenizer: from the file" in capsys.readouterr().err
    assert model.tokenizer.vocabulary.size == 20 and model.tokenizer.decode([0, 1, 2]) == "abc"
    convert(OMEGACONF, tmp_path / "m")
    again = maskless.load(tmp_path / "m")
    first = model.generate(length=12, steps=4, seed=1)[0]
    assert again.generate(length=12, steps=4, seed=1)[0] == first and len(first.tokens) == 12
    raw = maskless.load(OMEGACONF, weights="raw")
    assert not torch.equal(raw.model.head.weight, model.model.head.weight)


def test_a_tokenizer_beside_the_file(tmp_path, capsys):
    shutil.copy(SDTT, tmp_path / "x.ckpt")
    maskless.data.tokenizer.symbol_tokenizer("abcdefghijklmnopqrstuvwx").save(tmp_path)
    model = maskless.load(tmp_path / "x.ckpt", overrides={"length": 16})
    assert model.tokenizer.vocabulary.size in (27, 28) and "beside the file" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("name", ["image_maskgit_forward", "image_pgm_train"])
def test_image_models(name, tmp_path):
    """As the image code saves them, through a folder, to the recorded logits."""
    case = load_file(GOLDEN / f"{name}.safetensors")
    torch.save({"model_state_dict": {f"module.{key}": value for key, value in parameters(name).items()}, "iter": 2}, tmp_path / "x.pth")
    overrides = {"heads": 4, "dropout": 0.0} if "maskgit" in name else {"length": 65, "dropout": 0.0}
    convert(tmp_path / "x.pth", tmp_path / "m", overrides=overrides)
    model, _ = load_model(tmp_path / "m")
    labels = torch.where(case["in/drop_label"], model.null_label, case["in/y"])
    tokens = case["in/code"].flatten(1) if "in/code" in case else case["in/tokens"]
    known = tokens < 64 if "in/code" in case else case["in/group_idxs"] == 0
    with torch.no_grad():
        close(model(tokens, known, cond=labels), case["out/logits"])


def test_tokenizers_of_images(tmp_path, call):
    torch.save({"model": parameters("image_vq_a")}, tmp_path / "vq.pt")
    assert call("convert", tmp_path / "vq.pt", tmp_path / "codec").code == 0
    case = load_file(GOLDEN / "image_vq_a.safetensors")
    codec = load_codec(tmp_path / "codec")
    assert torch.equal(codec.encode(case["in/image"].float()), case["out/codes"])
    assert "VQ image tokenizer" in call("inspect", tmp_path / "codec").out
    torch.save(parameters("image_maskgit_forward"), tmp_path / "x.pth")
    ended = call("convert", tmp_path / "x.pth", tmp_path / "m", "--set", "heads=4", "--codec", tmp_path / "codec")
    assert ended.code == 0, ended.err
    _, images = load_model(tmp_path / "m")
    assert images.grid == (8, 8) and images.codec.hash == codec.hash


def test_a_released_image_model_makes_images_with_its_released_tokenizer(tmp_path, capsys):
    torch.save({"model": parameters("image_vq_a")}, tmp_path / "vq.pt")
    torch.save(parameters("image_maskgit_forward"), tmp_path / "maskgit.pth")
    torch.save({"model_state_dict": parameters("image_pgm_train")}, tmp_path / "pgm.ckpt")
    for name, overrides in (("maskgit.pth", {"heads": 4}), ("pgm.ckpt", {"length": 65})):
        model = maskless.load(tmp_path / name, codec=tmp_path / "vq.pt", overrides=overrides, device="cpu")
        images = model.generate(2, labels=[3, None], steps=4, guidance=1.0)
        assert images.pixels.shape == (2, 16, 16, 3) and int(images.codes.max()) < 64
        assert name in capsys.readouterr().err                     # what was inferred is said
        with pytest.raises(ValueError, match="give the VQ tokenizer"):
            maskless.load(tmp_path / name, overrides=overrides)
    with pytest.raises(ValueError, match="as the codec of one"):
        maskless.load(tmp_path / "vq.pt")
