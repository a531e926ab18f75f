"""What a run says before it reads any data or writes anything, and that no two processes train in one folder."""
from __future__ import annotations

import json
import math

import pytest

from maskless.alone import LOCK, alone
from maskless.places import latest
from maskless.training import evaluate, records, run
from maskless.training.distill import distill
from maskless.training.run import train
from tests.training.runs import recipe, run_process


@pytest.fixture
def no_data(monkeypatch):
    def read(*_, **__):
        raise AssertionError("data were read")

    monkeypatch.setattr(run, "open_tokenizer", read)


@pytest.mark.parametrize("change, said", [
    ("training.start=nowhere", "nowhere does not exist"),
    ("log.wandb=mine", "log.wandb is mine and wandb is not installed"),
    ("log.tensorboard=true", "log.tensorboard is true and tensorboard is not installed"),
])
def test_what_is_missing_is_said_before_data_are_read(no_data, tmp_path, monkeypatch, change, said):
    monkeypatch.setattr(records, "find_spec", lambda name: None)
    with pytest.raises(ValueError) as error:
        train(recipe(tmp_path), change, out=tmp_path / "run")
    assert said in str(error.value) and not (tmp_path / "run").exists()


def test_a_teacher_that_is_gone_is_missed_before_data_are_read(no_data, tmp_path):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        distill({**recipe(tmp_path), "distill": {"teacher": "nowhere", "round_steps": 10}}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_tokenizer_of_a_start_is_compared_before_rows_are_made(tmp_path, monkeypatch):
    first = train(recipe(tmp_path), "training.steps=1", out=tmp_path / "first")
    monkeypatch.setattr(run, "open_rows", lambda *_: pytest.fail("rows were made"))
    with pytest.raises(ValueError, match="trained with another tokenizer or codec"):
        train(recipe(tmp_path), f"training.start={first.folder}", "data.tokenizer=characters", out=tmp_path / "second")


def test_a_folder_is_one_process_s_alone(tmp_path):
    made = train(recipe(tmp_path), "training.steps=1", out=tmp_path / "run")
    files = {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    with alone(made.folder / LOCK, ""), pytest.raises(ValueError, match=r"another process trains in .*run; stop it"):
        train(made.folder, "training.steps=2", out=made.folder, resume=True)
    assert files == {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    assert train(made.folder, "training.steps=2", out=made.folder, resume=True).state.step == 2


UNFIT = {
    ("sampling.sampler.order=halton",): "order halton is one of the cells of an image",
    ("sampling.sampler.draft=4",): "cannot verify drafts",
}


@pytest.mark.parametrize("options", UNFIT)
def test_samples_that_a_model_cannot_give_are_refused_before_it_is_trained(tmp_path, options):
    """They are drawn at the last update, unless told otherwise."""
    with pytest.raises(ValueError) as error:
        train(recipe(tmp_path), "sampling.count=1", *options, out=tmp_path / "run")
    assert UNFIT[options] in str(error.value) and not (tmp_path / "run").exists()


def test_what_was_learned_is_saved_before_it_is_measured(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValueError("not measured")

    monkeypatch.setattr(evaluate, "measure_bound", fail)
    with pytest.raises(ValueError, match="not measured"):
        train(recipe(tmp_path), "training.steps=3", "checkpoints.every=0", out=tmp_path / "run")
    assert latest(tmp_path / "run") == tmp_path / "run" / "checkpoints" / "step-00000003"


def test_a_bound_beyond_all_numbers_is_written_down(tmp_path):
    """Perplexities of more than 710 nats per token are infinite, and JSON has no infinity; nor has one row a standard error."""
    wild = ("training.lr=5", "training.warmup=0", "training.clip=0", "training.ema=0")
    made = train(recipe(tmp_path), "training.steps=3", "validation.rows=1", *wild, out=tmp_path / "run")
    found = next(record for record in made.metrics if "bound" in record)
    assert found["bound"] > 710 and found["perplexity"] == found["standard_error"] == math.inf
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line for line in lines if "bound" in line][-1]["perplexity"] is None


ALONE = {
    ("validation.complete=4",): "validation.complete is 4 and the data are no puzzles, which alone have givens; leave it out",
    ("training.eps=-1",): "eps is -1.0; it must be at least 0",
}


@pytest.mark.parametrize("changes", ALONE)
def test_numbers_that_mean_nothing(tmp_path, changes):
    with pytest.raises(ValueError) as error:
        train(recipe(tmp_path), *changes, out=tmp_path / "run")
    assert ALONE[changes] in str(error.value)


def test_micro_batches_of_all_processes_are_counted(tmp_path):
    ended = run_process(tmp_path, tmp_path / "run", "training.batch_size=8", "training.accumulate=8", processes=2)
    assert ended.returncode and "training.batch_size is 8, not a multiple of 2 processes times training.accumulate 8" in ended.stdout + ended.stderr
    assert not (tmp_path / "run").exists()
