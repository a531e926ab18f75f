"""Golden files of bare image networks: those at hand, each expected tensor wrong by ten tolerances, and files of other sizes written here."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.test_golden import GOLDEN, metadata, perturbed

from maskless.checkpoints.reference.foreign import open_foreign
from maskless.checkpoints.reference.images import image_name, import_images
from maskless.checkpoints.reference.names import MASKGIT, MASKGIT_WHOLE, PARTITION, WHOLE
from maskless.evaluation.golden import verify
from maskless.models import Denoiser, MaskGITConfig, PartitionConfig, build

KINDS = ("image_maskgit_*", "image_pgm_train*", "image_pgm_sample*", "image_pgm_variant_*")
FILES = sorted(path for kind in KINDS for path in GOLDEN.glob(f"{kind}.safetensors"))
OUTPUTS = ("out/", "mid/", "logits", "enc_out", "concrete_lengths")


def expected(tensors: dict[str, torch.Tensor]) -> list[str]:
    return [name for name in tensors if name.startswith(OUTPUTS[:2]) or name.endswith(OUTPUTS[2:])]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_this_build_agrees(path):
    report = verify(path)
    assert report.passed and not report.unchecked, [each for each in report.found if not each.passed]
    assert {each.name for each in report.found} == set(expected(load_file(path)))
    assert max(each.relative for each in report.found) < 2e-6


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_expected_tensor_matters(path, tmp_path):
    tensors, meta = load_file(path), metadata(path)
    for name in expected(tensors):
        save_file({**tensors, name: perturbed(tensors[name])}, tmp_path / path.name, meta)
        failed = [each.name for each in verify(tmp_path / path.name).found if not each.passed]
        assert failed == [name] or (name in failed and "lengths" in name), name


@pytest.mark.parametrize("path", [path for path in FILES if "pgm" in path.name], ids=lambda path: path.stem)
def test_of_a_pgm_the_weights_say_everything(path, tmp_path):
    save_file(load_file(path), tmp_path / path.name)
    assert verify(tmp_path / path.name).passed


# ------------------------------------------------------------------------------------------------------- other sizes


def randomised(model: Denoiser) -> Denoiser:
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.25)
    return model.eval()


def exported(model: Denoiser) -> dict[str, torch.Tensor]:
    """Under the names of the released code."""
    layers = range(max(getattr(model.config, name, 0) for name in ("layers", "encoder_layers", "decoder_layers")))
    table, whole = (PARTITION, WHOLE) if isinstance(model.config, PartitionConfig) else (MASKGIT, {})
    stems = {key.replace("{i}", str(i)) for key in table for i in layers}
    state, found = model.state_dict(), {}
    for key in [*whole, *(f"{stem}.{leaf}" for stem in sorted(stems) for leaf in ("weight", "bias"))]:
        name = whole.get(key) or image_name(key)
        if key not in MASKGIT_WHOLE and name in state:
            found[key] = state[name].clone()
    assert len(found) == len(state)
    if isinstance(model.config, PartitionConfig):
        pairs = model.config.width // model.config.heads // 2
        return {**found, "rotary_emb.inv_freq": 10000.0 ** (-torch.arange(pairs) / pairs)}
    return {**found, "head.weight": found["tok_emb.weight"].clone()}


def partition(**more) -> Denoiser:
    sizes = {"vocab_size": 9, "length": 10, "width": 24, "heads": 3, "encoder_layers": 3, "decoder_layers": 2, "registers": 4, "classes": 5}
    return randomised(build(PartitionConfig(**{**sizes, "grid": (3, 3), "forbidden": (7, 8), **more})))


def maskgit(**more) -> Denoiser:
    sizes = {"vocab_size": 8, "length": 16, "width": 20, "heads": 3, "layers": 3, "classes": 4, "mask_id": 7, "forbidden": (7,), "grid": (4, 4)}
    return randomised(build(MaskGITConfig(**{**sizes, **more})))


def checked(folder: Path, name: str, model: Denoiser, tensors: dict[str, torch.Tensor], config: dict) -> None:
    path = folder / f"{name}.safetensors"
    tensors = {**{f"param/{key}": value for key, value in exported(model).items()}, **tensors}
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, {"config": json.dumps(config)})
    report = verify(path)
    assert report.passed and not report.unchecked and report.found, [each for each in report.found if not each.passed]


@pytest.mark.parametrize("more", [{}, {"registers": 0}, {"registers": 5, "layers": 1}, {"heads": 7, "width": 32}])
def test_maskgit(more, tmp_path):
    model, code = maskgit(**more), torch.randint(8, (2, 4, 4))
    y, drop = torch.tensor([1, 3]), torch.tensor([False, True])
    logits = model(code.flatten(1), code.flatten(1) != 7, cond=torch.tensor([1, 4]))
    checked(tmp_path, "image_maskgit_other", model, {"in/code": code, "in/y": y, "in/drop_label": drop, "out/logits": logits.detach()},
            {"heads": model.config.heads})


VARIANTS = {
    "": {}, "_reg0": {"registers": 0}, "_logsumexp": {"query": "logsumexp"}, "_mlp4": {"query_mlp": True, "encoder_layers": 1},
    "_mean": {"query": "mean", "registers": 2}, "_learn": {"query": "learned", "width": 36},
}
QUERIES = {"learned": "learn", "position": "learn+freqs", "mean": "learn+freqs+mean", "logsumexp": "learn+freqs+logsumexp"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_partition_in_training_and_sampling(variant, tmp_path):
    """Sampling as it must be: the training pass of the same split; as released: with the newest tokens absent."""
    model = partition(**VARIANTS[variant])
    ahead, tokens = model.config.registers // 2, torch.cat([torch.full((2, 1), 8), torch.randint(7, (2, 9))], 1)
    known = torch.arange(10) < torch.tensor([[7], [4]])
    labels = {"in/y": torch.tensor([2, 1]), "in/drop_label": torch.tensor([False, True])}
    logits = model(tokens, known, cond=torch.tensor([2, 5])).detach()
    settings = {"swap": {"pre_query_mode": QUERIES[model.config.query]}, "length": 10}
    where, query = torch.arange(7).expand(2, -1), torch.tensor([[9, 7], [8, 7]])
    lengths = torch.tensor([7, 4]) + ahead
    at_query = logits.gather(1, query[..., None].expand(-1, -1, 9))
    checked(tmp_path, f"image_pgm_variant{variant or '_plain'}", model, {
        **labels, "train/tokens": tokens, "train/group_idxs": (~known).long(), "train/logits": logits, "sample/tokens": tokens[:, :7],
        "sample/clean_positions": where, "sample/noisy_positions": query, "sample/concrete_lengths": lengths, "sample/logits": at_query,
    }, {"model": settings})
    present = ~known | (torch.arange(10) < torch.tensor([[7], [4]]) - ahead)
    cut = model(tokens, known, cond=torch.tensor([2, 5]), present=present).detach().gather(1, query[..., None].expand(-1, -1, 9))
    checked(tmp_path, "image_pgm_sample_other", model, {
        **labels, "z/in/tokens": tokens[:, :7], "z/in/clean_positions": where, "z/in/noisy_positions": query, "z/fixed/logits": at_query,
        "z/fixed/concrete_lengths": lengths, "z/ref/logits": cut, "z/ref/concrete_lengths": lengths - ahead,
    }, {"model": settings})


# ------------------------------------------------------------------------------------------------------- the importer


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("place", ["model_state_dict", "model", None])
def test_a_checkpoint_is_read_in_any_wrapper(wrapper, place, tmp_path):
    model, said = partition(self_layers=(1,), query="mean"), {"length": 10, "query": "mean", "dropout": 0.0}
    state = {wrapper + key: value for key, value in exported(model).items()}
    rate = {"param_groups": [{"lr": np.float64(1e-4)}]}
    torch.save(state if place is None else {"iter": 3, place: state, "optimizer_state_dict": rate}, tmp_path / "last.pth")
    again = open_foreign(tmp_path / "last.pth", overrides=said).model()
    assert again.config.self_layers == (1,) and again.config.registers == 4 and again.config.forbidden == (7, 8)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("width", [384, 512])
def test_heads_of_a_published_width_are_known(width):
    """Tiny and small, whose attention has 384 and 510 numbers."""
    config = import_images(exported(maskgit(width=width, heads=6, layers=1))).config
    assert (config.heads, config.grid, config.registers, config.classes, config.mask_id) == (6, (4, 4), 1, 4, 7)


@pytest.mark.parametrize("change, word", [
    (lambda state: state.pop("cls_emb.weight"), "cls_emb"),
    (lambda state: state.update({"head.weight": state["head.weight"] + 1}), "tied"),
    (lambda state: state.update({"surprise.weight": torch.zeros(1)}), "surprise"),
    (lambda state: state.update({"module.pos_emb.weight": torch.zeros(1)}), "two models"),
    (lambda state: state.pop("last_norm.mlp.1.bias"), "missing"),
    (lambda state: state.pop("tok_emb.weight"), "image model"),
    (lambda state: state.update({"head.bias": torch.zeros(3)}), "head.bias"),
])
def test_weights_that_do_not_fit_are_refused(change, word):
    state = exported(maskgit())
    change(state)
    with pytest.raises(ValueError, match=word):
        import_images(state, {"heads": 3})


@pytest.mark.parametrize(("model", "settings", "says"), [
    (partition, {"model": {"length": 10, "hidden_size": 48}}, "says width 48, the weights have 24"),
    (partition, {"length": 10, "encoder": {"n_blocks": 7}}, "says encoder_layers 7, the weights have 3"),
    (maskgit, {"heads": 3, "n_blocks": 9}, "says layers 9, the weights have 3"),
])
def test_settings_that_contradict_the_shapes_are_refused(model, settings, says):
    with pytest.raises(ValueError, match=says):
        import_images(exported(model()), settings)


def test_heads_that_do_not_fit_are_refused():
    state = exported(maskgit())
    with pytest.raises(ValueError, match="heads"):
        import_images(state)
    with pytest.raises(ValueError, match="correct heads"):
        import_images(state, heads=4)
    with pytest.raises(ValueError, match="pre_query_mode"):
        import_images(exported(partition()), {"length": 10, "swap": {"pre_query_mode": "rmsnorm"}})


def test_files_that_are_none_are_refused(tmp_path):
    path = tmp_path / "last.pth"
    for content in ({"iter": 3}, [1, 2], {"model": 7}):
        torch.save(content, path)
        with pytest.raises(ValueError, match="holds no weights by name"):
            open_foreign(path)
    torch.save({"model": {"x": print}}, path)
    with pytest.raises(ValueError, match="print"):
        open_foreign(path)
    path.write_bytes(b"garbage")
    with pytest.raises(ValueError):
        open_foreign(path)
