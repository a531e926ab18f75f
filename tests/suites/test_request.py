"""The words of a command line as suites, and the command itself: results, exit codes, one sentence for every mistake."""
from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

import maskless
from maskless.config import write
from maskless.data.hub import Hub
from maskless.data.sources import Files
from maskless.data.zero_shot import ZeroShot
from maskless.evaluation.results import read_folders, same_but_times
from maskless.evaluation.settings import Generative, ImageQuality, Likelihood, Speed
from maskless.suites.request import data_of, named_by, requested, sampler_of
from maskless.suites.subject import open_subject
from tests.suites.conftest import CONFIGS, LENGTH, randomised
from tests.training.runs import recipe

NOTHING: dict = {"seed": None, "samples": None, "sampler": None, "data": None}
GOLDEN = Path(__file__).parents[1] / "golden"


def test_words():
    words = ["likelihood", "generative", "speed", "likelihood.budget=8", "generative.sampler.order=margin"]
    likelihood, generative, speed = requested(words, {**NOTHING, "seed": 3, "sampler": sampler_of(["steps=64", "top_p=0.9"])})
    assert isinstance(likelihood, Likelihood) and likelihood.budget == 8 and likelihood.seed == 3
    chosen = generative.sampler
    assert isinstance(generative, Generative) and (chosen.steps, chosen.order, chosen.top_p) == (64, "margin", 0.9)
    assert isinstance(speed, Speed) and speed.sampler.steps == 64 and speed.sampler.order is None and speed.seed == 3


def test_the_sampler_of_images_keeps_what_is_not_said():
    usual = lambda given: {"order": "halton", "plan": "arccos", "steps": 32, **given}
    for words, shared in ((["images"], {"sampler": {"steps": 8}}), (["images", "images.sampler.steps=8"], {"sampler": None}),
                          (["images", "images.sampler.steps=8"], {"sampler": {"steps": 5}})):
        (images,) = requested(words, {**NOTHING, **shared}, completed=usual)
        assert isinstance(images, ImageQuality) and images.sampler.steps == 8
        assert images.sampler.order == "halton" and images.sampler.plan == "arccos"
    assert requested(["images"], NOTHING, completed=usual)[0].sampler is None


def test_recipes(tmp_path):
    write(tmp_path / "e.yaml", {"evaluation": {"suites": [{"type": "likelihood", "name": "a"}, {"type": "likelihood", "name": "b", "budget": 2}]}})
    found = requested([str(tmp_path / "e.yaml"), "likelihood.rows=5"], NOTHING)
    assert [(each.name, each.budget, each.rows) for each in found] == [("a", None, 5), ("b", 2, 5)]
    with pytest.raises(ValueError, match="tiny/pgm has no evaluation section"):
        requested(["tiny/pgm"], NOTHING)


def test_data(tmp_path):
    (tmp_path / "wiki text.tokens.txt").write_text("x")
    assert data_of(None) is None and data_of("wikitext2") == {"type": "hub", "name": "wikitext2"}
    place = str(tmp_path / "wiki text.tokens.txt")
    (found,) = requested(["likelihood"], {**NOTHING, "data": data_of(place)}, called=named_by(place))
    assert found.data == Files(train=place, valid=place) and found.name == "wikitext"
    (found,) = requested(["likelihood"], {**NOTHING, "data": data_of("{type: hub, name: ptb}")}, called=named_by("{type: hub, name: ptb}"))
    assert found.data == Hub(name="ptb") and found.name == "ptb" == named_by({"type": "hub", "name": "ptb"}) and named_by(None) == ""
    assert named_by("lambada:corpora/test.jsonl") == "lambada-test" and named_by("ptb:corpora/test.txt") == "ptb-test"
    assert named_by({"type": "files", "train": "a/b.txt"}) == "files-b" and named_by("{type: prose}") == "prose"
    assert data_of("tiny/pgm")["type"] == "prose"
    (found,) = requested(["likelihood"], {**NOTHING, "data": data_of(f"lambada:{place}")}, called=named_by(f"lambada:{place}"))
    assert found.data == ZeroShot(name="lambada", place=place)


def test_data_of_the_command_line_name_the_suites_of_a_recipe(tmp_path):
    """A suite that is named by its data gets the other data's name, one that is named otherwise keeps its own; the same twice is once."""
    other = {"type": "hub", "name": "wikitext2"}
    suites = [{"type": "likelihood"}, {"type": "likelihood", "name": "wikitext2", "data": other}, {"type": "likelihood", "name": "b4", "budget": 4},
              {"type": "speed"}]
    write(tmp_path / "e.yaml", {"evaluation": {"suites": suites}})
    found = requested([str(tmp_path / "e.yaml")], {**NOTHING, "data": {"type": "hub", "name": "ptb"}}, called="ptb")
    assert [each.name for each in found] == ["ptb", "b4-ptb", ""]
    assert all(each.data == Hub(name="ptb") for each in found[:2]) and isinstance(found[2], Speed)


