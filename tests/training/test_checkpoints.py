"""Checkpoints are complete or absent, and what is damaged is said to be."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maskless.checkpoints import native
from maskless.checkpoints.native import latest, load_checkpoint, load_model, publish, resolve, save_model, steps_of
from maskless.data.tokenizer import ByteTokenizer
from maskless.models import MaskedConfig, build
from maskless.vocabulary import Vocabulary
from tests.training.runs import REPOSITORY, environment, recipe


def note(text: str):
    return lambda folder: (folder / "note.txt").write_text(text) and None


def model(vocab_size: int = 259, width: int = 8):
    return build(MaskedConfig(vocab_size, length=8, width=width, heads=2, layers=1, cond_dim=0, forbidden=(258,)))


def test_publish_keeps_the_newest_and_points_to_it(tmp_path):
    for step in (1, 2, 10):
        publish(tmp_path, step, note(str(step)), keep=2)
    assert [path.name for path in steps_of(tmp_path)] == ["step-00000002", "step-00000010"]
    assert (tmp_path / "latest").read_text() == "step-00000010\n"
    assert latest(tmp_path) == tmp_path / "checkpoints" / "step-00000010"
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step-00000002", "step-00000010"]


def test_a_complete_checkpoint_is_never_written_over(tmp_path):
    publish(tmp_path, 1, note("first"))
    with pytest.raises(ValueError, match="is never written over"):
        publish(tmp_path, 1, note("second"))
    assert (latest(tmp_path) / "note.txt").read_text() == "first"


def test_everything_is_flushed_before_the_one_rename(tmp_path, monkeypatch):
    events = []
    real = {"fsync": os.fsync, "rename": os.rename, "replace": os.replace}
    monkeypatch.setattr(
        native.os, "fsync", lambda fd: (events.append(("fsync", os.readlink(f"/proc/self/fd/{fd}"))), real["fsync"](fd))
    )
    for name in ("rename", "replace"):
        monkeypatch.setattr(native.os, name, lambda a, b, name=name: (events.append((name, str(b))), real[name](a, b)))
    publish(tmp_path, 5, note("x"))
    folder = tmp_path / "checkpoints"
    assert events == [
        ("fsync", f"{folder}/step-00000005.tmp/note.txt"),
        ("fsync", f"{folder}/step-00000005.tmp"),
        ("rename", f"{folder}/step-00000005"),
        ("fsync", str(folder)),
        ("fsync", f"{tmp_path}/latest.tmp"),
        ("replace", f"{tmp_path}/latest"),
        ("fsync", str(tmp_path)),
    ]


@pytest.mark.parametrize("broken", ["mkdir", "write", "fsync", "rename"])
def test_a_full_disk_harms_nothing(tmp_path, monkeypatch, broken):
    publish(tmp_path, 1, note("first"))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write = note("second")
    if broken == "mkdir":
        monkeypatch.setattr(native.Path, "mkdir", full)
    elif broken == "write":
        write = full
    else:
        monkeypatch.setattr(native.os, broken, full)
    with pytest.raises(OSError) as error:
        publish(tmp_path, 2, write, keep=1)
    monkeypatch.undo()
    assert str(error.value) == (
        f"the checkpoint of step 2 could not be written to {tmp_path}/checkpoints (No space left on device); "
        "the previous one, step-00000001, is intact: make room, then continue with --resume"
    )
    assert (
        os.listdir(tmp_path / "checkpoints") == ["step-00000001"]
        and (tmp_path / "latest").read_text() == "step-00000001\n"
    )
    assert (latest(tmp_path) / "note.txt").read_text() == "first"


LIMITED = """
import resource, sys
from maskless.training.run import train
import maskless.checkpoints.native as native
real = native.write_tensors
def write(path, tensors):
    if "step-00000010" in str(path): resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    real(path, tensors)
