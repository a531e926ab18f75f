"""Every packaged recipe at toy size: read, checked, trained for two updates on data of its kind; and what its evaluation section measures."""
from __future__ import annotations

import dataclasses
import json
import math
import re

import pytest
import torch

from maskless.checkpoints.native import save_model
from maskless.config import read
from maskless.data.sources import tokenizer_of
from maskless.decoding import Canvas, Noise
from maskless.evaluation.settings import Generative, ImageQuality, Likelihood, Speed, Tasks
from maskless.models import build
from maskless.training.classifier import describes_classifier, train_classifier
from maskless.training.codec import trains_codec
from maskless.training.distill import distill
from maskless.training.recipe import complete, load_recipe
from maskless.training.recipes import find, recipe_names
from maskless.training.run import train
from tests.surface.shrinking import shrunk

# the rows of the papers' tables (arXiv 2505.18883v3; MDM-Prime), and the words of what measures each claim
ROWS = {
    "text/lm1b_mdlm": "27.67", "text/lm1b_complementary": "25.72", "text/lm1b_pgm_6_6": "26.80",
    "text/owt_mdlm": "23.07", "text/owt_complementary": "22.98", "text/owt_pgm_8_8": "22.61", "text/owt_pgm_6_6_dim1024": "21.43",
    "distill/owt_mdlm": "61.65", "distill/owt_pgm_6_6_dim1024": "84.97",
    "image/maskgit_imagenet_large": "5.35", "image/pgm_imagenet_12_12": "5.54", "image/pgm_imagenet_14_10": "5.55",
    "prime/owt_l2": "36.55", "prime/owt_l3": "41.20", "prime/owt_l4": "44.08", "prime/owt_l6": "47.68", "prime/owt_l8": "48.85",
    "prime/owt_v2": "27.49", "prime/slimpajama_v2": "49.42", "image/prime_cifar10": "3.26", "image/prime_imagenet32": "6.98",
    "image/mdm_cifar10": "4.66", "image/mdm_imagenet32": "7.91",
}
MEASURED = {"validation perplexity": Likelihood, "generative perplexity": Generative, "FID": ImageQuality, "tokens/s": Speed, "images/s": Speed,
            "sequences/s": Speed, "LAMBADA": Tasks}


def claim(name: str) -> str:
    """The claim of a recipe's header, in one line."""
    header = " ".join(line.removeprefix("#").strip() for line in find(name).read_text().splitlines() if line.startswith("#"))
    found = re.search(r"Claim: (.*?)(?: Source:|$)", header)
    assert found, name
    return found[1]


@pytest.mark.parametrize("name", recipe_names())
def test_two_updates_at_toy_size(name, tmp_path):
    tree = shrunk(name, tmp_path)
    if describes_classifier(name):
        trained = train_classifier(tree, out=tmp_path / "run", say=lambda line: None)
        assert trained.folder.is_dir()
        return
    if "distill" in tree:
        teach(tree, tmp_path)
    run = (distill if "distill" in tree else train)(tree, out=tmp_path / "run")
    losses = [record["loss"] for record in run.metrics if "loss" in record]
    assert len(losses) == 2 and all(map(math.isfinite, losses)) and run.state.step == 2
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    if not trains_codec(name):
        assert {type(run.recipe.model), type(run.recipe.objective)} == {type(load_recipe(name).model), type(load_recipe(name).objective)}


def teach(tree: dict, folder) -> None:
    """An untrained teacher of the student's kind."""
    recipe = load_recipe(tree)
    coding = tokenizer_of(recipe.data)
    torch.manual_seed(0)
    save_model(folder / "teacher", build(complete(recipe, coding.vocabulary).model), tokenizer=coding)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_of_the_tables_has_a_recipe_that_measures_its_claim(name):
    said = claim(name)
    assert ROWS[name] in said
    suites = [type(suite) for suite in load_recipe(name).evaluation.suites]
    for words, suite in MEASURED.items():
        if words in said:
            assert suite in suites, f"{name} claims {words} and does not measure it"


@pytest.mark.parametrize("name", [name for name in recipe_names() if "evaluation" in read(find(name))])
def test_what_is_measured_fits_the_model(name):
    """Every sampler of the evaluation section fills the model's rows, in no more calls than they have sites."""
    recipe = load_recipe(name)
    with torch.device("meta"):
        model = build(dataclasses.replace(recipe.model, vocab_size=recipe.model.vocab_size or 300))
    canvas = Canvas(torch.zeros(1, recipe.length, dtype=torch.int64), torch.zeros(1, recipe.length, dtype=torch.bool))
    for suite in recipe.evaluation.suites:
        if (options := getattr(suite, "sampler", None)) is not None:
            sampler = options.sampler(recipe.length, getattr(recipe.model, "grid", None), left_to_right=model.left_to_right, eos=0)
            steps = sampler.plan(canvas, Noise.of(0, 1))
            revealed = sum(step.most for step in steps)              # a corrector forgets sites, which are revealed again
            assert (revealed > recipe.length if options.corrector else revealed == recipe.length) and len(steps) <= recipe.length
