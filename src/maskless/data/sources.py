"""The sources a recipe may name, and the two ways in: `open_data` and `tokenizer_of`.

    spec = Files(train="novels/", tokenizer="bpe", holdout=0.02)
    store = open_data(spec, length=256, split="train")        # built once, then mapped into memory
    tokenizer = tokenizer_of(spec)                            # learned once, then read

L  sites of a row
"""
from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from maskless.data.corpus import corpus_identity, standard_library_prose
from maskless.data.definition import canonical, digest
from maskless.data.detokenize import DETOKENIZERS
from maskless.data.files import DOCUMENTS, FASTA, SUFFIXES, find_files, fingerprint, read_documents, read_table
from maskless.data.hub import Hub
from maskless.data.images import Images, Pictures, PlainPixels
from maskless.data.loader import Rows
from maskless.data.pack import PACKINGS, Row, padded
from maskless.data.shards import Encoded
from maskless.data.source import SPLITS, Source, Split, TextSource, encoded, one_of
from maskless.data.store import Unfilled, open_or_build
from maskless.data.tokenizer import Coding, Tokenizer, learn_symbols, learn_words, load_tokenizer
from maskless.data.zero_shot import ZeroShot

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Prose(TextSource):
    """The prose in Python's own standard library (`standard_library_prose`): needs no file and no network."""

    holdout: float = 0.1

    def texts(self, split: Split) -> Iterator[str]:
        for document in standard_library_prose():                   # parsed when asked for: a store that is built needs none of it
            if self.in_split(split, document):
                yield document

    def identity(self) -> Any:
        return corpus_identity()


@dataclass(frozen=True, kw_only=True)
class _Local:
    """Files on disk, with validation files of their own or without.

    Args:
        train: a file, or a folder that is searched for files.
        valid: the same for validation; None holds out a share of `train`.
    """

    train: str
    valid: str | None = None
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    @property
    def divided(self) -> bool:
        return self.valid is not None

    def identity(self) -> Any:
        found = [fingerprint(place, self.suffixes) for place in (self.train, self.valid) if place is not None]
        return [*found, "apart"] if len(self._files("train")) < len(find_files(self.train, self.suffixes)) else found

    def _files(self, split: Split) -> list[Path]:
        """The files of a split: what is held out lies often below the folder that is trained on, and is left out there. Where both are the same
        place, all of it is both."""
        if self.valid is None or self.valid == self.train:
            return find_files(self.train, self.suffixes)
        held_out = find_files(self.valid, self.suffixes)
        if split == "valid":
            return held_out
        apart = {path.resolve() for path in held_out}
        found = [path for path in find_files(self.train, self.suffixes) if path.resolve() not in apart]
        if not found:
            raise ValueError(f"every file of {self.train} is validation data as well ({self.valid}); correct data.train or data.valid, or leave "
                             "data.valid out to hold a share out")
        return found

    def _records(self: Any, split: Split, read: Callable[[Path], Iterator[T]], text: Callable[[T], str]) -> Iterator[T]:
        """What `read` finds in the files of a split; `text` is what the choice of held-out records goes by."""
        for path in self._files(split):
            for record in read(path):
                if self.divided or self.in_split(split, text(record)):
                    yield record


@dataclass(frozen=True, kw_only=True)
class Files(_Local, TextSource):
    """Text in local files: .txt, .jsonl (both also .gz) and .parquet, one file or a folder of them.

    Args:
        text_field: the field of .jsonl and .parquet records that holds the text; of .jsonl also several ("title+text").
        document: what a document of a .txt file is: "file", "paragraph" (up to a blank line), "line", or "row" (blank lines are documents too).
        detokenizer: a name in `DETOKENIZERS` ("wikitext", "ptb", ...) to undo a corpus's spacing, or None.
    """

    text_field: str = "text"
    document: str = "file"
    detokenizer: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("document", self.document, DOCUMENTS)
        if self.detokenizer is not None:
            one_of("detokenizer", self.detokenizer, DETOKENIZERS)

    def texts(self, split: Split) -> Iterator[str]:
        read = lambda path: read_documents(path, document=self.document, field=self.text_field)
        detokenize = DETOKENIZERS[self.detokenizer] if self.detokenizer else str
        return (detokenize(text) for text in self._records(split, read, str))


