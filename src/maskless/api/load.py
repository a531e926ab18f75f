"""Models by folder, by released file, or by Hugging Face name."""
from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from maskless.api.image import ImageModel
from maskless.api.model import Dtype
from maskless.api.text import TextModel


def load(source: str | Path, *, weights: Literal["ema", "raw"] = "ema", device: str = "auto", dtype: Dtype = "auto",
         compile: str = "auto", tokenizer: str | Path | None = None, codec: str | Path | None = None,
         overrides: Mapping[str, Any] | None = None) -> TextModel | ImageModel:
    """A trained model with its tokenizer, or with its codec if it makes images.

    Args:
        source: a run folder (its newest checkpoint), one `step-...` folder, a folder of `save_pretrained`, the name of a model
            in the package ("tiny"; a path of that name comes first), a file of released weights (.ckpt, .pt, .pth, .safetensors; read without
            running anything in it), or "organisation/name", "organisation/name:file" or
            "organisation/name@revision" on the Hugging Face Hub.
        weights: the moving average where there is one ("ema"), or the weights as trained ("raw").
        device, dtype, compile: see `LoadedModel`.
        tokenizer: of released files that neither hold nor name theirs: a path or a name.
        codec: of models of images that come without theirs: a released VQ tokenizer, or the folder of a codec.
        overrides: of released files: what their weights cannot tell (length, query, heads, mask_id, ...). What is inferred is printed.

    Raises:
        ValueError: if nothing usable is there; the sentence says what is missing.

    Example:
        >>> import maskless
        >>> maskless.load("no/such/folder")
        Traceback (most recent call last):
            ...
        ValueError: no/such/folder does not exist; give a run folder, a step-... folder or a folder with config.json and model.safetensors...
    """
    from maskless.checkpoints.convert import named_codec
    from maskless.checkpoints.native import guidance_in, load_model
    from maskless.checkpoints.source import find
    from maskless.data.tokenizer import load_tokenizer

    if not isinstance(source, str | Path):
        raise ValueError(f"source is {source!r}; give a folder, a file of weights, tiny, or organisation/name on the Hugging Face Hub")
    if weights not in ("ema", "raw"):
        raise ValueError(f"weights is {weights!r}; choose ema (the moving average where there is one) or raw")
    place = find(source)
    if not place.native:
        model, own = _released(place, weights == "ema", codec or tokenizer, overrides)
        return opened(model, own, device=device, dtype=dtype, compile=compile)
    if overrides:
        raise ValueError(f"{place.path} was written by this library and its config.json says everything; leave {', '.join(overrides)} out")
    model, own = load_model(place.path, ema=weights == "ema")
    speaks = load_tokenizer(tokenizer) if tokenizer is not None else named_codec(model.config, codec) or own
    if speaks is None:
        raise ValueError(f"{place.path} has no tokenizer.json and no codec.json; a model needs its own: copy it into the folder")
    made = opened(model, speaks, device=device, dtype=dtype, compile=compile)
    made.guidance = guidance_in(place.path)
    return made


def opened(model: Any, speaks: Any, **where: Any) -> TextModel | ImageModel:
    """A network with what its rows are written in."""
    from maskless.data.images import ImageCodes

    return ImageModel(model, speaks, **where) if isinstance(speaks, ImageCodes) else TextModel(model, speaks, **where)


def _released(place: Any, average: bool, speaks: str | Path | None, overrides: Mapping[str, Any] | None) -> tuple[Any, Any]:
    """The network of a released file, and its tokenizer or codec; what was inferred goes to stderr."""
    from maskless.checkpoints.convert import named_codec, named_tokenizer, pixels_of
    from maskless.checkpoints.reference.foreign import open_foreign

    file = open_foreign(place.path, overrides=overrides, source=place.source)
    if file.importer.codec:
        raise ValueError(f"{place.path} is a {file.importer.kind}, not a model; give it as the codec of one (codec=), or use `maskless convert`")
    model, notes = file.model(average=average), [*file.facts.notes]
    found = named_tokenizer(file, place, speaks, notes) if file.importer.tokens else named_codec(model.config, speaks) or pixels_of(model.config)
    for note in notes:
        print(f"{place.path.name}: {note}", file=sys.stderr)
    if found is None and not file.importer.tokens:
        raise ValueError(f"{place.path} is a {file.importer.kind} and draws codes; give the VQ tokenizer it was trained with (codec=), or convert "
                         f"both into a folder: maskless convert {place.path} DEST --codec CODEC")
    if found is None:
        raise ValueError(f"{place.path} neither holds a tokenizer nor has one beside it that could be read; "
                         "give one (tokenizer=), or write a folder with `maskless convert --tokenizer`")
    return model, found
