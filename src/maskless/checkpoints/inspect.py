"""What a file or folder of weights is, without reading a single weight: names, shapes and settings only."""
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch

from maskless.checkpoints import native
from maskless.checkpoints.contents import Entry, read_contents
from maskless.checkpoints.reference.foreign import open_foreign
from maskless.checkpoints.reference.names import bare
from maskless.checkpoints.source import find
from maskless.config import tree_of
from maskless.data.vqgan import VQ, VQConfig
from maskless.models import MODELS


@dataclass(frozen=True)
class Group:
    """Tensors that belong together: one part of the network, all its layers."""

    name: str
    layers: int
    tensors: int
    parameters: int
    dtypes: list[str]


@dataclass(frozen=True)
class Report:
    """What `inspect` found.

    Attributes:
        source, layout: the file, and how it is laid out.
        kind: of the model.
        architecture: its native configuration; empty if it cannot be imported.
        parameters: numbers in the weights.
        groups: the parameter table.
        tokenizer: where it is, in words.
        training: step, epoch, whether an optimiser is there, ...
        ema: whether there is a moving average, and of what form.
        inferred: what the weights do not say, and where the answer came from.
        problems: what is missing, unexpected or does not fit; empty for a file that loads.
    """

    source: str
    layout: str
    kind: str
    architecture: dict[str, Any]
    parameters: int
    groups: list[Group]
    tokenizer: str
    training: dict[str, Any]
    ema: str
    inferred: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def tree(self) -> dict[str, Any]:
        return asdict(self)


def inspect(source: str | Path, *, overrides: Mapping[str, Any] | None = None) -> Report:
    """Look at a file or folder.

    Args:
        source: as for `maskless.load`.
        overrides: as for `maskless convert`.

    Raises:
        ValueError: there is nothing, or it is damaged, refused or no file of weights.
    """
    place = find(source)
    return _folder(native.resolve(place.path)) if place.native else _file(place.path, place.source, overrides)


def _file(path: Path, source: str, overrides: Mapping[str, Any] | None) -> Report:
    file = open_foreign(path, overrides=overrides, source=source)
    contents, architecture, problems = file.contents, {}, []
    try:
        made = file.outline()
        architecture = {"type": native.kind_name(made.config), **tree_of(made.config)}
    except ValueError as error:
        problems.append(str(error))
    tokens = "in the file" if contents.tokenizer is not None else "beside the file" if path.with_name("tokenizer.json").is_file() else ""
    said = contents.settings.get("data", {}).get("tokenizer_name_or_path") or file.facts.published.get("tokenizer")
    ema = f"a list of {len(contents.average)} tensors without names" if contents.average is not None else "none"
    training = contents.training | ({"rest": contents.rest} if contents.rest else {})
    return Report(
        str(path), contents.layout, file.importer.kind, architecture, _count(contents.weights), groups(contents.weights),
        " ".join(filter(None, [tokens, f"({said})" if said else ""])) or "none", training, ema, [*file.facts.notes], problems)


def _folder(folder: Path) -> Report:
    description, notes = native.described(folder / "config.json")
    entries = read_contents(folder / "model.safetensors").weights
    problems: list[str] = []
    for name in ("model.safetensors", "ema.safetensors"):
        if (folder / name).exists():
            problems += _misfits(folder / name, description.model)
    training = {"optimizer": (folder / "trainer").is_dir(), **{key: value for key, value in notes.get("extra", {}).items() if key != "converted"}}
    ema, converted = "ema.safetensors" if (folder / "ema.safetensors").exists() else "none", notes.get("extra", {}).get("converted", {})
    kind = native.kind_name(description.model)
    return Report(
        str(folder), "folder of this library", kind, {"type": kind, **tree_of(description.model)},
        _count(entries), groups(entries), "tokenizer.json" if (folder / "tokenizer.json").exists() else "none", training, ema,
        list(converted.get("inferred", [])), problems)


def _misfits(path: Path, config: Any) -> list[str]:
    """What is wrong with a file of native weights, by names and shapes."""
    with torch.device("meta"):
        wanted = (VQ(config) if isinstance(config, VQConfig) else MODELS[native.kind_name(config)][1](config)).state_dict()
    try:
        native.check_weights({name: entry.blank for name, entry in read_contents(path).weights.items()}, wanted, str(path))
    except ValueError as error:
        return [str(error)]
    return []


def _count(entries: Mapping[str, Entry]) -> int:
    return sum(prod(entry.shape) for entry in entries.values())


def groups(entries: Mapping[str, Entry]) -> list[Group]:
    """The parameter table: one line a part, its layers together."""
    table: dict[str, list[tuple[str, Entry]]] = {}
    for key, entry in entries.items():
        table.setdefault(_part(bare(key)), []).append((bare(key), entry))
    return [Group(name, max(1, len({_layer(key) for key, _ in members})), len(members), sum(prod(entry.shape) for _, entry in members),
                  sorted({str(entry.dtype).removeprefix("torch.") for _, entry in members})) for name, members in table.items()]


def _part(key: str) -> str:
    """encoder.blocks.3.mlp.0.weight -> encoder.blocks.{i}; decoder.group_swap.kv.bias -> decoder.group_swap; head.bias -> head."""
    layered = re.match(r"(.*?)\.\d+\.", key)
    return f"{layered[1]}.{{i}}" if layered else ".".join(key.split(".")[:-1][:2]) or key


def _layer(key: str) -> str | None:
    found = re.search(r"\.(\d+)\.", key)
    return found[1] if found else None
