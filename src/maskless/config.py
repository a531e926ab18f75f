"""Recipes: YAML and `a.b=c` overrides become frozen dataclasses, strictly. The only module that knows YAML or pydantic.

    tree = override(read("recipes/tiny/pgm.yaml"), ["training.lr=1e-3"])
    recipe = build(Recipe, tree)          # every key and every type checked; one clear sentence if something is wrong
    tree == tree_of(recipe)               # and back, with every default filled in

A field whose value is one of several dataclasses says so with a `type:` tag; the tags stand in the annotation,
`Annotated[A | B, Tagged({"a": A, "b": B})]`, so a recipe never names a Python class.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import types
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from maskless.tagged import Tagged
from maskless.whole import whole

T = TypeVar("T")


# ---------------------------------------------------------------------------------------------------- text to a tree


class _Yaml(yaml.SafeLoader):
    """YAML 1.2's plain scalars: `1e-4` is a number, `no` and `2024-01-01` are words, and a key may not come twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key) for key, _ in node.value]
        twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
        if twice is not None:
            raise ValueError(f"{twice} is given twice (line {node.start_mark.line + 1}); keep one of the two")
        return super().construct_mapping(node, deep)


_Yaml.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag.rsplit(":", 1)[1] not in ("bool", "float", "timestamp")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(true|false|True|False)$"), list("tTfF"))
_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"([-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9]+|[0-9][0-9_]*(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)$"),
    list("-+0123456789."),
)


def parse(text: str, where: str) -> Any:
    """YAML text as plain dicts, lists and scalars. Raises ValueError that names `where` and the line."""
    try:
        return yaml.load(text, Loader=_Yaml)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ValueError(f"{where}{line} cannot be read as YAML: {problem}; correct it") from None


def read(path: str | Path) -> dict:
    """The tree of one YAML file. Raises ValueError if it is missing, unreadable or not a mapping."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ValueError(f"the recipe {path} cannot be read: {reason}; give the path of a YAML file") from None
    tree = parse(text, str(path))
    if not isinstance(tree, dict):
        raise ValueError(
            f"{path} holds no keys: {_shown(tree)}; a recipe is a mapping such as `training: {{steps: 100}}`"
        )
    return tree


def write(path: str | Path, tree: Mapping) -> None:
    """Write a tree as YAML, keys in their order; what was there stays until all is written."""
    with whole(Path(path)) as part:
        part.write_text(yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True), encoding="utf-8")


def override(tree: Mapping, changes: Iterable[str], *, example: str = "training.steps=100") -> dict:
    """A copy of `tree` with every change `a.b=c` made; c is read as YAML. Raises ValueError for a malformed change, with an `example` of one."""
    changed: dict = json.loads(json.dumps(tree, default=str))  # a deep copy of plain data
    for change in changes:
        dotted, equals, text = change.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys):
            raise ValueError(f"{change!r} sets nothing; write key=value, for example {example}")
        node = changed
        for depth, key in enumerate(keys[:-1]):
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                above = ".".join(keys[: depth + 1])
                raise ValueError(
                    f"{change!r} goes inside {above}, which is the single value {_shown(node)}; set {above} itself"
                )
        node[keys[-1]] = parse(text, change)
    return changed


# ----------------------------------------------------------------------------------------------- a tree to dataclasses


def build(cls: type[T], tree: Mapping, *, where: str = "") -> T:
    """The frozen dataclass `cls` from a tree, nested dataclasses and tagged unions included.

    Args:
        cls: a dataclass whose annotations are plain types, dataclasses, or `Annotated[..., Tagged(...)]` unions.
        tree: plain dicts, lists and scalars.
        where: what the tree is, in front of every key of a sentence; empty for a recipe.

    Raises:
        ValueError: for an unknown or missing key or a wrong type: one sentence with the key, the value and the remedy.
    """
    return _object(cls, tree, where, _leaves(cls, where))


def tree_of(value: Any) -> dict:
    """The plain tree of a dataclass, defaults filled in and `type:` tags included: `build(type(value), tree_of(value))
    == value`."""
    return {field.name: _branch(hint, getattr(value, field.name)) for field, hint in _fields(type(value))}


def _branch(hint: Any, value: Any) -> Any:
    """The tree of one field's value."""
    tags, item = _tagged(hint), _item(hint)
    if item is not None and value is not None:
        return [_branch(item, each) for each in value]
    if tags is not None and value is not None:
        tag = next(tag for tag, kind in tags.kinds.items() if type(value) is kind)
        return {"type": tag, **tree_of(value)}
    return tree_of(value) if dataclasses.is_dataclass(value) else _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def _object(cls: Any, tree: Any, where: str, leaves: Mapping[str, list[str]]) -> Any:
    if not isinstance(tree, Mapping):
        names = ", ".join(field.name for field, _ in _fields(cls))
        raise ValueError(f"{where or 'the recipe'} is {_shown(tree)}; it must be a mapping with the keys {names}")
    fields = {field.name: (field, hint) for field, hint in _fields(cls)}
    for key in tree:
        if key not in fields:
            raise ValueError(_unknown(_join(where, str(key)), where, list(fields), leaves))
    values = {}
    for name, (field, hint) in fields.items():
        key = _join(where, name)
        if name in tree:
            values[name] = _value(hint, tree[name], key, leaves)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{key} is missing; add it ({_described(hint)})")
    return _made(cls, values, where)