@dataclass(frozen=True, kw_only=True)
class Sequences(_Local, Source):
    """Sequences of any tokens: molecules, proteins, chords, moves. One a line of .txt files, a record of .jsonl or of .fasta (.fa) files,
    all also .gz.

    The vocabulary is every symbol that occurs, unless the rows are to be written in another's.

    Args:
        tokenizer: null: learned from the data as the next two say; or a model's, to train it on (a folder, a run), or a tokenizer.json.
        separator: "" if symbols follow one another, or what stands between them, such as " ".
        pattern: without a separator, a regular expression of the symbols of several characters (for SMILES
            ``Br|Cl|\\[[^]]*\\]``).
        packing: as in `TextSource`; "fill" lets a model of any order learn where a sequence ends.
        text_field: the field of .jsonl records that holds the sequence.
    """

    tokenizer: str | None = None
    separator: str = ""
    pattern: str = "."
    packing: str = "fill"
    text_field: str = "text"
    suffixes: ClassVar[tuple[str, ...]] = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", *FASTA)

    @property
    def learned(self) -> str:
        return "" if self.tokenizer else "symbols"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("packing", self.packing, PACKINGS)

    def texts(self, split: Split) -> Iterator[str]:
        return self._records(split, lambda path: read_documents(path, document="line", field=self.text_field), str)

    def make_tokenizer(self) -> Tokenizer:
        if self.tokenizer:
            return load_tokenizer(self.tokenizer)
        texts = (text for split in SPLITS for text in self.texts(split))
        return learn_words(texts, self.separator) if self.separator else learn_symbols(texts, self.pattern)

    def rows(self, split: Split, tokenizer: Tokenizer, length: int) -> Iterator[Row]:
        return PACKINGS[self.packing](encoded(self.texts(split), tokenizer), length, tokenizer.vocabulary)


@dataclass(frozen=True, kw_only=True)
class Puzzles(_Local, Source):
    """Puzzles with their solutions, a pair a line of .csv or .csv.gz files, such as Sudoku.

    A row is BOS, which is given, and the solution, whose givens are the filled cells of the puzzle: they are known to
    the model from the start and in no loss. There is no EOS; sites beyond the solution are not valid.

    Args:
        puzzle, solution: names of the two columns, one character a cell.
        empty: the character of an empty cell in `puzzle`; it is no part of the vocabulary.
    """

    puzzle: str = "puzzle"
    solution: str = "solution"
    empty: str = "0"
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".csv.gz")

    @property
    def learned(self) -> str:
        return "symbols"

    def pairs(self, split: Split) -> Iterator[tuple[str, str]]:
        """Puzzles and solutions. Raises ValueError for a pair that does not fit together."""
        return self._records(split, self._read, lambda pair: pair[0])

    def texts(self, split: Split) -> Iterator[str]:
        return (solution for _, solution in self.pairs(split))

    def make_tokenizer(self) -> Tokenizer:
        return learn_symbols(solution for split in SPLITS for solution in self.texts(split))

    def rows(self, split: Split, tokenizer: Tokenizer, length: int) -> Iterator[Row]:
        bos = tokenizer.vocabulary.bos
        for puzzle, solution in self.pairs(split):
            if (needed := len(solution) + 1) > length:
                raise ValueError(f"a puzzle of {needed - 1} cells and BOS needs a length of {needed}, not {length}")
            given = np.array([True, *(cell != self.empty for cell in puzzle)])
            row = Row(np.array([bos, *tokenizer.encode(solution)], np.int32), given=given)
            yield padded(row, length, tokenizer.vocabulary)

    def _read(self, path: Path) -> Iterator[tuple[str, str]]:
        for line, (puzzle, solution) in read_table(path, (self.puzzle, self.solution)):
            clash = any(cell not in (self.empty, solved) for cell, solved in zip(puzzle, solution))
            if clash or len(puzzle) != len(solution) or self.empty in solution:
                raise ValueError(f"line {line} of {path}: {solution!r} is no solution of {puzzle!r}: correct it")
            yield puzzle, solution


# A recipe's `data: {type: ...}`.
SOURCES: dict[str, type[Source]] = {
    "prose": Prose, "files": Files, "hub": Hub, "sequences": Sequences, "puzzles": Puzzles, "images": Images,
    "encoded": Encoded, "zero_shot": ZeroShot,
}
DataConfig = Prose | Files | Hub | Sequences | Puzzles | Images | Encoded | ZeroShot
ORIGINS: dict[str, type[Source]] = {**SOURCES, "pixels": PlainPixels}  # and what codecs are trained on


def cache_folder(cache: Path | str | None = None) -> Path:
    """Where stores and learned tokenizers are kept: `cache`, else $MASKLESS_CACHE, else ~/.cache/maskless."""
    return Path(cache or os.environ.get("MASKLESS_CACHE") or "~/.cache/maskless").expanduser()


