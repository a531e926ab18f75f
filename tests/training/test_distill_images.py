"""A guided teacher of images folded into its student: two rounds, their loss curve, killed inside, what is saved with them, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import maskless
from maskless.checkpoints.native import coding_in, guidance_in, load_checkpoint, save_model
from maskless.models import build
from maskless.training.distill import distill
from maskless.training.run import train
from tests.surface.conftest import call  # noqa: F401  (a fixture)
from tests.training.runs import losses, several
from tests.training.test_distill import GOLDEN, curve, notes, tensors
from tests.training.test_labels import MODELS, recipe

HELD = {"weight": 2.0, "schedule": "linear"}


def distillation(folder: Path, kind: str = "partition", **more: Any) -> dict[str, Any]:
    """Two rounds of three updates: Halton order, arccos schedule, guidance that rises from 0 to 2."""
    tree = recipe(folder, kind)
    del tree["objective"]
    groups = "both" if kind == "partition" else "one"
    options = {"teacher": str(folder / "teacher"), "round_steps": 3, "grid": 16, "teacher_steps": 4, "groups": groups, "order": "halton",
               "schedule": "arccos", "guidance": 2.0, "guidance_schedule": "linear", **more}
    training = {**tree["training"], "lr": 3e-3, "ema": 0.8, "class_dropout": 0.25}
    return {**tree, "training": training, "distill": options, "validation": {"rows": 0}, "checkpoints": {"every": 2, "keep": 9}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A labelled teacher of ten updates (after more, rounding decides), and a distillation by it that nothing disturbed (in `whole`)."""
    folder = tmp_path_factory.mktemp("images")
    train(recipe(folder), "training.steps=10", "training.class_dropout=0.2", "training.ema=0.8", "validation.rows=0", out=folder / "teacher")
    tree = distillation(folder)
    (folder / "distill.json").write_text(json.dumps(tree))
    distill(tree, out=folder / "whole")
    return folder


def test_the_loss_curve_is_what_it_was(folder):
    """fp32, one thread, relative 1e-3; in round 2 the teacher is the student and asked without guidance: half the token passes."""
    found = curve(folder / "whole")
    golden = json.loads(GOLDEN.read_text())["guided images"]
    assert len(found) == 6 and all(mine == pytest.approx(theirs, rel=1e-3, abs=1e-7) for mine, theirs in zip(found, golden, strict=True))
    guided, plain = (sum(tokens for *_, tokens in part) for part in (found[:3], found[3:]))
    assert guided > 1.6 * plain


@pytest.mark.parametrize("name, moment", [("step-00000002", "after"), pytest.param("1", "before", marks=pytest.mark.slow)])
def test_a_killed_distillation_continues_bit_for_bit(folder, name, moment):
    out = folder / f"killed-{name}-{moment}"
    killed = several("tests.training.distilling", folder, out, "--die", name, moment, processes=1)
    assert killed.returncode == -9, killed.stderr
    distill(out, out=out, resume=True)
    assert losses(out) == losses(folder / "whole")
    ours, theirs = tensors(out, last=6), tensors(folder / "whole", last=6)
    assert ours.keys() == theirs.keys() and len(theirs) > 100
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert notes(out)["rounds/2"] == notes(folder / "whole")["rounds/2"]


def test_the_student_says_which_guidance_it_holds(folder, tmp_path, call):  # noqa: F811
    run = folder / "whole"
    said = notes(run)
    assert "guidance" not in said["rounds/0"]
    assert all(said[place]["guidance"] == HELD for place in ("rounds/1", "rounds/2", "checkpoints/step-00000006"))
    student = maskless.load(run / "rounds" / "2", device="cpu")
    assert student.guidance == HELD and maskless.load(run / "rounds" / "0", device="cpu").guidance is None
    assert guidance_in(student.save_pretrained(tmp_path / "copy")) == HELD
    how = ["sample", run, "-n", 2, "--label", "1", "--steps", 4, "--seed", 3, "--device", "cpu", "--out"]
    plain, none, more = (call(*how, tmp_path / f"{name}.npz", *extra) for name, extra in
                         (("plain", ()), ("none", ("--guidance", 0)), ("more", ("--guidance", 1.5))))
    assert plain.code == none.code == more.code == 0 and plain.err == none.err == ""
    assert more.err == "this model was distilled from a teacher with guidance 2 and holds it; --guidance 1.5 comes on top\n"
    assert (tmp_path / "plain.npz").read_bytes() == (tmp_path / "none.npz").read_bytes()
    assert "guidance {'weight': 2.0, 'schedule': 'linear'}" in call("inspect", run / "rounds" / "1").out


