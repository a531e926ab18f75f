"""10 steps equal 5 + kill -9 + resume + 5, bit for bit."""

from __future__ import annotations

import json
import random
import shutil
import string
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from maskless.data.sources import open_data, tokenizer_of
from maskless.data.tokenizer import symbol_tokenizer
from maskless.training.run import Run, train
from tests.training.runs import losses, recipe, run_process


def tensors(step: Path) -> dict[str, torch.Tensor]:
    """Weights, average and optimiser state of a checkpoint."""
    files = ("model.safetensors", "ema.safetensors", "trainer/optimizer.safetensors")
    return {f"{file}:{name}": tensor for file in files for name, tensor in load_file(step / file).items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run of ten steps that nothing disturbed, in a process of its own."""
    folder = tmp_path_factory.mktemp("whole")
    result = run_process(folder, folder / "run")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_killed_run_continues_bit_for_bit(whole, moment):
    out = whole / f"killed-{moment}"
    killed = run_process(whole, out, "--die", moment, "5")
    assert killed.returncode == -9
    complete = [path.name for path in (out / "checkpoints").glob("step-*") if path.suffix != ".tmp"]
    assert complete == ([] if moment == "before" else ["step-00000005"])
    train(out, out=out, resume=True)
    assert losses(out) == losses(whole / "run")
    ours, theirs = (tensors(run / "checkpoints" / "step-00000010") for run in (out, whole / "run"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not list((out / "checkpoints").glob("*.tmp"))


def test_differences_are_announced_and_the_recorded_numerics_reused(tmp_path):
    out = tmp_path / "run"
    tree = recipe(tmp_path)
    del tree["training"]["threads"]
    first = train(tree, "training.steps=5", "validation.rows=0", out=out)
    state = first.checkpoint / "trainer" / "state.json"
    notes = json.loads(state.read_text())
    state.write_text(json.dumps({**notes, "threads": notes["threads"] + 1, "attention": ["math"], "torch": "2.0"}))
    run = train(out, "training.steps=7", out=out, resume=True)
    note = run.metrics[0]["note"]
    assert note.startswith("resumed from step-00000005")
    assert "training.steps is 7 (was 5)" in note and f"torch is {torch.__version__} (was 2.0)" in note
    again = json.loads((run.checkpoint / "trainer" / "state.json").read_text())
    assert again["threads"] == notes["threads"] + 1 and again["attention"] == ["math"]
    assert torch.get_num_threads() == notes["threads"]  # put back for the caller


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    out = tmp_path / "run"
    first = train(recipe(tmp_path), "training.steps=2", out=out)
    before = tensors(first.checkpoint)
    again = train(out, out=out, resume=True)
    assert again.state.step == 2 and tensors(again.checkpoint).keys() == before.keys()
    assert "nothing is left to do: 2 of 2 steps are made, raise training.steps" in again.metrics[0]["note"]
    assert "nothing is left" not in first.metrics[0]["note"]


def test_fewer_steps_than_were_made_are_refused(tmp_path):
    out = tmp_path / "run"
    train(recipe(tmp_path), "training.steps=3", "validation.rows=0", out=out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"training\.steps is 1 and 3 steps are made; give more than 3, or leave it out"):
        train(out, "training.steps=1", "training.lr=0.5", out=out, resume=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_changes_to_a_run_with_nothing_left_to_do_are_not_written(tmp_path):
    out = tmp_path / "run"
    train(recipe(tmp_path), "training.steps=2", "validation.rows=0", out=out)
    config = (out / "config.yaml").read_text()
    again = train(out, "training.lr=0.5", out=out, resume=True)
    assert "training.lr is 0.5" in again.metrics[0]["note"] and "nothing is left to do" in again.metrics[0]["note"]
    assert (out / "config.yaml").read_text() == config


# --------------------------------------------------------------------------------------------- other data than before

CHANGED = "the data have changed"


def rewritten(folder: Path, tokenizer: str = "bytes", **changes) -> tuple[Run, Path]:
    """A run of two steps, whose text is another one since, without digits; and the text."""
    tree, text = recipe(folder), folder / "text.txt"
    tree["data"] = {**tree["data"], "tokenizer": tokenizer, **changes}
    run = train(tree, "training.steps=2", out=folder / "run")
    words = ["line", "of", "a", "small", "text,", "letters", "no", "meaning", "again", "alone"]
    text.write_text("\n".join(" ".join(random.Random(n).sample(words, 8)) for n in range(500)))
    return run, text


@pytest.mark.parametrize("tokenizer", ["bpe", "characters"])
def test_a_run_goes_on_in_the_tokenizer_it_learned(tmp_path, tokenizer):
    run, text = rewritten(tmp_path, tokenizer, bpe_size=300)
    again = train(run.folder, "training.steps=4", out=run.folder, resume=True)
    assert again.tokenizer.hash == run.tokenizer.hash != tokenizer_of(again.recipe.data).hash
    assert CHANGED in again.metrics[0]["note"] and CHANGED not in run.metrics[0]["note"]
    rows = open_data(again.recipe.data, length=24, split="train", tokenizer=run.tokenizer)
    assert text.read_text().startswith(run.tokenizer.decode(rows.read(torch.arange(1)).tokens[0])[:9]) and len(losses(run.folder)) == 4


def test_changed_text_is_announced_once(tmp_path):
    run, _ = rewritten(tmp_path)
    for steps, changed in ((3, True), (4, False)):
        note = train(run.folder, f"training.steps={steps}", out=run.folder, resume=True).metrics[0]["note"]
        assert (CHANGED in note) == changed


@pytest.mark.parametrize("changes", [("data.bpe_size=310",), ("data.tokenizer=characters",), ("data.tokenizer=bytes",)])
def test_a_tokenizer_that_is_learned_otherwise_is_another_one(tmp_path, changes):
    run, _ = rewritten(tmp_path, "bpe", bpe_size=300)
    config = (run.folder / "config.yaml").read_text()
    with pytest.raises(ValueError, match="the data now give another tokenizer or codec than the run was trained with; put it back as it was"):
        train(run.folder, "training.steps=4", *changes, out=run.folder, resume=True)
    assert (run.folder / "config.yaml").read_text() == config


def test_a_tokenizer_file_that_changed_is_another_one(tmp_path):
    for name, letters in (("mine", "abc"), ("yours", "cba")):
        (tmp_path / name).mkdir()
        symbol_tokenizer([*letters, *sorted(set(string.printable) - set("abc"))]).save(tmp_path / name)
    run, _ = rewritten(tmp_path, str(tmp_path / "mine"))
    train(run.folder, "training.steps=3", out=run.folder, resume=True)
    (tmp_path / "mine" / "tokenizer.json").write_text((tmp_path / "yours" / "tokenizer.json").read_text())
    with pytest.raises(ValueError, match="the data now give another tokenizer"):
        train(run.folder, "training.steps=4", out=run.folder, resume=True)


def test_another_model_is_refused_on_resume(tmp_path):
    out = tmp_path / "run"
    train(recipe(tmp_path), "training.steps=2", out=out)
    config = (out / "config.yaml").read_text()
    with pytest.raises(ValueError, match="would be another function: width 32, before 16; leave the model as it was"):
        train(out, "model.width=32", out=out, resume=True)
    assert (out / "config.yaml").read_text() == config


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "trainer/optimizer.safetensors"])
def test_one_wrong_bit_is_not_resumed_from(tmp_path, name):
    out = tmp_path / "run"
    file = train(recipe(tmp_path), "training.steps=1", out=out).checkpoint / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"is truncated or corrupt \(its check sum is not"):
        train(out, "training.steps=2", out=out, resume=True)


def test_a_journal_that_is_no_text_is_no_hindrance(tmp_path):
    out = tmp_path / "run"
    train(recipe(tmp_path), "training.steps=1", out=out)
    with open(out / "metrics.jsonl", "ab") as file:
        file.write(b"\xff\xfe\n")
    train(out, "training.steps=2", out=out, resume=True)
    assert [step for step, *_ in losses(out)] == [1, 2]


def test_the_checkpoint_before_a_damaged_one_is_named_and_can_be_gone_on_from(tmp_path):
    out = tmp_path / "run"
    train(recipe(tmp_path), "training.steps=4", "checkpoints.every=2", out=out)
    newest = out / "checkpoints" / "step-00000004"
    for name in ("model.safetensors", "trainer/state.json"):
        (newest / name).write_bytes(b"{")
        with pytest.raises(ValueError, match=f"to go on from step-00000002, delete {newest}$"):
            train(out, "training.steps=5", out=out, resume=True)
    shutil.rmtree(newest)
    assert train(out, "training.steps=5", out=out, resume=True).state.step == 5


def test_weights_do_not_become_another_function(tmp_path):
    """Equal names and shapes: other heads cut them into other pieces."""
    out = tmp_path / "run"
    train(recipe(tmp_path), "training.steps=1", out=out)
    with pytest.raises(ValueError, match="would be another function: heads 4, before 2"):
        train(out, "training.steps=2", "model.heads=4", out=out, resume=True)
    begun = train(recipe(tmp_path), f"training.start={out}", "model.heads=4", "training.steps=1", out=tmp_path / "other")
    assert f"begins with the weights of {out}, which were another function there: heads 4, there 2" in begun.metrics[0]["note"]
