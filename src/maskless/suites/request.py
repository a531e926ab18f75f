"""Words of a command line as suites: names of suites, recipes with an `evaluation:` section, changes, and what stands for several changes."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from maskless.config import build, override, parse, read, tree_of
from maskless.data.hub import DATASETS
from maskless.data.zero_shot import CORPORA
from maskless.evaluation.settings import SUITES, Evaluation, Likelihood, Suite, kind_of_suite
from maskless.suites.names import name_of, word_of
from maskless.training.recipe import Recipe
from maskless.training.recipes import find, recipe_names

USUAL = ", ".join(SUITES)
Given = Mapping[str, Any]


def requested(words: Sequence[str | Suite], shared: Given, *, recipe: Recipe | None = None, called: str = "",
              completed: Callable[[Given], Given] = dict) -> tuple[Suite, ...]:
    """The suites that a command line asks for.

    Args:
        words: names of suites, their settings, names or paths of recipes, and changes such as `likelihood.budget=8`.
        shared: fields for every suite that has them (`seed`, `samples`, `sampler`: a mapping); None: not given.
        recipe: of the model's run: its evaluation section counts where the words name nothing.
        called: the name of the data in `shared`: it takes the place of the name of a suite that has other data, and follows that of one that
            has none. Suites that are the same with these data are one.
        completed: of options of a sampler, all that the model is sampled with.

    Raises:
        ValueError: an unknown word, a field that no suite has, settings that are refused, or nothing to do.
    """
    changes = [word for word in words if isinstance(word, str) and "=" in word]
    trees = [tree for word in words if word not in changes for tree in _trees(word)]
    if not trees and recipe is not None:
        trees = tree_of(recipe.evaluation)["suites"]
    if not trees:
        raise ValueError(f"no suite was named and the model's run has no evaluation section; name some of {USUAL}, or a recipe that has one")
    if shared.get("data") is not None:
        trees = [_named(tree, called) for tree in trees]
    for field, value in shared.items():
        if value is not None:
            trees = _everywhere(trees, field, value, completed)
    if shared.get("data") is not None:
        trees = [tree for place, tree in enumerate(trees) if tree not in trees[:place] or "data" not in tree]
    for change in changes:
        trees = _changed(trees, change, completed)
    return build(Evaluation, {"suites": trees}, where="evaluation").suites


def _trees(word: str | Suite) -> list[dict[str, Any]]:
    """A suite with its defaults or as it was set, or those of a recipe."""
    if isinstance(word, tuple(SUITES.values())):
        return [{"type": kind_of_suite(word), **tree_of(word)}]
    if not isinstance(word, str):
        raise ValueError(f"{word!r} is neither the name of a suite nor its settings; name some of {USUAL}")
    if word in SUITES:
        return [{"type": word, **tree_of(SUITES[word]())}]
    if not (Path(word).is_file() or word.removesuffix(".yaml") in recipe_names()):
        raise ValueError(f"{word} is neither a suite nor a recipe; name some of {USUAL}, or a YAML file with an evaluation section")
    tree = read(find(word)).get("evaluation")
    if tree is None:
        raise ValueError(f"the recipe {word} has no evaluation section, which says what is measured; add one, or name suites: {USUAL}")
    return tree_of(build(Evaluation, tree, where="evaluation"))["suites"]


def _named(tree: dict[str, Any], called: str) -> dict[str, Any]:
    """A suite that will be given data of this name."""
    if "data" not in tree:
        return tree
    return {**tree, "name": called if tree["data"] is not None else "-".join(word for word in (tree["name"], called) if word)}


def _everywhere(trees: list[dict[str, Any]], field: str, value: Any, completed: Callable[[Given], Given]) -> list[dict[str, Any]]:
    """A field set in every suite that has it; options of a sampler are merged into those that are there, or completed where there are none."""
    takes = [field in {each.name for each in fields(SUITES[tree["type"]])} for tree in trees]
    if not any(takes):
        having = ", ".join(name for name, kind in SUITES.items() if field in {each.name for each in fields(kind)})
        raise ValueError(f"{field} is not for {', '.join(tree['type'] for tree in trees)}; it is for {having}")
    merged = lambda tree: value if field != "sampler" else completed(value) if tree[field] is None else {**tree[field], **value}
    return [{**tree, field: merged(tree)} if take else tree for tree, take in zip(trees, takes)]


def _changed(trees: list[dict[str, Any]], change: str, completed: Callable[[Given], Given]) -> list[dict[str, Any]]:
    """`likelihood.budget=8` in every suite of that kind."""
    kind, dot, rest = change.partition(".")
    if not dot or kind not in SUITES or "=" in kind:
        raise ValueError(f"{change!r} is no change of a suite; write suite.key=value, for example likelihood.budget=8 (suites: {USUAL})")
    if not any(tree["type"] == kind for tree in trees):
        raise ValueError(f"{change!r} changes the suite {kind}, which is not asked for; name it as well")
    if rest.startswith("sampler.") and kind in ("images", "speed"):
        given = completed(override({}, [rest])["sampler"])
        trees = [{**tree, "sampler": given} if tree["type"] == kind and tree["sampler"] is None else tree for tree in trees]
    return [override(tree, [rest]) if tree["type"] == kind else tree for tree in trees]


def sampler_of(changes: Sequence[str]) -> dict[str, Any] | None:
    """Options of a sampler from `steps=64` and the like; None of none."""
    return override({}, changes) if changes else None


def data_of(text: str | None) -> dict[str, Any] | None:
    """A data section from a recipe, the name of a data set, a file or folder of text, CORPUS:FILE (wikitext:wiki.test.txt), or YAML itself.

    Raises:
        ValueError: none of these.
    """
    if text is None:
        return None
    if text.lstrip().startswith("{"):
        return parse(text, "--data")
    corpus, colon, place = text.partition(":")
    if colon and corpus in CORPORA:
        return {"type": "zero_shot", "name": corpus, "place": place}
    if text in DATASETS:
        return {"type": "hub", "name": text}
    if text.removesuffix(".yaml") in recipe_names() or text.endswith(".yaml"):
        section = read(find(text)).get("data")
        if section is None:
            raise ValueError(f"the recipe {text} has no data section; name another, or data themselves")
        return section
    if Path(text).expanduser().exists():
        return {"type": "files", "train": text, "valid": text}
    raise ValueError(f"--data {text} is no file, no recipe and none of the data sets {', '.join(DATASETS)}; "
                     "it may also be CORPUS:FILE (wikitext:wiki.test.txt) or a data section: '{type: files, train: texts/}'")


def named_by(data: str | Given | None) -> str:
    """What results call data that were named on a command line: by the words that stand there, or by the source of a section."""
    if data is None:
        return ""
    if not isinstance(data, str) or data.lstrip().startswith("{"):
        source: Any = build(Likelihood, {"data": data_of(data) if isinstance(data, str) else data}).data
        return word_of(name_of(source))
    corpus, colon, place = data.partition(":")
    return f"{corpus}-{word_of(place)}" if colon and corpus in CORPORA else word_of(data)