@pytest.mark.parametrize("words, shared, sentence", [
    ([], {}, "no suite was named"), (["likelyhood"], {}, "likelyhood is neither a suite nor a recipe"),
    (["likelihood", "likelihood.budgt=8"], {}, "did you mean"), (["likelihood", "budget=8"], {}, "is no change of a suite"),
    (["likelihood", "speed.batch=8"], {}, "which is not asked for"), (["likelihood"], {"samples": 5}, "samples is not for likelihood; it is for"),
    (["generative"], {"sampler": {"step": 5}}, "sampler.step; did you mean"), (["likelihood", "likelihood"], {}, "twice"),
    (["generative", "generative.sampler.order=fast"], {}, "one of random"), (["speed", "speed.protocols=[fast]"], {}, "choose from latency"),
])
def test_mistakes_in_words(words, shared, sentence):
    with pytest.raises(ValueError, match=sentence):
        requested(words, {**NOTHING, **shared})


# -------------------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, models) -> Path:
    """A run as training leaves it, with raw and averaged weights, and what its recipe wants measured."""
    place = tmp_path_factory.mktemp("run")
    folder = place / "first" / "checkpoints" / "step-00000007"
    folder.parent.mkdir(parents=True)
    shutil.copytree(models / "pgm", folder)
    averaged = maskless.TextModel(randomised(CONFIGS["pgm"], seed=9), maskless.load_tokenizer("bytes"), device="cpu").save_pretrained(place / "ema")
    shutil.copy(averaged / "model.safetensors", folder / "ema.safetensors")
    tree = recipe(place)
    small = {"vocab_size": 259, "length": LENGTH, "width": 16, "heads": 2, "cond_dim": 0}
    tree["model"] |= small
    tree["evaluation"] = {"suites": [{"type": "likelihood", "rows": 4}, {"type": "generative", "samples": 2, "sampler": {"steps": 2}}]}
    write(place / "first" / "config.yaml", tree)
    return place / "first"


def test_a_run_is_measured_as_its_recipe_says(run_folder, call):
    ended = call("evaluate", run_folder, "--device", "cpu")
    assert ended.code == 0, ended.err
    assert "likelihood nelbo" in ended.out and "generative unigram_entropy" in ended.out
    results = {result.metric: result for result in read_folders([run_folder / "results"])}
    assert results["nelbo"].samples == 4 and results["unigram_entropy"].samples == 2
    assert results["nelbo"].model.step == 7 and results["nelbo"].model.weights == "ema" and results["nelbo"].model.name == "first"
    assert call("evaluate", run_folder, "likelihood", "--rows", 4, "--raw", "--device", "cpu", "--out", run_folder / "raw").code == 0
    (raw,) = read_folders([run_folder / "raw"])
    assert raw.model.weights == "raw" and raw.value != results["nelbo"].value and raw.model.hash != results["nelbo"].model.hash
    assert open_subject(run_folder / "checkpoints" / "step-00000007", device="cpu").record.name == "first-step-00000007"


def test_the_command_twice(models, text, call, tmp_path):
    how = ["--data", text, "--seed", 2, "--samples", 3, "--sampler", "steps=4", "--scorer", models / "ar", "--device", "cpu", "--quiet"]
    for folder, size in (("a", 2), ("b", 7)):
        ended = call("evaluate", models / "pgm", "likelihood", "generative", *how, "--batch-size", size, "--out", tmp_path / folder)
        assert ended.code == 0 and ended.out == "", ended.err
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert "likelihood-pgm-words-nelbo.json" in names and names == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in names:
        one, other = ((tmp_path / folder / name).read_text() for folder in "ab")
        assert one == other if name.startswith("samples") else same_but_times(json.loads(one), json.loads(other))


def test_shards_on_the_command_line(models, call, tmp_path):
    how = ["evaluate", models / "pgm", "generative", "--samples", 34, "--sampler", "steps=2", "--device", "cpu", "--out", tmp_path]
    ended = call(*how, "--shard", "1/2")
    assert ended.code == 0 and "shard 1/2 is drawn" not in ended.err
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["samples-pgm.1-of-2.jsonl", "samples-pgm.json"]
    assert call(*how).code == 0 and len((tmp_path / "samples-pgm.jsonl").read_text().splitlines()) == 34


