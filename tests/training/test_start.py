"""A run may begin with the weights of another: a bidirectional partition model becomes an order-causal one."""
from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import maskless
from maskless.data.tokenizer import load_tokenizer
from maskless.training.run import train
from tests.training.runs import MODELS, losses, recipe

CAUSAL = {**MODELS["partition"], "type": "causal_partition", "causal": "set", "dropout": 0.0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    train(recipe(folder), "training.steps=3", out=folder / "first")
    return folder


def causal(folder, objective):
    return {**recipe(folder), "model": CAUSAL, "objective": objective}


def test_the_first_step_starts_from_the_weights_given(trained):
    run = train(causal(trained, {"type": "partition"}), f"training.start={trained / 'first'}", "training.steps=1", "training.lr=0",
                out=trained / "same")
    begun = load_file(trained / "first" / "checkpoints" / "step-00000003" / "ema.safetensors")
    assert all(torch.equal(tensor, begun[name]) for name, tensor in run.state.model.state_dict().items())
    assert run.recipe.model.causal == "set"


def test_every_mode_of_the_dial_is_reported(trained):
    run = train(causal(trained, {"type": "dial", "largest": 4}), f"training.start={trained / 'first'}", "training.steps=6", out=trained / "dial")
    found = next(record for record in reversed(run.metrics) if "bound" in record)
    for name in ("bound_of_2_a_step", "bound_of_4_a_step", "bound_of_two_groups"):
        assert found[name] > 0 and found[f"{name}_standard_error"] > 0
    assert found["perplexity"] == pytest.approx(torch.tensor(found["bound"]).exp().item(), rel=1e-5)


def test_a_resumed_run_does_not_look_for_its_beginning_again(trained, tmp_path):
    tree = causal(trained, {"type": "any_order"})
    whole = train(tree, f"training.start={trained / 'first'}", "training.steps=4", out=tmp_path / "whole")
    moved = trained / "first"
    train(tree, f"training.start={moved}", "training.steps=4", "checkpoints.every=2", out=tmp_path / "half")
    (tmp_path / "half" / "checkpoints" / "step-00000004").rename(tmp_path / "gone")
    (tmp_path / "half" / "latest").write_text("step-00000002\n")
    moved.rename(trained / "elsewhere")
    try:
        again = train(tmp_path / "half", out=tmp_path / "half", resume=True)
    finally:
        (trained / "elsewhere").rename(moved)
    assert losses(again.folder) == losses(whole.folder)


MISFITS = {
    "another size": ({"type": "partition"}, {**CAUSAL, "width": 32}, "has shape"),
    "another kind": ({"type": "masked"}, MODELS["masked"], "lacks the tensor"),
    "nothing there": ({"type": "partition"}, CAUSAL, "does not exist"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_weights_that_do_not_fit_are_refused(name, trained, tmp_path):
    objective, model, word = MISFITS[name]
    where = trained / ("nowhere" if word == "does not exist" else "first")
    with pytest.raises(ValueError, match=word):
        tree = {**recipe(trained), "objective": objective, "model": model}
        train(tree, f"training.start={where}", "training.steps=1", "training.attention=auto", out=tmp_path / "run")


def test_another_vocabulary_is_refused(trained, tmp_path):
    tree = causal(trained, {"type": "partition"})
    tree = {**tree, "data": {**tree["data"], "tokenizer": "characters"}}
    with pytest.raises(ValueError, match="another tokenizer or codec than this recipe's data"):
        train(tree, f"training.start={trained / 'first'}", "training.steps=1", out=tmp_path / "run")


def test_other_tokens_of_the_same_number_are_refused(trained, tmp_path):
    """The ids of another alphabet of the same size mean other letters."""
    tree = recipe(trained)
    for name, shift in (("first", 0), ("other", 1)):
        text = tmp_path / f"{name}.txt"
        text.write_text("\n".join("".join(chr(ord("a") + (n * n + k) % 20 + shift) for k in range(40)) for n in range(99)))
        tree = {**tree, "data": {**tree["data"], "train": str(text), "tokenizer": "characters"}}
        if name == "first":
            train(tree, "training.steps=1", out=tmp_path / "first")
    with pytest.raises(ValueError, match=r"training\.start .*first was trained with another tokenizer or codec than this recipe's data; use its own"):
        train(tree, f"training.start={tmp_path / 'first'}", "training.steps=1", out=tmp_path / "run")


def of_genes(place, text, **data):
    place.write_text(text)
    tree = recipe(place.parent)
    return {**tree, "data": {"type": "sequences", "train": str(place), **data}, "validation": {"rows": 0}}


def test_a_model_of_sequences_is_trained_on_others_of_its_symbols(tmp_path):
    first = train(of_genes(tmp_path / "many.txt", "ACGT\nTTGCA\nGATTACA\n" * 40), "training.steps=2", out=tmp_path / "first")
    fewer = of_genes(tmp_path / "few.txt", "ACCA\nCACAC\nAACCCA\n" * 40)
    with pytest.raises(ValueError, match="another tokenizer or codec than this recipe's data; use its own"):
        train(fewer, f"training.start={first.folder}", "training.steps=1", out=tmp_path / "other")
    again = train(fewer, f"training.start={first.folder}", f"data.tokenizer={first.folder}", "training.steps=1", out=tmp_path / "again")
    assert again.tokenizer.hash == first.tokenizer.hash and again.recipe.model == first.recipe.model
    going = train(again.folder, "training.steps=2", out=again.folder, resume=True)
    assert going.state.step == 2
    with pytest.raises(ValueError, match="'N'"):
        train(of_genes(tmp_path / "unknown.txt", "ACNA\n" * 40, tokenizer=str(first.folder)), "training.steps=1", out=tmp_path / "unknown")


@pytest.mark.parametrize("named", ["run", "step", "model"])
def test_a_tokenizer_of_a_model_is_named_by_its_folder(trained, tmp_path, named):
    run = trained / "first"
    place = {"run": run, "step": run / "checkpoints" / "step-00000003", "model": tmp_path / "model"}[named]
    if named == "model":
        maskless.load(run, device="cpu").save_pretrained(place)
    assert load_tokenizer(place).hash == maskless.load(run, device="cpu").tokenizer.hash
    assert load_tokenizer("tiny").vocabulary.size == 4096
