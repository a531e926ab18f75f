"""Subword tokenizers (Hugging Face `tokenizers`): any tokenizer.json, the pair GPT-2 was published as, or one's own.

V  vocabulary size
"""
from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, SupportsInt

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from maskless.data.definition import digest, read_json, utf8, write_json
from maskless.vocabulary import Vocabulary

Ids = NDArray[np.integer]

# Names under which published tokenizers keep their special tokens, for files that do not say.
NAMES = {
    "bos_token": ("<|bos|>", "[BOS]", "<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>", "[CLS]"),
    "eos_token": ("<|eos|>", "[EOS]", "</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "[SEP]"),
    "pad_token": ("<|pad|>", "[PAD]", "<pad>"),
    "mask_token": ("[MASK]", "<mask>"),
}


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins: the character that writes each of the 256 bytes in a byte-level vocabulary."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTES = _byte_alphabet()


class SubwordTokenizer:
    """A Hugging Face `tokenizers` tokenizer.

    Byte-level ones (GPT-2, Llama 3, `train_bpe`) give any text back exactly; others as far as their normaliser allows.
    No special token is added, and none is read from a text: "<|endoftext|>" in a document is ordinary text.

    Args:
        definition: the content of a tokenizer.json.
        names: names of the special tokens, keys `bos_token`, `eos_token`, `pad_token`, `mask_token`; those not given
            are looked for under the usual names.

    Raises:
        ValueError: the definition is none that `tokenizers` understands, or a name is not in the vocabulary.
    """

    def __init__(self, definition: dict[str, Any], names: dict[str, str] | None = None) -> None:
        # The settings of a batch are no part of a vocabulary, and truncation would cut documents silently.
        definition = {**definition, "truncation": None, "padding": None}
        try:
            self._backend = Backend.from_str(json.dumps(definition))
        except Exception as error:  # `tokenizers` raises bare Exception
            raise ValueError(f"this is not the content of a tokenizer.json: {error}") from None
        self._backend.encode_special_tokens = True
        self._definition = json.loads(self._backend.to_str())
        known = self._backend.get_vocab(with_added_tokens=True)
        self._names = {role: name for role in NAMES if (name := _named(role, names or {}, known)) is not None}
        bos, eos, pad, mask = (known.get(self._names.get(role, "")) for role in NAMES)
        never = sorted({id for id in (pad, mask) if id is not None and id not in (bos, eos)})
        self._vocabulary = Vocabulary(max(known.values()) + 1, bos=bos, eos=eos, pad=pad, forbidden=tuple(never))
        self._hash = digest({"definition": self._definition, "names": self._names})
        # Added tokens stand outside the byte alphabet; the special ones have no text.
        added = self._definition.get("added_tokens", [])
        self._added = {token["id"]: b"" if token["special"] else token["content"].encode() for token in added}
        decoder = self._definition.get("decoder") or {}
        self._byte_level = any(step.get("type") == "ByteLevel" for step in decoder.get("decoders", [decoder]))

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    @property
    def hash(self) -> str:
        return self._hash

    def encode(self, text: str) -> list[int]:
        utf8(text)
        return self._backend.encode(text, add_special_tokens=False).ids

    def arrays(self, texts: Sequence[str]) -> Iterator[Ids]:
        for text in texts:
            utf8(text)
        for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False):
            yield np.array(encoding.ids, np.int32)

    def pieces(self, ids: Iterable[SupportsInt]) -> list[bytes]:
        ids = [int(id) for id in ids]
        if self._byte_level:
            return [self._piece(id) for id in ids]
        # What a subword looks like depends on its left neighbour (spaces between words), special tokens left out: decode in pairs.
        pieces, left = [], list[int]()
        for id in ids:
            pieces.append(self._plain([*left, id]).removeprefix(self._plain(left)))
            left = [id] if pieces[-1] else left
        return [piece.encode() for piece in pieces]

    def decode_bytes(self, ids: Iterable[SupportsInt]) -> bytes:
        ids = [int(id) for id in ids]
        return b"".join(self.pieces(ids)) if self._byte_level else self._plain(ids).encode()

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def save(self, folder: Path | str) -> None:
        write_json(Path(folder) / "tokenizer.json", self._definition)
        write_json(Path(folder) / "special_tokens_map.json", self._names)

    def _plain(self, ids: list[int]) -> str:
        return self._backend.decode(ids, skip_special_tokens=True)

    def _piece(self, id: int) -> bytes:
        if id in self._added:
            return self._added[id]
        token = self._backend.id_to_token(id) if id >= 0 else None
        return bytes(BYTES[character] for character in token) if token else b""


