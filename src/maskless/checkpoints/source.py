"""Where weights are: a path, a model that the package carries, or a repository of the Hugging Face Hub with or without a file and a revision.

    runs/first   model.ckpt   folder/                         paths come first
    tiny                                                      the model of that name in the package (`places.carried`)
    organisation/name                                         the whole repository (config.json, weights, tokenizer.json)
    organisation/name:file.ckpt   organisation/name/file.ckpt   one file of it
    organisation/name@revision[:file]                         of a branch, tag or commit
"""
from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskless.data.offline import offline, quietly, reason
from maskless.places import local

SUFFIXES = (".ckpt", ".pt", ".pth", ".safetensors", ".bin")
FILES = ["config.json", "*.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "codec.json", "images.json"]
BESIDE = FILES[:1] + FILES[2:]
NAME = r"[\w-][\w.-]*"
HUB = re.compile(rf"(?P<repository>{NAME}/{NAME})(@(?P<revision>[\w./-]+?))?(:(?P<colon>[\w./-]+)|/(?P<slash>[\w./-]+))?")


@dataclass(frozen=True)
class Place:
    """A file or folder on this machine.

    Attributes:
        path: the file of weights, or the folder that this library wrote.
        source: what it was asked for by.
        native: whether `path` is a folder of this library.
    """

    path: Path
    source: str
    native: bool


def find(source: str | Path) -> Place:
    """The file or folder of a source, fetched if need be.

    Raises:
        ValueError: there is none, or it could not be fetched; the sentence says which.
    """
    path = local(source)
    if not path.exists() and (asked := _asked(str(source))):
        path = _fetched(str(source), *asked)
    if path.is_file() and path.name in ("model.safetensors", "ema.safetensors") and is_native(path.parent):
        raise ValueError(f"{path} is one file of a model; give its folder, {path.parent}")
    if path.is_dir() and not is_native(path) and (weights := _weights_in(path)):
        path = weights
    # a folder that holds nothing is left to the reader of folders, whose sentence says what is missing
    return Place(path, str(source), path.is_dir() or (not path.exists() and path.suffix not in SUFFIXES))


def is_native(folder: Path) -> bool:
    """Whether a folder was written by this library."""
    config = folder / "config.json"
    if not config.is_file():
        return (folder / "checkpoints").is_dir()
    try:
        tree: Any = json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return False
    return isinstance(tree, dict) and "maskless" in tree


def _weights_in(folder: Path) -> Path | None:
    """The file of weights in a folder that somebody else wrote."""
    if (folder / "model.safetensors").is_file():
        return folder / "model.safetensors" if (folder / "config.json").is_file() else None
    found = [path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES]
    if shards := [path.name for path in folder.glob("*.index.json")]:
        raise ValueError(f"{folder} holds weights in several parts ({shards[0]}), which are not read; join them into one .safetensors file")
    if len(found) > 1:
        raise ValueError(f"{folder} holds {len(found)} files of weights; give one of them: {', '.join(path.name for path in found[:4])}")
    return found[0] if found else None


def _asked(source: str) -> tuple[str, str | None, str | None] | None:
    """(repository, revision, file) if that is what the words mean."""
    match = HUB.fullmatch(source)
    if match is None:
        return None
    file = match["colon"] or match["slash"]
    if file is None:
        return None if match["revision"] is None and source.endswith(SUFFIXES) else (match["repository"], match["revision"], None)
    if match["colon"] is None and not file.endswith(SUFFIXES):
        return None
    return match["repository"], match["revision"], file


def _fetched(source: str, repository: str, revision: str | None, file: str | None) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download

    patterns = FILES if file is None else [str(Path(file).parent / name) if "/" in file else name for name in BESIDE]
    away = offline()
    try:
        with quietly():
            whole = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns, local_files_only=away))
            return whole if file is None else Path(hf_hub_download(repository, file, revision=revision, local_files_only=away))
    except Exception as error:                                      # offline, unknown, private: one sentence for all
        raise ValueError(f"{source} is no local file or folder and could not be fetched from the Hugging Face Hub ({reason(error, away)}); "
                         "give a path, or go online") from None
