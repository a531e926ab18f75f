"""Rounds: their loss curve, killed at any moment, by name, begun with which weights, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import maskless
from maskless.checkpoints import native
from maskless.checkpoints.native import load_checkpoint, put, save_model
from maskless.cli import main as command
from maskless.data.vq import VQCodec
from maskless.data.vqgan import VQ, VQConfig
from maskless.models.causal_partition import CachedPredictor
from maskless.training.distill import distill
from maskless.training.recipe import load_recipe
from maskless.training.run import Run, train
from tests.tiny import tiny
from tests.training.distilling import distillation, teach, write
from tests.training.runs import MODELS, losses, recipe, several

GOLDEN = Path(__file__).with_name("golden_distillation.json")
LINES = ("loss", "grad_norm", "teacher_calls", "teacher_tokens")


NO_TEACHERS = {"prime": "prime", "groups": "prime, groups", "llama": "prime, llama", "unet": "unet"}  # folders of models that write in digits


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A teacher, a distillation by it that nothing disturbed (in `whole`), and what cannot teach."""
    folder = tmp_path_factory.mktemp("distillation")
    teach(folder)
    for place, name in NO_TEACHERS.items():
        save_model(folder / place, tiny(name, torch.float32))
    codec = VQ(VQConfig(ch=4, ch_mult=(1, 2), res_blocks=1, z_channels=8, codebook_size=16, codebook_dim=4, channels=1, groups=2))
    save_model(folder / "codec", codec)
    (folder / "kept").mkdir()
    VQCodec(codec).save(folder / "kept")
    (folder / "released.ckpt").write_bytes(b"")
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
    changes = [({"weights": "raw"}, 0), ({"loss": "tvd", "top_p": 0.8}, 0), ({"next_teacher": "raw"}, 1), ({"optimizer": "reset"}, 2),
               ({"times": "reference"}, 0), ({"anchor": False}, 0), ({"groups": "one"}, 0),
               *(({"order": order}, 0) for order in ("left-to-right", "spaced", "confidence", "margin"))]
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


def beginnings(run: Run) -> str:
    return run.metrics[0]["note"].split("; ")[-1]


