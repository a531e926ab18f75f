"""What is in a file of weights, whoever wrote it: tensors that are not read yet, an average of them, settings, a tokenizer.

    Lightning (.ckpt)      state_dict, ema.shadow_params (a list without names), hyper_parameters, optimizer_states, ...
    released image code    model_state_dict, optimizer_state_dict, iter, global_epoch
    other torch files      model, or tensors by name and nothing else
    safetensors            tensors by name; settings in the config.json beside it
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from maskless.checkpoints.pickles import Inert, Refused, Stored, plain, tokenizer
from maskless.checkpoints.torchfile import TorchFile, read_torch
from maskless.data.definition import read_json

WEIGHTS = ("state_dict", "model_state_dict", "model")
OPTIMIZERS = ("optimizer_states", "optimizer_state_dict", "optimizer")
COUNTERS = {"global_step": "step", "iter": "step", "epoch": "epoch", "global_epoch": "epoch", "pytorch-lightning_version": "lightning"}
SHADOW = "shadow_params"
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}


@dataclass(frozen=True)
class Entry:
    """A tensor of a file that is read when it is asked for."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor] = field(repr=False, compare=False)

    @property
    def blank(self) -> Tensor:
        """The same without numbers."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")


@dataclass(frozen=True)
class Contents:
    """A file that was opened.

    Attributes:
        path: the file.
        layout: "zip", "legacy" or "safetensors".
        weights: as trained, by the file's names, in its order.
        average: their moving average without names, in the order of the parameters; None if there is none.
        settings: the model's configuration in the words of the released code; empty if the file does not say.
        training: step, epoch, EMA decay and updates, whether an optimiser is there.
        tokenizer: the content of a tokenizer.json, if one is in the file.
        rest: what else is there, by name.
    """

    path: Path
    layout: str
    weights: dict[str, Entry]
    average: list[Entry] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, Any] | None = None
    rest: list[str] = field(default_factory=list)


def read_contents(path: str | Path) -> Contents:
    """Open a file of weights; no tensor is read.

    Raises:
        ValueError: truncated, of another kind, without weights, or refused.
        OSError: it cannot be read.
    """
    path = Path(path)
    return _safetensors(path) if path.suffix == ".safetensors" else _torch(read_torch(path))


# -------------------------------------------------------------------------------------------------------- safetensors


def _safetensors(path: Path) -> Contents:
    try:
        file = safe_open(path, "pt")
        names = file.keys()
        slices = {name: file.get_slice(name) for name in names}
        entries = {name: Entry(tuple(each.get_shape()), DTYPES[each.get_dtype()], partial(file.get_tensor, name))
                   for name, each in slices.items()}
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; give a file of weights") from None
    except KeyError as error:
        raise ValueError(f"{path} holds tensors of the type {error}, which is not read; convert them to float32") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is truncated, corrupt or no safetensors file ({str(error).rstrip('.')}); fetch it again") from None
    if not entries:
        raise ValueError(f"{path} holds no tensors; fetch it again, or give another file")
    beside = path.with_name("config.json")
    tree = read_json(beside) if beside.is_file() else {}
    return Contents(path, "safetensors", entries, settings=model_settings(tree), training={"optimizer": False})


# -------------------------------------------------------------------------------------------------------------- torch


def _torch(file: TorchFile) -> Contents:
    content, path = file.content, file.path
    where = _weights_of(content)
    if where is None:
        held = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} holds no weights by name (it has {held or 'nothing'}): not a checkpoint; give another file")
    name, found = where
    entries = {key: _entry(file, value) for key, value in found.items() if isinstance(value, Stored)}
    weights = {key: entry for key, entry in entries.items() if not key.startswith(f"{SHADOW}.")}
    top = content if name else {}
    average, training = _average(file, entries, weights, top.get("ema")), _training(top)
    try:
        parameters = top.get("hyper_parameters") or (top.get("args") if isinstance(top.get("args"), Inert) else None) or {}
        settings, definition = model_settings(plain(_without_tokenizer(parameters))), tokenizer(parameters)
    except Refused as error:
        raise ValueError(f"{path} {error}") from None
    known = {*WEIGHTS, *OPTIMIZERS, *COUNTERS, "ema", "hyper_parameters", "args"}
    return Contents(path, file.layout, weights, average, settings, training, definition, sorted(str(key) for key in top if key not in known))


def _weights_of(content: Any) -> tuple[str, dict[str, Any]] | None:
    """("" or the name under which they stand, the weights)."""
    if not isinstance(content, dict):
        return None
    for name in WEIGHTS:
        inside = content.get(name)
        if isinstance(inside, dict) and all(isinstance(key, str) for key in inside) and any(isinstance(each, Stored) for each in inside.values()):
            return name, inside
    counted = all(isinstance(key, str) and isinstance(value, Stored | int | float | str | None) for key, value in content.items())
    flat = counted and any(isinstance(value, Stored) for value in content.values())
    return ("", content) if flat else None


def _entry(file: TorchFile, stored: Stored) -> Entry:
    return Entry(stored.shape, stored.dtype, partial(file.tensor, stored))


def _average(file: TorchFile, entries: Mapping[str, Entry], weights: Mapping[str, Entry], ema: Any) -> list[Entry] | None:
    """`ema.shadow_params`, or `shadow_params.N` among the weights (the released image code of Prime)."""
    if shadows := [key for key in entries if key not in weights]:
        return [entries[key] for key in sorted(shadows, key=lambda key: int(key.rpartition(".")[2]) if key[-1].isdigit() else -1)]
    if not isinstance(ema, dict) or ema.get(SHADOW) is None:
        return None
    if not isinstance(ema[SHADOW], list | tuple) or not all(isinstance(each, Stored) for each in ema[SHADOW]):
        raise ValueError(f"{file.path}: ema.{SHADOW} holds something else than a list of tensors, and which parameter each belongs to is not known; "
                         "take the average out of the file to convert the raw weights")
    return [_entry(file, each) for each in ema[SHADOW]]


def _training(top: Mapping[Any, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {word: top[name] for name, word in COUNTERS.items() if isinstance(top.get(name), int | str)}
    ema = top.get("ema")
    if isinstance(ema, dict):
        said |= {f"ema_{name}": ema[name] for name in ("decay", "num_updates") if isinstance(ema.get(name), int | float)}
    return {**said, "optimizer": any(top.get(name) for name in OPTIMIZERS)}


def _without_tokenizer(parameters: Any) -> Any:
    """Hyper-parameters less the tokenizer, whose vocabulary is no setting."""
    return {key: value for key, value in parameters.items() if key != "tokenizer"} if isinstance(parameters, dict) else parameters


# ----------------------------------------------------------------------------------------------------------- settings


PARTS = ("algo", "data", "decoder", "encoder", "model", "prime", "swap")  # of a configuration, each a mapping or nothing
TRANSFORMERS = {"hidden_dim": "hidden_size", "model_length": "length"}


def model_settings(tree: Any) -> dict[str, Any]:
    """The part of a configuration that is about the model, in the words of the released code.

    Its recipes have `config.model`, `config.algo`, `config.prime` and `config.data`; the transformers form of MDLM has everything in one mapping,
    under slightly different names.
    """
    if not isinstance(tree, dict):
        return {}
    for inside in ("config", "hyper_parameters"):
        if isinstance(tree.get(inside), dict):
            return model_settings(tree[inside])
    model = tree.get("model") if isinstance(tree.get("model"), dict) else tree
    named = {TRANSFORMERS.get(str(key), str(key)): value for key, value in model.items()} if isinstance(model, dict) else {}
    named = {name: value for name, value in named.items() if name not in PARTS or isinstance(value, dict)}
    for part in ("algo", "prime", "data"):
        if isinstance(tree.get(part), dict):
            named[part] = tree[part]
    algorithm = tree["algo"] if isinstance(tree.get("algo"), dict) else {}
    for part in (tree, algorithm):
        if "time_conditioning" in part:
            named["time_conditioning"] = part["time_conditioning"]
    return _said(named)


def _said(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """Less what refers to another place of a configuration (`${data.length}`), which says nothing here."""
    kept = {key: value for key, value in tree.items() if not (isinstance(value, str) and value.startswith("${"))}
    return {key: _said(value) if isinstance(value, dict) else value for key, value in kept.items()}
