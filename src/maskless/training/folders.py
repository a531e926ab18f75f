"""Run folders: where a run goes, what it goes on from, and what must not be there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maskless.checkpoints.native import DamagedError
from maskless.places import no_file_above, steps_of
from maskless.training.codec import load_codec_recipe, trains_codec
from maskless.training.recipe import FROM_DATA, FROM_TOKENIZER, load_recipe, recipe_tree
from maskless.training.recipes import file_of


def default_folder(recipe: str | Path | Mapping, resume: bool) -> Path:
    """Where a run goes that was not told: beside others, by the name of its recipe; or the folder that is to be resumed."""
    if isinstance(recipe, Mapping):
        raise ValueError("a recipe given as a mapping has no name; say where the run goes with out=")
    if resume and (Path(recipe).is_dir() or file_of(recipe) is None):
        return Path(recipe)
    return Path("runs") / str(recipe).removesuffix(".yaml").strip("/").replace("/", "-")


def check_folder(folder: Path, resume: bool) -> None:
    """Raise ValueError if a run cannot go there."""
    no_file_above(folder)
    if not resume and (folder / "config.yaml").exists():
        raise ValueError(
            f"{folder} holds a run already; continue it with --resume, or choose another folder with --out"
        )
    if not resume and (held := [name for name in ("config.json", "checkpoints", "metrics.jsonl") if (folder / name).exists()]):
        raise ValueError(f"{folder} holds {held[0]}, of a model or of another run; choose another folder with --out")


def resumed(folder: Path, recipe: str | Path | Mapping, overrides: Sequence[str]) -> tuple[Any, dict[str, str]]:
    """The recipe to continue with, and the keys in which it differs from the one the run had, with a sentence on each.

    The run's own config.yaml with the overrides; or, where a recipe is named beside the folder, that recipe.
    """
    stored = folder / "config.yaml"
    if not stored.is_file():
        raise ValueError(f"{folder} is no run folder (it has no config.yaml); give the folder of the run to resume")
    codec = trains_codec(stored)
    load: Callable[..., Any] = load_codec_recipe if codec else load_recipe
    before = load(stored)
    named = not isinstance(recipe, Mapping) and (Path(recipe) == folder)
    after = load(stored if named else recipe, *overrides)
    if not codec and after.model.vocab_size == FROM_TOKENIZER:
        filled = {name: getattr(before.model, name) for name in FROM_DATA if hasattr(before.model, name) and not getattr(after.model, name, True)}
        after = dataclasses.replace(after, model=dataclasses.replace(after.model, **filled))
    old, new = _flat(recipe_tree(before)), _flat(recipe_tree(after))
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    return after, {key: f"{key} is {new.get(key)} (was {old.get(key)})" for key in changed}


def _flat(tree: Mapping, where: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{where}.{key}" if where else key
        flat.update(_flat(value, name) if isinstance(value, Mapping) else {name: value})
    return flat


@contextmanager
def older_named(folder: Path, found: Path | None) -> Iterator[None]:
    """Where a run's newest checkpoint is damaged, say how to go on from the one before."""
    try:
        yield
    except DamagedError as error:
        older = [step for step in steps_of(folder) if step != found]
        raise ValueError(f"{error}; to go on from {older[-1].name}, delete {found}" if older else str(error)) from None
