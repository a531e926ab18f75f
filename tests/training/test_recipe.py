"""Every packaged recipe is right and builds its model; impossible combinations are refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from maskless.models import MaskedConfig, build
from maskless.objectives import OBJECTIVES, Dial, Partition
from maskless.training.classifier import describes_classifier
from maskless.training.codec import trains_codec
from maskless.training.recipe import complete, load_recipe, recipe_tree
from maskless.training.recipes import find, recipe_folder, recipe_names
from maskless.vocabulary import Vocabulary
from tests.training.runs import recipe

# trainable parameters in the native form (V without [MASK])
PUBLISHED = {
    "text/owt_mdlm": 169_626_449,
    "prime/owt_l2": 131_115_089,
    "text/owt_complementary": 169_626_449,
    "text/owt_pgm_8_8": 202_707_281,
    "distill/owt_mdlm": 169_626_449,
    "distill/owt_pgm_8_8": 202_707_281,
    "text/owt_ar": 162_244_945,
    "text/owt_pgm_6_6_dim1024": 268_090_705,
    "image/pgm_imagenet_12_12": 494_220_290 - 2 * (2 * 1024 + 1),  # published, without the rows of [MASK] and BOS
    "image/pgm_imagenet_14_10": 494_218_242 - 2 * (2 * 1024 + 1),
    "image/prime_cifar10": 113_965_680,
    "image/prime_imagenet32": 113_965_680,
    "image/maskgit_imagenet_large": 480_443_393 - 1,  # the mask is an input vector, and no output
}


@pytest.mark.parametrize("name", [name for name in recipe_names() if not describes_classifier(name) and not trains_codec(name)])
def test_every_recipe_builds_its_model(name):
    made = load_recipe(name)
    assert load_recipe(recipe_tree(made)) == made
    made = complete(made, Vocabulary(made.model.vocab_size or 300))
    config: Any = made.model
    if not config.length:                                           # left to the data: pixels of an image
        config = dataclasses.replace(config, length=config.planes * made.data.size**2)
    with torch.device("meta"):
        model = build(config)
    assert model.parameter_count() == PUBLISHED.get(name, model.parameter_count())
    assert made.training.batch_size % made.training.accumulate == 0


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_says_what_it_claims(name):
    lines = find(name).read_text().splitlines()
    header = [line for line in lines if line.startswith("#")]
    assert lines[0].startswith("# ") and len(header) >= 2, "a header: claimed number, source, hardware"
    for word in ("claim:", "source:", "hardware:"):
        assert any(word in line.lower() for line in header), word


def test_the_expected_recipes_are_there():
    text = {
        f"text/{name}"
        for name in (
            "lm1b_mdlm",
            "lm1b_complementary",
            "lm1b_pgm_6_6",
            "owt_mdlm",
            "owt_complementary",
            "owt_pgm_8_8",
            "owt_pgm_6_6_dim1024",
            "owt_ar",
        )
    }
    small = ("pgm", "mdlm", "complementary", "ar", "qm9", "sudoku", "any_order", "dial", "pgm_to_causal")
    tiny = {f"tiny/{name}" for name in (*small, "pgm_digits", "maskgit_digits", "prime_digits")}
    published = ("pgm_imagenet_12_12", "pgm_imagenet_14_10", "maskgit_imagenet_large", "prime_cifar10", "prime_imagenet32", "prime_fashion")
    image = {f"image/{name}" for name in published}
    distilled = {f"distill/{name}" for name in ("tiny_pgm", "tiny_mdlm", "tiny_pgm_one_group", "owt_pgm_8_8", "owt_mdlm")}
    assert text | tiny | image | distilled <= set(recipe_names())
    assert (recipe_folder() / "tiny" / "pgm.yaml").is_file()


IMPOSSIBLE = {
    ("objective.type=masked",): "objective.type is masked and model.type is partition, which do not fit; "
    "use objective.type=partition, or another model",
    ("training.length=48",): "training.length is 48, beyond the model's length 24; lower training.length or set "
    "model.length=48",
    ("training.accumulate=3",): "training: batch_size 8 is not a multiple of accumulate 3; choose a divisor of it",
    ("training.steps=0",): "training: steps is 0; it must be at least 1",
    ("training.ema=1.0",): "training: ema is 1.0; it must lie in [0, 1)",
    ("training.lr=-1",): "training: lr is -1.0; it must be at least 0",
    ("training.lr_floor=1",): "training: lr_floor 1.0 is above lr 0.003; lower it",
    ("sampling.sampler.steps=99",): "sampling.sampler.steps is 99, more than the 24 sites of a row; lower it",
    ("validation.seed=99999999999999999999",): "validation: seed is 99999999999999999999; it must lie between 0 and ",
    ("model.cond_dim=-1",): "model: cond_dim is -1; give the width of the condition",
    ("model.vocab_size=300", "model.forbidden=[3000]"): "forbidden has 3000, and ids are 0..299; correct it",
    ("checkpoints.keep=0",): "checkpoints: keep is 0; it must be at least 1",
    ("data.packing=heap",): "data: packing is 'heap'",
    ("tokenizer.type=bytes",): "unknown key tokenizer; did you mean data.tokenizer?",
    ("training.precison=fp32",): "unknown key training.precison; did you mean training.precision?",
}


@pytest.mark.parametrize("changes", IMPOSSIBLE)
def test_impossible_combinations(changes, tmp_path):
    with pytest.raises(ValueError) as error:
        load_recipe(recipe(tmp_path), *changes)
    assert str(error.value).startswith(IMPOSSIBLE[changes]) and "\n" not in str(error.value)


def test_an_ancestral_plan_may_have_more_steps_than_sites(tmp_path):
    changes = ("sampling.sampler.steps=99", "sampling.sampler.plan=ancestral")
    assert load_recipe(recipe(tmp_path), *changes).sampling.sampler.steps == 99


@pytest.mark.parametrize("changes", [{"forbidden": (-1,)}, {"mask_id": 11}])
def test_ids_are_of_the_vocabulary(changes):
    with pytest.raises(ValueError, match=r"(forbidden has -1|mask_id has 11), and ids are 0\.\.10; correct it"):
        build(MaskedConfig(11, length=8, width=8, heads=2, layers=1, **changes))


def test_an_autoregressive_model_has_no_confidence_order(tmp_path):
    with pytest.raises(ValueError, match="autoregressive, which only goes left to right"):
        load_recipe(recipe(tmp_path, "autoregressive"), "sampling.sampler.order=confidence")


def test_the_vocabulary_comes_from_the_tokenizer_or_must_agree(tmp_path):
    words = Vocabulary(259, bos=256, eos=257, pad=258, forbidden=(258,))
    made = complete(load_recipe(recipe(tmp_path)), words)
    assert (made.model.vocab_size, made.model.forbidden) == (259, (258,))
    assert complete(load_recipe(recipe(tmp_path), "model.vocab_size=259"), words).model == made.model
    assert complete(load_recipe(recipe(tmp_path), "model.vocab_size=260", "model.forbidden=[259]"), words)
    for wrong in ("model.vocab_size=258", "model.vocab_size=260"):
        with pytest.raises(ValueError, match="has 259 ids and the model has vocab_size"):
            complete(load_recipe(recipe(tmp_path), wrong), words)


@pytest.mark.parametrize("objective, said", [({"type": "dial", "largest": 24}, "objective.largest is 24"),
                                             ({"type": "any_order", "commit": 30}, "objective.commit is 30")])
def test_a_commit_is_never_the_whole_row(objective, said, tmp_path):
    tree = {**recipe(tmp_path), "model": {**recipe(tmp_path)["model"], "type": "causal_partition"}}
    with pytest.raises(ValueError, match=f"{said} and rows have 24 sites: .* make it smaller .an eighth of the row is 3"):
        load_recipe({**tree, "objective": objective})
    assert load_recipe({**tree, "objective": {**objective, list(objective)[1]: 23}})


@pytest.mark.parametrize("kind", ["dial", "any_order"])
def test_rows_without_a_bos_have_no_anchor(kind, tmp_path):
    tree = {**recipe(tmp_path), "model": {**recipe(tmp_path)["model"], "type": "causal_partition"}, "objective": {"type": kind}}
    assert complete(load_recipe(tree), Vocabulary(259, bos=256, eos=257, pad=258, forbidden=(258,))).objective.anchor
    assert not complete(load_recipe(tree), Vocabulary(64)).objective.anchor


def test_run_folders_of_the_first_version_are_still_read(tmp_path):
    old = {"low_var": True, "low": 0.001, "schedule": {"eps": 0.0}}
    for kind, weights in (("masked", "unit"), ("partition", "half")):
        tree = recipe(tmp_path, kind)
        assert load_recipe({**tree, "objective": {"type": kind, **old}}).objective == OBJECTIVES[kind](weights=weights)
        assert load_recipe({**tree, "objective": {"type": kind, **old, "low_var": False}}).objective == OBJECTIVES[kind]()
    tree = {**recipe(tmp_path), "model": {**recipe(tmp_path)["model"], "type": "causal_partition"}}
    dial = load_recipe({**tree, "objective": {"type": "dial", "two_group": {"low_var": True}}}).objective
    assert dial == Dial(two_group=Partition(weights="half"))


def test_an_unknown_recipe_is_answered_with_the_names():
    with pytest.raises(ValueError, match=r"there is no recipe tiny/gpm; give .* tiny/pgm"):
        load_recipe("tiny/gpm")
