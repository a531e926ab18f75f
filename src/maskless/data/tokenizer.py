"""Text to ids and back: what every tokenizer can do, and where tokenizers come from."""
from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, SupportsInt, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from maskless.data.definition import read_json
from maskless.data.offline import offline, quietly, reason
from maskless.data.subwords import NAMES, SubwordTokenizer, read_bpe_pair, train_bpe
from maskless.data.symbols import (
    ByteTokenizer,
    SymbolTokenizer,
    learn_symbols,
    learn_words,
    symbol_tokenizer,
    text8_tokenizer,
)
from maskless.places import holding, local
from maskless.vocabulary import Vocabulary

__all__ = [
    "ByteTokenizer", "Coding", "SubwordTokenizer", "SymbolTokenizer", "Tokenizer", "learn_symbols", "learn_words",
    "load_tokenizer", "symbol_tokenizer", "text8_tokenizer", "train_bpe",
]

PAIRS = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))


@runtime_checkable
class Coding(Protocol):
    """What rows are written in: a `Tokenizer` for text, `ImageCodes` for images."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Size and special ids."""
        ...

    @property
    def hash(self) -> str:
        """sha256 (hex) of the definition: equal hashes give equal ids."""
        ...

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """The text; bytes that are no UTF-8 become U+FFFD. Of an image, a drawing."""
        ...

    def save(self, folder: Path | str) -> None:
        """Write tokenizer.json, or codec.json and images.json, into an existing folder."""
        ...


@runtime_checkable
class Tokenizer(Coding, Protocol):
    """Text to ids and back. Special ids (bos, eos, pad) are never read from a text and have no text."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, no specials added. Raises ValueError for text that cannot be written."""
        ...

    def arrays(self, texts: Sequence[str]) -> Iterator[NDArray[np.integer]]:
        """`encode` of many texts, as arrays, for building stores."""
        ...

    def decode_bytes(self, ids: Iterable[SupportsInt]) -> bytes:
        """The text as bytes, exactly, also where a character is incomplete."""
        ...

    def pieces(self, ids: Iterable[SupportsInt]) -> list[bytes]:
        """The bytes of each id, with what stands between it and the text on its left: together they are the text."""
        ...


def load_tokenizer(name: str | Path) -> Tokenizer:
    """A tokenizer by its name or place.

    Args:
        name: "bytes", "text8"; a tokenizer.json, or a folder that holds one (or GPT-2's encoder.json and vocab.bpe); a model: its folder,
            its run or its name in the package ("tiny"); or the name of a Hugging Face Hub repository such as "gpt2". Only the last asks the network.

    Raises:
        ValueError: nothing is there, it is damaged, or the Hub could not be reached.

    Example:
        >>> load_tokenizer("bytes").vocabulary.size
        259
    """
    if not isinstance(name, str | Path):
        raise ValueError(f"name is {name!r}; give a path or a name, such as bytes or gpt2")
    if name == "bytes":
        return ByteTokenizer()
    if name == "text8":
        return text8_tokenizer()
    path = local(name)
    if path.is_dir():
        return _from_folder(path)
    if path.is_file():
        return _from_file(path)
    if re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", str(name)) and not str(name).endswith(".json"):
        return _from_hub(str(name))
    raise ValueError(f"there is no tokenizer at {name}: give a tokenizer.json, its folder, a model, or a Hub name such as gpt2")


def _from_folder(folder: Path) -> Tokenizer:
    if (found := holding(folder, "tokenizer.json")) is not None:
        return _from_file(found / "tokenizer.json")
    for encoder, merges in PAIRS:
        if (folder / encoder).is_file() and (folder / merges).is_file():
            return read_bpe_pair(folder / encoder, folder / merges)
    raise ValueError(f"the folder {folder} holds no tokenizer: no tokenizer.json, no encoder.json with vocab.bpe")


def _from_file(path: Path) -> Tokenizer:
    definition = read_json(path)
    kind = definition.get("kind") if isinstance(definition, dict) else None
    if kind == "bytes":
        return ByteTokenizer()
    try:
        if kind == "symbols":
            return SymbolTokenizer.of(definition)
        return SubwordTokenizer(definition, _special_names(path.parent))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from None


def _special_names(folder: Path) -> dict[str, str]:
    """Special tokens named beside a tokenizer.json, in the files that transformers writes."""
    found: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            found |= read_json(folder / name)
    entries = {role: found.get(role) for role in NAMES}
    contents = {role: entry.get("content") if isinstance(entry, dict) else entry for role, entry in entries.items()}
    return {role: content for role, content in contents.items() if content}


def _from_hub(name: str) -> Tokenizer:
    from huggingface_hub import snapshot_download

    files = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
    away = offline()
    try:
        with quietly():
            folder = Path(snapshot_download(name, allow_patterns=files, local_files_only=away))
    except Exception as error:  # offline, unknown repository, private: one sentence for all
        raise ValueError(
            f"the tokenizer {name!r} is no local path and could not be fetched from the Hugging Face Hub "
            f"({reason(error, away)}): give a tokenizer.json or its folder, or go online"
        ) from None
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"the Hub repository {name!r} has no tokenizer.json: only that format can be read")
    return _from_file(folder / "tokenizer.json")
