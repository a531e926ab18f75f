"""Released files, and runs of this library, into folders of this library: read once, written tensor by tensor, complete or absent."""
from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskless.alone import LOCK, alone
from maskless.checkpoints.native import (
    check_vocabulary,
    described,
    flush,
    kind_name,
    load_model,
    resolve,
    save_model,
    write_model,
)
from maskless.checkpoints.reference.foreign import Foreign, open_foreign, read_vq, single
from maskless.checkpoints.source import Place, find
from maskless.data.codec import PixelCodec, load_codec
from maskless.data.images import ImageCodes
from maskless.data.tokenizer import SubwordTokenizer, Tokenizer, load_tokenizer
from maskless.data.vq import VQCodec, filled
from maskless.models import UNetConfig

OURS = re.compile(r"config\.json|(model|ema|codec)\.safetensors|codec\.json|images\.json|tokenizer\.json|special_tokens_map\.json")
TOKENIZERS = {**dict.fromkeys(("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"), "gpt2"), "bert-base-uncased": "bert-base-uncased", "text8": "text8"}
"""What the settings of released text models call their tokenizer, and which it is; a file cannot make this library fetch another."""


@dataclass(frozen=True)
class Converted:
    """What `convert` did: where it wrote, of what kind the model is, which weights were taken, what was inferred."""

    folder: Path
    kind: str
    weights: str
    notes: list[str]


def convert(source: str | Path, dest: str | Path, *, average: bool = True, overrides: Mapping[str, Any] | None = None,
            tokenizer: str | Path | None = None, codec: str | Path | None = None, dtype: torch.dtype | None = None) -> Converted:
    """Write the model of a released file as a folder of this library, or that of a run as a folder for inference.

    Args:
        source: a path or a name (`checkpoints.source`); with `dtype` also a run, of which one set of weights is taken and no optimiser.
        dest: a folder that does not exist yet.
        average: the moving average where there is one; False: the weights as trained.
        overrides: answers to what weights cannot tell: length, query, heads, mask_id, ...
        tokenizer: a tokenizer's path or name; None takes the one in or beside the file, else the published one.
        codec: of an image model: a released VQ tokenizer, or the folder of a codec; without it the model draws codes, not images.
        dtype: of the weights in the folder; None: float32.

    Raises:
        ValueError: the source cannot be used, or `dest` exists.
        OSError: it could not be written; nothing is left behind.
    """
    dest = Path(dest)
    if dest.exists():
        raise ValueError(f"{dest} exists already; choose a new folder or delete this one yourself")
    place = find(source)
    if place.native:
        return slimmed(place, dest, average, dtype, [*(overrides or {}), *(str(given) for given in (tokenizer, codec) if given is not None)])
    file = open_foreign(place.path, overrides=overrides, source=place.source)
    if (stray := codec if file.importer.tokens or file.importer.codec else tokenizer) is not None:
        raise ValueError(f"{stray} was given and {place.path} is a {file.importer.kind}: "
                         "a tokenizer belongs to a text model, a codec to a model of images; leave it out")
    if file.importer.codec and dtype not in (None, torch.float32):
        raise ValueError(f"{place.path} is a {file.importer.kind}, which is kept in float32; leave the dtype out")
    made = file.imported(average=average)
    weights = {name: rounded(single(tensor), dtype) for name, tensor in made.weights.items()}
    notes = [*file.facts.notes]
    speaks = named_tokenizer(file, place, tokenizer, notes) if file.importer.tokens else named_codec(made.config, codec) or pixels_of(made.config)
    if speaks is not None:
        check_vocabulary(speaks.vocabulary.size, made.config, "the codec" if codec else "the tokenizer")
    taken = "ema" if average and file.averaged else "raw"
    extra = {"converted": {"from": Path(place.source).name, "kind": file.importer.kind, "weights": taken, "inferred": notes}}
    if file.importer.codec:
        with_folder(dest, VQCodec(filled(made.config, weights, str(place.path))).save)
    else:
        with_folder(dest, lambda folder: write_model(folder, made.config, weights, tokenizer=speaks, extra=extra))
    return Converted(dest, file.importer.kind, taken, notes)


