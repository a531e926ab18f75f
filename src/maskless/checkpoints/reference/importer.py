"""Reference weights into native models: sizes from the shapes, the rest from the settings where there are any.

V here counts the mask row of the reference; the native model gets it as a forbidden id and, if masked, as `mask_id`.
"""
from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from maskless.checkpoints.reference.names import (
    BUFFER,
    DIT,
    MASKGIT,
    MASKGIT_WHOLE,
    PARTITION,
    native_name,
    stripped,
)
from maskless.models import (
    AutoregressiveConfig,
    Denoiser,
    MaskedConfig,
    MaskGITConfig,
    ModelConfig,
    PartitionConfig,
    build,
)

QUERIES = {
    "learn": "learned", "learn+freqs": "position", "learn+freqs+mean": "mean", "learn+freqs+logsumexp": "logsumexp",
}
Settings = Mapping[str, Any]


def clean(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with bare reference keys, in file order.

    Raises:
        ValueError: two keys become one, or nothing is left.
    """
    found = {stripped(key): value for key, value in state.items()}
    if len(found) < len(state):
        raise ValueError("two parameters have one name once wrapper prefixes are stripped: the file holds two models")
    if "vocab_embed.embedding" not in found:
        raise ValueError("there is no vocab_embed.embedding among the weights: not a released text model")
    return found


def import_state(
    state: Mapping[str, Tensor], settings: Settings | None = None, *, mask_id: int | None = None,
    heads: int | None = None,
) -> Denoiser:
    """A native model with the weights of a reference state dict.

    Args:
        state: keys of the released code, with or without `backbone.` and `_orig_mod.`.
        settings: its `model` configuration (hidden_size, n_heads, swap.pre_query_mode, length, dropout ...); what
            neither it nor a shape tells is assumed as published: query learn+freqs, length 1024, dropout 0.1.
        mask_id: of [MASK]; None takes the last row (GPT-2 vocabularies; BERT has 103).
        heads: if neither the settings nor the rotary buffer say how many there are.

    Raises:
        ValueError: unknown, missing or misshapen parameters, settings that contradict the shapes, other positions.
    """
    weights, settings = clean(state), settings or {}
    config = configuration(weights, settings, mask_id=mask_id, heads=heads)
    _check_settings(config, settings)
    weights.pop(BUFFER, None)
    table = PARTITION if isinstance(config, PartitionConfig) else DIT
    named = {native_name(key, table): value for key, value in weights.items()}
    model = build(config)
    check_shapes(named, model.state_dict())
    model.load_state_dict(named)
    return model.eval()


def reference_names(model: Denoiser, keys: list[str]) -> dict[str, str]:
    """Native name of each reference key of a model."""
    if isinstance(model.config, MaskGITConfig):
        return {key: MASKGIT_WHOLE.get(key) or native_name(key, MASKGIT) for key in keys}
    table = PARTITION if isinstance(model.config, PartitionConfig) else DIT
    return {key: native_name(key, table) for key in keys}


def configuration(
    weights: Mapping[str, Tensor], settings: Settings, *, mask_id: int | None = None, heads: int | None = None,
) -> ModelConfig:
    """The configuration that fits some weights; which of the three models it is follows from the keys."""
    vocab, width = weights["vocab_embed.embedding"].shape
    mask = vocab - 1 if mask_id is None else mask_id
    common: dict[str, Any] = {
        "vocab_size": vocab, "width": width, "heads": heads_of(weights, settings, width, heads), "forbidden": (mask,),
        "length": int(settings.get("length", 1024)), "dropout": float(settings.get("dropout", 0.1)),
    }
    if "sigma_map.mlp.0.weight" not in weights:
        return AutoregressiveConfig(**common, layers=layers_of(weights, r"blocks\.(\d+)\."))
    common["cond_dim"] = weights["sigma_map.mlp.0.weight"].shape[0]
    common["time_conditioned"] = bool(settings.get("time_conditioning", False))
    if "decoder.group_swap.base_embedding" not in weights:
        return MaskedConfig(**common, layers=layers_of(weights, r"blocks\.(\d+)\."), mask_id=mask)
    return PartitionConfig(
        **common, encoder_layers=layers_of(weights, r"encoder\.blocks\.(\d+)\."),
        decoder_layers=layers_of(weights, r"decoder\.layers\.(\d+)\."), query=_query(settings),
        query_mlp="decoder.group_swap.query_processor.0.weight" in weights,
    )


def layers_of(weights: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbers the keys have where `pattern` has its group."""
    return len({match[1] for key in weights if (match := re.match(pattern, key))})


def _query(settings: Settings) -> Any:
    swap = settings.get("swap", {})
    mode, norm = swap.get("pre_query_mode", "learn+freqs"), swap.get("normalize_mode", "layernorm")
    if mode not in QUERIES:
        raise ValueError(f"pre_query_mode {mode!r} is unknown; the released code has {', '.join(QUERIES)}")
    if norm != "layernorm":
        raise ValueError(f"normalize_mode {norm!r} does not run in the released code; only layernorm exists")
    return QUERIES[mode]


def heads_of(weights: Mapping[str, Tensor], settings: Settings, width: int, heads: int | None = None) -> int:
    """By the rotary buffer, or else as somebody says."""
    frequencies = weights.get(BUFFER)
    if frequencies is None:
        given = settings.get("n_heads", heads)
        if given is None:
            raise ValueError("the number of heads is not known: the file has neither rotary_emb.inv_freq nor n_heads")
        return int(given)
    pairs = len(frequencies)
    expected = 10000.0 ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    if not torch.allclose(frequencies.double().cpu(), expected, rtol=1e-5, atol=0):
        raise ValueError("rotary_emb.inv_freq is not 10000^(-2j/d): these weights were trained with other positions")
    return width // (2 * pairs)


def _check_settings(config: Any, settings: Settings) -> None:
    """Settings that can be read off the shapes must agree with them."""
    said = {
        "width": settings.get("hidden_size"), "heads": settings.get("n_heads"), "layers": settings.get("n_blocks"),
        "encoder_layers": settings.get("encoder", {}).get("n_blocks"),
        "decoder_layers": settings.get("decoder", {}).get("n_blocks"),
        "cond_dim": settings.get("cond_dim") if hasattr(config, "cond_dim") else None,
    }
    for name, value in said.items():
        if value is not None and getattr(config, name, value) != value:
            raise ValueError(f"the configuration says {name} {value}, the weights have {getattr(config, name)}")


def check_shapes(named: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless the names and shapes are those of a model."""
    missing, extra = sorted(wanted.keys() - named.keys()), sorted(named.keys() - wanted.keys())
    if missing or extra:
        raise ValueError(f"the weights do not fill the model: missing {missing[:3]}, unexpected {extra[:3]}")
    for name, value in wanted.items():
        if named[name].shape != value.shape:
            raise ValueError(f"{name} has shape {tuple(named[name].shape)}, the model needs {tuple(value.shape)}")
