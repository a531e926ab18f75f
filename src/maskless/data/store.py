"""Rows of token ids on disk: built once, mapped into memory, never reused for anything but what they were built from.

A store is a folder that appears complete or not at all:

    tokens.bin      rows x L ids, uint16 (uint8 if 256 ids suffice, uint32 if the vocabulary needs it), little endian
    valid.bin       rows x L bytes 0/1, only where some site may hold no token
    given.bin       rows x L bytes 0/1, only where some site may be known from the start
    labels.bin      rows int32, the class of each row, only where the data has classes
    manifest.json   what the rows are, how many, what they were built from, and the checksum of every file

N  rows        L  sites of a row        B  rows of a batch
"""
from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from maskless.data.batch import Batch
from maskless.data.definition import read_json, write_json
from maskless.data.pack import Row

FORMAT = 1
CHUNK = 1024  # rows written at a time
COLUMNS = ("tokens", "valid", "given", "labels")  # the fields of a `Row`, each a file
CHECKED = 1 << 28  # bytes; larger files are checked for their size on opening, and whole by `Store.verify`


class Unfilled(ValueError):
    """There is not a single row to build a store from."""


@dataclass(frozen=True)
class Manifest:
    """What manifest.json says.

    Args:
        format: version of the layout.
        rows, length: N and L.
        vocabulary: V; every id is below it.
        tokens: sites that count (valid and not given), over all rows.
        files: column name -> {"dtype", "bytes", "crc32"}.
        identity: all that the rows depend on (source, split, packing, tokenizer hash, ...): compared before any reuse.
    """

    format: int
    rows: int
    length: int
    vocabulary: int
    tokens: int
    files: dict[str, dict[str, Any]]
    identity: dict[str, Any]


