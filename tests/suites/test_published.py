"""The packaged recipes of published rows measure what they claim: the bound, the images, the call that is timed."""
from __future__ import annotations

import pytest
import torch

from maskless.evaluation.settings import ImageQuality, Likelihood, Speed
from maskless.models import build
from maskless.suites.likelihood import named
from maskless.training.recipe import load_recipe
from maskless.training.recipes import find
from tests.surface.test_recipes import claim


def suites(name: str, kind: type) -> list:
    return [suite for suite in load_recipe(name).evaluation.suites if type(suite) is kind]


def metrics(name: str, suite: Likelihood) -> set[str]:
    """What a likelihood suite reports of the recipe's model."""
    with torch.device("meta"):
        model = build(load_recipe(name).model)
    return {named(model, each, reported)[0] for reported, each in suite.objective.reported(model.config.length).items()}


@pytest.mark.parametrize("digits", (2, 3, 4, 6, 8))
def test_the_corrected_perplexities_are_of_unfiltered_digits(digits):
    name = f"prime/owt_l{digits}"
    assert len(suites(name, Likelihood)) == 8 and all(metrics(name, suite) == {"nelbo_unfiltered"} for suite in suites(name, Likelihood))
    assert "nelbo_unfiltered" in find(name).read_text()


def test_the_claim_of_whole_tokens_is_measured_on_whole_tokens():
    first, *corpora = suites("prime/owt_v2", Likelihood)
    assert metrics("prime/owt_v2", first) == {"nelbo_unfiltered", "bound_of_tokens"} and first.data is None
    assert len(corpora) == 7 and all(metrics("prime/owt_v2", suite) == {"bound_of_tokens"} for suite in corpora)
    (pajama,) = suites("prime/slimpajama_v2", Likelihood)
    assert metrics("prime/slimpajama_v2", pajama) == {"nelbo_unfiltered", "bound_of_tokens"}


@pytest.mark.parametrize("name", ("image/prime_cifar10", "image/prime_imagenet32"))
def test_published_digits_are_factorised_and_no_corrector_is_taken_for_the_published_one(name):
    for suite in suites(name, ImageQuality):
        assert suite.sampler.factorised_digits and not suite.sampler.filter_observed and suite.sampler.corrector == 0
    assert "another" in claim(name) and "corrector" in claim(name)


@pytest.mark.parametrize("name, count", [("maskgit_imagenet_large", 49_984), ("pgm_imagenet_12_12", 49_664), ("pgm_imagenet_14_10", 49_664)])
def test_as_many_real_images_as_drawn_and_speed_with_decoding(name, count):
    name = f"image/{name}"
    assert {(suite.samples, suite.rows, suite.features) for suite in suites(name, ImageQuality)} == {(count, count, "pgm-val")}
    assert {(suite.decode, suite.batch, suite.repeats, suite.warmups) for suite in suites(name, Speed)} == {(True, 32, 10, 2)}
    assert all(words in find(name).read_text() for words in (f"the first {count:,}", "labels, which go round", "decode: true"))
