"""The names a checkpoint may mention, in three lists: allowed, inert, and (by default) everything else, which is refused.

Nothing is imported by name. An allowed name leads to a function of this file, which checks its arguments and returns plain
values or the records of `values.py`; an inert name leads to a record that holds what the pickle says.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from maskless.checkpoints.pickles.values import (
    Inert,
    InertClass,
    NumpyArray,
    NumpyType,
    Refused,
    Storage,
    StorageType,
    Stored,
)

MAX_DIMENSIONS = 16
SCALARS = (str, int, float, complex, bytes, bool, type(None))


@dataclass(frozen=True)
class Builder:
    """An allowed name and the function of ours that stands for it."""

    name: str
    build: Callable[..., Any]


def resolve(module: str, name: str) -> Builder | InertClass | StorageType | torch.dtype:
    """What stands for a global. Raises Refused, with its name, for every other than the allowed and inert ones."""
    full = f"{module}.{name}"
    if full in ALLOWED:
        return ALLOWED[full]
    plain = "." not in name  # `pathlib`, `os.system` would reach through a package that happens to import os
    if full in INERT or (plain and any(f"{module}.".startswith(f"{package}.") for package in INERT_PACKAGES)):
        return InertClass(full)
    raise Refused(f"asks for {full}, which is neither a tensor, a plain container nor a known record of settings: it is "
                  "not read, and nothing of it was run or built; load only files of weights, from those who made them")


def is_scalar(value: Any) -> bool:
    return isinstance(value, SCALARS)


def check_key(key: Any) -> Any:
    """A key of a mapping or an element of a set. Nested tuples would take exponential time to hash."""
    if is_scalar(key) or isinstance(key, Inert | InertClass | torch.dtype) or (isinstance(key, tuple) and all(map(is_scalar, key))):
        return key
    raise Refused(f"has a mapping whose key is a {type(key).__name__}, which no checkpoint needs")


# ------------------------------------------------------------------------------------------------------------ tensors


def tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any, dtype: torch.dtype | None = None) -> Stored:
    """torch._utils._rebuild_tensor_v2: the extent must lie inside the storage."""
    numbers = [offset, *shape, *stride]
    if not isinstance(storage, Storage) or any(type(number) is not int or number < 0 for number in numbers):
        raise Refused("describes a tensor by something else than a storage and counts")
    if len(shape) != len(stride) or len(shape) > MAX_DIMENSIONS:
        raise Refused(f"describes a tensor with {len(shape)} sizes and {len(stride)} strides")
    made = Stored(storage, dtype or storage.dtype, offset, tuple(shape), tuple(stride))
    room = storage.nbytes // made.dtype.itemsize
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride)) if made.count else 0
    if made.count > room or (made.count and last >= room):
        raise Refused(f"describes a tensor of shape {made.shape} that lies outside its storage of {room} elements")
    return made


def tensor_v3(storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any) -> Stored:
    if not isinstance(dtype, torch.dtype):
        raise Refused("describes a tensor whose type is none")
    return tensor(storage, offset, shape, stride, dtype=dtype)


def parameter(data: Any, *rest: Any) -> Stored:
    if not isinstance(data, Stored):
        raise Refused("describes a parameter that is no tensor")
    return data


def subclass(build: Any, kind: Any, args: Any, state: Any) -> Stored:
    """torch._tensor._rebuild_from_type_v2: only around the plain rebuilders; attributes are dropped."""
    if not (isinstance(build, Builder) and build.build in (tensor, tensor_v3, parameter) and isinstance(kind, InertClass)):
        raise Refused("wraps something else than a tensor in a tensor class")
    return build.build(*args)


# --------------------------------------------------------------------------------------------------- containers, numbers


def mapping(pairs: Any = ()) -> dict:
    """collections.OrderedDict: empty or from pairs."""
    if not isinstance(pairs, list | tuple | dict):
        raise Refused("makes an OrderedDict of something else than pairs")
    listed = list(pairs.items()) if isinstance(pairs, dict) else list(pairs)
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in listed):
        raise Refused("makes an OrderedDict of something else than pairs")
    return {check_key(key): value for key, value in listed}


def default_mapping(factory: Any = None) -> dict:
    """collections.defaultdict: the factory is not kept."""
    if factory is not None and not isinstance(factory, Builder | InertClass):
        raise Refused("makes a defaultdict of something else than a type")
    return {}


def elements(kind: type) -> Callable[..., Any]:
    def make(values: Any = (), *_: Any) -> Any:
        if not isinstance(values, list | tuple):
            raise Refused(f"makes a {kind.__name__} of something else than a list")
        return kind(map(check_key, values)) if kind in (set, frozenset) else kind(values)
    return make


def latin1(text: Any, encoding: Any = "latin1") -> bytes:
    """_codecs.encode as protocol 2 writes bytes; no other use of it."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("uses _codecs.encode for something else than bytes")
    return text.encode("latin-1")