def _made(cls: Any, values: dict, where: str) -> Any:
    """Call the constructor; a dataclass's own check speaks with the place in the recipe in front."""
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if where else str(error)) from None


def _value(hint: Any, value: Any, where: str, leaves: Mapping[str, list[str]]) -> Any:
    tags = _tagged(hint)
    optional = type(None) in get_args(_bare(hint))
    if value is None and optional:
        return None
    if (item := _item(hint)) is not None:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{where} is {_shown(value)}; it must be a list")
        return tuple(_value(item, each, f"{where}[{place}]", leaves) for place, each in enumerate(value))
    if tags is not None:
        return _choice(tags, value, where, leaves)
    nested = [kind for kind in (get_args(_bare(hint)) or (_bare(hint),)) if dataclasses.is_dataclass(kind)]
    if nested:
        return _object(nested[0], value, where, leaves)
    try:
        # JSON mode: strict about types (no "3" for 3, no true for 1), yet a list may fill a tuple and 1 a float
        return _adapter(hint).validate_json(json.dumps(value), strict=True)
    except (ValidationError, TypeError):
        raise ValueError(f"{where} is {_shown(value)}; it must be {_described(hint)}") from None


def _choice(tags: Tagged, value: Any, where: str, leaves: Mapping[str, list[str]]) -> Any:
    known = ", ".join(tags.kinds)
    if isinstance(value, str) and tags.word is not None:
        value = {"type": tags.word[0], tags.word[1]: value}
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is {_shown(value)}; it must be a mapping with a type: key, one of {known}")
    tag = value.get("type", tags.default)
    if tag is None:
        raise ValueError(f"{where}.type is missing; it must be one of {known}")
    if not isinstance(tag, str) or tag not in tags.kinds:
        near = difflib.get_close_matches(str(tag), tags.kinds, 1, 0.4)
        meant = f"did you mean {near[0]}? it" if near else "it"
        raise ValueError(f"{where}.type is {_shown(tag)}; {meant} must be one of {known}")
    _check_of_type(tags, tag, value, where)
    return _object(tags.kinds[tag], {k: v for k, v in value.items() if k != "type"}, where, leaves)


def _check_of_type(tags: Tagged, tag: str, value: Mapping, where: str) -> None:
    """Raises ValueError for a key that other types have, and this one has not."""
    names = {kind: [field.name for field, _ in _fields(cls)] for kind, cls in tags.kinds.items()}
    for key in value:
        having = [kind for kind in names if key in names[kind]]
        if key != "type" and having and tag not in having:
            raise ValueError(f"{_join(where, key)} is a key of {', '.join(having)}, and {where}.type is {tag}, which has no such key; "
                             f"leave it out, or choose a type that has it (keys of {tag}: {', '.join(names[tag]) or 'none'})")


