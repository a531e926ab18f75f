"""Checkpoints of this library: folders of safetensors and JSON that are either complete or absent.

    RUN/
      config.yaml                    the recipe, every default filled in
      metrics.jsonl
      latest                         one line, the name of the newest complete checkpoint
      rounds/1/                      of a distillation: the student after a round, complete, for inference
      checkpoints/step-00000500/
        config.json                  model configuration, vocabulary, check sums of the files beside it
        model.safetensors            the weights that are trained (float32)
        ema.safetensors              their moving average, if the run keeps one
        tokenizer.json               if the data has a tokenizer
        trainer/                     optimiser and counters, for resuming only

The same folder without `ema.safetensors` and `trainer/` is the inference folder of `save_model` and `load_model`.

A checkpoint is written as `step-00000500.tmp`, every file and the folder are flushed to the disk, the folder is renamed
once, to a name that does not exist, and then `latest` is replaced. Only after that are older checkpoints deleted.
Whatever interrupts this (power, kill -9, a full disk), the newest complete checkpoint stays as it was.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from maskless.config import Tagged, build, tree_of
from maskless.data.vqgan import VQConfig
from maskless.models import MODELS
from maskless.places import carried, latest, local, steps_of
from maskless.vocabulary import Vocabulary

FORMAT = 1
AVERAGE = "ema.safetensors"
SAFETENSORS = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}
KINDS = {**{name: config for name, (config, _) in MODELS.items()}, "vq": VQConfig}  # a run that trains a codec has them too
ModelConfig = Annotated[Any, Tagged(KINDS)]


@dataclass(frozen=True)
class Description:
    """What `config.json` says: everything but numbers."""

    model: ModelConfig
    vocabulary: Vocabulary | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        folder: where it lies (the step folder, also when a run was asked for).
        config: the model's configuration dataclass.
        weights: name -> tensor on the CPU, float32 as stored.
        vocabulary: of the data it was trained on, or None if the folder does not say.
        extra: whatever else its writer noted in config.json.
    """

    folder: Path
    config: Any
    weights: dict[str, Tensor]
    vocabulary: Vocabulary | None
    extra: dict[str, Any]


# ------------------------------------------------------------------------------------------------- folders of a run


def resolve(path: str | Path) -> Path:
    """The folder that holds config.json, from a run, a step, an inference folder or the name of a carried model.
    Raises ValueError if there is none."""
    path = local(path)
    if (path / "config.json").is_file() and latest(path) is not None:
        raise ValueError(f"{path} holds a model and the checkpoints of a run; move one of them into another folder, or name a step-... folder")
    for folder in (path, latest(path)):
        if folder is not None and (folder / "config.json").is_file():
            return folder
    what = "has no complete checkpoint" if path.is_dir() else "is a file" if path.exists() else "does not exist"
    named = f", or the name of a model in the package ({', '.join(names)})" if (names := carried()) else ""
    raise ValueError(
        f"{path} {what}; give a run folder, a step-... folder or a folder with config.json and model.safetensors{named}"
    )


def publish(run: str | Path, step: int, write: Callable[[Path], None], *, keep: int = 2) -> Path:
    """Write one checkpoint so that it is either complete or absent; then delete all but the newest `keep`.

    Args:
        run: the run folder.
        step: updates made so far.
        write: puts the files into the empty folder it is given.
        keep: how many complete checkpoints stay (at least 1).

    Raises:
        OSError: if the disk is full or fails; the checkpoints that were there are untouched.
        ValueError: if this step was saved before.
    """
    folder = Path(run) / "checkpoints"
    final = folder / f"step-{step:08d}"
    if final.exists():
        raise ValueError(
            f"{final} exists; a complete checkpoint is never written over: resume from it or choose another folder"
        )
    before = latest(run)
    try:
        put(final, write)
        replace_text(Path(run) / "latest", f"{final.name}\n")
    except (OSError, SafetensorError) as error:
        intact = f"the previous one, {before.name}, is intact" if before else "there was none before"
        raise OSError(
            f"the checkpoint of step {step} could not be written to {folder} ({_reason(error)}); {intact}: "
            "make room, then continue with --resume"
        ) from error
    for old in steps_of(run)[:-keep]:
        _remove(old)
    for leftover in folder.glob("step-*.tmp"):
        _remove(leftover)
    return final