native.write_tensors = write
import maskless.training.state as state; state.write_tensors = write
try: train(sys.argv[1], out=sys.argv[2])
except OSError as error: print(error); sys.exit(2)
"""


def test_a_run_whose_disk_fills_up_keeps_its_last_checkpoint(tmp_path):
    """The system itself refuses to write more, in the middle of a safetensors file."""
    source = tmp_path / "recipe.json"
    source.write_text(json.dumps(recipe(tmp_path)))
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(source), str(tmp_path / "run")],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 2, result.stderr
    assert "could not be written" in result.stdout and "step-00000005, is intact" in result.stdout
    assert os.listdir(tmp_path / "run" / "checkpoints") == ["step-00000005"]
    load_model(tmp_path / "run")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_an_inference_folder_comes_back(tmp_path):
    original = model().eval()
    save_model(tmp_path / "m", original, tokenizer=ByteTokenizer(), extra={"note": 1})
    assert sorted(os.listdir(tmp_path / "m")) == ["config.json", "model.safetensors", "tokenizer.json"]
    loaded, tokenizer = load_model(tmp_path / "m")
    assert loaded.config == original.config and tokenizer.decode(tokenizer.encode("né")) == "né" and not loaded.training
    assert all(
        torch.equal(a, b) for a, b in zip(original.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    found = load_checkpoint(tmp_path / "m")
    assert found.extra == {"note": 1} and found.vocabulary == ByteTokenizer().vocabulary
    with pytest.raises(ValueError, match="holds a model already"):
        save_model(tmp_path / "m", original)


def test_a_folder_is_of_one_model_or_one_run(tmp_path):
    from maskless.training.run import train

    model = build(MaskedConfig(vocab_size=9, length=8, width=8, heads=2, layers=1))
    train(recipe(tmp_path), "training.steps=1", out=tmp_path / "run")
    with pytest.raises(ValueError, match="run is the folder of a run; choose a new folder"):
        save_model(tmp_path / "run", model)
    (tmp_path / "run" / "config.yaml").rename(tmp_path / "elsewhere.yaml")
    with pytest.raises(ValueError, match="run holds checkpoints, of a model or of another run; choose another folder"):
        train(recipe(tmp_path), out=tmp_path / "run")
    save_model(tmp_path / "model", model)
    with pytest.raises(ValueError, match=r"model holds config\.json, of a model or of another run"):
        train(recipe(tmp_path), out=tmp_path / "model")
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "model" / "checkpoints")
    with pytest.raises(ValueError, match="model holds a model and the checkpoints of a run"):
        resolve(tmp_path / "model")


def test_an_average_that_is_gone_is_missed(tmp_path):
    from maskless.training.run import train

    train(recipe(tmp_path), "training.steps=1", "training.ema=0.9", out=tmp_path / "run")
    (latest(tmp_path / "run") / "ema.safetensors").unlink()
    with pytest.raises(ValueError, match=r"ema\.safetensors"):
        load_checkpoint(tmp_path / "run")
    assert load_checkpoint(tmp_path / "run", ema=False).weights


def test_a_model_without_tokenizer(tmp_path):
    save_model(tmp_path, model(), vocabulary=Vocabulary(259))
    assert load_model(tmp_path)[1] is None and load_checkpoint(tmp_path).vocabulary == Vocabulary(259)


def changed(folder: Path, change) -> Path:
    """config.json after `change`; check sums left out."""
    notes = json.loads((folder / "config.json").read_text())
    change(notes)
    notes["crc32"] = {}
    (folder / "config.json").write_text(json.dumps(notes))
    return folder


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def flip(folder: Path) -> None:
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


DAMAGE = {
    "truncated": (cut, "model.safetensors is truncated or corrupt"),
    "one bit": (flip, "model.safetensors is truncated or corrupt \\(its check sum"),
    "no safetensors": (lambda f: (f / "model.safetensors").write_text("hello"), "is truncated or corrupt"),
    "weights missing": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors does not exist"),
    "no json": (lambda f: (f / "config.json").write_text("{"), "is not a configuration of this library"),
    "foreign json": (lambda f: (f / "config.json").write_text("{}"), "is not a configuration of this library"),
    "newer": (lambda f: changed(f, lambda n: n.update(maskless=99)), "has format 99, this version reads 1; update"),
    "unknown model": (lambda f: changed(f, lambda n: n["model"].update(type="magic")), "model.type is 'magic'"),
    "unknown key": (lambda f: changed(f, lambda n: n["model"].update(wdth=3)), "did you mean model.width"),
    "other width": (lambda f: changed(f, lambda n: n["model"].update(width=16)), "has shape .* the model wants"),
    "more layers": (lambda f: changed(f, lambda n: n["model"].update(layers=2)), "lacks the tensor blocks.1"),
    "fewer layers": (lambda f: changed(f, lambda n: n["model"].update(layers=0)), "holds the tensor blocks.0"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_damaged_is_named(tmp_path, name):
    save_model(tmp_path, model(), tokenizer=ByteTokenizer())
    damage, message = DAMAGE[name]
    damage(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        load_model(tmp_path)
    assert "\n" not in str(error.value)


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path):
    save_model(tmp_path, model(300), tokenizer=ByteTokenizer())
    with pytest.raises(ValueError, match="has 259 ids and the model has vocab_size 300"):
        load_model(tmp_path)


def test_folders_without_a_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="has no complete checkpoint; give a run folder"):
        resolve(tmp_path)
    with pytest.raises(ValueError, match="does not exist; give a run folder"):
        load_checkpoint(tmp_path / "none")
