"""What a recipe's data section becomes: a tokenizer, rows to train on, rows to validate on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Int
from torch import Tensor

from maskless.checkpoints.native import coding_in, described
from maskless.data.batch import Batch
from maskless.data.definition import digest
from maskless.data.loader import Rows
from maskless.data.sources import open_data, tokenizer_of
from maskless.data.tokenizer import Coding
from maskless.training.distributed import Machine
from maskless.training.recipe import Recipe, classes_of

if TYPE_CHECKING:
    from maskless.training.codec import CodecRecipe


@dataclass(frozen=True)
class Data:
    """The data of a run.

    Attributes:
        tokenizer: ids and text, or codes and images.
        train: rows to train on.
        validation: held-out rows; None if the recipe wants no validation (`validation.rows=0`).
        identity: changes whenever what the rows are made of does, such as a file.
    """

    tokenizer: Coding
    train: Rows
    validation: Rows | None
    identity: str


@dataclass(frozen=True)
class Unlabelled:
    """Rows without their classes, for a model that tells none apart."""

    rows: Rows

    @property
    def length(self) -> int:
        return self.rows.length

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: Int[Tensor, " B"]) -> Batch:
        return self.rows.read(rows).labelled(None)


def told_apart(recipe: Recipe | CodecRecipe) -> int:
    """How many classes the model of a recipe tells apart; a codec none."""
    return classes_of(recipe.model) if isinstance(recipe, Recipe) else 0


def fitted(rows: Rows, recipe: Recipe | CodecRecipe) -> Rows:
    """The rows as the model takes them: with classes only if it tells them apart."""
    return rows if told_apart(recipe) else Unlabelled(rows)


def check_classes(recipe: Recipe | CodecRecipe, tokenizer: Any) -> None:
    """Raise ValueError unless a labelled model has as many classes as the data."""
    wanted, found = told_apart(recipe), len(getattr(tokenizer, "classes", ()))
    if wanted not in (0, found):
        remedy = f"{found}, or 0 (images: data.labels=false) to train without labels" if found else "0"
        raise ValueError(f"model.classes is {wanted} and the data has {found} classes; set model.classes={remedy}")


def is_of(tokenizer: Any, folder: Path) -> bool:
    """Whether the model in a folder was trained on rows of this tokenizer or codec, as far as the folder says."""
    coding, vocabulary = coding_in(folder), described(folder / "config.json")[0].vocabulary
    return vocabulary in (None, tokenizer.vocabulary) and (coding is None or coding.hash == tokenizer.hash)


def kept_tokenizer(recipe: Recipe, machine: Machine, checkpoint: Path, *, relearn: bool) -> Coding:
    """The tokenizer of a run that goes on: what it learned stays as it is, whatever became of the texts.

    Args:
        checkpoint: its newest one.
        relearn: the recipe says in another way than before how the tokenizer is learned.

    Raises:
        ValueError: the data are written in another one than the run was trained with.
    """
    kept = coding_in(checkpoint)
    if kept is not None and recipe.data.learned and not relearn:
        return kept
    tokenizer = open_tokenizer(recipe, machine)
    if kept is not None and kept.hash != tokenizer.hash:
        raise ValueError("the data now give another tokenizer or codec than the run was trained with; put it back as it was (data.tokenizer, "
                         "data.codec), or begin another run with --out")
    return tokenizer


def open_tokenizer(recipe: Recipe | CodecRecipe, machine: Machine) -> Coding:
    """The tokenizer of the data; one process learns it where it must be learned."""
    if machine.main:
        tokenizer_of(recipe.data)
    machine.barrier()
    return tokenizer_of(recipe.data)


def open_rows(recipe: Recipe | CodecRecipe, tokenizer: Coding, machine: Machine) -> Data:
    """Both splits, packed to the recipe's length; one process builds the stores, the others map them."""
    check_classes(recipe, tokenizer)
    splits = ("train", "valid") if recipe.validation.rows != 0 else ("train",)
    if machine.main:
        for split in splits:
            open_data(recipe.data, length=recipe.length, split=split, tokenizer=tokenizer)
    machine.barrier()
    stores = [fitted(open_data(recipe.data, length=recipe.length, split=split, tokenizer=tokenizer), recipe) for split in splits]
    return Data(tokenizer, stores[0], stores[1] if len(stores) > 1 else None, digest(recipe.data.identity()))
