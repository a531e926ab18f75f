"""Prime models are trained, resumed, opened, sampled and infilled as any other; codes travel with the weights."""
from __future__ import annotations

import json

import pytest
import torch

import maskless
from maskless.checkpoints.native import load_model
from maskless.cli.sampling import Painter
from maskless.subtokens import SubTokenCode
from maskless.training.recipe import load_recipe
from tests.training.runs import recipe, several


def metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("objective", ["joint_ce", "sub_nelbo", "finite_steps"])
def test_it_trains_and_reports_bounds_only(objective, tmp_path):
    source = tmp_path / "recipe.json"
    source.write_text(json.dumps(recipe(tmp_path, "prime", objective)))
    steps = () if objective != "finite_steps" else ("objective.steps=4",)
    maskless.train(str(source), "training.steps=4", "sampling.every=2", "sampling.count=1", *steps, out=tmp_path / "run")
    found = metrics(tmp_path / "run")
    losses, bounds = [r["loss"] for r in found if "loss" in r], [r for r in found if any(key.startswith("bound") for key in r)]
    assert len(losses) == 4 and bounds and any("samples" in r for r in found)
    assert f"{load_model(tmp_path / 'run')[0].parameter_count():,} weights on" in found[0]["note"]           # the table of the code is none
    assert ("perplexity" in bounds[-1]) == (objective != "finite_steps") and ("bound_of_4_steps" in bounds[-1]) == (objective == "finite_steps")


@pytest.mark.parametrize("share", [0.0, 0.7])
def test_groups_of_digits_train_and_sample(share, tmp_path):
    source = tmp_path / "recipe.json"
    source.write_text(json.dumps(recipe(tmp_path, "prime_partition")))
    late = () if share == 0 else ("model.fusion=late", "training.attention=auto", f"objective.token_groups={share}")
    maskless.train(str(source), "training.steps=4", *late, out=tmp_path / "run")
    bounds = [r for r in metrics(tmp_path / "run") if "bound" in r]
    assert bounds and ("bound_of_tokens" in bounds[-1]) == (share > 0) and "perplexity" in bounds[-1]
    model = maskless.load(tmp_path / "run", device="cpu")
    assert model.infill("a ___{3} b", steps=3, order="token-by-token").text.endswith(" b") and len(model.generate(2, length=12, steps=5)) == 2
    assert model.logprob("ne", given="li", samples=8).kind == "bound"


def test_resumed_is_uninterrupted_and_the_code_is_kept(tmp_path):
    source = tmp_path / "recipe.json"
    source.write_text(json.dumps(recipe(tmp_path, "prime", "joint_ce")))
    maskless.train(str(source), out=tmp_path / "whole")
    maskless.train(str(source), "training.steps=5", out=tmp_path / "parts")
    maskless.train(str(source), "training.steps=10", out=tmp_path / "parts", resume=True)
    whole, parts = (load_model(tmp_path / name)[0].state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())
    assert whole["table"].dtype == torch.int64
    model = maskless.load(tmp_path / "whole", device="cpu")
    assert torch.equal(model.model.table, SubTokenCode.shuffled(259, 3).table)
    painter = Painter(model.tokenizer)
    pictures = []

    def watch(canvas, record):
        pictures.append(painter.picture(canvas, record))

    text = model.generate(prompt="line", length=16, steps=40, seed=1, watch=watch)[0]
    assert str(text).startswith("line") and text.nfe == 33 and len(pictures) == 33      # 11 sites of 3 digits
    assert model.infill("a ___{3} b", steps=3, order="coarse-first").text.endswith(" b")
    assert model.logprob("ne", given="li", samples=8).kind == "bound"
    model.save_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    again = maskless.load(tmp_path / "saved", device="cpu")
    assert torch.equal(again.model.table, model.model.table) and again.model.head.weight.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_several_processes_are_one(strategy, tmp_path):
    """The table of digits is no parameter, and every process has it."""
    source, found = tmp_path / "recipe.json", {}
    tree = recipe(tmp_path, "prime", "joint_ce")
    tree["model"]["dropout"], tree["training"]["steps"] = 0.0, 2
    source.write_text(json.dumps(tree))
    for processes in (1, 2):
        out = tmp_path / str(processes)
        done = several("tests.training.runs", source, out, *([f"training.strategy={strategy}"] if processes == 2 else []), processes=processes)
        assert done.returncode == 0, done.stderr[-2000:]
        found[processes] = [r.get("loss", r.get("bound")) for r in metrics(out) if "loss" in r or "bound" in r], load_model(out)[0].state_dict()
    assert found[1][0] == pytest.approx(found[2][0], rel=1e-6)
    assert all(torch.allclose(value, found[2][1][key], atol=1e-6) for key, value in found[1][1].items())


def test_another_code_is_trained_from_a_folder(tmp_path):
    """A cluster tree of embeddings: made in Python, put into a model, which a recipe starts from."""
    tree = recipe(tmp_path, "prime", "joint_ce")
    source = tmp_path / "recipe.json"
    source.write_text(json.dumps(tree))
    network = maskless.build(maskless.PrimeConfig(**{key: value for key, value in tree["model"].items() if key != "type"}, vocab_size=259,
                                                  forbidden=(258,)))
    code = SubTokenCode.balanced_tree(torch.randn(259, 6, generator=torch.Generator().manual_seed(0)), 3)
    network.recode(code)
    maskless.TextModel(network, maskless.load_tokenizer("bytes"), device="cpu").save_pretrained(tmp_path / "start")
    maskless.train(str(source), "training.steps=2", f"training.start={tmp_path / 'start'}", out=tmp_path / "run")
    assert torch.equal(load_model(tmp_path / "run")[0].table, code.table)
    with pytest.raises(ValueError, match="make one that fits"):
        network.recode(SubTokenCode.digits(259, 2))


@pytest.mark.parametrize(("changes", "says"), [
    (("model.digits=5",), "width 18 is no multiple of 5 digits"), (("model.merge=sum",), "set tables=separate"),
    (("model.digits=0",), "at least 1 digit"),
    (("objective={type: partition}",), "which do not fit"), (("model.base=3",), "tells 27 classes apart"), (("model.code=words",), "code"),
    (("objective={type: sub_nelbo, chunk_point: 0.5}",), "train with joint_ce"), (("sampling.sampler.steps=73",), "more than the 72 digits of a row"),
])
def test_recipes_that_cannot_be(changes, says, tmp_path):
    source = tmp_path / "recipe.json"
    source.write_text(json.dumps(recipe(tmp_path, "prime", "joint_ce")))
    with pytest.raises(ValueError, match=says):
        load_recipe(str(source), "model.vocab_size=259", *changes)
