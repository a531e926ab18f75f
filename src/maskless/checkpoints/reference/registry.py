"""Which importer reads which weights: the keys decide. A new kind is one entry of `IMPORTERS`."""
from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from maskless.checkpoints.reference import images, lit_gpt, prime, unet, vq
from maskless.checkpoints.reference import importer as text
from maskless.checkpoints.reference.facts import Facts
from maskless.checkpoints.reference.names import BUFFER, bare

Shapes = Mapping[str, tuple[int, ...]]
Fits = Callable[[Shapes], bool]


@dataclass(frozen=True)
class Imported:
    """A native model in parts: its configuration, and its tensors by native name."""

    config: Any
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Importer:
    """Weights of one kind into native ones.

    Attributes:
        kind: what it is, in words.
        fits: whether weights with these bare names and shapes are of that kind.
        convert: the model of the weights. They may lie on the meta device, where only shapes are looked at (`maskless inspect`).
        buffers: names that are no parameters and stand in no moving average.
        tokens: whether the model speaks the ids of a text tokenizer.
        codec: whether it is a codec of images and no model.
    """

    kind: str
    fits: Fits
    convert: Callable[[Mapping[str, Tensor], Facts], Imported]
    buffers: Callable[[str], bool] = lambda key: key == BUFFER
    tokens: bool = False
    codec: bool = False


def _made(converted: Callable[[Mapping[str, Tensor], Facts], tuple[Any, dict[str, Tensor]]]) -> Callable[[Mapping[str, Tensor], Facts], Imported]:
    return lambda weights, facts: Imported(*converted(weights, facts))


def _has(*keys: str) -> Fits:
    return lambda found: all(key in found for key in keys)


def _like(pattern: str) -> Fits:
    return lambda found: any(re.match(pattern, key) for key in found)


def _prime(found: Shapes) -> bool:
    """The digits of a token are looked up one by one and joined, so a row of the table is narrower than the network; or summed, and there are
    fewer of them than tokens."""
    table, width, head = (found.get(key, ()) for key in ("vocab_embed.embedding", "output_layer.norm_final.weight", "output_layer.linear.weight"))
    narrow = len(table) == 2 and len(width) == 1 and table[1] != width[0]
    few = len(table) == 2 and len(head) == 2 and table[0] < head[0]  # vectors of digits, summed
    return "vocab_embed.weight.weight" in found or _like(r"wrapped_encoder\.")(found) or narrow or few


IMPORTERS: tuple[Importer, ...] = (  # the first that fits
    Importer("image PGM", _has("cls_embed.embedding_table.weight", "decoder.group_swap.base_embedding"), _made(images.converted_images)),
    Importer("MaskGIT", _has("tok_emb.weight", "pos_emb.weight", "cls_emb.weight"), _made(images.converted_images)),
    Importer("VQ image tokenizer", _has("quantize.embedding.weight"), _made(vq.converted_vq), codec=True),
    Importer("Prime image model", _like(r"(model\.)?pixel_embedding\."), _made(unet.converted_unet), buffers=lambda key: key.endswith(unet.COUNTER)),
    Importer("Prime text model", _prime, _made(prime.converted_prime), buffers=prime.is_buffer, tokens=True),
    Importer("Prime text model of the lit-gpt form", _has(lit_gpt.HEAD, lit_gpt.TABLE), _made(lit_gpt.converted_lit_gpt), tokens=True),
    Importer("text PGM", _has("vocab_embed.embedding", "decoder.group_swap.base_embedding"), _made(text.converted), tokens=True),
    Importer("MDLM", _has("vocab_embed.embedding", "sigma_map.mlp.0.weight"), _made(text.converted), tokens=True),
    Importer("autoregressive baseline", _has("vocab_embed.embedding", "output_layer.linear.weight"), _made(text.converted), tokens=True),
)


def importer_for(shapes: Shapes, where: str) -> Importer:
    """The importer for weights of these names and shapes.

    Raises:
        ValueError: no released model has such weights.
    """
    found = {bare(key): tuple(shape) for key, shape in shapes.items()}
    for each in IMPORTERS:
        if each.fits(found):
            return each
    some = ", ".join(list(shapes)[:3])
    raise ValueError(f"{where} holds weights of no model known here (it has {some}); known are {', '.join(each.kind for each in IMPORTERS)}")