def test_guidance_is_taken_over_once(folder, tmp_path):
    student = folder / "whole" / "rounds" / "2"
    with pytest.raises(ValueError, match=r"holds guidance 2 already; distill\.guidance=2 would come on top: leave it out"):
        distill(distillation(folder, teacher=str(student)), out=tmp_path / "run")
    plain = {"guidance": 0.0, "guidance_schedule": "constant"}
    run = distill(distillation(folder, teacher=str(student), **plain), "training.steps=3", out=tmp_path / "again")
    assert {place: found.get("guidance") for place, found in notes(run.folder).items()} == dict.fromkeys(notes(run.folder), HELD)
    shutil.rmtree(run.folder / "checkpoints")
    distill(run.folder, f"distill.teacher={folder / 'teacher'}", out=run.folder, resume=True)  # another teacher, which holds none
    assert {place: found.get("guidance") for place, found in notes(run.folder).items()} == dict.fromkeys(notes(run.folder))


def test_guidance_changes_what_is_learned_and_rows_without_a_class_learn_none(folder, tmp_path):
    found = [distill(distillation(folder, guidance=w, guidance_schedule="constant"), "training.steps=3", "training.class_dropout=0.0",
                     out=tmp_path / str(w)).metrics for w in (0.0, 3.0)]
    plain, guided = ([record["loss"] for record in records if "loss" in record] for records in found)
    assert guided[0] > 2 * plain[0]
    forgotten = [distill(distillation(folder, guidance=w, guidance_schedule="constant"), "training.steps=3", "training.class_dropout=0.999999",
                         out=tmp_path / f"{w}-forgotten").metrics for w in (0.0, 3.0)]
    plain, guided = ([record["loss"] for record in records if "loss" in record] for records in forgotten)
    assert guided == pytest.approx(plain, rel=1e-4)


def test_one_pass_learns_what_guidance_did_with_two(tmp_path):
    """Walks of one step: nothing but guidance is to be learned, and most of it is, in fifty updates."""
    less_sure = ("training.steps=30", "training.class_dropout=0.3", "training.ema=0.5", "training.lr=3e-3", "validation.rows=0")
    train(recipe(tmp_path), *less_sure, out=tmp_path / "teacher")
    tree = distillation(tmp_path, teacher_steps=1, guidance=5.0, guidance_schedule="constant", loss="kl-fwd", round_steps=50, next_teacher="raw")
    changes = ("training.steps=50", "training.lr=1e-3", "training.ema=0", "training.batch_size=16", "checkpoints.every=0")
    run = distill(tree, *changes, out=tmp_path / "run")
    found = [record["loss"] for record in run.metrics if "loss" in record]
    assert found[0] > 0.04 and sum(found[-10:]) / 10 < 0.2 * found[0]


def test_a_student_of_another_kind(folder, tmp_path):
    """A cached one begins with the partition teacher's weights; a MaskGIT at random, with one group."""
    tree = distillation(folder)
    tree["model"] = {**tree["model"], "type": "causal_partition"}
    distill(tree, "training.steps=3", out=tmp_path / "causal")
    tree = distillation(folder, groups="one")
    tree["model"] = {**MODELS["maskgit"], "length": 16, "grid": [4, 4], "width": 16, "heads": 2, "classes": 3, "dropout": 0.0}
    del tree["training"]["attention"]
    distill(tree, "training.steps=3", out=tmp_path / "maskgit")
    for name, kind in (("causal", "CausalPartitionTransformer"), ("maskgit", "MaskGITTransformer")):
        model = maskless.load(tmp_path / name / "rounds" / "1", device="cpu")
        assert type(model.model).__name__ == kind and model.generate(2, labels=1, steps=4).pixels.shape == (2, 4, 4, 1)
    with pytest.raises(ValueError, match=r"groups is both and model\.type is maskgit"):
        distill({**tree, "distill": {**tree["distill"], "groups": "both"}}, out=tmp_path / "run")


REFUSED = {
    ("data.codec.levels=8",): "has vocab_size 4 and the student 8; both must speak of the same sites, tokens and classes",
    ("data.size=6", "model.length=36", "model.grid=[6, 6]"): "has length 16 and the student 36",
    ("model.classes=0", "data.labels=false", "training.class_dropout=null"): "has classes 3 and the student 0",
    ("model.grid=[2, 8]",): "model.grid is [2, 8] and an image has 4 x 4 codes",
}


@pytest.mark.parametrize("changes", REFUSED)
def test_teachers_that_do_not_fit_are_refused(changes, folder, tmp_path):
    with pytest.raises(ValueError) as error:
        distill(distillation(folder), *changes, out=tmp_path / "run")
    assert REFUSED[changes] in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_another_codec_of_as_many_codes_is_refused(folder, tmp_path):
    """The numbers agree and what they stand for does not."""
    teacher = load_checkpoint(folder / "teacher")
    coding = coding_in(teacher.folder)
    other = maskless.ImageCodes(maskless.PixelCodec(levels=4), (2, 8), coding.classes)
    save_model(tmp_path / "other", build(teacher.config), tokenizer=other)
    with pytest.raises(ValueError, match="was trained with another tokenizer or codec than this recipe's data"):
        distill(distillation(folder, teacher=str(tmp_path / "other")), out=tmp_path / "run")
