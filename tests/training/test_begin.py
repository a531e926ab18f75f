"""What a run says before it reads any data or writes anything, and that no two processes train in one folder."""
from __future__ import annotations

import pytest

from maskless.training import records, run
from maskless.training.alone import alone
from maskless.training.distill import distill
from maskless.training.run import train
from tests.training.runs import recipe


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
    with alone(made.folder), pytest.raises(ValueError, match=r"another process trains in .*run; stop it before you resume the run, or choose another"):
        train(made.folder, "training.steps=2", out=made.folder, resume=True)
    assert files == {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    assert train(made.folder, "training.steps=2", out=made.folder, resume=True).state.step == 2