class Store:
    """An opened token store.

    Args:
        folder: a folder written by `build_store`.

    Raises:
        ValueError: the folder is no store, or a file of it is missing, cut short or damaged.

    Example:
        >>> import tempfile
        >>> rows = (Row(np.arange(3) + n) for n in range(4))
        >>> store = build_store(tempfile.mkdtemp() + "/a", rows, length=3, vocabulary=9, identity={"source": "example"})
        >>> store.read(torch.tensor([2, 0])).tokens.tolist()
        [[2, 3, 4], [0, 1, 2]]
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.manifest = _read_manifest(self.folder)
        self._columns = {name: self._open(name) for name in self.manifest.files}

    @property
    def length(self) -> int:
        """L."""
        return self.manifest.length

    def __len__(self) -> int:
        """N."""
        return self.manifest.rows

    def read(self, rows: Int[Tensor, " B"]) -> Batch:
        """The rows with these numbers (0..N-1, any order), as a batch on the CPU."""
        wanted = rows.numpy()
        tokens = torch.from_numpy(self._columns["tokens"][wanted].astype(np.int64))
        plain = Batch.of(tokens)
        labels = self._columns.get("labels")
        return Batch(
            tokens,
            self._mask("valid", wanted, plain.valid),
            self._mask("given", wanted, plain.given),
            None if labels is None else torch.from_numpy(labels[wanted].astype(np.int64)),
        )

    def verify(self) -> None:
        """Read every byte and compare the checksums. Raises ValueError at the first difference."""
        for name in self.manifest.files:
            self._verify(name)

    def _verify(self, name: str) -> None:
        if _checksum(self.folder / f"{name}.bin") != self.manifest.files[name]["crc32"]:
            raise ValueError(f"the token store {self.folder} is damaged ({name}.bin has changed): {REBUILD}")

    def _mask(self, name: str, rows: np.ndarray, otherwise: Tensor) -> Bool[Tensor, "B L"]:
        return torch.from_numpy(self._columns[name][rows] != 0) if name in self._columns else otherwise

    def _open(self, name: str) -> np.ndarray:
        file, path = self.manifest.files[name], self.folder / f"{name}.bin"
        there = path.stat().st_size if path.is_file() else 0
        if there != file["bytes"]:
            found = f"{name}.bin has {there} of {file['bytes']} bytes"
            raise ValueError(f"the token store {self.folder} is damaged ({found}): {REBUILD}")
        if there <= CHECKED:
            self._verify(name)
        rows = self.manifest.rows
        shape = (rows,) if name == "labels" else (rows, self.manifest.length)
        return np.memmap(path, np.dtype(file["dtype"]), "r", shape=shape)


class MemoryStore:
    """The same in memory: (N, L) ids, optional masks and classes, as in `Batch`.

    Example:
        >>> MemoryStore(torch.arange(6).view(3, 2)).read(torch.tensor([1])).tokens.tolist()
        [[2, 3]]
    """

    def __init__(
        self,
        tokens: Int[Tensor, "N L"],
        valid: Bool[Tensor, "N L"] | None = None,
        given: Bool[Tensor, "N L"] | None = None,
        labels: Int[Tensor, " N"] | None = None,
    ) -> None:
        all = Batch.of(tokens.long())
        valid, given = all.valid if valid is None else valid, all.given if given is None else given
        self._all = Batch(all.tokens, valid, given, None if labels is None else labels.long())

    @property
    def length(self) -> int:
        """L."""
        return self._all.tokens.shape[1]

    def __len__(self) -> int:
        """N."""
        return len(self._all)

    def read(self, rows: Int[Tensor, " B"]) -> Batch:
        """The rows with these numbers, in this order."""
        all = self._all
        labels = None if all.labels is None else all.labels[rows]
        return Batch(all.tokens[rows], all.valid[rows], all.given[rows], labels)


REBUILD = "delete that folder, and it is built again"


def build_store(
    folder: Path | str, rows: Iterable[Row], *, length: int, vocabulary: int, identity: Mapping[str, Any]
) -> Store:
    """Write `rows` as a store and open it. Memory does not grow with their number.

    Everything is written into a folder beside and renamed at the end. If another process was faster, its store stays
    and ours is dropped; a store that exists is never touched.

    Args:
        folder: where the store shall be; its parents are made.
        rows: the first row decides which columns there are.
        length: L.
        vocabulary: V.
        identity: what the rows depend on, JSON-able.

    Raises:
        Unfilled: there is no row at all.
        OSError: the disk is full or not writable; nothing is left behind.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        count, tokens, files = _write_columns(beside, rows, length, vocabulary)
        manifest = Manifest(FORMAT, count, length, vocabulary, tokens, files, dict(identity))
        write_json(beside / "manifest.json", asdict(manifest))
        _flush_folder(beside)
        try:
            beside.rename(folder)
        except OSError:
            if not (folder / "manifest.json").is_file():
                raise
        _flush_folder(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Store(folder)


def open_or_build(
    folder: Path | str, rows: Iterable[Row], *, length: int, vocabulary: int, identity: Mapping[str, Any]
) -> Store:
    """The store in `folder` if it was built from the same things, a new one if there is none.

    `rows` is read only if the store has to be built.

    Raises:
        ValueError: there is a store of something else, or a damaged one, or no row to build from.
    """
    folder = Path(folder)
    if not folder.exists():
        return build_store(folder, rows, length=length, vocabulary=vocabulary, identity=identity)
    store = Store(folder)
    found = store.manifest.identity
    differ = [key for key in {**found, **identity} if found.get(key) != identity.get(key)]
    if differ or (store.length, store.manifest.vocabulary) != (length, vocabulary):
        what = ", ".join(differ) or "length or vocabulary"
        raise ValueError(f"the token store {folder} was built from something else ({what} differ): {REBUILD}")
    return store


def _write_columns(folder: Path, rows: Iterable[Row], length: int, vocabulary: int) -> tuple[int, int, dict]:
    """Write the .bin files. Returns the number of rows, the number of tokens that count, and the manifest's `files`."""
    narrow = "|u1" if vocabulary <= 1 << 8 else "<u2" if vocabulary <= 1 << 16 else "<u4"
    special = {"tokens": narrow, "labels": "<i4"}
    count = tokens = 0
    files: dict[str, dict[str, Any]] = {}
    for columns in _chunks(rows, length, vocabulary):
        if not count:
            files = {name: {"dtype": special.get(name, "|u1"), "bytes": 0, "crc32": 0} for name in columns}
        assert columns.keys() == files.keys(), "all rows of a store have the same columns"
        counted = columns.get("valid", np.True_) & ~columns.get("given", np.False_)
        count += len(columns["tokens"])
        tokens += int(np.broadcast_to(counted, columns["tokens"].shape).sum())
        for name, column in columns.items():
            _append(folder / f"{name}.bin", column, files[name])
    if not count:
        raise Unfilled(f"the data does not fill one sequence of length {length}: use more data or a shorter length")
    for name in files:
        _flush(folder / f"{name}.bin")
    return count, tokens, files


def _chunks(rows: Iterable[Row], length: int, vocabulary: int) -> Iterator[dict[str, np.ndarray]]:
    """Columns of up to CHUNK rows, stacked."""
    rows = iter(rows)
    while chunk := list(islice(rows, CHUNK)):
        columns = {name: np.stack(column) for name, column in zip(COLUMNS, zip(*chunk)) if column[0] is not None}
        assert columns["tokens"].shape[1] == length, "a packing makes rows of the asked length"
        least, most = columns["tokens"].min(), columns["tokens"].max()
        assert least >= 0 and most < vocabulary, f"a tokenizer stays inside its vocabulary, but {least}..{most}"
        yield columns


def _append(path: Path, column: np.ndarray, file: dict[str, Any]) -> None:
    data = column.astype(file["dtype"]).tobytes()
    with open(path, "ab") as out:
        out.write(data)
    file["bytes"] += len(data)
    file["crc32"] = zlib.crc32(data, file["crc32"])


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make renames in `folder` durable, where the system can (POSIX)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _checksum(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def _read_manifest(folder: Path) -> Manifest:
    path = folder / "manifest.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not a token store (it has no manifest.json): give a folder that maskless wrote")
    content = read_json(path)
    names = {field.name for field in fields(Manifest)}
    if not isinstance(content, dict) or content.keys() != names or content["format"] != FORMAT:
        raise ValueError(f"{path} is not a manifest of format {FORMAT}: {REBUILD}")
    return Manifest(**content)
