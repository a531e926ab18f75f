"""The loop: what an update is, what is recorded, how a run stops."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from maskless.models.masked import MaskedConfig, MaskedTransformer
from maskless.training import ema
from maskless.training.muon import Muon
from maskless.training.optim import learning_rate, moments, optimizer, restore_moments
from maskless.training.recipe import Training
from maskless.training.run import train
from tests.training.runs import losses, recipe

GOLDEN = Path(__file__).parents[1] / "golden" / "text_ema.safetensors"


def numbers(run) -> torch.Tensor:
    return torch.tensor(losses(run.folder))


def test_learning_rates():
    constant = Training(steps=100, lr=1.0, warmup=4)
    assert [learning_rate(constant, step) for step in (0, 1, 3, 4, 99)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    cosine = Training(steps=104, lr=1.0, warmup=4, schedule="cosine", lr_floor=0.2)
    assert [learning_rate(cosine, step) for step in (3, 4, 54, 104, 999)] == pytest.approx([1, 1, 0.6, 0.2, 0.2])
    assert learning_rate(Training(steps=1, lr=1.0, warmup=0), 0) == 1.0


def test_the_published_rates_of_image_models():
    """The same numbers one update earlier: the released code's first update has rate 0."""
    golden = load_file(GOLDEN.with_name("image_schedules.safetensors"))
    published = Training(steps=1_000_000, lr=1e-4, warmup=2500, schedule="cosine_tail", lr_floor=1e-6)
    for step, rate in zip(golden["lr/iter"].tolist(), golden["lr/value"].tolist(), strict=True):
        assert learning_rate(published, step - 1) == pytest.approx(rate, rel=1e-12)
    short = Training(steps=100, lr=1.0, warmup=0, schedule="cosine_tail")
    assert [learning_rate(short, step) for step in (0, 89, 94, 99)] == pytest.approx([1, 1, 0.5, 0])


def test_decay_falls_on_everything_or_spares_norms_and_biases():
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for decay, moved in (("all", [True, False, True, False]), ("matrices", [True, False, False, False])):
        training = Training(steps=1, lr=0.1, weight_decay=0.5, decay=decay)
        with torch.no_grad():
            for parameter, old in zip(model.parameters(), before):
                parameter.copy_(old)
            model[0].bias.zero_()
        made = optimizer(model, training)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)                                    # nothing but decay moves it
        made.step()
        shrunk = [bool((parameter != old).any()) for parameter, old in zip(model.parameters(), before)]
        assert [shrunk[0], shrunk[2], shrunk[3]] == [moved[0], moved[2], moved[3]]
        again = optimizer(model, training)
        restore_moments(model, again, moments(model, made))
        assert moments(model, again).keys() == moments(model, made).keys()


def test_the_average_equals_the_reference():
    """The published implementation's shadow weights, update by update."""
    golden = load_file(GOLDEN)
    model, average = (nn.ParameterList([nn.Parameter(golden[f"init/{i}"].clone()) for i in (0, 1)]) for _ in range(2))
    for n in range(12):
        with torch.no_grad():
            for i, parameter in enumerate(model):
                parameter.copy_(golden[f"step{n:02d}/param{i}"])
        ema.update(average, model, ema.effective_decay(0.9999, n + 1))
        for i, parameter in enumerate(average):
            torch.testing.assert_close(parameter, golden[f"step{n:02d}/shadow{i}"], rtol=1e-6, atol=5e-7)  # rounding
    assert ema.effective_decay(0.9999, 1) == 2 / 11 and ema.effective_decay(0.9, 10**6) == 0.9


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_moments_come_back_by_name(name):
    training = Training(steps=1, optimizer=name)
    first, second = (nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)) for _ in range(2))
    made, other = optimizer(first, training), optimizer(second, training)
    first(torch.ones(1, 3)).sum().backward()
    made.step()
    saved = {name: value.clone() for name, value in moments(first, made).items()}
    restore_moments(second, other, saved)
    assert moments(second, other).keys() == saved.keys() != set()
    assert all(torch.equal(moments(second, other)[name], value) for name, value in saved.items())
    second.load_state_dict(first.state_dict())
    for model, its in ((first, made), (second, other)):
        its.zero_grad()
        model(torch.ones(1, 3)).sum().backward()
        its.step()
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(first.parameters(), second.parameters(), strict=True))
    with pytest.raises(ValueError, match="is not that of a parameter of shape"):
        restore_moments(nn.Sequential(nn.Linear(4, 2)), other, saved)
    unlike = optimizer(second, Training(steps=1, optimizer="adamw" if name == "muon" else "muon"))
    with pytest.raises(ValueError, match="resume with the recipe the run was started with"):
        restore_moments(second, unlike, saved)


