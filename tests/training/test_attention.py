"""The attention a run trains with: measured once, said, kept, used again."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch

from maskless.evaluation.attention import Shape, available, measure
from maskless.layers.groups import GROUPINGS
from maskless.training import attention
from maskless.training.attention import Chosen
from maskless.training.recipe import load_recipe
from maskless.training.run import train
from tests.training.runs import recipe

AUTO = ("training.attention=auto", "validation.rows=0")
CPU = torch.device("cpu")


def fastest(monkeypatch, name: str) -> list[Shape]:
    """Let the measurement find `name`; returns the shapes it was asked about."""
    asked: list[Shape] = []

    def measured(names, shape, device, dtype, progress):
        asked.append(shape)
        return {each: 0.001 if each == name else 0.002 for each in names}

    monkeypatch.setattr(attention, "measure", measured)
    return asked


def test_measured_once_and_used_again(tmp_path, monkeypatch):
    out = tmp_path / "run"
    asked = fastest(monkeypatch, "plain")
    first = train(recipe(tmp_path), *AUTO, "training.steps=2", "training.accumulate=2", out=out)
    assert asked == [Shape(rows=4, heads=2, length=24, width=8, own=1, other=2)]
    assert "attention among groups: plain (measured: dense 2.0 ms, segments 2.0 ms, plain 1.0 ms)" in first.metrics[0]["note"]
    assert json.loads((first.checkpoint / "trainer" / "state.json").read_text())["groups"] == "plain"
    fastest(monkeypatch, "segments").append(asked[0])
    again = train(out, "training.steps=4", out=out, resume=True)
    assert "attention among groups: plain;" in again.metrics[0]["note"]  # nothing measured, and no difference to announce
    assert "groups is" not in again.metrics[0]["note"]


def test_a_checkpoint_from_before_goes_on_with_masks(tmp_path, monkeypatch):
    fastest(monkeypatch, "segments")
    first = train(recipe(tmp_path), *AUTO, "training.steps=2", out=tmp_path / "run")
    state = first.checkpoint / "trainer" / "state.json"
    notes = json.loads(state.read_text())
    del notes["groups"]
    state.write_text(json.dumps(notes))
    again = train(tmp_path / "run", "training.steps=3", out=tmp_path / "run", resume=True)
    assert "attention among groups: dense" in again.metrics[0]["note"]


def test_another_way_is_announced(tmp_path):
    train(recipe(tmp_path), "training.steps=2", "validation.rows=0", out=tmp_path / "run")
    again = train(tmp_path / "run", "training.steps=3", "training.attention=dense", out=tmp_path / "run", resume=True)
    assert "groups is dense (was segments)" in again.metrics[0]["note"]


@pytest.mark.parametrize("way", ["segments", "plain", "dense", "math"])
def test_without_dropout_the_way_changes_nothing(tmp_path, way):
    """Losses and validation alike, to rounding."""
    runs = [
        train(recipe(tmp_path), "model.dropout=0", "training.steps=3", f"training.attention={which}", out=tmp_path / f"{which}-{n}")
        for n, which in enumerate((way, "dense"))
    ]
    ours, theirs = ([record.get("loss", record.get("bound", 0.0)) for record in run.metrics] for run in runs)
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_every_way_of_a_cpu_is_measured():
    names = available(CPU, torch.float32)
    found = measure(names, Shape(3, 2, 16, 8, own=2, other=3), CPU, torch.float32, repeats=1)
    assert list(found) == names and all(seconds > 0 for seconds in found.values())
    assert {*names, "varlen", "flex"} == {*GROUPINGS}


@pytest.mark.parametrize("width, names", [(4, ["dense"]), (8, ["dense", "varlen"]), (20, ["dense", "flex"]), (64, ["dense", "varlen", "flex"]),
                                          (264, ["dense", "flex"]), (None, ["dense", "varlen", "flex"])])
def test_heads_too_narrow_or_too_wide_have_fewer_ways(monkeypatch, width, names):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert available(torch.device("cuda"), torch.bfloat16, width) == names


def test_a_way_that_fails_is_left_out_and_said(tmp_path, monkeypatch):
    def fails(*args):
        raise NotImplementedError("no kernel for this shape\nand more")

    monkeypatch.setitem(GROUPINGS, "plain", fails)
    run = train(recipe(tmp_path), *AUTO, "training.steps=1", out=tmp_path / "run")
    assert "plain fails: NotImplementedError: no kernel for this shape)" in run.metrics[0]["note"]
    assert "dense" in run.metrics[0]["note"] and "segments" in run.metrics[0]["note"]
    monkeypatch.setitem(GROUPINGS, "dense", fails)
    with pytest.raises(NotImplementedError):                        # the reference is never left out
        measure(["dense", "segments"], Shape(3, 2, 16, 8, own=2, other=3), CPU, torch.float32, repeats=1)


@pytest.mark.parametrize("way", ["segments", "plain", "dense"])
def test_digits_in_groups_have_a_choice_as_well(tmp_path, way):
    """Losses and validation alike, to rounding; measured at the number of elements that a row has on average."""
    tree = recipe(tmp_path, "prime_partition")
    runs = [
        train(tree, "model.dropout=0", "training.steps=3", f"training.attention={which}", out=tmp_path / f"{which}-{n}")
        for n, which in enumerate((way, "dense"))
    ]
    ours, theirs = ([record.get("loss", record.get("bound", 0.0)) for record in run.metrics] for run in runs)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert f"attention among groups: {way}" in runs[0].metrics[0]["note"]


def test_late_fusion_keeps_to_masks(tmp_path, monkeypatch):
    asked = fastest(monkeypatch, "segments")
    tree = recipe(tmp_path, "prime_partition")
    late = {**tree, "model": {**tree["model"], "fusion": "late"}}
    run = train(late, *AUTO, "training.steps=1", out=tmp_path / "late")
    assert "attention among groups: dense" in run.metrics[0]["note"] and not asked
    train(tree, *AUTO, "training.steps=1", out=tmp_path / "elements")
    assert asked[0].length == round(24 * 2 * tree["model"]["digits"] / (tree["model"]["digits"] + 1))
    with pytest.raises(ValueError, match="late fusion does not have; use auto or one of dense"):
        train(late, "training.attention=segments", out=tmp_path / "never")


def test_models_without_groups_have_nothing_to_choose(tmp_path):
    run = train(recipe(tmp_path, "masked"), "training.steps=1", "validation.rows=0", out=tmp_path / "run")
    assert "groups" not in run.metrics[0]["note"]
    assert Chosen(None).notes() == []


@pytest.mark.parametrize("kind, change, sentence", [
    ("masked", "segments", "model.type is masked, which has no groups to attend among; use auto or math"),
    ("partition", "quick", "training.attention is 'quick'"),
])
def test_what_cannot_be_is_refused(tmp_path, kind, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_recipe(recipe(tmp_path, kind), f"training.attention={change}")


def test_what_this_device_does_not_have_is_refused(tmp_path):
    refusal = "attention is varlen, which fp32 on cpu with heads of width 8 does not have; use auto or one of dense, segments, plain"
    with pytest.raises(ValueError, match=refusal):
        train(recipe(tmp_path), "training.attention=varlen", out=tmp_path / "run")
