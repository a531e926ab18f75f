"""10 steps equal 5 + kill -9 + resume + 5, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from maskless.training.run import train
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


def test_fewer_steps_than_were_made_are_said_to_be_made(tmp_path):
    out = tmp_path / "run"
    first = train(recipe(tmp_path), "training.steps=3", "validation.rows=0", out=out)
    before = tensors(first.checkpoint)
    again = train(out, "training.steps=1", out=out, resume=True)
    assert "training.steps is 1 (was 3)" in again.metrics[0]["note"] and "3 of 1 steps are made" in again.metrics[0]["note"]
    assert len(again.metrics) == 1 and not again.interrupted and again.state.step == 3
    assert all(torch.equal(tensors(again.checkpoint)[name], before[name]) for name in before)


def test_another_model_is_refused_on_resume(tmp_path):
    out = tmp_path / "run"
    train(recipe(tmp_path), "training.steps=2", out=out)
    config = (out / "config.yaml").read_text()
    with pytest.raises(ValueError, match=r"has shape .* the model wants"):
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
