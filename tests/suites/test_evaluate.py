"""`maskless.evaluate` gives what the command gives."""
from __future__ import annotations

import json

import pytest

import maskless
from maskless.evaluation.results import same_but_times
from maskless.evaluation.settings import Generative, Likelihood


def trees(folder):
    """Results by file name."""
    return {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(same_but_times(one[name], other[name]) for name in one)


def test_the_function_and_the_command_write_the_same_records(models, text, tmp_path, call):
    words, model = ["likelihood", "generative"], str(models / "pgm")
    found = maskless.evaluate(model, *words, "likelihood.rows=3", budget=2, samples=3, sampler={"steps": 4}, data=str(text), seed=5,
                              out=tmp_path / "function", device="cpu")
    ended = call("evaluate", model, *words, "likelihood.rows=3", "--budget", 2, "--samples", 3, "--sampler", "steps=4", "--data", text, "--seed", 5,
                 "--out", tmp_path / "command", "--device", "cpu")
    assert ended.code == 0, ended.err
    assert "" not in ended.out.splitlines()                         # the live line is drawn on terminals only
    ours, theirs = trees(tmp_path / "function"), trees(tmp_path / "command")
    assert len(found) == len([tree for tree in ours.values() if "metric" in tree]) > 2 and same(ours, theirs)
    assert {result.suite for result in found} == {"likelihood", "generative"}

    settings = Likelihood(rows=3, budget=2, seed=5), Generative(samples=3, seed=5)
    maskless.evaluate(model, *settings, "generative.sampler.steps=4", data=str(text), out=tmp_path / "settings", device="cpu")
    assert same(trees(tmp_path / "settings"), ours)
    maskless.evaluate(model, *settings, "generative.sampler.steps=4", data=str(text), seed=6, out=tmp_path / "other", device="cpu")
    assert not same(trees(tmp_path / "other"), ours)


@pytest.mark.parametrize("words, sentence", [
    (("likelyhood",), "likelyhood is neither a suite nor a recipe"),
    ((), "no suite was named"), (("likelihood", "speed.batch=8"), "which is not asked for"),
])
def test_mistakes_are_one_sentence(models, tmp_path, words, sentence):
    with pytest.raises(ValueError, match=sentence):
        maskless.evaluate(models / "pgm", *words, out=tmp_path / "results", device="cpu")


def test_an_unknown_argument_is_one_sentence(models, tmp_path):
    with pytest.raises(ValueError, match="sample is nothing that evaluate takes"):
        maskless.evaluate(models / "pgm", "generative", sample=3, out=tmp_path / "results")


def test_results_of_another_model_are_kept_and_said_before_anything_is_measured(models, text, tmp_path, call, monkeypatch):
    how = ["--data", text, "--rows", 2, "--device", "cpu", "--out", tmp_path / "out"]
    longer = ["evaluate", models / "ar", "likelihood", *how, "--name", "pgm-more"]
    assert call("evaluate", models / "pgm", "likelihood", *how, "--name", "pgm").code == 0 and call(*longer).code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert call("evaluate", models / "pgm", "likelihood", *how, "--rows", 3).code == 0      # the same question's are replaced
    assert {path for path, content in before.items() if path.read_bytes() != content} == {tmp_path / "out" / "likelihood-pgm-words-nelbo.json"}
    monkeypatch.setattr("maskless.suites.likelihood.open_held", lambda *words, **named: pytest.fail("nothing is opened"))
    ended = call("evaluate", models / "ar", "likelihood", *how, "--name", "pgm")
    assert ended.code == 2 and ended.err.count("\n") == 1 and "another name (--name) or folder (--out)" in ended.err
