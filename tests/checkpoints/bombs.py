"""Pickles that run something, or would fill the memory, in files as torch writes them.

Each payload leaves the file `marker` behind if it is run; the tests first let Python's own unpickler run it.
"""
from __future__ import annotations

import builtins
import operator
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

MAGIC = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})


class Calls:
    """An object whose pickle calls something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.made = (function, arguments)

    def __reduce__(self) -> Any:
        return self.made


# ------------------------------------------------------------------------------------------------- opcodes by hand


def text(value: str) -> bytes:
    """BINUNICODE."""
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def named(module: str, name: str) -> bytes:
    """GLOBAL."""
    return f"c{module}\n{name}\n".encode()


def call(callee: bytes, *arguments: bytes) -> bytes:
    """A tuple of arguments and REDUCE."""
    return callee + b"(" + b"".join(arguments) + b"tR"


def number(value: int) -> bytes:
    return f"I{value}\n".encode()


def counts(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


# --------------------------------------------------------------------------------------------------------- files


def as_zip(path: Path, pickled: bytes, storages: dict[str, bytes] | None = None, *, compression: int = zipfile.ZIP_STORED,
           more: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", b"little")
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data)
        for name, data in (more or {}).items():
            archive.writestr(name, data)
    return path


def as_legacy(path: Path, pickled: bytes) -> Path:
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in MAGIC) + pickled + pickle.dumps([], 2))
    return path


# ------------------------------------------------------------------------------------------------- what they would run


def running(marker: Path) -> dict[str, tuple[bytes, str]]:
    """Pickles that Python runs: name -> (bytes, what the refusal must name)."""
    command = f"touch {marker}"
    system = Calls(os.system, command)
    quoted = f"S'{command}'\n".encode()
    posix = named("posix", "system")
    dumps = lambda value, protocol=2: pickle.dumps(value, protocol)
    checkpoint = lambda **parts: dumps({"state_dict": OrderedDict(), "epoch": 0, **parts})
    under_a_mark = text("posix") + text("system") + b"(" + text("collections") + text("OrderedDict") + b"1"
    lazily = named("__builtin__", "map") + posix + text(command) + b"\x85\x86"  # what makes a tuple of it runs it
    attribute = named("__builtin__", "getattr")
    partial = call(named("functools", "partial"), posix)
    return {
        "by __reduce__": (dumps(system), "posix.system"),
        "in protocol 0": (dumps(system, 0), "posix.system"),
        "in protocol 5": (dumps(system, 5), "posix.system"),
        "in hyper_parameters": (checkpoint(hyper_parameters={"config": {"model": [system]}}), "posix.system"),
        "in the optimiser's state": (checkpoint(optimizer_states=[{"state": {0: {"step": system}}}]), "posix.system"),
        "in callbacks": (checkpoint(callbacks={"ModelCheckpoint": {"best_model_path": system}}), "posix.system"),
        "among the weights": (dumps({"state_dict": OrderedDict(a=system)}), "posix.system"),
        "eval": (dumps(Calls(builtins.eval, f"__import__('os').system({command!r})")), "__builtin__.eval"),
        "exec": (dumps(Calls(builtins.exec, f"open({str(marker)!r}, 'w').close()"), 4), "builtins.exec"),
        "__import__ and getattr": (
            b"\x80\x02" + call(call(attribute, call(named("__builtin__", "__import__"), text("os")), text("system")), text(command)) + b".",
            "__builtin__.getattr"),
        "functools.partial": (b"\x80\x02" + call(call(named("functools", "partial"), posix, text(command))) + b".", "functools.partial"),
        "operator.methodcaller": (dumps((operator.methodcaller("upper"), system), 4), "operator.methodcaller"),
        "strings from the memo": (
            b"\x80\x04" + text("posix") + b"\x94" + text("system") + b"\x94" + text("torch._utils") + b"h\x00h\x01\x93" + text(command) + b"\x85R.",
            "posix.system"),
        "strings under a mark": (b"\x80\x04" + under_a_mark + b"\x93" + text(command) + b"\x85R.", "roundabout"),
        "INST": (b"(" + quoted + b"iposix\nsystem\n.", "posix.system"),
        "OBJ": (b"(cposix\nsystem\n" + quoted + b"o.", "posix.system"),
        "NEWOBJ": (b"\x80\x02" + named("__builtin__", "tuple") + lazily + b"\x81\x85\x81.", "__builtin__.map"),
        "NEWOBJ_EX": (b"\x80\x04" + named("builtins", "tuple") + lazily.replace(b"__builtin__", b"builtins") + b"}\x92\x85}\x92.", "builtins.map"),
        "BUILD with __setstate__": (
            b"\x80\x02" + partial + b"(" + posix + b"(" + text(command) + b"t}}tb" + b")R.", "functools.partial"),
        "behind an inert package": (b"\x80\x04" + text("pathlib") + text("os.system") + b"\x93" + text(command) + b"\x85R.", "pathlib.os.system"),
        "a nested pickle": (dumps(Calls(pickle.loads, dumps(system))), "pickle.loads"),
        "after an allowed call": (
            b"\x80\x02" + call(named("collections", "defaultdict"), named("__builtin__", "list")) + b"0" + call(posix, text(command)) + b".",
            "posix.system"),
    }


# ------------------------------------------------------------------------------- what no checkpoint needs, or could hold


def tensor(storage: bytes, offset: int, shape: bytes, stride: bytes) -> bytes:
    return call(named("torch._utils", "_rebuild_tensor_v2"), storage, number(offset), shape, stride, b"I00\n", b"}")


def storage(count: int, key: str = "0", kind: bytes = b"ctorch\nFloatStorage\n") -> bytes:
    """A persistent id."""
    return b"(" + text("storage") + kind + text(key) + text("cpu") + number(count) + b"tQ"


def laughs(depth: int) -> bytes:
    """A list of two references to a list of two references to ... : a few bytes a level, 2^depth elements."""
    return b"]q\x000" + b"".join(b"](h" + bytes([n]) + b"h" + bytes([n]) + b"eq" + bytes([n + 1, 48]) for n in range(depth)) + b"h" + bytes([depth])


def tuples(depth: int) -> bytes:
    """The same in tuples, which take 2^depth steps to hash."""
    return b")q\x000" + b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1, 48]) for n in range(depth)) + b"h" + bytes([depth])


def weights() -> bytes:
    """state_dict: {"a": a tensor of four floats}."""
    return text("state_dict") + b"}" + text("a") + tensor(storage(4), 0, counts(4), counts(1)) + b"ss"


ORDERED, SCALAR, DTYPE = named("collections", "OrderedDict"), named("numpy.core.multiarray", "scalar"), named("numpy", "dtype")
UNUSUAL: dict[str, tuple[bytes, str]] = {
    "a nested torch file": (call(named("torch.storage", "_load_from_bytes"), b"U\x01x"), "torch.storage._load_from_bytes"),
    "an allowed name's attribute": (b"\x80\x04" + text("torch._utils") + text("_rebuild_tensor_v2.__globals__") + b"\x93", "v2.__globals__"),
    "an extension code": (b"\x82\x01", "extension"),
    "a wide extension code": (b"\x84\x01\x00\x00\x00", "extension"),
    "an out-of-band buffer": (b"\x97", "buffer"),
    "a persistent id in text": (b"Pos.system\n", "persistent id"),
    "a persistent id that is no storage": (text("x") + b"Q", "something else than a storage"),
    "a persistent id with a callable": (b"(" + text("storage") + ORDERED + text("0") + text("cpu") + number(1) + b"tQ",
                                        "something else than a storage"),
    "a tensor larger than its storage": (tensor(storage(4), 0, counts(1 << 40), counts(0)), "outside its storage"),
    "a tensor beside its storage": (tensor(storage(4), 2, counts(3), counts(1)), "outside its storage"),
    "strides out of the storage": (tensor(storage(4), 0, counts(2, 2), counts(3, 1)), "outside its storage"),
    "a negative stride": (tensor(storage(4), 3, counts(4), counts(-1)), "something else than a storage and counts"),
    "a tensor of a thousand dimensions": (tensor(storage(4), 0, counts(*[1] * 1000), counts(*[1] * 1000)), "1000 sizes"),
    "a storage that is not there": (tensor(storage(4, "7"), 0, counts(4), counts(1)), "not there"),
    "a storage larger than its record": (tensor(storage(1 << 30), 0, counts(4), counts(1)), "not there"),
    "a tensor of a mapping": (tensor(b"}", 0, counts(4), counts(1)), "something else than a storage"),
    "a parameter of a list": (call(named("torch._utils", "_rebuild_parameter"), b"]", b"I01\n", b"}"), "no tensor"),
    "a wrapped callable": (call(named("torch._tensor", "_rebuild_from_type_v2"), ORDERED, named("torch", "Tensor"), b")", b"}"),
                           "something else than a tensor"),
    "an OrderedDict of numbers": (call(ORDERED, number(7)), "pairs"),
    "too many arguments": (call(ORDERED, b"]", b"]"), "arguments that no checkpoint gives"),
    "a numpy scalar of objects": (call(SCALAR, call(DTYPE, text("O8"), b"I00\n", b"I01\n"), text("x")), "'O8'"),
    "a numpy scalar of another size": (call(SCALAR, call(DTYPE, text("f8")), text("x")), "1 bytes"),
    "a codec": (call(named("_codecs", "encode"), text("x"), text("rot13")), "something else than bytes"),
    "a terabyte of zeros": (call(named("__builtin__", "bytearray"), number(1 << 40)), "makes bytes"),
    "the state of a function": (named("torch._utils", "_rebuild_tensor_v2") + b"}b", "sets the state"),
    "a call of what was built": (b"}" + b")R", "calls a dict"),
    "a type that may only be mentioned": (call(named("__builtin__", "int"), number(1)), "only be mentioned"),
    "a key that takes forever to hash": (b"}" + tuples(64) + number(1) + b"s", "key"),
    "a stack that is empty": (b"0", "more than it has"),
    "a mark that is not there": (b"t", "more than it has"),
    "a memo that is empty": (b"h\x05", "never saw"),
    "bytes that are no pickle": (b"\xff\xff", "damaged or truncated"),
}
