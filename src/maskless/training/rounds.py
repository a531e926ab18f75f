"""What the rounds of a distillation begin with: the first teacher, whether a student can learn from it, and what the student takes over."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from maskless.checkpoints.native import described, guidance_in, resolve
from maskless.data.vqgan import VQConfig
from maskless.models import CausalPartitionConfig, kind_of
from maskless.places import local
from maskless.training.data import is_of
from maskless.training.distillation import Distillation
from maskless.training.recipe import FROM_TOKENIZER, DistillRecipe, classes_of
from maskless.vocabulary import Vocabulary

CODEC = "holds a codec of images, not a model; name the folder of a model, and the codec as data.codec"
IDS: dict[str, Any] = {"vocab_size": FROM_TOKENIZER, "forbidden": (), "mask_id": None}  # of a configuration, and what stands where a recipe is silent


def teacher_in(source: str) -> Path:
    """The folder of a first teacher. Raises ValueError if there is none, or what is there is no folder of a model."""
    path = local(source)
    if path.is_file():
        raise ValueError(f"distill.teacher {path} is a file, and a teacher is a folder; make one of released weights: maskless convert {path} FOLDER")
    if (path / "codec.json").is_file() and not (path / "config.json").is_file():
        raise ValueError(f"distill.teacher {path} {CODEC}")
    return resolve(path)


def config_of(source: str) -> Any:
    """The configuration of a teacher; errors are those of `teacher_in`."""
    return described(teacher_in(source) / "config.json")[0].model


# ------------------------------------------------------------------------------------------------- what is taken over


def with_ids(recipe: DistillRecipe, vocabulary: Vocabulary) -> DistillRecipe:
    """The recipe with the teacher's `vocab_size`, `forbidden` and `mask_id` where its model leaves them out: converted weights have ids that no
    tokenizer has. As it is, if the teacher has another vocabulary or cannot be read, which is said when the run begins."""
    try:
        teacher = config_of(recipe.distill.teacher)
    except ValueError:
        return recipe
    model = recipe.model
    if not speaks(teacher, vocabulary) or model.vocab_size not in (FROM_TOKENIZER, teacher.vocab_size):
        return recipe
    taken = {name: getattr(teacher, name) for name, silent in IDS.items() if hasattr(teacher, name) and getattr(model, name, ...) == silent}
    return dataclasses.replace(recipe, model=dataclasses.replace(model, **taken))


def speaks(teacher: Any, vocabulary: Vocabulary) -> bool:
    """Whether a model predicts ids of this vocabulary and no others: it may have more ids only if it forbids them."""
    ids = range(getattr(teacher, "vocab_size", 0))
    return vocabulary.size <= len(ids) and {*vocabulary.forbidden, *ids[vocabulary.size:]} <= {*getattr(teacher, "forbidden", ())}


# ------------------------------------------------------------------------------------------------------ what must fit


def check_teacher(recipe: DistillRecipe, tokenizer: Any) -> None:
    """Raise ValueError unless a student of this recipe can learn from its teacher; no weights are read."""
    folder, teacher, student = teacher_in(recipe.distill.teacher), config_of(recipe.distill.teacher), recipe.model
    where = f"distill.teacher {folder}"
    check_kind(teacher, where)
    own = "use the teacher's tokenizer or codec (data.tokenizer, data.codec)"
    if speaks(teacher, tokenizer.vocabulary):
        own = ids_in_words(teacher, student)
    for name, remedy in {
        "vocab_size": own,
        "length": f"set model.length={teacher.length}",
        "forbidden": own,
        "classes": f"set model.classes={classes_of(teacher)}",
        "grid": "set model.grid and data.size to the teacher's",
    }.items():
        theirs, ours = (getattr(config, name, 0) or 0 for config in (teacher, student))
        if theirs != ours and not (name == "grid" and 0 in (theirs, ours)):
            raise ValueError(f"{where} has {name} {theirs} and the student {ours}; both must speak of the same sites, tokens and classes: {remedy}")
    if not is_of(tokenizer, folder):
        raise ValueError(f"{where} was trained with another tokenizer or codec than this recipe's data; use its own (data.tokenizer, data.codec)")
    for who, config in ((where, teacher), ("the student", student)):
        if getattr(config, "time_conditioned", False):
            raise ValueError(f"{who} is time-conditioned, and rows of a walk are at different times; take a model without time_conditioned")
    check_walk(teacher, guidance_in(folder), recipe.distill, where)


def check_kind(teacher: Any, where: str) -> None:
    """Raise ValueError unless it is a model that reveals whole tokens, in any order."""
    if isinstance(teacher, VQConfig):
        raise ValueError(f"{where} {CODEC}")
    if kind_of(teacher) == "autoregressive":
        raise ValueError(f"{where} is autoregressive, which reveals one site a step in one order; take a masked or partition model")
    if hasattr(teacher, "digits"):
        raise ValueError(f"{where} is of type {kind_of(teacher)}, which writes tokens in digits, and teachers walk over whole tokens; "
                         "take a masked or partition model")


def ids_in_words(teacher: Any, student: Any) -> str:
    """The settings that give a student the ids of its teacher."""
    values = {name: getattr(teacher, name) for name in IDS if getattr(teacher, name, None) is not None and hasattr(student, name)}
    said = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return "set " + " ".join(f"model.{name}={value}" for name, value in said.items())


def check_walk(teacher: Any, held: dict[str, Any] | None, options: Distillation, where: str) -> None:
    """Raise ValueError unless a teacher, which holds guidance or none, can walk as the recipe says."""
    if options.guidance and not classes_of(teacher):
        raise ValueError(f"distill.guidance is {options.guidance:g} and {where} has no classes to guide by; leave it out, or take a labelled teacher")
    if options.guidance and held is not None:
        raise ValueError(f"{where} holds guidance {held['weight']:g} already; distill.guidance={options.guidance:g} would come on top: leave it out")
    if options.refresh and not isinstance(teacher, CausalPartitionConfig):
        raise ValueError(f"distill.refresh is {options.refresh} and {where} keeps no cache; leave it out (only order-causal models have two modes)")
