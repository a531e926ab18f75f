"""`bench curve`: quality and speed of a teacher and its students by steps, what the students have cost, one file a number, and the picture."""
from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import maskless
from maskless.evaluation.results import read, read_folders
from maskless.suites.curve import Curve, cost_of, curve, draw, label_of, points
from maskless.suites.subject import open_subject
from maskless.training.classifier import train_classifier
from maskless.training.distill import distill
from maskless.training.run import train
from tests.training import test_distill_images as images
from tests.training.distilling import distillation, teach
from tests.training.test_labels import recipe as labelled


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A teacher, a student of two rounds, and an autoregressive scorer, all of 24 bytes."""
    folder = tmp_path_factory.mktemp("texts")
    teach(folder)
    distill(distillation(folder), "checkpoints.every=0", out=folder / "student")
    scorer = maskless.AutoregressiveConfig(vocab_size=259, length=24, width=16, heads=2, layers=1, forbidden=(258,))
    torch.manual_seed(1)
    maskless.TextModel(maskless.build(scorer), maskless.load_tokenizer("bytes"), device="cpu").save_pretrained(folder / "scorer")
    return folder


def test_texts(texts, call, tmp_path):
    """Everything from the command line; then another sampler into the same folder."""
    models = [texts / "teacher", texts / "student" / "rounds" / "2"]
    how = ["--scorer", texts / "scorer", "--samples", 4, "--batch", 2, "--repeats", 2, "--device", "cpu", "--out", tmp_path / "curve"]
    ended = call("bench", "curve", *models, "--steps", "2,4,99", *how)
    assert ended.code == 0, ended.err
    assert "left out: 99 steps, more than the 24 sites of a row" in ended.out and "Written to" in ended.out
    found = {result.file: result for result in read_folders([tmp_path / "curve"])}
    for name in ("teacher", "student-2"):
        for steps in (2, 4):
            perplexity, entropy = (found[f"generative-{name}-nfe{steps}-{metric}.json"] for metric in ("generative_perplexity", "unigram_entropy"))
            speed = found[f"speed-{name}-nfe{steps}-tokens_per_second.json"]
            assert perplexity.nfe == entropy.nfe == speed.nfe == steps and perplexity.samples == 4 and perplexity.uncertainty.kind == "standard error"
            assert perplexity.value > 1 and perplexity.uncertainty.value > 0 and speed.value > 0 and speed.samples == 2
            assert perplexity.sampler["steps"] == steps and perplexity.scorer.name == "scorer"
    cost = json.loads((models[1] / "config.json").read_text())["extra"]["cost"]
    for metric in ("teacher_calls", "teacher_tokens", "student_tokens"):
        assert found[f"distillation-student-2-{metric}.json"].value == cost[metric] > 0
        assert f"distillation-teacher-{metric}.json" not in found
    assert cost_of(open_subject(texts / "student", device="cpu")) == cost  # its last checkpoint says the same
    assert (tmp_path / "curve" / "curve.png").read_bytes().startswith(b"\x89PNG")

    more = call("bench", "curve", models[1], "--steps", "4", "--sampler", "top_p=0.8", "--dtype", "bfloat16", *how)
    assert more.code == 0 and (tmp_path / "curve" / "generative-student-2-nfe4-top_p0.8-generative_perplexity.json").exists()
    again = {result.file: result for result in read_folders([tmp_path / "curve"])}
    assert again["generative-student-2-nfe4-top_p0.8-generative_perplexity.json"].precision.weights == "bfloat16"
    drawn = points(read_folders([tmp_path / "curve"]))
    assert {(p.label, p.metric, p.nfe) for p in drawn} == {
        (label, metric, steps) for metric in ("generative_perplexity", "unigram_entropy")
        for label, steps in (("teacher", 2), ("teacher", 4), ("student-2", 2), ("student-2", 4), ("student-2, top_p 0.8", 4))}
    assert all(p.speed is not None and p.speed > 0 and p.error > 0 for p in drawn)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A labelled teacher, a student that holds its guidance, and a classifier."""
    folder = tmp_path_factory.mktemp("pictures")
    size = ("data.size=8", "model.length=64", "model.grid=[8, 8]")
    train(labelled(folder), *size, "training.steps=4", "validation.rows=0", out=folder / "teacher")
    distill(images.distillation(folder), *size, "checkpoints.every=0", out=folder / "student")
    arrays = np.load(folder / "shades.npz")
    np.savez(folder / "both.npz", **arrays, x_test=arrays["x_train"], y_test=arrays["y_train"])
    sizes = {"channels": 1, "size": 8, "classes": 3, "width": 4, "features": 4}
    source = {"type": "arrays", "train": str(folder / "both.npz")}
    train_classifier({"classifier": sizes, "data": {"name": "shades", "source": source, "size": 8, "channels": 1},
                      "training": {"epochs": 1, "batch_size": 32}}, out=folder / "classifier")
    return folder


