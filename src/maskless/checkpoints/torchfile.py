"""Files of `torch.save`, zip or legacy: their content without their storages, which stay in the file until asked for.

    NAME/data.pkl          one pickle; tensors refer to storages by key        zip (torch >= 1.6)
    NAME/data/KEY          the bytes of a storage, not compressed

    magic, version, system information, the pickle, the keys: five pickles;    legacy
    then, for each key, a count (int64) and the bytes

A tensor is a view of the file, mapped privately: reading it takes no memory that the system cannot take back, and changing it
never changes the file.
"""
from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskless.checkpoints.pickles import Refused, Storage, StorageType, Stored, load

MAX_PICKLE = 64 << 20  # bytes; a tokenizer with 250,000 pieces takes 20 MB
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
LOCAL_HEADER = 30  # bytes, before the name and the extra field

Place = Callable[[Storage], int]  # where the bytes of a storage begin in the file


@dataclass(frozen=True)
class TorchFile:
    """A file that was opened.

    Attributes:
        path: the file.
        layout: "zip" or "legacy".
        content: what was saved, tensors as `Stored`, objects as `Inert` records.
        place: where a storage begins.
    """

    path: Path
    layout: str
    content: Any
    place: Place

    @cached_property
    def _mapped(self) -> Any:
        return torch.UntypedStorage.from_file(str(self.path), False, self.path.stat().st_size)

    def tensor(self, stored: Stored) -> Tensor:
        """The tensor, as a view of the file."""
        if not stored.storage.nbytes:
            return torch.empty(stored.shape, dtype=stored.dtype)
        start, size = self.place(stored.storage), stored.dtype.itemsize
        storage: Any = self._mapped[start : start + stored.storage.nbytes]
        if start % size:  # legacy files align nothing
            storage = storage.clone()
        return torch.empty(0, dtype=stored.dtype).set_(storage, stored.offset, stored.shape, stored.stride)