def put(final: Path, write: Callable[[Path], None]) -> None:
    """A folder that is either complete or absent; an older one of this name loses it first, whole, and its files last.

    Raises:
        OSError, SafetensorError: if the disk is full or fails; nothing of the new folder stays, and the older one does.
    """
    partial, older = (final.with_name(f"{final.name}.{suffix}") for suffix in ("tmp", "old.tmp"))
    try:
        _remove(partial)
        _remove(older)
        partial.mkdir(parents=True)
        write(partial)
        flush(partial)
        if final.exists():
            os.rename(final, older)
        os.rename(partial, final)
        flush_one(final.parent)
    except (OSError, SafetensorError):
        shutil.rmtree(partial, ignore_errors=True)  # give the space back
        if older.exists() and not final.exists():
            os.rename(older, final)
        raise
    _remove(older)


def _remove(folder: Path) -> None:
    """Delete a folder that nobody should mistake for a checkpoint while it goes: first its name, then its files."""
    if not folder.exists():
        return
    if folder.suffix != ".tmp":
        doomed = folder.with_name(f"{folder.name}.tmp")
        shutil.rmtree(doomed, ignore_errors=True)
        folder = folder.rename(doomed)
    shutil.rmtree(folder)


def flush(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):  # files before the folders that hold them
        flush_one(path)
    flush_one(folder)


def flush_one(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot flush a folder
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_text(path: Path, text: str) -> None:
    """Replace a small file atomically."""
    partial = path.with_name(f"{path.name}.tmp")
    partial.write_text(text, encoding="utf-8")
    flush_one(partial)
    os.replace(partial, path)
    flush_one(path.parent)


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).strip().rstrip(".")


# --------------------------------------------------------------------------------------------------- model folders


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """One safetensors file, written tensor by tensor: no more than one of them is copied at a time.

    Raises:
        OSError: if the disk is full or fails.
    """
    header, at = {}, 0
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # wide types first: all are aligned
    for name in names:
        tensor = tensors[name]
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": SAFETENSORS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        at += size
    described = json.dumps(header, separators=(",", ":")).encode()
    described += b" " * (-len(described) % 8)  # so that numbers are aligned
    with open(path, "wb") as file:
        file.write(len(described).to_bytes(8, "little") + described)
        for name in names:
            numbers = tensors[name].detach().cpu().contiguous()
            if numbers.numel():
                file.write(numbers.reshape(-1).view(torch.uint8).numpy().data)


class DamagedError(ValueError):
    """A file of a checkpoint is not what was written; another checkpoint may be."""


