"""VQ golden files: the one of the reference, others of other sizes and halves made here, and what is wrong with them."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from maskless.checkpoints.reference.vq import read_vq
from maskless.data.codec import load_codec
from maskless.data.vq import VQCodec, sizes_of
from maskless.data.vqgan import VQ, VQConfig
from maskless.evaluation.golden import verify

GOLDEN = Path(__file__).parents[1] / "golden" / "image_vq_a.safetensors"


def metadata(path):
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def test_the_released_sizes():
    counts = {(1, 2, 2, 4): (70_109_835, 28_559_232, 41_415_171, 300), (1, 1, 2, 2, 4): (71_883_403, 29_298_176, 42_449_795, 344)}
    for mult, (whole, encoder, decoder, entries) in counts.items():
        with torch.device("meta"):
            model = VQ(VQConfig(ch_mult=mult))
        found = [sum(weight.numel() for weight in part.parameters()) for part in (model, model.encoder, model.decoder)]
        assert found == [whole, encoder, decoder]
        assert len(model.state_dict()) + 1 == entries  # the released files have codebook_used as well
        assert sizes_of(model.state_dict()) == model.config and model.config.factor == 2 ** (len(mult) - 1)


def test_this_build_agrees():
    report = verify(GOLDEN)
    assert report.passed and not report.unchecked
    assert {each.name for each in report.found} == {name for name in load_file(GOLDEN) if name.startswith("out/")}


@pytest.mark.parametrize("name", ["out/codes", "out/decoded", "out/pre_quant", "out/quant", "out/recon"])
@pytest.mark.parametrize("noted", [True, False])
def test_every_expected_tensor_matters(name, noted, tmp_path):
    tensors = load_file(GOLDEN)
    tensors[name].view(-1)[-1] += 1 if name == "out/codes" else 1e-4
    save_file(tensors, tmp_path / GOLDEN.name, metadata(GOLDEN) if noted else None)
    assert [each.name for each in verify(tmp_path / GOLDEN.name).found if not each.passed] == [name]


def made(config: VQConfig) -> tuple[dict[str, torch.Tensor], VQ]:
    """A golden file of a random network, computed by loops that share nothing with the quantiser but its weights."""
    torch.manual_seed(3)
    model = VQ(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.1).add_(0.05)
        image, codes = torch.rand(2, config.channels, 16, 8) * 2 - 1, torch.randint(config.codebook_size, (1, 3, 2))
        z = model.quant_conv(model.encoder(image))
        length = (lambda v: v / v.norm(dim=-1, keepdim=True)) if config.normalised else (lambda v: v)
        book = length(model.quantize.embedding.weight)
        found = torch.stack([(length(v)[None] - book).norm(dim=1).argmin() for v in z.movedim(1, -1).flatten(0, 2)])
        found = found.view(2, *z.shape[2:])
        quant = book[found].movedim(-1, 1)
        out = {"pre_quant": z, "codes": found, "quant": quant, "recon": model.decoder(model.post_quant_conv(quant)),
               "decoded": model.decoder(model.post_quant_conv(book[codes].movedim(-1, 1)))}
    weights = {f"param/{name}": value for name, value in model.state_dict().items()}
    weights["param/quantize.codebook_used"] = torch.zeros(7)
    return {**weights, "in/image": image, "in/codes": codes, **{f"out/{name}": value for name, value in out.items()}}, model


WIDE = VQConfig(ch=32, ch_mult=(1, 3, 2), res_blocks=1, z_channels=24, codebook_size=10, codebook_dim=5)
KINDS = {
    "image_vq_a_wide": WIDE,
    "image_vq_a_grey": VQConfig(ch=32, ch_mult=(2,), res_blocks=3, z_channels=8, codebook_size=6, codebook_dim=4, channels=1),
    "image_vq_a_lengths": VQConfig(ch=32, ch_mult=(1, 1), res_blocks=1, z_channels=8, codebook_size=6, normalised=False),
}


@pytest.mark.parametrize("name", KINDS)
def test_other_sizes(name, tmp_path):
    tensors, _model = made(KINDS[name])
    note = {"config": json.dumps({"l2_norm": KINDS[name].normalised})}
    save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / f"{name}.safetensors", note)
    report = verify(tmp_path / f"{name}.safetensors")
    assert report.passed and not report.unchecked and len(report.found) == 5


@pytest.mark.parametrize(("kind", "lacks", "outputs"), [
    ("image_vq_b_encode", ("param/decoder", "param/post_quant", "in/codes", "out/recon", "out/decoded"), 3),
    ("image_vq_b_decode", ("param/encoder", "param/quant_conv", "in/image", "out/pre", "out/codes", "out/quant", "out/recon"), 1),
])
def test_half_a_network_is_enough_for_its_half(kind, lacks, outputs, tmp_path):
    tensors, _ = made(WIDE)
    half = {name: value.contiguous() for name, value in tensors.items() if not name.startswith(lacks)}
    path = tmp_path / f"{kind}.safetensors"
    save_file(half, path)
    report = verify(path)
    assert report.passed and not report.unchecked and len(report.found) == outputs
    other = "in/codes" if "encode" in kind else "in/image"
    save_file({**half, other: tensors[other]}, path)
    with pytest.raises(ValueError, match=rf"has {other} but no weights"):
        verify(path)


def test_what_is_said_of_files_that_cannot_be_checked(tmp_path):
    tensors, _ = made(WIDE)
    path = tmp_path / "image_vq_a.safetensors"
    changes = {
        "not a VQ tokenizer": {name: value for name, value in tensors.items() if not name.startswith("param/")},
        "lacks encoder.mid.1.q.bias": {name: value for name, value in tensors.items() if name != "param/encoder.mid.1.q.bias"},
        "encoder.mid.1.q.bias has shape": {**tensors, "param/encoder.mid.1.q.bias": torch.zeros(3)},
        "has encoder.surprise": {**tensors, "param/encoder.surprise": torch.zeros(3)},
        "outside the 10 codes": {**tensors, "in/codes": torch.full((1, 2, 2), 10)},
    }
    for message, content in changes.items():
        save_file({name: value.contiguous() for name, value in content.items()}, path)
        with pytest.raises(ValueError, match=message) as caught:
            verify(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_released_file_becomes_a_codec(tmp_path):
    tensors, _model = made(WIDE)
    state = {name.removeprefix("param/"): value for name, value in tensors.items() if name.startswith("param/")}
    image = tensors["in/image"]
    for number, content in enumerate((
        {"model": state}, {f"module._orig_mod.{name}": value for name, value in state.items()}, {"model": state, "steps": 3},
    )):
        torch.save(content, tmp_path / f"{number}.pt")
        codec = read_vq(tmp_path / f"{number}.pt")
        assert codec.model.config == WIDE and torch.equal(codec.encode(image), tensors["out/codes"])
    codec.save(tmp_path)
    again = load_codec(tmp_path)
    assert isinstance(again, VQCodec) and again.hash == codec.hash and torch.equal(again.encode(image), codec.encode(image))
    assert torch.equal(again.decode(tensors["out/codes"]), tensors["out/recon"].clamp(-1, 1))


class Harmful:
    def __reduce__(self):
        return print, ("code of a stranger",)


def test_files_that_are_none(tmp_path, capsys):
    path = tmp_path / "vq.pt"
    for content, message in ((Harmful(), "full trust"), ({"model": Harmful()}, "full trust"), ({"model": {"a": 1}}, "no weights"),
                             ([1], "no weights"), ({"model": {"a": torch.zeros(1)}}, "cannot be used")):
        torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            read_vq(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged"):
        read_vq(path)
    assert "stranger" not in capsys.readouterr().out