def test_a_student_says_what_it_begins_with(folder, tmp_path):
    """The teacher's weights only where they compute the same; tensors of the same shapes may not (heads, queries)."""
    said = {
        (): "student begins with the teacher's weights",
        ("model.dropout=0.3", "model.type=causal_partition", "model.causal=set"): "student begins with the teacher's weights",
        ("model.cond_dim=0",): "student begins at random: cond_dim 0, teacher 4",
        ("model.heads=4", "model.query=learned"): "student begins at random: heads 4, teacher 2, query learned, teacher position",
        (f"training.start={folder / 'whole'}",): f"student begins with the weights of {folder / 'whole'}",
    }
    first = load_checkpoint(folder / "teacher").weights
    for number, (changes, words) in enumerate(said.items()):
        run = distill(distillation(folder, round_steps=1), *changes, "training.steps=1", "training.lr=0", out=tmp_path / str(number))
        assert beginnings(run) == words
        now = run.state.model.state_dict()
        same = now.keys() == first.keys() and all(torch.equal(now[name], first[name]) for name in first)
        assert same == words.endswith("the teacher's weights")
        assert json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[0])["note"].endswith(words)


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    """A teacher in the shape of a released one: an id more than the tokenizer has, the mask's, and no tokenizer of its own."""
    folder = tmp_path_factory.mktemp("converted")
    sizes = {name: value for name, value in MODELS["masked"].items() if name != "type"}
    torch.manual_seed(1)
    model = maskless.build(maskless.MaskedConfig(260, **sizes, mask_id=259, forbidden=(258, 259)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_model(folder / "teacher", model)
    return folder


@pytest.mark.parametrize("changes", [(), ("model.vocab_size=260", "model.forbidden=[258, 259]"),
                                     ("model.vocab_size=260", "model.forbidden=[258, 259]", "model.mask_id=259")])
def test_a_student_takes_the_ids_of_a_converted_teacher(converted, changes, tmp_path):
    tree = distillation(converted, "masked", groups="one", round_steps=1)
    run = distill(tree, *changes, "training.steps=1", out=tmp_path / "run")
    config = run.model.config
    assert (config.vocab_size, config.forbidden, config.mask_id) == (260, (258, 259), 259)
    assert beginnings(run) == "student begins with the teacher's weights"
    distill(tree, *changes, "training.steps=2", out=tmp_path / "run", resume=True)
    assert maskless.load(tmp_path / "run" / "rounds" / "2", device="cpu").generate(length=8, steps=2, seed=1)


def test_another_kind_takes_the_ids_and_others_are_told_how(converted, tmp_path):
    run = distill(distillation(converted, round_steps=1), "training.steps=1", out=tmp_path / "run")
    assert (run.model.config.vocab_size, run.model.config.forbidden) == (260, (258, 259))
    assert beginnings(run) == "student begins at random: type partition, teacher masked"
    with pytest.raises(ValueError) as error:
        distill(distillation(converted, "masked", groups="one"), "model.vocab_size=259", out=tmp_path / "none")
    assert str(error.value).endswith("tokens and classes: set model.vocab_size=260 model.forbidden=[258, 259] model.mask_id=259")
    assert not (tmp_path / "none").exists()


def begun_anew(folder: Path, out: Path, upto: int) -> Path:
    """A copy of the whole run of which the later checkpoints were lost."""
    shutil.copytree(folder / "whole", out)
    for step in out.glob("checkpoints/step-*"):
        if int(step.name[5:]) > upto:
            shutil.rmtree(step)
    return out


def test_a_run_that_begins_again_has_the_teacher_it_names(folder, tmp_path):
    """`rounds/0` of another teacher is written over; with a checkpoint there is no other teacher any more."""
    run = begun_anew(folder, tmp_path / "run", 0)
    other = str(folder / "whole" / "rounds" / "2")
    distill(run, f"distill.teacher={other}", "distill.round_steps=1", "training.steps=1", out=run, resume=True)
    ours, theirs = load_checkpoint(run / "rounds" / "0").weights, load_checkpoint(other).weights
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs) and not list(run.rglob("*.tmp"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for change, words in ((f"distill.teacher={folder / 'teacher'}", f"is {folder / 'teacher'} and was {other} for 1 steps"),
                          ("distill.weights=raw", "is raw and was ema for 1 steps")):
        with pytest.raises(ValueError) as error:
            distill(run, change, "training.steps=2", out=run, resume=True)
        assert words in str(error.value) and "a run keeps its teacher and its rounds: leave distill." in str(error.value)
        assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_lost_teacher_is_named(folder, tmp_path):
    run = begun_anew(folder, tmp_path / "run", 6)
    shutil.rmtree(run / "rounds" / "1")
    before = (run / "metrics.jsonl").read_text()
    with pytest.raises(ValueError) as error:
        distill(run, out=run, resume=True)
    assert str(error.value) == (f"{run / 'rounds' / '1'} is gone or damaged, the teacher of round 2, and step 6 lies inside that round; "
                                "put the folder back, or begin another run with --out")
    assert (run / "metrics.jsonl").read_text() == before


def test_a_folder_without_its_description_is_no_round(folder, tmp_path):
    """Half of a folder, as a crash of an older version could leave it."""
    run = begun_anew(folder, tmp_path / "run", 4)
    (run / "rounds" / "1" / "config.json").unlink()
    distill(run, out=run, resume=True)
    assert losses(run) == losses(folder / "whole") and notes(run) == notes(folder / "whole")


@pytest.mark.parametrize("moment", ["full", "killed"])
def test_an_older_folder_is_there_until_the_new_one_is(moment, tmp_path, monkeypatch):
    """Whatever happens while one takes the place of the other."""
    def note(text):
        return lambda folder: [(folder / name).write_text(text) for name in "ab"] and None

    final = tmp_path / "0"
    put(final, note("old"))
    if moment == "full":
        rename = os.rename
        monkeypatch.setattr(native.os, "rename", lambda a, b: rename(a, b) if Path(a).name != "0.tmp" else os.listdir("/nowhere"))
        with pytest.raises(OSError, match="nowhere"):
            put(final, note("new"))
    else:
        def dying(folder, **_):
            (Path(folder) / "a").unlink(missing_ok=True)
            raise KeyboardInterrupt

        monkeypatch.setattr(native.shutil, "rmtree", dying)
        with pytest.raises(KeyboardInterrupt):
            put(final, note("new"))
    monkeypatch.undo()
    assert [(final / name).read_text() for name in "ab"] == ["old" if moment == "full" else "new"] * 2
    put(final, note("newer"))
    assert (final / "a").read_text() == "newer" and os.listdir(tmp_path) == ["0"]


@pytest.mark.slow
def test_two_processes_distil_as_one_and_cost_as_much(folder, tmp_path):
    """The losses of one process; the tokens of both, which for a masked teacher are those of one, before and after an interruption."""
    teach(tmp_path, "masked")
    (tmp_path / "distill.json").write_text(json.dumps(distillation(tmp_path, "masked", groups="one")))
    for out, how, processes in (("one", (), 1), ("two", ("--die", "step-00000002", "after"), 2), ("two", ("--resume",), 2)):
        ended = several("tests.training.distilling", tmp_path, tmp_path / out, "model.dropout=0", *how, processes=processes)
        assert (ended.returncode == 0) == ("--die" not in how), ended.stderr
    torch.testing.assert_close(torch.tensor(losses(tmp_path / "two")), torch.tensor(losses(tmp_path / "one")), rtol=1e-5, atol=1e-6)
    for round in "12":
        one, two = (load_checkpoint(tmp_path / out / "rounds" / round).extra["cost"] for out in ("one", "two"))
        assert (one["processes"], two["processes"]) == (1, 2) and two["teacher_calls"] > one["teacher_calls"]
        assert two["teacher_tokens"] == one["teacher_tokens"] and two["student_tokens"] == one["student_tokens"]


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
    ("distill.teacher={folder}/codec",): "holds a codec of images, not a model; name the folder of a model, and the codec as data.codec",
    ("distill.teacher={folder}/kept",): "holds a codec of images, not a model; name the folder of a model, and the codec as data.codec",
    ("distill.teacher={folder}/prime",): "is of type prime, which writes tokens in digits, and teachers walk over whole tokens; take a masked",
    ("distill.teacher={folder}/groups",): "is of type prime_partition, which writes tokens in digits",
    ("distill.teacher={folder}/llama",): "is of type prime_llama, which writes tokens in digits",
    ("distill.teacher={folder}/unet",): "is of type unet, which writes tokens in digits",
    ("distill.teacher={folder}/released.ckpt",): "released.ckpt FOLDER",
}


@pytest.mark.parametrize("changes", REFUSED)
def test_teachers_that_do_not_fit_are_refused(changes, folder, tmp_path):
    with pytest.raises(ValueError) as error:
        distill(distillation(folder), *(change.format(folder=folder) for change in changes), out=tmp_path / "run")
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
    ("distill.teacher_steps=9",): "teacher_steps is 9 and grid 8: a step of the first student would be longer than the whole way; have at most 8",
    ("distill.guidance_schedule=linear",): "guidance_schedule is linear and guidance 0, so there is nothing to schedule; give distill.guidance",
    ("model.type=masked", "model.layers=1"): "model.encoder_layers is a key of partition, causal_partition, prime_partition",
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


ROUNDS = {"round_steps": 2, "grid": 16, "teacher_steps": 4, "guidance": 1.0}


@pytest.mark.parametrize("name", ROUNDS)
def test_a_resumed_run_keeps_its_rounds(folder, tmp_path, name):
    out = tmp_path / "run"
    distill(distillation(folder), "training.steps=4", out=out)
    with pytest.raises(ValueError, match=rf"distill\.{name} is {ROUNDS[name]} and was .* for 4 steps; a run keeps its teacher and its rounds"):
        distill(out, f"distill.{name}={ROUNDS[name]}", out=out, resume=True)


def test_a_damaged_round_is_made_again_from_the_checkpoint_at_its_end(folder, tmp_path):
    out = tmp_path / "run"
    distill(distillation(folder), "training.steps=4", out=out)
    file = out / "rounds" / "1" / "ema.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-8])
    assert distill(out, "training.steps=8", out=out, resume=True).state.step == 8
    assert file.read_bytes() == whole
