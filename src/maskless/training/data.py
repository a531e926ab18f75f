"""What a recipe's data section becomes: a tokenizer, rows to train on, rows to validate on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from maskless.data.loader import Rows
from maskless.data.sources import open_data, tokenizer_of
from maskless.data.tokenizer import Coding
from maskless.training.distributed import Machine

if TYPE_CHECKING:
    from maskless.training.codec import CodecRecipe
    from maskless.training.recipe import Recipe


@dataclass(frozen=True)
class Data:
    """The data of a run.

    Attributes:
        tokenizer: ids and text, or codes and images.
        train: rows to train on.
        validation: held-out rows; None if the recipe wants no validation (`validation.rows=0`).
    """

    tokenizer: Coding
    train: Rows
    validation: Rows | None


def open_tokenizer(recipe: Recipe | CodecRecipe, machine: Machine) -> Coding:
    """The tokenizer of the data; one process learns it where it must be learned."""
    if machine.main:
        tokenizer_of(recipe.data)
    machine.barrier()
    return tokenizer_of(recipe.data)


def open_rows(recipe: Recipe | CodecRecipe, tokenizer: Coding, machine: Machine) -> Data:
    """Both splits, packed to the recipe's length; one process builds the stores, the others map them."""
    splits = ("train", "valid") if recipe.validation.rows != 0 else ("train",)
    if machine.main:
        for split in splits:
            open_data(recipe.data, length=recipe.length, split=split)
    machine.barrier()
    stores = [open_data(recipe.data, length=recipe.length, split=split) for split in splits]
    return Data(tokenizer, stores[0], stores[1] if len(stores) > 1 else None)