def test_muon_moves_matrices_along_their_singular_vectors():
    """The first update of a matrix is its gradient with all singular values made (about) equal; head, embedding and biases go AdamW's way."""
    torch.manual_seed(0)
    model = MaskedTransformer(MaskedConfig(vocab_size=12, length=8, width=16, heads=2, layers=1, cond_dim=0))
    training = Training(steps=1, optimizer="muon", lr=0.1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    made = optimizer(model, training)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    made.step()
    inner = "blocks.0.mlp.up.weight"
    update = before[inner] - model.get_parameter(inner)
    left, _, right = torch.linalg.svd(gradients[inner], full_matrices=False)
    scale = 0.1 * 0.2 * max(update.shape) ** 0.5                                        # the size of AdamW's updates
    assert torch.linalg.svdvals(update).sub(scale).abs().max() < 0.4 * scale            # five Newton-Schulz steps: 0.7 to 1.2
    assert torch.nn.functional.cosine_similarity(update.flatten(), (left @ right).flatten(), 0) > 0.95
    for name in ("head.weight", "embedding.weight", "blocks.0.mlp.up.bias"):
        torch.testing.assert_close(before[name] - model.get_parameter(name), 0.1 * gradients[name].sign(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_muon_moves_as_torchs_does(shape):
    """Theirs rounds to bfloat16; ours does where the processor multiplies it."""
    torch.manual_seed(0)
    first, second = (nn.Parameter(torch.zeros(shape)) for _ in range(2))
    ours = Muon([first], 0.1, weight_decay=0.2)
    theirs = torch.optim.Muon([second], lr=0.1, weight_decay=0.2, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        first.grad = torch.randn(shape)
        second.grad = first.grad.clone()
        ours.step(), theirs.step()
    torch.testing.assert_close(first, second, rtol=0, atol=0.02 * second.abs().max().item())


def test_muon_resumes_bit_for_bit(tmp_path):
    changes = ("training.optimizer=muon", "training.lr=0.01", "validation.rows=0", "checkpoints.every=2")
    whole = train(recipe(tmp_path), *changes, "training.steps=4", out=tmp_path / "a")
    train(recipe(tmp_path), *changes, "training.steps=2", out=tmp_path / "b")
    resumed = train(tmp_path / "b", "training.steps=4", resume=True, out=tmp_path / "b")
    assert torch.equal(numbers(whole), numbers(resumed))


@pytest.mark.parametrize("kind", ["partition", "masked", "autoregressive"])
def test_accumulation_changes_nothing(tmp_path, kind):
    changes = ("model.dropout=0", "training.steps=3", "validation.rows=0")
    whole = train(recipe(tmp_path, kind), *changes, out=tmp_path / "a")
    cut = train(recipe(tmp_path, kind), *changes, "training.accumulate=4", out=tmp_path / "b")
    torch.testing.assert_close(numbers(cut), numbers(whole), rtol=1e-5, atol=1e-6)


def test_training_learns_and_records(tmp_path):
    seen = []
    run = train(
        recipe(tmp_path, "masked", "complementary"),
        "training.steps=60",
        "training.ema=0.9",
        "sampling={count: 2, sampler: {steps: 6}}",
        "checkpoints.every=0",
        "validation.every=30",
        "log.every=20",
        out=tmp_path / "run",
        callbacks=[seen.append],
    )
    assert seen == run.metrics == [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert seen[0]["steps"] == 60 and seen[0]["step"] == 0
    updates = [record for record in seen if "loss" in record]
    assert [record["step"] for record in updates] == list(range(1, 61))
    assert updates[-1]["loss"] < 0.8 * updates[0]["loss"] and updates[0]["tokens"] == 8 * 24
    bounds = [record for record in seen if "bound" in record]
    assert [record["step"] for record in bounds] == [30, 60] and bounds[1]["bound"] < bounds[0]["bound"]
    assert bounds[1]["perplexity"] == pytest.approx(math.exp(bounds[1]["bound"])) and bounds[1]["standard_error"] > 0
    assert [len(record["samples"]) for record in seen if "samples" in record] == [2]
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == ["step-00000060"]
    assert not run.interrupted and run.model is run.state.average and not run.model.training


def test_measuring_changes_no_update(tmp_path):
    plain = train(recipe(tmp_path), "validation.rows=0", out=tmp_path / "a")
    measured = train(
        recipe(tmp_path), "validation.every=1", "sampling={every: 2, count: 1, sampler: {steps: 3}}", out=tmp_path / "b"
    )
    assert losses(plain.folder) == losses(measured.folder)


def test_a_run_without_average(tmp_path):
    run = train(recipe(tmp_path), "training.ema=0", "training.steps=2", out=tmp_path / "run")
    assert run.state.average is None and not (run.checkpoint / "ema.safetensors").exists()
    again = train(run.folder, "training.steps=4", out=run.folder, resume=True)
    assert again.state.step == 4
    with pytest.raises(ValueError, match=r"has no ema\.safetensors; resume with training\.ema=0"):
        train(run.folder, "training.steps=6", "training.ema=0.9", out=run.folder, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run_and_harms_nothing(tmp_path):
    def spoil(record):
        if record.get("checkpoint"):
            spoiled.append(record["step"])

    spoiled: list[int] = []
    changes = (
        "training.lr=1e30",
        "training.clip=0",
        "training.warmup=1000000",
        "checkpoints.every=1",
        "training.steps=50",
    )
    with pytest.raises(
        ValueError, match=r"the (loss|gradient norm) is (nan|inf) at step \d+; the last good checkpoint is"
    ) as error:
        train(recipe(tmp_path), *changes, out=tmp_path / "run", callbacks=[spoil])
    message = str(error.value)
    assert "lower training.lr (now 1e+30)" in message and "training.precision=fp32" in message and "\n" not in message
    complete = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert complete == [f"step-{step:08d}" for step in spoiled[-2:]] and complete[-1] in message
    weights = load_file(tmp_path / "run" / "checkpoints" / complete[0] / "model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())


def test_ctrl_c_saves_and_the_run_goes_on_as_if_nothing_had_happened(tmp_path):
    def interrupt(record):
        if record["step"] == 3 and "loss" in record:
            os.kill(os.getpid(), signal.SIGINT)

    whole, before = train(recipe(tmp_path), out=tmp_path / "whole"), signal.getsignal(signal.SIGINT)
    run = train(recipe(tmp_path), out=tmp_path / "run", callbacks=[interrupt])
    assert run.interrupted and run.state.step == 3 and run.checkpoint.name == "step-00000003"
    assert signal.getsignal(signal.SIGINT) is before
    resumed = train(run.folder, out=run.folder, resume=True)
    assert losses(resumed.folder) == losses(whole.folder)


def test_a_folder_that_holds_a_run_is_not_written_to(tmp_path):
    train(recipe(tmp_path), "training.steps=1", out=tmp_path / "run")
    with pytest.raises(ValueError, match="holds a run already; continue it with --resume"):
        train(recipe(tmp_path), out=tmp_path / "run")
    with pytest.raises(ValueError, match=r"is no run folder \(it has no config\.yaml\)"):
        train(tmp_path / "other", out=tmp_path / "other", resume=True)


def test_metrics_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    run = train(recipe(tmp_path), "training.steps=5", out=tmp_path / "run")
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "loss": 1.0, "grad_norm": 1.0}\n{"step": 7, "lo')
    train(run.folder, "training.steps=6", out=run.folder, resume=True)
    assert [step for step, *_ in losses(run.folder)] == [1, 2, 3, 4, 5, 6]


def test_puzzles_are_completed_from_their_givens(tmp_path):
    rows = "".join(f"{a}0{c}0,{a}{b}{c}{a}\n" for a in "123" for b in "123" for c in "123")
    (tmp_path / "puzzles.csv").write_text("puzzle,solution\n" + rows)
    tree = recipe(tmp_path, "masked")
    tree["data"] = {"type": "puzzles", "train": str(tmp_path / "puzzles.csv"), "valid": str(tmp_path / "puzzles.csv")}
    run = train(
        tree,
        "model.length=5",
        "training.steps=40",
        "training.lr=1e-2",
        "training.ema=0",
        "validation.complete=9",
        "sampling.sampler={order: confidence, temperature: 0.0}",
        out=tmp_path / "run",
    )
    found = next(record for record in run.metrics if "solved" in record)
    assert found["boards"] == 9 and found["cell_accuracy"] > 0.5 and found["solved"] <= found["cell_accuracy"]


def test_tensorboard_receives_the_records(tmp_path):
    pytest.importorskip("tensorboard")
    run = train(recipe(tmp_path), "training.steps=1", "log.tensorboard=true", out=tmp_path / "run")
    assert list((run.folder / "tensorboard").iterdir())