def slimmed(place: Place, dest: Path, average: bool, dtype: torch.dtype | None, stray: Sequence[str]) -> Converted:
    """What sampling needs of a folder of this library: its weights in this dtype, its tokenizer or codec, its configuration.

    Raises:
        ValueError: no dtype was given, so that there is nothing to do; or something that config.json says already.
    """
    folder = resolve(place.path)
    if dtype is None:
        raise ValueError(f"{folder} was written by this library and needs no conversion; load it as it is, "
                         "or give the dtype of a copy without optimiser (--dtype bfloat16)")
    if stray:
        raise ValueError(f"{folder} was written by this library and says everything itself; leave {', '.join(stray)} out")
    model, speaks = load_model(folder, ema=average)
    description, told = described(folder / "config.json")
    extra = told.get("extra", {})
    taken = "ema" if average and (folder / "ema.safetensors").exists() else extra.get("converted", {}).get("weights", "raw")
    notes = [f"checkpoint: {folder.name}"] if folder != place.path else []
    kind = kind_name(description.model)
    extra |= {"converted": {"from": Path(place.source).name, "kind": kind, "weights": taken, "inferred": notes}}
    with_folder(dest, lambda new: save_model(new, model, vocabulary=description.vocabulary, tokenizer=speaks, extra=extra, dtype=dtype))
    return Converted(dest, kind, taken, notes)


def rounded(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Floating-point numbers in a dtype; codes are whole numbers and stay."""
    return tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)


def named_codec(config: Any, source: str | Path | None) -> ImageCodes | None:
    """What stands where text has a tokenizer: the codec, the grid, and numbers for the names of the classes."""
    if source is None:
        return None
    if getattr(config, "grid", None) is None:
        raise ValueError(f"a codec ({source}) was given and this is no model of images on a square grid; leave it out")
    codec = read_vq(source) if Path(source).is_file() else load_codec(source)
    return ImageCodes(codec, config.grid, tuple(map(str, range(config.classes))))


def pixels_of(config: Any) -> ImageCodes | None:
    """The plain pixels of colour images in 256 levels, if the model is a U-Net of such codes: it needs no codec beside it."""
    codec = PixelCodec(256, 3, config.planes) if isinstance(config, UNetConfig) and config.planes in (2, 3) else None
    if codec is None or codec.vocab_size != config.vocab_size or config.grid is None:
        return None
    return ImageCodes(codec, config.grid, tuple(map(str, range(config.classes))))


def with_folder(dest: Path, write: Any) -> None:
    """Let `write` fill DEST.tmp, then rename it once; whatever goes wrong, nothing is left."""
    partial = dest.with_name(f"{dest.name}.tmp")
    if partial.exists() and (not partial.is_dir() or not all(OURS.fullmatch(path.name) for path in partial.iterdir())):
        raise ValueError(f"{partial} is in the way and was not left by a conversion; move it, or choose another folder")
    first = next((parent for parent in reversed(partial.parents) if not parent.exists()), partial)
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        with alone(partial.with_name(f"{partial.name}.{LOCK}"), f"another process writes into {dest}; wait for it, or choose another folder"):
            _fill(partial, dest, write, first)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"{dest} could not be written ({reason}); nothing was left behind: make room, or choose another place") from error


def _fill(partial: Path, dest: Path, write: Any, first: Path) -> None:
    """Into a new folder; `first` is what goes if that fails."""
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        write(partial)
        flush(partial)
        os.rename(partial, dest)
    except BaseException:
        shutil.rmtree(first, ignore_errors=True)
        raise


def named_tokenizer(file: Foreign, place: Place, given: str | Path | None, notes: list[str]) -> Tokenizer | None:
    """The tokenizer of a text model, and a note of where it came from; None, with a note, if it cannot be had."""
    if given is not None:
        return load_tokenizer(given)
    if file.contents.tokenizer is not None:
        try:
            found = SubwordTokenizer(file.contents.tokenizer)
        except ValueError:
            notes.append("tokenizer: the one in the file cannot be used")
        else:
            notes.append("tokenizer: from the file")
            return found
    beside = place.path.with_name("tokenizer.json")
    if beside.is_file():
        notes.append(f"tokenizer: {beside.name} beside the file")
        return load_tokenizer(beside)
    said = str(file.contents.settings.get("data", {}).get("tokenizer_name_or_path"))
    name = TOKENIZERS.get(said) or file.facts.published.get("tokenizer")
    if name is None:
        notes.append("tokenizer: none known; give one with --tokenizer, or copy its tokenizer.json into the folder")
        return None
    try:
        found = load_tokenizer(name)
    except ValueError:
        notes.append(f"tokenizer: {name} could not be fetched; give its tokenizer.json with --tokenizer, or copy it into the folder")
        return None
    notes.append(f"tokenizer: {name}, {'from the settings of the file' if said in TOKENIZERS else 'published for a file of this name'}")
    return found