def _unknown(key: str, where: str, siblings: list[str], leaves: Mapping[str, list[str]]) -> str:
    """The sentence for a key that nobody knows, with the nearest one that somebody does."""
    name = key.rsplit(".", 1)[-1]
    if elsewhere := [place for place in leaves.get(name, []) if place != key]:
        return f"unknown key {key}; did you mean {elsewhere[0]}?"
    if near := difflib.get_close_matches(name, siblings, 1, 0.6):
        return f"unknown key {key}; did you mean {_join(where, near[0])}?"
    if near := difflib.get_close_matches(name, [leaf for leaf in leaves if leaf != name], 1, 0.75):
        return f"unknown key {key}; did you mean {leaves[near[0]][0]}?"
    return f"unknown key {key}; {where or 'a recipe'} has the keys {', '.join(siblings)}"


# ------------------------------------------------------------------------------------------------------------ helpers


@cache
def _fields(cls: Any) -> tuple[tuple[dataclasses.Field, Any], ...]:
    hints = get_type_hints(cls, include_extras=True)
    return tuple((field, hints[field.name]) for field in dataclasses.fields(cls) if field.init)


def _tagged(hint: Any) -> Tagged | None:
    """The tags of a field; of `Annotated[A | B, Tagged(...)]` and of that `| None`."""
    candidates = [hint, *(get_args(hint) if get_origin(hint) in (Union, types.UnionType) else ())]
    for candidate in candidates:
        if get_origin(candidate) is Annotated:
            return next((extra for extra in candidate.__metadata__ if isinstance(extra, Tagged)), None)
    return None


def _item(hint: Any) -> Any:
    """The element of `tuple[X, ...]` where X is a dataclass or a tagged union; None for any other hint."""
    arguments = get_args(hint)
    if get_origin(hint) is not tuple or len(arguments) != 2 or arguments[1] is not Ellipsis:
        return None
    return arguments[0] if _tagged(arguments[0]) or dataclasses.is_dataclass(_bare(arguments[0])) else None


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


@cache
def _adapter(hint: Any) -> TypeAdapter:
    return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))


def _leaves(cls: Any, where: str = "") -> dict[str, list[str]]:
    """Every key of the whole tree by its last name, for suggestions across sections."""
    found: dict[str, list[str]] = {}
    for field, hint in _fields(cls):
        key = _join(where, field.name)
        found.setdefault(field.name, []).append(key)
        hint = _item(hint) or hint
        tags = _tagged(hint)
        kinds = tags.kinds.values() if tags else (get_args(_bare(hint)) or (_bare(hint),))
        for kind in kinds:
            if dataclasses.is_dataclass(kind):
                for name, places in _leaves(kind, key).items():
                    found.setdefault(name, []).extend(place for place in places if place not in found[name])
    return found


def _described(hint: Any) -> str:
    """A type in words."""
    words: dict[Any, str] = {
        int: "an integer",
        float: "a number",
        str: "text",
        bool: "true or false",
        Path: "a path",
        type(None): "null",
    }
    bare = _bare(hint)
    if tags := _tagged(hint):
        return f"one of {', '.join(tags.kinds)}, chosen by its type: key"
    if dataclasses.is_dataclass(bare):
        return f"a mapping with the keys {', '.join(field.name for field, _ in _fields(bare))}"
    origin, arguments = get_origin(bare), get_args(bare)
    if origin in (Union, types.UnionType):
        return " or ".join(_described(argument) for argument in arguments)
    if origin is not None and origin not in (tuple, list, dict):  # Literal
        return "one of " + ", ".join(str(argument) for argument in arguments)
    if origin in (tuple, list):
        inner = [argument for argument in arguments if argument is not Ellipsis]
        many = "" if len(inner) != len(arguments) or origin is list else f"{len(inner)} "
        return f"a list of {many}{_described(inner[0]).removeprefix('a ').removeprefix('an ')}s"
    return words.get(bare, str(bare))


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
