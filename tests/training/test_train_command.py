"""`maskless train`, as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import typer
from typer.testing import CliRunner

from maskless.cli.train import Progress, describe, train
from maskless.training.run import train as train_recipe
from tests.training.runs import REPOSITORY, environment, recipe

app = typer.Typer()
app.command()(train)


def call(*arguments: str):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_recipe_changes_and_resume(tmp_path):
    source = tmp_path / "mine.yaml"
    source.write_text(json.dumps(recipe(tmp_path)))
    out = tmp_path / "run"
    result = call(source, "training.steps=2", "log.every=1", "--out", out)
    assert result.exit_code == 0, result.output
    assert "validation bound" in result.output and "saved step-00000002" in result.output
    assert result.output.splitlines()[-1] == str(out)
    for arguments in (["--resume", out, "training.steps=3"], ["--resume", "--out", out, "training.steps=4"]):
        result = call(*arguments, "--quiet")
        assert result.exit_code == 0 and result.output.splitlines() == [str(out)], result.output
    assert (out / "latest").read_text() == "step-00000004\n"


def test_the_default_folder_is_named_after_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(json.dumps(recipe(tmp_path)))
    assert call("mine.yaml", "training.steps=1", "-q").output.strip() == "runs/mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no recipe was given"),
        (("one", "two"), "'two' is one recipe too many after 'one'"),
        (("none/such",), "there is no recipe none/such"),
        (("tiny/pgm", "training.stps=1"), "unknown key training.stps; did you mean training.steps?"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message):
    result = call(*arguments)
    assert isinstance(result.exception, ValueError) and str(result.exception).startswith(message)


def test_a_run_folder_wants_resume(tmp_path):
    train_recipe(recipe(tmp_path), "training.steps=1", "validation.rows=0", out=tmp_path / "run")
    result = call(tmp_path / "run")
    assert str(result.exception) == f"{tmp_path / 'run'} is a run folder, not a recipe; add --resume to go on with it (in Python: resume=True)"


def test_an_error_leaves_nothing_on_stdout(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(recipe(tmp_path)))
    result = call(tmp_path / "mine.json", "data.train=nowhere.txt", "--out", tmp_path / "run")
    assert isinstance(result.exception, ValueError) and result.output == ""
    result = call(tmp_path / "mine.json", "training.steps=1", "validation.rows=0", "--out", tmp_path / "run")
    assert result.exit_code == 0 and "" not in result.output.splitlines()


def test_ctrl_c_saves_prints_one_line_and_exits_130(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(recipe(tmp_path)))
    code = "import typer; from maskless.cli.train import train; typer.run(train)"
    out = tmp_path / "run"
    arguments = [str(tmp_path / "mine.json"), "training.steps=100000", "--out", str(out), "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=REPOSITORY,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    for _ in range(1200):
        if (out / "latest").exists():
            break
        time.sleep(0.1)
    process.send_signal(2)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert len(output.splitlines()) == 1 and output.startswith("stopped at step ") and f"--resume {out}" in output
    assert errors == ""


def test_records_in_words():
    assert describe({"step": 5, "loss": 1.0}) == ""
    assert describe({"step": 5, "checkpoint": "step-00000005"}) == "step 5: saved step-00000005"
    assert describe({"step": 5, "bound": 1.0, "standard_error": 0.1, "perplexity": 2.718}).endswith(
        "perplexity at most 2.72"
    )
    assert describe({"step": 5, "cell_accuracy": 0.5, "solved": 0.25, "boards": 4}).endswith("25.0% of 4 boards solved")
    assert describe({"step": 5, "samples": ["a\nb"]}).splitlines() == ["step 5: samples", "  | a", "  | b"]


def test_the_progress_line_takes_any_record():
    with Progress() as progress:
        for record in ({"step": 0, "steps": 2, "note": "started"}, {"step": 1, "loss": 1.0, "tokens_per_second": 10.0}):
            progress(record)
        assert progress.bar.tasks[0].completed == 1 and progress.bar.tasks[0].total == 2