def tokenizer_of(spec: Source, *, cache: Path | str | None = None) -> Coding:
    """The tokenizer of a source: loaded, or learned from its texts the first time and kept in the cache.

    Args:
        spec: the source.
        cache: as in `cache_folder`.

    Raises:
        ValueError: the tokenizer or the texts cannot be had.
    """
    if not spec.learned:
        return spec.make_tokenizer()
    folder = cache_folder(cache) / f"tokenizer-{spec.learned}-{digest(_origin(spec))[:16]}"
    if not folder.exists():
        if not any(_count(spec, split) for split in SPLITS):
            raise ValueError(_nothing(spec, "train"))
        tokenizer = spec.make_tokenizer()
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=folder.parent))
        try:
            tokenizer.save(beside)
            try:
                beside.rename(folder)
            except OSError:
                if not folder.exists():  # else another process was faster
                    raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return load_tokenizer(folder)


def open_data(spec: Source, *, length: int, split: str, tokenizer: Coding | None = None, cache: Path | str | None = None) -> Rows:
    """The rows of a split: a token store, built the first time and reused as long as nothing it was built from changes.

    A store's folder is named by a hash of its source (with names, sizes and times of the files), split, packing,
    length and tokenizer: anything else gets another folder.

    Args:
        spec: the source.
        length: L, with BOS and EOS.
        split: "train" or "valid".
        tokenizer: what the rows are written in; None: the source's own. A model reads other data in its own tokenizer.
        cache: as in `cache_folder`.

    Raises:
        ValueError: the data cannot be had, is damaged, does not fill one row, or a store in the cache is damaged.
        OSError: the cache cannot be written.
    """
    part = _split(split)
    if (ready := spec.stored(part, length)) is not None:
        return ready
    tokenizer = tokenizer or tokenizer_of(spec, cache=cache)
    identity = {**_origin(spec), "tokenizer": tokenizer.hash, "length": length, "split": split}
    folder = cache_folder(cache) / f"{identity['source']}-{split}-{length}-{digest(identity)[:16]}"
    rows = spec.rows(part, tokenizer, length)
    try:
        return open_or_build(folder, rows, length=length, vocabulary=tokenizer.vocabulary.size, identity=identity)
    except ValueError as error:
        reason = _shortage(spec, part, length) if isinstance(error, Unfilled) else error
        raise ValueError(f"the {split} part of the {identity['source']} data: {reason}") from None


def _shortage(spec: Source, split: Split, length: int) -> str:
    """Why a split fills no row, and what helps."""
    images = isinstance(spec, Pictures)  # which fill a row each: there are none
    here = 0 if images else _count(spec, split)
    there = 0 if spec.divided else 2 if images else _count(spec, "train" if split == "valid" else "valid")
    if not here + there:
        return _nothing(spec, split)
    share = f"a {'larger' if split == 'valid' else 'smaller'} data.holdout (now {spec.holdout:g})"
    if here:
        also = "" if spec.divided or (split == "train" and not spec.holdout) else f", or {share}"
        return f"it does not fill one sequence of length {length}; use more data or a shorter length{also}"
    held, without = ("nothing", "") if split == "valid" else ("everything", "data.holdout=0 and ")
    known, finer = ("all of the data is one document, so ", _finer(spec)) if there == 1 else ("", share)
    ways = [f"set {finer}" if finer else "use more data", *(["give data.valid"] if hasattr(spec, "valid") else [])]
    return f"{known}{held} is held out; {', '.join(ways)}, or set {without}validation.rows=0"


def _count(spec: Source, split: Split) -> int:
    """How many documents of a split are not empty, counted up to two."""
    return len(list(islice(filter(None, spec.texts(split)), 2)))


def _nothing(spec: Source, split: Split) -> str:
    """Where there should have been something."""
    if isinstance(spec, Pictures):
        return "there is no image; correct data.source"
    key = next(key for key in (split, "train", "place", "name") if getattr(spec, key, None))
    return f"there is no text in {getattr(spec, key)}; correct data.{key}"


def _finer(spec: Source) -> str:
    """What makes several documents of a text file that is one now; "" if nothing does."""
    if not isinstance(spec, Files) or not any(".txt" in path.suffixes for path in find_files(spec.train)):
        return ""
    return {"file": "data.document=paragraph (or line)", "paragraph": "data.document=line"}.get(spec.document, "")


def _split(name: str) -> Split:
    for split in SPLITS:
        if name == split:
            return split
    raise ValueError(f"split is {name!r}: it must be one of {', '.join(SPLITS)}")


def _origin(spec: Source) -> dict[str, Any]:
    """All that the texts of a source depend on, as JSON gives it back."""
    kind = next(name for name, cls in ORIGINS.items() if type(spec) is cls)
    return json.loads(canonical({"source": kind, "fields": asdict(spec), "texts": spec.identity()}))
