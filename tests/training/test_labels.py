"""Runs on labelled images: cut in any way, resumed, validated with labels; and what does not fit is said before anything is trained."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskless.data.batch import Batch
from maskless.data.loader import Rows
from maskless.evaluation.likelihood import bound
from maskless.noise import hashed
from maskless.schedules import LogLinear
from maskless.training.data import open_rows, open_tokenizer
from maskless.training.distributed import start
from maskless.training.recipe import load_recipe
from maskless.training.run import train
from tests.training.runs import losses
from tests.training.test_resume import tensors

MODELS = {
    "partition": {"type": "partition", "encoder_layers": 1, "decoder_layers": 1, "registers": 2},
    "maskgit": {"type": "maskgit", "layers": 2},
}
OBJECTIVES = {"partition": {"type": "partition", "weights": "unit"}, "maskgit": {"type": "masked", "weights": "unit", "targets": "all"}}


def shades(folder: Path, count: int = 120) -> Path:
    """Images of three classes, each of its own shade and a little noise."""
    path = folder / "shades.npz"
    labels = np.arange(count) % 3
    noise = (hashed(1, torch.arange(count * 16)) % 24).abs().numpy().reshape(count, 4, 4)
    np.savez(path, x_train=(labels[:, None, None] * 100 + noise).astype(np.uint8), y_train=labels)
    return path


def recipe(folder: Path, kind: str = "partition") -> dict[str, Any]:
    sizes = {"length": 16, "grid": [4, 4], "width": 16, "heads": 2, "classes": 3, "dropout": 0.0}
    return {
        "model": {**MODELS[kind], **sizes},
        "objective": {**OBJECTIVES[kind], "schedule": {"type": "arccos"}, "low": 0.0},
        "data": {"type": "images", "source": {"type": "arrays", "train": str(shades(folder))}, "size": 4,
                 "codec": {"type": "pixels", "levels": 4}, "holdout": 0.2},
        "training": {"steps": 6, "batch_size": 8, "warmup": 2, "lr": 1e-2, "threads": 1, "device": "cpu", "precision": "fp32", "class_dropout": 0.5,
                     **({"attention": "dense"} if kind == "partition" else {})},
        "validation": {"batch_size": 16},
        "checkpoints": {"every": 0},
        "log": {"every": 1},
    }


@pytest.mark.parametrize("kind", MODELS)
def test_a_resumed_run_forgets_the_same_labels_and_validation_gives_them(tmp_path, kind):
    whole = train(recipe(tmp_path, kind), "model.dropout=0.1", out=tmp_path / "whole")
    train(recipe(tmp_path, kind), "model.dropout=0.1", "training.steps=3", out=tmp_path / "cut")
    train(tmp_path / "cut", "training.steps=6", out=tmp_path / "cut", resume=True)
    assert losses(tmp_path / "cut") == losses(whole.folder)
    ours, theirs = (tensors(tmp_path / name / "checkpoints" / "step-00000006") for name in ("cut", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    record = next(record for record in whole.metrics if "bound" in record)
    rows = open_rows(whole.recipe, whole.tokenizer, start("cpu", "fp32", "ddp")).validation
    (objective,) = whole.recipe.objective.reported(16).values()
    told, untold = (bound(whole.model, objective, [batch]) for batch in (all_of(rows), all_of(rows).labelled(None)))
    assert objective.schedule == LogLinear() and math.isclose(record["bound"], told.nats_per_token, rel_tol=1e-6)
    assert math.isclose(record["standard_error"], told.standard_error, rel_tol=1e-4) and math.isclose(record["perplexity"], math.exp(record["bound"]))
    assert abs(untold.nats_per_token - told.nats_per_token) > 1e-4


def all_of(rows: Rows) -> Batch:
    return rows.read(torch.arange(len(rows)))


def test_micro_batches_change_nothing_and_class_dropout_does(tmp_path):
    whole = train(recipe(tmp_path), "validation.rows=0", out=tmp_path / "a")
    cut = train(recipe(tmp_path), "validation.rows=0", "training.accumulate=4", out=tmp_path / "b")
    torch.testing.assert_close(torch.tensor(losses(cut.folder)), torch.tensor(losses(whole.folder)), rtol=1e-5, atol=1e-6)
    never = train(recipe(tmp_path), "validation.rows=0", "training.class_dropout=0.0", out=tmp_path / "c")
    assert losses(never.folder)[-1] != losses(whole.folder)[-1]


def test_rows_have_classes_where_the_model_tells_them_apart(tmp_path):
    machine = start("cpu", "fp32", "ddp")

    def labels(*changes: str) -> torch.Tensor | None:
        made = load_recipe(recipe(tmp_path), *changes)
        return open_rows(made, open_tokenizer(made, machine), machine).train.read(torch.arange(4)).labels

    assert labels() is not None and labels("model.classes=0", "training.class_dropout=null") is None
    with pytest.raises(ValueError, match=r"model.classes is 4 and the data has 3 classes; set model.classes=3"):
        labels("model.classes=4")
    with pytest.raises(ValueError, match=r"model.classes is 3 and the data has 0 classes; set model.classes=0"):
        labels("data.labels=false")


def test_class_dropout_needs_classes_and_is_a_share(tmp_path):
    with pytest.raises(ValueError, match=r"training.class_dropout is 0.5 and the model has no classes; leave it out, or set model.classes"):
        train(recipe(tmp_path), "model.classes=0", "data.labels=false", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    text = {**recipe(tmp_path), "data": {"type": "prose"}, "objective": {"type": "partition"}}
    with pytest.raises(ValueError, match=r"training.class_dropout is 0.5 and the model has no classes"):
        load_recipe(text, "model.classes=0")
    assert load_recipe(recipe(tmp_path), "model.classes=0").training.class_dropout == 0.5                      # classes are the data's to say
    with pytest.raises(ValueError, match=r"class_dropout is 1.0; it must lie in \[0, 1\)"):
        load_recipe(recipe(tmp_path), "training.class_dropout=1")