def read_torch(path: str | Path) -> TorchFile:
    """Open a file of `torch.save`.

    Raises:
        ValueError: it is truncated, something else, or refused (`maskless.checkpoints.pickles`).
        OSError: it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the file of weights in it")
    try:
        with open(path, "rb") as file:
            if file.read(4) == b"PK\x03\x04":
                return _read_zip(path, file)
            file.seek(0)
            return _read_legacy(path, file)
    except Refused as error:
        raise ValueError(f"{path} {error}") from None


# ---------------------------------------------------------------------------------------------------------------- zip


def _read_zip(path: Path, file: io.BufferedIOBase) -> TorchFile:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if len(entries) < len(archive.infolist()):
                raise Refused("holds two entries of one name; it was not written by torch.save")
            name = _only_pickle(list(entries))
            entry = entries[name]
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > MAX_PICKLE:
                raise Refused(f"holds a pickle of {entry.file_size:,} bytes, compressed or too large to be one of torch.save")
            pickled = archive.read(entry)
            order = entries.get(name.removesuffix("data.pkl") + "byteorder")
            if order is not None and order.file_size < 16 and archive.read(order) != b"little":
                raise Refused("was written on a big-endian machine; save it again on a little-endian one")
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise Refused(f"is truncated or corrupt ({str(error) or type(error).__name__}); fetch it again") from None
    prefix, end = name.removesuffix("data.pkl") + "data/", path.stat().st_size
    at = {key.removeprefix(prefix): (entry.header_offset, entry.file_size, entry.compress_type)
          for key, entry in entries.items() if key.startswith(prefix)}

    def persistent(given: Any) -> Storage:
        storage = _declared(given, extra=0)
        offset, size, compression = at.get(storage.key, (end, 0, zipfile.ZIP_STORED))
        if compression != zipfile.ZIP_STORED or storage.nbytes > size or offset + LOCAL_HEADER + size > end:
            raise Refused(f"declares a storage of {storage.nbytes:,} bytes that is not there; fetch it again")
        return storage

    def place(storage: Storage) -> int:
        with open(path, "rb") as file:
            file.seek(at[storage.key][0])
            header = file.read(LOCAL_HEADER)
        start = at[storage.key][0] + LOCAL_HEADER + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        if header[:4] != b"PK\x03\x04" or start + storage.nbytes > end:
            raise ValueError(f"{path} is truncated or corrupt: the storage {storage.key} is not where it should be; fetch it again")
        return start

    stream = io.BytesIO(pickled)
    content = load(stream, persistent)
    if stream.read(1):
        raise Refused("holds several pickles where torch.save writes one")
    return TorchFile(path, "zip", content, place)


def _only_pickle(names: list[str]) -> str:
    if any("/code/" in name or name.endswith("constants.pkl") for name in names):
        raise Refused("is a TorchScript archive, which holds programs; save the state dict of its model instead")
    pickles = [name for name in names if name.endswith(".pkl")]
    if len(pickles) != 1 or pickles[0].split("/")[-1] != "data.pkl":
        raise Refused(f"holds {len(pickles)} pickles where torch.save writes one, data.pkl")
    return pickles[0]


def _declared(given: Any, extra: int) -> Storage:
    """The storage that a persistent id ("storage", type, key, location, count, ...) declares."""
    if not (isinstance(given, tuple) and len(given) == 5 + extra and given[0] == "storage" and isinstance(given[1], StorageType)
            and isinstance(given[2], str) and isinstance(given[3], str) and type(given[4]) is int and given[4] >= 0):
        raise Refused("refers to something else than a storage")
    return Storage(given[2], given[1].dtype, given[4] * given[1].dtype.itemsize)


# ------------------------------------------------------------------------------------------------------------- legacy


def _read_legacy(path: Path, file: io.BufferedIOBase) -> TorchFile:
    declared: dict[str, Storage] = {}

    def persistent(given: Any) -> Storage:
        storage = _declared(given, extra=1)
        if given[5] is not None:
            raise Refused("holds a view of a storage, which only very old versions of torch wrote; save it again with a newer one")
        if storage.nbytes > end or declared.setdefault(storage.key, storage) != storage:
            raise Refused(f"declares a storage of {storage.nbytes:,} bytes that is not there; fetch it again")
        return storage

    end = path.stat().st_size
    begin = file.read(512)
    _check_beginning(begin)
    file.seek(0)
    if load(file) != MAGIC or load(file) != PROTOCOL:
        raise Refused("is a pickle, but not one of torch.save")
    system = load(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Refused("was written on a big-endian machine; save it again on a little-endian one")
    content, keys = load(file, persistent), load(file)
    starts: dict[str, int] = {}
    for key in keys if isinstance(keys, list) else []:
        storage = declared.get(key) if isinstance(key, str) else None
        count = int.from_bytes(file.read(8), "little")
        if storage is None or count * storage.dtype.itemsize != storage.nbytes or file.tell() + storage.nbytes > end:
            raise Refused("is truncated or corrupt: its storages are not what it declares; fetch it again")
        starts[key] = file.tell()
        file.seek(storage.nbytes, io.SEEK_CUR)
    if missing := sorted(declared.keys() - starts.keys()):
        raise Refused(f"is truncated or corrupt: the storage {missing[0]} is missing; fetch it again")
    return TorchFile(path, "legacy", content, lambda storage: starts[storage.key])


def _check_beginning(begin: bytes) -> None:
    """Say what a file is that is plainly something else."""
    text = begin.lstrip()[:64].lower()
    if not begin:
        raise Refused("is empty; fetch it again")
    if begin.startswith(b"version https://git-lfs"):
        raise Refused("is a Git LFS pointer and not the file itself; fetch it with git lfs pull or from the Hub")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b'{"error')):
        raise Refused("is a page or a message of a web server and not the file itself; fetch it again")
    if begin[257:262] == b"ustar":
        raise Refused("is a tar archive, as torch wrote before version 0.4 (or something else); save it again with a newer one")
    if not begin.startswith(b"\x80"):
        raise Refused("is no file of torch.save (neither a zip archive nor a pickle), or is damaged; fetch it again")