def _named(role: str, names: dict[str, str], known: dict[str, int]) -> str | None:
    """The special token of a role: the one asked for, else the first usual name that the vocabulary holds."""
    if role in names:
        if names[role] not in known:
            raise ValueError(f"the {role} {names[role]!r} is not in the vocabulary: name one of its tokens")
        return names[role]
    return next((name for name in NAMES[role] if name in known), None)


MOST_IDS = 1 << 22                                                  # beyond any vocabulary in use, and within any memory


def train_bpe(texts: Iterable[str], size: int) -> SubwordTokenizer:
    """A byte-level BPE learned from `texts` (read once, not kept), with <|bos|>, <|eos|> and <|pad|> as ids 0, 1, 2.

    Args:
        texts: documents.
        size: wanted number of ids, at least 259 (256 bytes and three specials); fewer come out if the text is small.

    Raises:
        ValueError: `size` is too small, or `texts` is one string, whose letters would pass for documents.

    Example:
        >>> tokenizer = train_bpe(["to be or not to be"] * 9, 270)
        >>> tokenizer.decode(tokenizer.encode("to be"))
        'to be'
    """
    if isinstance(texts, str):
        raise ValueError(f"texts is the one string {texts[:40]!r}; give a list of documents (a recipe learns from a folder: data.tokenizer=bpe)")
    specials = ["<|bos|>", "<|eos|>", "<|pad|>"]
    least = 256 + len(specials)
    if not isinstance(size, Integral) or not least <= size <= MOST_IDS:
        raise ValueError(f"a byte-level BPE has {least} to {MOST_IDS:,} ids ({len(specials)} are special), not {size!r}; correct its size (bpe_size)")
    backend = _byte_level_backend(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[AddedToken(name, special=True) for name in specials], show_progress=False,
        initial_alphabet=sorted(BYTES),
    )
    backend.train_from_iterator(texts, trainer)
    return SubwordTokenizer(json.loads(backend.to_str()))


def read_bpe_pair(encoder: Path, merges: Path) -> SubwordTokenizer:
    """GPT-2's published form: encoder.json (token to id) and vocab.bpe (one merge a line, best first)."""
    vocabulary = read_json(encoder)
    lines = merges.read_text(encoding="utf-8").split("\n")
    lines = [line for line in lines if line and not line.startswith("#version")]
    odd = next((line for line in lines if line.count(" ") != 1), None)
    if odd is not None:
        raise ValueError(f"{merges} holds the line {odd!r}: a merge is two tokens and a space; the file is damaged")
    pairs = [(left, right) for left, right in (line.split(" ") for line in lines)]
    try:
        backend = _byte_level_backend(models.BPE(vocab=vocabulary, merges=pairs))
    except Exception as error:  # `tokenizers` raises bare Exception
        raise ValueError(f"{encoder} and {merges} do not belong together: {error}") from None
    specials = [name for name in ("<|endoftext|>",) if name in vocabulary]
    backend.add_special_tokens([AddedToken(name, special=True) for name in specials])
    return SubwordTokenizer(json.loads(backend.to_str()))


def _byte_level_backend(model: models.Model) -> Backend:
    backend = Backend(model)
    # No space is put in front of a text: what comes back must be what went in.
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend
