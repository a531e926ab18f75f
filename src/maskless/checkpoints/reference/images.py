"""Reference weights of image models into native ones: MaskGIT (valeoai/Halton-MaskGIT) and the image PGM.

Sizes come from the shapes: registers from reg_tokens, the grid from pos_emb, codes from the rows of the embedding, layers from the keys.
V counts what the reference has beyond codes: MaskGIT a mask row (K), the PGM a mask (K) and BOS (K + 1), which is site 0, an anchor.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from maskless.checkpoints.reference.facts import Facts, real
from maskless.checkpoints.reference.importer import check_fit, check_settings, heads_of, layers_of, query_of
from maskless.checkpoints.reference.names import BUFFER, MASKGIT, MASKGIT_WHOLE, PARTITION, native_name, renamed
from maskless.models import Denoiser, MaskGITConfig, ModelConfig, PartitionConfig, build

HEADS = {384: 6, 512: 6, 768: 12, 1024: 16, 1152: 16}  # of MaskGIT by width: tiny, small, base, large, xlarge
Settings = Mapping[str, Any]


def clean_images(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with bare reference keys: without leading `module.` and `_orig_mod.`, in file order.

    Raises:
        ValueError: two keys become one, or these are not the weights of a released image model.
    """
    found = renamed(state, lambda key: re.sub(r"^((module|_orig_mod)\.)+", "", key))
    if not is_images(found):
        raise ValueError("there is neither tok_emb.weight nor cls_embed among the weights: not a released image model")
    return found


def is_images(state: Mapping[str, Tensor]) -> bool:
    """Whether bare reference keys are those of an image model."""
    return "tok_emb.weight" in state or "cls_embed.embedding_table.weight" in state


def import_images(
    state: Mapping[str, Tensor], settings: Settings | None = None, *, heads: int | None = None,
) -> Denoiser:
    """A native model with the weights of a reference state dict; which of the two it is follows from the keys.

    Args:
        state: keys of the released code, in any wrapper.
        settings: what no shape tells, as in the released configuration: `dropout`; of MaskGIT `heads`; of the PGM
            `model.length` (1 + cells), `model.swap.pre_query_mode`. Assumed as published where absent (query
            learn+freqs, 32 x 32 cells, dropout 0.1).
        heads: of MaskGIT, where neither the settings nor a known width say how many.

    Raises:
        ValueError: unknown, missing or misshapen parameters, an untied head, settings that contradict the shapes.
    """
    config, named = converted_images(state, Facts(settings or {}, {} if heads is None else {"heads": heads}))
    model = build(config)
    model.load_state_dict(named)
    return model.eval()


def converted_images(state: Mapping[str, Tensor], facts: Facts) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The configuration and the tensors by native name; tensors on the meta device are looked at by shape only.

    Raises:
        ValueError: as `import_images`.
    """
    weights = clean_images(state)
    if "tok_emb.weight" in weights:
        config: MaskGITConfig | PartitionConfig = _maskgit(weights, facts)
        check_settings(config, facts.settings)
        tied = weights.pop("head.weight", None)
        if tied is not None and not tied.is_meta and not torch.equal(tied, weights["tok_emb.weight"]):
            raise ValueError("head.weight is not tok_emb.weight: these weights are not tied, and the model's head is")
    else:
        config = _partition(weights, facts)
        check_settings(config, {**facts.settings, **facts.settings.get("model", {})})
        weights.pop(BUFFER, None)
    named = {image_name(key): value for key, value in weights.items()}
    check_fit(named, config)
    return config, named


def image_name(key: str) -> str:
    """The native name of a reference parameter of an image model (head.weight is the embedding's)."""
    if key in MASKGIT_WHOLE:
        return MASKGIT_WHOLE[key]
    return native_name(key, {**PARTITION, **MASKGIT})


def _maskgit(weights: Mapping[str, Tensor], facts: Facts) -> MaskGITConfig:
    _need(weights, "pos_emb.weight", "cls_emb.weight", "transformer.layers.0.attn.wq.weight")
    rows, width = weights["tok_emb.weight"].shape
    sites = len(weights["pos_emb.weight"])
    count = facts.choose("heads", facts.settings.get("heads"), HEADS.get(width))
    if count is None:
        raise ValueError(f"a MaskGIT of width {width} is none of the published sizes; say how many heads it has")
    inner = weights["transformer.layers.0.attn.wq.weight"].shape[0]
    if count * (width // count) != inner:
        raise ValueError(f"{count} heads of width {width // count} do not give the {inner} numbers of attn.wq; correct heads")
    return MaskGITConfig(
        vocab_size=rows, length=sites, width=width, heads=count, grid=_square(sites), mask_id=rows - 1,
        layers=layers_of(weights, r"transformer\.layers\.(\d+)\."), registers=_rows(weights, "reg_tokens.weight"),
        classes=len(weights["cls_emb.weight"]) - 1, forbidden=(rows - 1,), dropout=facts.choose("dropout", facts.settings.get("dropout"), 0.1, real),
    )


def _partition(weights: Mapping[str, Tensor], facts: Facts) -> PartitionConfig:
    _need(weights, "vocab_embed.embedding", "decoder.group_swap.base_embedding")
    rows, width = weights["vocab_embed.embedding"].shape
    model = {**facts.settings, **facts.settings.get("model", {})}
    length = facts.choose("length", model.get("length"), 1025)
    selves = {match[1] for key in weights if (match := re.match(r"decoder\.layers\.(\d+)\.attn_qkv", key))}
    return PartitionConfig(
        vocab_size=rows, length=length, width=width, heads=heads_of(weights, facts, width), grid=_square(length - 1),
        encoder_layers=layers_of(weights, r"encoder\.blocks\.(\d+)\."), self_layers=tuple(sorted(map(int, selves))),
        decoder_layers=layers_of(weights, r"decoder\.layers\.(\d+)\."), query=query_of(model.get("swap", {}), facts),
        query_mlp="decoder.group_swap.query_processor.0.weight" in weights, forbidden=(rows - 2, rows - 1),
        classes=len(weights["cls_embed.embedding_table.weight"]) - 1, registers=_rows(weights, "reg_tokens.weight"),
        dropout=facts.choose("dropout", model.get("dropout"), 0.1, real),
    )


def _need(weights: Mapping[str, Tensor], *keys: str) -> None:
    missing = [key for key in keys if key not in weights]
    if missing:
        raise ValueError(f"the weights do not fill the model: missing {', '.join(missing)}; the file is incomplete")


def _rows(weights: Mapping[str, Tensor], key: str) -> int:
    return len(weights[key]) if key in weights else 0


def _square(cells: int) -> tuple[int, int] | None:
    side = math.isqrt(cells)
    return (side, side) if side * side == cells else None