def test_images(pictures, tmp_path):
    """A guided teacher beside a student without: distances with errors, tokens of the guided walks in the cost."""
    rounds = pictures / "student" / "rounds"
    subjects = [open_subject(place, device="cpu") for place in (pictures / "teacher", rounds / "1", rounds / "2")]
    asked = {"steps": (2, 4), "samples": 40, "features": str(pictures / "classifier"), "repeats": 0}
    curve(subjects, Curve(**asked), tmp_path)
    found = curve(subjects[:1], Curve(**asked, sampler={"guidance": 2.0}), tmp_path)
    assert {label_of(result) for result in found} == {"teacher, guidance 2.0"}
    drawn = points(read_folders([tmp_path]))
    assert {p.label for p in drawn} == {"teacher", "student-1", "student-2", "teacher, guidance 2.0"}
    assert {p.metric for p in drawn} == {"frechet_distance"}
    assert len(drawn) == 8 and all(p.value >= 0 and p.error > 0 and p.speed is None for p in drawn)
    usual = read(tmp_path / "images-teacher-nfe4-frechet_distance.json")
    assert (usual.sampler["order"], usual.plan, usual.nfe) == ("halton", "arccos", 4) and usual.scorer.name.startswith("shades classifier")
    spent = [read(tmp_path / f"distillation-student-{round}-teacher_tokens.json") for round in (1, 2)]
    first, second = spent[0].value, spent[1].value - spent[0].value
    assert first > 1.6 * second > 0 and spent[0].details["updates"] == 3


def test_what_cannot_be_measured_is_one_sentence(texts, pictures, call, tmp_path):
    out = ["--out", tmp_path / "curve", "--device", "cpu"]
    teacher, painter = texts / "teacher", pictures / "teacher"
    for arguments, word in {
        (teacher,): "texts need a scorer to be judged by",
        (painter,): "images need features to be compared by",
        (teacher, painter, "--scorer", texts / "scorer"): "have no quality in common",
        (teacher, teacher, "--scorer", texts / "scorer"): "two models are called teacher",
        (teacher, "--scorer", texts / "scorer", "--steps", "99"): "a row has 24 sites, fewer than the 99 steps",
        (teacher, "--steps", "0"): "--steps 0 is below 1",
        (teacher, "--sampler", "steps=3"): "give --steps",
        (teacher, "--sampler", "warmth=3"): "warmth",
        (teacher, "--sampler", "top_p=7"): "top_p 7",
        (tmp_path / "none",): "none does not exist",
    }.items():
        ended = call("bench", "curve", *arguments, *out)
        assert ended.code == 2 and word in ended.err and len(ended.err.strip().splitlines()) == 1, ended.err
        assert not (tmp_path / "curve").exists(), arguments
    assert "--scorer" in call("bench", "curve", "--help").out


def test_a_picture_of_nothing_timed_is_drawn(tmp_path):
    from maskless.evaluation.results import ModelRecord, Precision, Result, Uncertainty

    made = Result("generative", "a-nfe4-generative_perplexity", "generative_perplexity", 3.0, Uncertainty("standard error", 0.1), 4, "", "lower",
                  "estimate", 0, ModelRecord("a", "", "masked", 1, "raw", None, "0"), Precision("float32", "float32"), nfe=4,
                  sampler={**vars(maskless.SamplerOptions(steps=4))})
    draw(tmp_path / "curve.png", [made])
    assert (tmp_path / "curve.png").stat().st_size > 1000
