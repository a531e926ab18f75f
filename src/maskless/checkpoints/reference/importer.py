"""Reference weights into native models: sizes from the shapes, the rest from the settings where there are any.

V here counts the mask row of the reference; the native model gets it as a forbidden id and, if masked, as `mask_id`.
"""
from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from maskless.checkpoints.native import check_real
from maskless.checkpoints.reference.facts import Facts, flag, real, whole, words
from maskless.checkpoints.reference.names import (
    BUFFER,
    DIT,
    MASKGIT,
    MASKGIT_WHOLE,
    PARTITION,
    native_name,
    renamed,
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
MASKS = {"bert-base-uncased": 103, "text8": 4}  # tokenizers that hold [MASK]; for the others it is one more id
Settings = Mapping[str, Any]


def clean(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with bare reference keys, in file order.

    Raises:
        ValueError: two keys become one, or nothing is left.
    """
    found = renamed(state)
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
    given = {"mask_id": mask_id, "heads": heads}
    facts = Facts(settings or {}, {name: value for name, value in given.items() if value is not None})
    config, named = converted(state, facts)
    model = build(config)
    model.load_state_dict(named)
    return model.eval()


def converted(state: Mapping[str, Tensor], facts: Facts) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The configuration and the tensors by native name; tensors on the meta device are looked at by shape only.

    Raises:
        ValueError: as `import_state`.
    """
    weights = clean(state)
    config = configuration(weights, facts)
    check_settings(config, facts.settings)
    weights.pop(BUFFER, None)
    table = PARTITION if isinstance(config, PartitionConfig) else DIT
    named = {native_name(key, table): value for key, value in weights.items()}
    check_fit(named, config)
    return config, named


def reference_names(model: Denoiser, keys: list[str]) -> dict[str, str]:
    """Native name of each reference key of a model."""
    if isinstance(model.config, MaskGITConfig):
        return {key: MASKGIT_WHOLE.get(key) or native_name(key, MASKGIT) for key in keys}
    table = PARTITION if isinstance(model.config, PartitionConfig) else DIT
    return {key: native_name(key, table) for key in keys}


def configuration(weights: Mapping[str, Tensor], facts: Facts) -> ModelConfig:
    """The configuration that fits some weights; which of the three models it is follows from the keys."""
    settings = facts.settings
    vocab, width = weights["vocab_embed.embedding"].shape
    inside = MASKS.get(settings.get("data", {}).get("tokenizer_name_or_path"))
    mask = facts.choose("mask_id", inside, vocab - 1)
    if not 0 <= mask < vocab:
        raise ValueError(f"mask_id {mask} is outside the {vocab} rows of the embedding; set the one of [MASK]")
    common: dict[str, Any] = {
        "vocab_size": vocab, "width": width, "heads": heads_of(weights, facts, width), "forbidden": (mask,),
        "length": facts.choose("length", settings.get("length"), 1024),
        "dropout": facts.choose("dropout", settings.get("dropout"), 0.1, real),
    }
    if "sigma_map.mlp.0.weight" not in weights:
        return AutoregressiveConfig(**common, layers=layers_of(weights, r"blocks\.(\d+)\."))
    common["cond_dim"] = weights["sigma_map.mlp.0.weight"].shape[0]
    common["time_conditioned"] = facts.choose("time_conditioned", settings.get("time_conditioning"), False, flag)
    if "decoder.group_swap.base_embedding" not in weights:
        return MaskedConfig(**common, layers=layers_of(weights, r"blocks\.(\d+)\."), mask_id=mask)
    return PartitionConfig(
        **common, encoder_layers=layers_of(weights, r"encoder\.blocks\.(\d+)\."),
        decoder_layers=layers_of(weights, r"decoder\.layers\.(\d+)\."), query=query_of(settings.get("swap", {}), facts),
        query_mlp="decoder.group_swap.query_processor.0.weight" in weights,
    )


def layers_of(weights: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbers the keys have where `pattern` has its group."""
    return len({match[1] for key in weights if (match := re.match(pattern, key))})


def query_of(swap: Settings, facts: Facts) -> Any:
    """The start of the queries, which no weight tells; `swap` is the part of the settings about it."""
    mode, norm = swap.get("pre_query_mode"), swap.get("normalize_mode", "layernorm")
    if mode is not None and mode not in QUERIES:
        raise ValueError(f"pre_query_mode {mode!r} is unknown; the released code has {', '.join(QUERIES)}")
    if norm != "layernorm":
        raise ValueError(f"normalize_mode {norm!r} does not run in the released code; only layernorm exists")
    query = facts.choose("query", None if mode is None else QUERIES[mode], "position", words)
    if query not in QUERIES.values():
        raise ValueError(f"query {query!r} is unknown; choose {', '.join(QUERIES.values())}")
    return query


def heads_of(weights: Mapping[str, Tensor], facts: Facts, width: int) -> int:
    """From the rotary buffer, which is in every released text file; from the settings or the user where it is not."""
    frequencies = weights.get(BUFFER)
    if frequencies is None:
        heads = facts.choose("heads", facts.settings.get("n_heads"), None)
        if heads is None:
            raise ValueError("the number of heads is not known: the file has neither rotary_emb.inv_freq nor n_heads; "
                             "give it with --set heads=12")
        return heads
    if frequencies.ndim != 1 or not len(frequencies):
        raise ValueError(f"rotary_emb.inv_freq has shape {tuple(frequencies.shape)}, which is no list of frequencies: the file is damaged")
    pairs = len(frequencies)
    facts.asked.add("heads")
    heads, wanted = width // (2 * pairs), facts.overrides.get("heads")
    wanted = None if wanted is None else whole("heads", wanted)
    if wanted not in (None, heads):
        raise ValueError(f"heads {wanted} contradicts rotary_emb.inv_freq of the file, which says {heads}; leave it out")
    expected = 10000.0 ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    rounding = torch.finfo(frequencies.dtype).eps if frequencies.is_floating_point() else 0.0  # of a file in half precision
    if not frequencies.is_meta and not torch.allclose(frequencies.double().cpu(), expected, rtol=max(1e-5, rounding), atol=0):
        raise ValueError("rotary_emb.inv_freq is not 10000^(-2j/d): these weights were trained with other positions")
    return heads


def check_settings(config: Any, settings: Settings) -> None:
    """Settings that can be read off the shapes must agree with them."""
    said = {
        "width": settings.get("hidden_size"), "heads": settings.get("n_heads"), "layers": settings.get("n_blocks"),
        "encoder_layers": settings.get("encoder", {}).get("n_blocks"), "decoder_layers": settings.get("decoder", {}).get("n_blocks"),
        "cond_dim": settings.get("cond_dim") if hasattr(config, "cond_dim") else None,
    }
    for name, value in said.items():
        if value is not None and hasattr(config, name) and getattr(config, name) != whole(name, value):
            raise ValueError(f"the configuration says {name} {value}, the weights have {getattr(config, name)}")


def check_fit(named: Mapping[str, Tensor], config: ModelConfig) -> None:
    """Raises ValueError unless the names and shapes are those of the model of a configuration."""
    with torch.device("meta"):
        check_shapes(named, build(config).state_dict())


def check_shapes(named: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless the names and shapes are those of a model."""
    missing, extra = sorted(wanted.keys() - named.keys()), sorted(named.keys() - wanted.keys())
    if missing or extra:
        raise ValueError(f"the weights do not fill the model: missing {missing[:3]}, unexpected {extra[:3]}")
    for name, value in wanted.items():
        if named[name].shape != value.shape:
            raise ValueError(f"{name} has shape {tuple(named[name].shape)}, the model needs {tuple(value.shape)}")
        check_real(name, named[name], value)