def raw(data: Any = b"", encoding: Any = "latin-1") -> bytes:
    """bytes and bytearray; never a length, which would be memory for nothing."""
    return latin1(data, encoding) if isinstance(data, str) else bytes(data) if isinstance(data, bytes) else _no(data)


def _no(data: Any) -> bytes:
    raise Refused(f"makes bytes of a {type(data).__name__}")


def number(real: Any = 0.0, imaginary: Any = 0.0) -> complex:
    if not all(isinstance(part, int | float) for part in (real, imaginary)):
        raise Refused("makes a complex number of something else than numbers")
    return complex(real, imaginary)


def only_named(*_: Any) -> Any:
    raise Refused("calls a type that may only be mentioned")


def reconstruct(kind: Any, base: Any, state: Any) -> Inert:
    """copyreg._reconstructor: objects of protocols 0 and 1, of inert classes only."""
    if not isinstance(kind, InertClass):
        raise Refused("reconstructs something else than a known record")
    return Inert(kind.name)


# -------------------------------------------------------------------------------------------------------------- numpy


def numpy_type(code: Any, *_: Any) -> NumpyType:
    if not isinstance(code, str) or code not in NUMPY_CODES:
        raise Refused(f"uses the numpy type {code!r}; only plain numbers are read")
    return NumpyType(code)


def numpy_state(kind: NumpyType, state: Any) -> None:
    """The byte order of a dtype; fields and sub-arrays are refused."""
    if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "=", "|") or any(part is not None for part in state[2:5]):
        raise Refused("describes a numpy type of several fields")
    kind.order = state[1]


def numpy_scalar(kind: Any, data: Any = None) -> Any:
    """numpy.core.multiarray.scalar, as a Python number."""
    if isinstance(data, str):
        data = latin1(data)
    if not isinstance(kind, NumpyType) or not isinstance(data, bytes):
        raise Refused("makes a numpy scalar of something else than the bytes of a number")
    dtype = np.dtype(kind.order + kind.code)
    if len(data) != dtype.itemsize:
        raise Refused(f"makes a numpy {kind.code} of {len(data)} bytes")
    return np.frombuffer(data, dtype)[0].item()


def numpy_array(*_: Any) -> NumpyArray:
    return NumpyArray()


# ----------------------------------------------------------------------------------------------------------- the lists

NUMPY_CODES = {f"{kind}{size}" for kind, sizes in {"i": "1248", "u": "1248", "f": "248", "b": "1", "c": ("8", "16")}.items() for size in sizes}

STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16, "CharStorage": torch.int8,
    "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "uint16", "uint32", "uint64",
          "complex64", "complex128", "float8_e4m3fn", "float8_e5m2")

_BUILT = {
    "torch._utils._rebuild_tensor": tensor, "torch._utils._rebuild_tensor_v2": tensor,
    "torch._utils._rebuild_tensor_v3": tensor_v3,
    "torch._utils._rebuild_parameter": parameter, "torch._tensor._rebuild_from_type_v2": subclass,
    "collections.OrderedDict": mapping, "collections.defaultdict": default_mapping, "collections.Counter": mapping,
    "collections.deque": elements(list),
    "_codecs.encode": latin1,
    "copyreg._reconstructor": reconstruct, "copy_reg._reconstructor": reconstruct,
    "numpy.dtype": numpy_type, "numpy.ndarray": only_named,
    **{f"numpy.{core}.multiarray.{name}": build for core in ("core", "_core")
       for name, build in (("scalar", numpy_scalar), ("_reconstruct", numpy_array))},
    **{f"{module}.{name}": build for module in ("builtins", "__builtin__") for name, build in {
        "dict": mapping, "list": elements(list), "tuple": elements(tuple), "set": elements(set), "frozenset": elements(frozenset),
        "bytes": raw, "bytearray": raw, "complex": number,
        **dict.fromkeys(("int", "long", "float", "bool", "str", "unicode", "object"), only_named)}.items()},
}
ALLOWED: dict[str, Builder | StorageType | torch.dtype] = {
    **{name: Builder(name, build) for name, build in _BUILT.items()},
    **{f"torch.{name}": StorageType(dtype) for name, dtype in STORAGES.items()},
    **{f"torch.storage.{name}": StorageType(torch.uint8) for name in ("UntypedStorage", "TypedStorage")},
    "torch.UntypedStorage": StorageType(torch.uint8),
    **{f"torch.{name}": getattr(torch, name) for name in DTYPES},
}
INERT = {"argparse.Namespace", "torch.device", "torch.Size", "torch.Tensor", "torch.nn.parameter.Parameter",
         *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("slice", "range", "xrange"))}
INERT_PACKAGES = ("omegaconf", "transformers", "tokenizers", "typing", "lightning", "pytorch_lightning", "lightning_fabric", "pathlib", "datetime",
                  "torchmetrics", "dataloader")                     # the last is the released text code's own