def test_parity(models, call, tmp_path):
    files = [GOLDEN / "text_ema.safetensors", GOLDEN / "text_schedule.safetensors"]
    chosen = f"parity.files=[{files[0]},{files[1]}]"
    ended = call("evaluate", models / "pgm", "parity", chosen, "--device", "cpu", "--out", tmp_path)
    assert ended.code == 0, ended.err
    found = {result.details["golden"]: result for result in read_folders([tmp_path])}
    assert set(found) == {"text_ema", "text_schedule"} and all(result.kind == "check" and result.value < 1e-4 for result in found.values())
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(files[1], "pt") as file:
        meta = file.metadata()
    tensors = load_file(files[1])
    tensors["alpha_t"] = tensors["alpha_t"] * 1.5
    save_file(tensors, tmp_path / "text_schedule_wrong.safetensors", meta)
    ended = call("evaluate", models / "pgm", "parity", f"parity.files=[{tmp_path / 'text_schedule_wrong.safetensors'}]", "--device", "cpu",
                 "--out", tmp_path / "wrong")
    assert ended.code == 1 and read_folders([tmp_path / "wrong"])[0].details["beyond_tolerance"] == 1
    (tmp_path / "text schedule.safetensors").write_bytes(files[1].read_bytes())
    ended = call("evaluate", models / "pgm", "parity", "--files", files[0], "--files", tmp_path / "text schedule.safetensors", "--device", "cpu",
                 "--out", tmp_path / "none")
    assert ended.code == 2 and "cannot give a result its name; rename it" in ended.err and not (tmp_path / "none").exists()
    ended = call("evaluate", models / "pgm", "parity", "--device", "cpu", "--out", tmp_path / "none")
    assert ended.code == 2 and "no golden file was found" in ended.err


def test_tasks(models, call, tmp_path):
    (tmp_path / "quiz.jsonl").write_text('{"query": "a", "choices": ["b", "c"], "gold": 0}\n' * 3)
    (tmp_path / "words.jsonl").write_text('{"context": "a b c", "continuation": "d"}\n' * 3)
    files = ["--files", tmp_path / "quiz.jsonl", "--files", tmp_path / "words.jsonl"]
    how = ["evaluate", models / "pgm", "tasks", *files, "--budget", 4, "--device", "cpu"]
    ended = call(*how, "--rows", 2, "--out", tmp_path / "out")
    assert ended.code == 0 and "quiz_accuracy" in ended.out, ended.err
    results = read_folders([tmp_path / "out"])
    assert {result.metric for result in results} == {"quiz_accuracy", "quiz_accuracy_per_byte", "words_accuracy", "words_target_nats"}
    assert {result.samples for result in results} == {2}
    (tmp_path / "two words.jsonl").write_text('{"context": "a b c", "continuation": "d"}\n')
    ended = call(*how, "--files", tmp_path / "two words.jsonl", "--out", tmp_path / "none")
    assert ended.code == 2 and "cannot give a result its name; rename it to letters" in ended.err and not (tmp_path / "none").exists()
    (tmp_path / "words.jsonl").write_text("[]")
    for extra, sentence in (([], "no known form"), (["tasks.score=best"], "score has 'best'"), (["--budget", 1], "budget is 1")):
        ended = call(*how, *extra, "--out", tmp_path / "none")
        assert ended.code == 2 and sentence in ended.err and not (tmp_path / "none").exists()
    ended = call("evaluate", models / "pgm", "tasks", "--device", "cpu", "--out", tmp_path / "none")
    assert ended.code == 2 and "no task files were named" in ended.err


def test_mistakes_on_the_command_line(models, text, call, tmp_path):
    broken = randomised(CONFIGS["pgm"])
    torch.nn.init.constant_(broken.head.bias, math.nan)
    maskless.TextModel(broken, maskless.load_tokenizer("bytes"), device="cpu").save_pretrained(tmp_path / "broken")
    (tmp_path / "empty.jsonl").write_text("")
    pgm, out = models / "pgm", ["--device", "cpu", "--out", tmp_path / "out"]
    for words, sentence in (
        (["absent", "likelihood"], "does not exist"), ([pgm], "no suite was named"), ([pgm, "likelihood"], "in no run folder"),
        ([tmp_path / "broken", "likelihood", "--data", text], "not finite"), ([pgm, "generative", "--scorer", pgm], "from left to right"),
        ([pgm, "generative", f"generative.file={tmp_path / 'empty.jsonl'}"], "holds no samples"), ([pgm, "images"], "is a model of text"),
        ([pgm, "likelihood", "--data", "nowhere"], "is no file, no recipe"), ([pgm, "speed", "--shard", "3"], "not of the form i/n"),
        ([pgm, "speed", "--name", "a/b"], "cannot be part of a file name"), ([pgm, "speed", "--dtype", "int8"], "there is no dtype int8"),
    ):
        ended = call("evaluate", *words, *out)
        assert ended.code == 2 and sentence in ended.err and len(ended.err.strip().splitlines()) == 1, (words, ended)
        assert not list((tmp_path / "out").glob("*-*-*.json"))
