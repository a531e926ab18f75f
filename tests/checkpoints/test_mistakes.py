"""What cannot be converted: one sentence each, exit code 2, and nothing left on disk; names on the Hub."""
from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
import torch

from maskless.alone import alone
from maskless.checkpoints import convert as conversion
from maskless.checkpoints.convert import convert
from maskless.checkpoints.source import find

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """A Lightning file without its optimiser."""
    path = tmp_path_factory.mktemp("small") / "x.ckpt"
    content = torch.load(GOLDEN / "text_pgm_tiny.ckpt", weights_only=True)
    torch.save({name: content[name] for name in ("epoch", "state_dict", "ema")}, path)
    return path


def damaged(small: Path, folder: Path) -> dict[str, tuple[Path, str]]:
    """name -> (a file that cannot be used, what the sentence says)."""
    content = torch.load(small, weights_only=True)
    whole = small.read_bytes()

    def file(name: str, value: object) -> Path:
        path = folder / name
        path.write_bytes(value) if isinstance(value, bytes) else torch.save(value, path)
        return path

    shadows = content["ema"]["shadow_params"]
    averages = lambda each: {**content, "ema": {"shadow_params": each}}
    positions = lambda each: {"state_dict": {**content["state_dict"], rotary: each}}
    short, swapped = averages(shadows[1:]), averages([torch.zeros(3), *shadows[1:]])
    misshapen = {key: torch.zeros(3) if key.endswith("encoder.blocks.0.norm1.weight") else value for key, value in content["state_dict"].items()}
    rotary = next(key for key in content["state_dict"] if key.endswith("rotary_emb.inv_freq"))
    missing = {key: value for key, value in content["state_dict"].items() if not key.endswith("output_layer.linear.bias")}
    return {
        "empty": (file("empty.ckpt", b""), "is empty"),
        "half a zip": (file("half.ckpt", whole[: len(whole) // 2]), "truncated or corrupt"),
        "all but the end": (file("most.ckpt", whole[:-10]), "truncated or corrupt"),
        "half a legacy file": (file("old.pt", legacy(content, folder)[:-5000]), "truncated or corrupt"),
        "half a safetensors": (file("half.safetensors", (GOLDEN / "text_ar.safetensors").read_bytes()[:9000]), "truncated, corrupt"),
        "garbage in safetensors": (file("x.safetensors", b"garbage"), "truncated, corrupt"),
        "Git LFS": (file("lfs.ckpt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "Git LFS pointer"),
        "a page": (file("page.ckpt", b"<!DOCTYPE html><html>404</html>"), "web server"),
        "a tar archive": (file("old.pth", bytes(257) + b"ustar" + bytes(300)), "tar archive"),
        "text": (file("text.ckpt", b"hello"), "no file of torch.save"),
        "a list": (file("list.ckpt", [1]), "no weights by name"),
        "no weights": (file("none.ckpt", {"epoch": 3}), "it has epoch"),
        "another model": (file("other.pt", {"conv1.weight": torch.zeros(3)}), "no model known here"),
        "misshapen": (file("shape.ckpt", {"state_dict": misshapen}), "has shape (3,)"),
        "missing": (file("missing.ckpt", {"state_dict": missing}), "missing ['head.bias']"),
        "a short average": (file("short.ckpt", short), "40 EMA tensors do not match 41 parameters in number"),
        "an average of whole numbers": (file("whole.ckpt", averages([each.int() for each in shadows])), "holds whole numbers"),
        "an average by name": (file("named.ckpt", averages(dict(enumerate(shadows)))), "else than a list of tensors"),
        "no positions": (file("flat.ckpt", positions(torch.empty(0))), "is no list of frequencies"),
        "other positions": (file("turned.ckpt", positions(content["state_dict"][rotary] * 1.01)), "other positions"),
        "an average of another shape": (file("swapped.ckpt", swapped), "vocab_embed.embedding has shape (3,)"),
    }


def legacy(content: object, folder: Path) -> bytes:
    torch.save(content, folder / "legacy", _use_new_zipfile_serialization=False)
    return (folder / "legacy").read_bytes()


def test_files_that_cannot_be_used(tmp_path, call, small):
    for name, (path, said) in damaged(small, tmp_path).items():
        before = sorted(tmp_path.rglob("*"))
        for verb in (["convert", path, tmp_path / "out" / "m"], *([["inspect", path]] if name in ("half a zip", "misshapen", "missing") else [])):
            ended = call(*verb)
            assert ended.code == 2 and said in ended.err + ended.out and "Traceback" not in ended.err, (name, ended)
            if verb[0] == "convert":
                assert len(ended.err.strip().splitlines()) == 1 and ended.err.startswith("maskless: ") and str(path) in ended.err, ended.err
        assert sorted(tmp_path.rglob("*")) == before, name


@pytest.mark.parametrize(("options", "said"), [
    (["--set", "lenght=64"], "lenght cannot be set for a text PGM"), (["--set", "query=guess"], "query 'guess' is unknown"),
    (["--set", "heads=3"], "contradicts"), (["--set", "mask_id=99"], "mask_id 99 is outside"), (["--set", "length"], "key=value"),
    (["--weights", "heavy"], "heavy"), (["--tokenizer", "bytes"], "259 ids"), (["--codec", "nowhere"], "leave it out"),
    (["--tokenizer", "no/such/tokenizer.json"], "no tokenizer at"), (["--set", "time_conditioned=abc"], "it must be true or false"),
    (["--set", "length=1.5"], "length is 1.5; it must be a whole number"), (["--set", "dropout=[1]"], "dropout is [1]; it must be a number"),
    (["--set", "length=true"], "length is True; it must be a number"),
])
def test_options_that_do_not_fit(options, said, call, tmp_path, small):
    ended = call("convert", small, tmp_path / "m", *options)
    assert ended.code == 2 and said in ended.err and len(ended.err.strip().splitlines()) == 1, ended.err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_exists_stays_as_it_is(call, tmp_path, small):
    (tmp_path / "kept.txt").write_text("mine")
    ended = call("convert", small, tmp_path)
    assert ended.code == 2 and "exists already" in ended.err and (tmp_path / "kept.txt").read_text() == "mine"
    partial = tmp_path / "m.tmp"
    partial.mkdir()
    (partial / "mine.txt").write_text("mine")
    assert "in the way" in call("convert", small, tmp_path / "m").err and (partial / "mine.txt").exists()
    (partial / "mine.txt").rename(partial / "model.safetensors")    # as a killed conversion leaves it
    assert call("convert", small, tmp_path / "m").code == 0 and not partial.exists()
    assert "needs no conversion" in call("convert", tmp_path / "m", tmp_path / "n").err


@pytest.mark.parametrize("name", ["flush", "write_model"])
def test_a_full_disk_leaves_nothing(name, call, tmp_path, monkeypatch, small):
    def full(folder, *_, **__):
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(conversion, name, full)
    ended = call("convert", small, tmp_path / "new" / "m")
    assert ended.code == 2 and "No space left on device" in ended.err and "nothing was left behind" in ended.err
    assert not list(tmp_path.iterdir())


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch, small):
    monkeypatch.setattr(conversion, "flush", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        convert(small, tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_names_on_the_hub(tmp_path, monkeypatch, small):
    asked = []
    folder = tmp_path / "snapshot"
    folder.mkdir()
    shutil.copy(small, folder / "pgm_8_8.ckpt")
    fetched = lambda repository, **settings: (asked.append((repository, settings["revision"])), str(folder))[1]
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    one = lambda repository, file, **settings: (fetched(repository, **settings), str(folder / file))[1]
    monkeypatch.setattr("huggingface_hub.hf_hub_download", one)
    for source in ("jdeschena/pgm:pgm_8_8.ckpt", "jdeschena/pgm/pgm_8_8.ckpt", "jdeschena/pgm@main:pgm_8_8.ckpt", "jdeschena/pgm"):
        place = find(source)
        assert place.path == folder / "pgm_8_8.ckpt" and not place.native and place.source == source
    assert set(asked) == {("jdeschena/pgm", None), ("jdeschena/pgm", "main")}


def test_offline_is_one_sentence(tmp_path, monkeypatch, call):
    monkeypatch.setattr("maskless.checkpoints.source.offline", lambda: True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    ended = call("convert", "nobody/nothing:model.ckpt", tmp_path / "m")
    assert ended.code == 2 and len(ended.err.strip().splitlines()) == 1 and "go online" in ended.err
    for missing in ("nowhere/model.ckpt", "nowhere.safetensors", "no/such/folder/at/all"):
        assert "does not exist" in call("convert", missing, tmp_path / "m").err or "No such file" in call("convert", missing, tmp_path / "m").err


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_with_its_positions(dtype, tmp_path, small, call):
    content = torch.load(small, weights_only=True)
    torch.save({"state_dict": {key: tensor.to(dtype) for key, tensor in content["state_dict"].items()}}, tmp_path / "half.ckpt")
    assert call("convert", tmp_path / "half.ckpt", tmp_path / "m").code == 0


def test_an_average_in_a_tuple_is_one(tmp_path, small):
    content = torch.load(small, weights_only=True)
    torch.save({**content, "ema": {"shadow_params": tuple(content["ema"]["shadow_params"])}}, tmp_path / "tuple.ckpt")
    for path, folder in ((small, "a"), (tmp_path / "tuple.ckpt", "b")):
        convert(path, tmp_path / folder)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


SETTINGS = {
    "an interpolation": ({"hidden_size": "${width}", "n_heads": "2"}, None), "parts that are none": ({"encoder": None, "swap": "x", "data": 3}, None),
    "a word for a number": ({"n_heads": "two"}, "heads is 'two'; it must be a number"), "a list": ({"dropout": [1]}, "dropout is [1]"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_any_form(name, tmp_path, small, call):
    settings, said = SETTINGS[name]
    torch.save({**torch.load(small, weights_only=True), "hyper_parameters": {"config": {"model": settings}}}, tmp_path / "set.ckpt")
    for verb in (["convert", tmp_path / "set.ckpt", tmp_path / "m"], ["inspect", tmp_path / "set.ckpt"]):
        ended = call(*verb)
        assert (ended.code, "Traceback" in ended.err) == (2 if said else 0, False) and (said or "") in ended.err + ended.out, ended


def test_one_conversion_at_a_time(tmp_path, small, call):
    (tmp_path / "m.tmp").mkdir()
    with alone(tmp_path / "m.tmp.lock", ""):
        ended = call("convert", small, tmp_path / "m")
    assert ended.code == 2 and "another process writes into" in ended.err and (tmp_path / "m.tmp").is_dir()
    assert call("convert", small, tmp_path / "m").code == 0


def test_weights_in_parts(tmp_path, call):
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json"):
        (tmp_path / name).write_text("{}")
    ended = call("convert", tmp_path, tmp_path / "m")
    assert ended.code == 2 and "holds weights in several parts (model.safetensors.index.json), which are not read; join them" in ended.err