def read_tensors(path: Path, crc32: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises DamagedError if it is missing, truncated, no such file, or has another
    check sum than it had when it was written (None: not known)."""
    if crc32 is not None and path.exists() and check_sum(path) != crc32:
        raise DamagedError(
            f"{path} is truncated or corrupt (its check sum is not {crc32}); use another checkpoint or copy it again"
        )
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise DamagedError(f"{path} does not exist; the checkpoint is incomplete, use another one") from None
    except (SafetensorError, OSError) as error:
        raise DamagedError(
            f"{path} is truncated or corrupt ({_reason(error)}); use another checkpoint or copy it again"
        ) from None


def write_model(
    folder: Path,
    config: Any,
    weights: Mapping[str, Tensor],
    *,
    average: Mapping[str, Tensor] | None = None,
    vocabulary: Vocabulary | None = None,
    tokenizer: Any = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Put config.json, model.safetensors and what else is given into an existing folder; config.json comes last."""
    write_tensors(folder / "model.safetensors", weights)
    if average is not None:
        write_tensors(folder / AVERAGE, average)
    if tokenizer is not None:
        tokenizer.save(folder)
        vocabulary = tokenizer.vocabulary
    sums = {path.name: check_sum(path) for path in sorted(folder.glob("*.safetensors"))}
    description = tree_of(Description(config, vocabulary))
    text = json.dumps({"maskless": FORMAT, **description, "crc32": sums, "extra": dict(extra or {})}, indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def save_model(
    folder: str | Path,
    model: Any,
    *,
    vocabulary: Vocabulary | None = None,
    tokenizer: Any = None,
    extra: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write the inference folder: config.json, model.safetensors and, with a tokenizer, tokenizer.json.

    Args:
        folder: made if need be; it must not hold a model yet.
        model: a Denoiser.
        vocabulary: of the data; taken from the tokenizer if there is one.
        tokenizer: anything with `.save(folder)` and `.vocabulary`.
        extra: JSON data noted in config.json.
        dtype: of the weights in the file.

    Raises:
        ValueError: if the folder holds a model already.
    """
    folder = Path(folder)
    if (folder / "config.json").exists():
        raise ValueError(f"{folder} holds a model already; choose a new folder or delete this one yourself")
    if (folder / "config.yaml").exists() or latest(folder) is not None:
        raise ValueError(f"{folder} is the folder of a run; choose a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()}
    write_model(folder, model.config, weights, vocabulary=vocabulary, tokenizer=tokenizer, extra=extra)
    flush(folder)
    return folder


def load_checkpoint(path: str | Path, *, ema: bool = True) -> Checkpoint:
    """Read a checkpoint from a run folder (its newest), a step folder or an inference folder.

    Args:
        path: the folder.
        ema: the averaged weights where the folder has them; False: the trained ones.

    Raises:
        ValueError: if nothing complete is there, a file is corrupt or truncated, or config.json is not understood.
    """
    folder = resolve(path)
    description, notes = described(folder / "config.json")
    averaged = ema and ((folder / AVERAGE).exists() or AVERAGE in _sums(notes))
    file = folder / (AVERAGE if averaged else "model.safetensors")
    weights = read_tensors(file, _sums(notes).get(file.name))
    return Checkpoint(folder, description.model, weights, description.vocabulary, notes.get("extra", {}))


def load_model(path: str | Path, *, ema: bool = True) -> tuple[Any, Any]:
    """The model (CPU, evaluation mode, float32) and what its rows are written in, of any checkpoint folder: a `Tokenizer`,
    or `ImageCodes` beside a codec; None if the folder has neither.

    Raises:
        ValueError: as `load_checkpoint`; also if weights and configuration, or tokenizer and model, do not belong
            together.
    """
    checkpoint = load_checkpoint(path, ema=ema)
    if isinstance(checkpoint.config, VQConfig):
        raise ValueError(f"{path} holds a codec of images, not a model; open it with load_codec, or name it as data.codec")
    weights = {name: single(tensor) for name, tensor in checkpoint.weights.items()}
    model = assemble(checkpoint.config, weights, str(checkpoint.folder))
    coding = coding_in(checkpoint.folder)
    if coding is not None:
        check_vocabulary(coding.vocabulary.size, checkpoint.config, f"the tokenizer or codec of {checkpoint.folder}")
    return model, coding


def single(tensor: Tensor) -> Tensor:
    """Floating-point numbers as float32 at least; codes are whole numbers and stay."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)) if tensor.is_floating_point() else tensor


def coding_in(folder: Path) -> Any:
    """The tokenizer of a folder, or the codec of images with its grid and classes; None if it has neither."""
    if (folder / "tokenizer.json").exists():
        from maskless.data.tokenizer import load_tokenizer

        return load_tokenizer(folder)
    if (folder / "images.json").exists():
        from maskless.data.images import load_image_codes

        return load_image_codes(folder)
    return None


def guidance_in(path: str | Path) -> dict[str, Any] | None:
    """The guidance that a distilled student has taken over, {"weight", "schedule"}; None for any other model. Reads config.json alone."""
    return described(resolve(path) / "config.json")[1].get("extra", {}).get("guidance")


def kind_name(config: Any) -> str:
    """The `type:` of a configuration, codecs included."""
    return next(name for name, kind in KINDS.items() if type(config) is kind)


def assemble(config: Any, weights: Mapping[str, Tensor], where: str = "the file") -> Any:
    """The model of a configuration with these weights, in evaluation mode; it takes them over and copies nothing.

    Raises:
        ValueError: if names or shapes are not the model's.
    """
    _, kind = next(pair for pair in MODELS.values() if pair[0] is type(config))
    with torch.device("meta"):
        model = kind(config)
    check_weights(weights, model.state_dict(), where)
    model.load_state_dict(dict(weights), assign=True)
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):  # tied tensors, buffers that are in no file
        model = kind(config)
        model.load_state_dict(dict(weights))
    return model.eval()


def check_vocabulary(size: int, config: Any, who: str) -> None:
    """Raise ValueError unless every id is known to both sides: the model may have more ids only if it forbids them."""
    surplus = [id for id in range(size, config.vocab_size) if id not in config.forbidden]
    if size > config.vocab_size or surplus:
        raise ValueError(
            f"{who} has {size} ids and the model has vocab_size {config.vocab_size}; "
            f"use the tokenizer the model was trained with, or set model.vocab_size={size}"
        )


def check_weights(weights: Mapping[str, Tensor], shapes: Mapping[str, Tensor], where: str) -> None:
    """Raise ValueError, naming the first offender, unless names and shapes are the model's."""
    remedy = "the weights belong to another model configuration"
    for name, wanted in shapes.items():
        if name not in weights:
            raise ValueError(f"{where} lacks the tensor {name}; {remedy}")
        if weights[name].shape != wanted.shape:
            raise ValueError(
                f"{where}: {name} has shape {tuple(weights[name].shape)}, the model wants "
                f"{tuple(wanted.shape)}; {remedy}"
            )
        check_real(f"{where}: {name}", weights[name], wanted)
    if surplus := sorted(set(weights) - set(shapes)):
        raise ValueError(f"{where} holds the tensor {surplus[0]}, which the model does not have; {remedy}")


def check_real(who: str, tensor: Tensor, wanted: Tensor) -> None:
    """Raise ValueError for whole numbers in place of real ones."""
    if wanted.is_floating_point() and not tensor.is_floating_point():
        raise ValueError(f"{who} holds whole numbers ({str(tensor.dtype).removeprefix('torch.')}), the model wants real ones: the file is damaged")


def check_sums(folder: Path) -> dict[str, str]:
    """The check sums config.json notes for the files beside it."""
    return _sums(described(folder / "config.json")[1])


def intact(folder: Path) -> bool:
    """Whether the files of a folder are those that its config.json was written for."""
    return all((folder / name).is_file() and check_sum(folder / name) == crc32 for name, crc32 in check_sums(folder).items())


def _sums(notes: Mapping[str, Any]) -> dict[str, str]:
    sums = notes.get("crc32", {})
    return sums if isinstance(sums, dict) else {}


def described(path: Path) -> tuple[Description, dict]:
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
        version = notes["maskless"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not a configuration of this library; give a folder written by maskless") from None
    if version != FORMAT:
        raise ValueError(f"{path} has format {version}, this version reads {FORMAT}; update maskless")
    try:
        names = [field.name for field in dataclasses.fields(Description)]
        return build(Description, {name: notes[name] for name in names if name in notes}), notes
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def check_sum(path: Path) -> str:
    """CRC-32 of a file, eight hexadecimal digits."""
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return f"{value:08x}"
