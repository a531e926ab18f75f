"""Rounds: their loss curve, killed at any moment, by name, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import maskless
from maskless.checkpoints.native import load_checkpoint
from maskless.cli import main as command
from maskless.models.causal_partition import CachedPredictor
from maskless.training.distill import distill
from maskless.training.recipe import load_recipe
from maskless.training.run import train
from tests.training.distilling import distillation, teach, write
from tests.training.runs import losses, recipe, several

GOLDEN = Path(__file__).with_name("golden_distillation.json")
LINES = ("loss", "grad_norm", "teacher_calls", "teacher_tokens")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A teacher, and a distillation by it that nothing disturbed (in `whole`)."""
    folder = tmp_path_factory.mktemp("distillation")
    teach(folder)
    write(folder, optimizer="reset")
    distill(json.loads((folder / "distill.json").read_text()), out=folder / "whole")
    return folder


def curve(run: Path) -> list[list[float]]:
    """Loss, gradient norm and what the teacher cost, update after update."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [[record[name] for name in LINES] for record in records if "loss" in record]
    print(json.dumps(found))
    return found


def notes(run: Path) -> dict[str, dict]:
    """What the folders of a run say beside their weights."""
    return {str(file.parent.relative_to(run)): json.loads(file.read_text())["extra"] for file in run.rglob("config.json")}


def tensors(run: Path, last: int = 8) -> dict[str, torch.Tensor]:
    """Everything that a run has trained and will go on with."""
    files = [path for path in sorted(run.rglob("*.safetensors")) if f"step-{last:08d}" in path.parts or "rounds" in path.parts]
    return {f"{file.relative_to(run)}:{name}": tensor for file in files for name, tensor in load_file(file).items()}


# inside a round; before its last checkpoint; between that and the round's folder; after both
MOMENTS = [("step-00000002", "after"), ("step-00000004", "before"), ("1", "before"), ("1", "after")]
MORE = [("step-00000004", "after"), ("step-00000008", "after"), ("2", "before"), ("0", "before")]


@pytest.mark.parametrize(("name", "moment"), [*MOMENTS, *(pytest.param(*each, marks=pytest.mark.slow) for each in MORE)])
def test_a_killed_distillation_continues_bit_for_bit(folder, name, moment):
    out = folder / f"killed-{name}-{moment}"
    killed = several("tests.training.distilling", folder, out, "--die", name, moment, processes=1)
    assert killed.returncode == -9, killed.stderr
    distill(out, out=out, resume=True)
    assert losses(out) == losses(folder / "whole")
    ours, theirs = tensors(out), tensors(folder / "whole")
    assert ours.keys() == theirs.keys() and len(theirs) > 100
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert not list(out.rglob("*.tmp"))
    ours, theirs = notes(out), notes(folder / "whole")
    assert all(ours[place] == theirs[place] for place in ("rounds/0", "rounds/1", "rounds/2", "checkpoints/step-00000008"))


def test_the_loss_curve_is_what_it_was(folder):
    """fp32, one thread, relative 1e-3; after a change that is meant, write the printed values into the file and say why."""
    found = curve(folder / "whole")
    golden = json.loads(GOLDEN.read_text())["partition"]
    assert len(found) == 8 and all(mine == pytest.approx(theirs, rel=1e-3) for mine, theirs in zip(found, golden, strict=True))
    assert all(calls in (2, 3, 4) for _, _, calls, _ in found)


def test_a_round_says_what_it_has_cost(folder):
    found = curve(folder / "whole")
    for round, steps in (("1", 4), ("2", 8)):
        cost = load_checkpoint(folder / "whole" / "rounds" / round).extra["cost"]
        spent = {name: sum(line[place] for line in found[:steps]) for name, place in (("teacher_calls", 2), ("teacher_tokens", 3))}
        assert cost == {"updates": steps, "processes": 1, "student_tokens": steps * 8 * 24, **spent}


def test_every_round_is_a_model(folder):
    run = folder / "whole"
    assert sorted(path.name for path in (run / "rounds").iterdir()) == ["0", "1", "2"]
    for name in "012":
        assert maskless.load(run / "rounds" / name, device="cpu").generate(length=8, steps=2, seed=1)
    zero, teacher = load_checkpoint(run / "rounds" / "0"), load_checkpoint(folder / "teacher")
    assert all(torch.equal(zero.weights[name], teacher.weights[name]) for name in teacher.weights)
    last, saved = (load_checkpoint(place, ema=False) for place in (run / "rounds" / "2", run))
    assert all(torch.equal(last.weights[name], saved.weights[name]) for name in saved.weights)
    assert last.extra["student_steps"] == 2


def losses_of_rounds(folder: Path, out: Path, **more) -> list[float]:
    """Three rounds of one update."""
    distill(distillation(folder, round_steps=1, **more), "training.steps=3", out=out)
    return [loss for _, loss, _ in losses(out)]


def test_options_are_obeyed(folder, tmp_path):
    """Each changes what it should from the round in which it should."""
    plain = losses_of_rounds(folder, tmp_path / "plain")
    changes = [({"weights": "raw"}, 0), ({"loss": "tvd", "top_p": 0.8}, 0), ({"next_teacher": "raw"}, 1), ({"optimizer": "reset"}, 2)]
    for number, (more, same) in enumerate(changes):
        found = losses_of_rounds(folder, tmp_path / str(number), **more)
        assert found[:same] == plain[:same] and found[2] != plain[2] and (same == 2 or found[same] != plain[same])


def test_a_student_of_another_kind(folder, tmp_path):
    """A cached one by a bidirectional one, whose weights it begins with; a masked one; each is a model of its kind afterwards."""
    tree = distillation(folder)
    tree["model"] = {**tree["model"], "type": "causal_partition"}
    run = distill(tree, "distill.round_steps=1", "training.steps=2", out=tmp_path / "causal")
    assert run.metrics[2]["loss"] < 0.1                             # it begins with the teacher's weights
    made = [maskless.load(tmp_path / "causal" / "rounds" / name, device="cpu").model for name in "012"]
    assert [type(model).__name__ for model in made] == ["PartitionTransformer", "CausalPartitionTransformer", "CausalPartitionTransformer"]
    assert isinstance(made[2].predictor(), CachedPredictor)
    tokens = [record["teacher_tokens"] for record in run.metrics if "loss" in record]
    assert tokens[1] < tokens[0]                                    # in the second round the teacher walks with its cache
    tree = distillation(folder, "masked", groups="one")
    run = distill(tree, "distill.round_steps=1", "training.steps=1", out=tmp_path / "masked")
    assert run.model.config.layers == 2 and all(record["loss"] > 0 for record in run.metrics if "loss" in record)


def test_a_masked_teacher_and_a_partition_student(tmp_path):
    """No tensors in common: the student begins at random, or with `training.start`."""
    teach(tmp_path, "masked")
    run = distill(distillation(tmp_path, groups="both"), "distill.round_steps=2", "training.steps=4", out=tmp_path / "run")
    assert [type(maskless.load(tmp_path / "run" / "rounds" / name, device="cpu").model).__name__ for name in "01"] == [
        "MaskedTransformer", "PartitionTransformer"]
    curve = [record["loss"] for record in run.metrics if "loss" in record]
    assert all(0 < loss < 10 for loss in curve) and curve[0] > 0.1  # a random student has much to learn
    distill(distillation(tmp_path), f"training.start={tmp_path / 'run'}", "distill.round_steps=2", "training.steps=2", out=tmp_path / "more")
    assert losses(tmp_path / "more")[0][1] != curve[0]


def test_a_bidirectional_walk_teaches_the_cached_one(folder, tmp_path):
    """The same weights, order-causal: in round 1 they teach as one set what they are to say through their cache."""
    tree = distillation(folder)
    tree["model"] = {**tree["model"], "type": "causal_partition"}
    start = distill(tree, "distill.round_steps=1", "training.steps=1", out=tmp_path / "start").folder
    tree["distill"] = {**tree["distill"], "teacher": str(start), "round_steps": 1}
    plain, afresh = (distill(tree, "training.steps=2", f"distill.refresh={n}", out=tmp_path / str(n)) for n in (0, 1))
    tokens = [[record["teacher_tokens"] for record in run.metrics if "loss" in record] for run in (plain, afresh)]
    assert tokens[1][0] > tokens[0][0] and tokens[1][1] < tokens[1][0]
    with pytest.raises(ValueError, match=r"distill\.refresh is 1 and .* keeps no cache; leave it out"):
        distill(distillation(folder), "distill.refresh=1", out=tmp_path / "none")


REFUSED = {
    ("model.length=32",): "has length 24 and the student 32; both must speak of the same sites, tokens and classes: set model.length=24",
    ("data.tokenizer=characters",): "has vocab_size 259 and the student",
    ("distill.teacher=nowhere",): "nowhere does not exist; give a run folder",
    ("model.time_conditioned=true",): "the student is time-conditioned",
    ("distill.guidance=2",): "has no classes to guide by; leave it out, or take a labelled teacher",
}


@pytest.mark.parametrize("changes", REFUSED)
def test_teachers_that_do_not_fit_are_refused(changes, folder, tmp_path):
    with pytest.raises(ValueError) as error:
        distill(distillation(folder), *changes, out=tmp_path / "run")
    assert REFUSED[changes] in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


IMPOSSIBLE = {
    ("distill.round_steps=3",): "training.steps is 8, not a multiple of distill.round_steps 3",
    ("distill.grid=3",): "have at most 1 rounds (training.steps=4), or a finer grid",
    ("distill.top_p=0.9",): "loss is kl-bwd and top_p 0.9: it is infinite where the teacher's law is cut to 0; use loss=kl-fwd or tvd",
    ("training.ema=0",): "use distill.next_teacher=raw",
    ("distill.loss=kl",): "distill.loss is 'kl'",
    ("distill.guidance=.inf",): "distill.guidance is",
    ("distill.refresh=-1",): "refresh is -1; give the number of calls",
    ("distill.order=halton",): "distill.order is halton, the order of the cells of an image, and the data are texts; choose another",
    ("distill.times=reference", "distill.schedule=arccos"): "the released code knows the linear one only; use times=exact",
    ("distill.teacher_steps=0",): "teacher_steps is 0; it must be at least 1",
    ("model.type=masked", "model.layers=1"): "",
}


@pytest.mark.parametrize("changes", IMPOSSIBLE)
def test_impossible_recipes(changes, tmp_path):
    with pytest.raises(ValueError) as error:
        load_recipe(distillation(tmp_path), *changes)
    assert IMPOSSIBLE[changes] in str(error.value) and "\n" not in str(error.value)


def test_a_masked_student_has_one_group(tmp_path):
    with pytest.raises(ValueError, match=r"predicts one side of a split in a pass; use distill\.groups=one"):
        load_recipe(distillation(tmp_path, "masked"))


def test_an_autoregressive_model_neither_teaches_nor_learns(folder, tmp_path):
    with pytest.raises(ValueError, match="cannot reveal several sites in one step"):
        load_recipe(distillation(tmp_path, "autoregressive"))
    teach(tmp_path, "autoregressive")
    with pytest.raises(ValueError, match="is autoregressive, which reveals one site a step"):
        distill(distillation(tmp_path), out=tmp_path / "run")


def test_the_two_verbs_know_their_recipes(folder, tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match="run it with maskless distill"):
        train(distillation(folder), out=tmp_path / "run")
    with pytest.raises(ValueError, match="run it with maskless train"):
        distill(recipe(tmp_path), out=tmp_path / "run")
    whole = (str(folder / "distill.json"), "--quiet", "-o", str(tmp_path / "cli"))
    for arguments, code, said in (((), 2, "maskless distill distill/tiny_pgm"), (whole, 0, "cli")):
        monkeypatch.setattr(sys, "argv", ["maskless", "distill", *arguments])
        with pytest.raises(SystemExit) as stop:
            command.main()
        shown = capsys.readouterr()
        assert stop.value.code == code and said in shown.out + shown.err
    assert losses(tmp_path / "cli") == losses(folder / "whole")
