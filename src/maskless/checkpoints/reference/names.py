"""The parameter names of the released code, and what they are called here.

One table a kind of model; `{i}` is a layer. Order inside the files is registration order, which is also EMA order.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")

BLOCK = {
    "norm1": "norm1", "norm2": "norm2", "attn_qkv": "attention.qkv", "attn_out": "attention.out",
    "mlp.0": "mlp.up", "mlp.2": "mlp.down", "adaLN_modulation": "ada",
}
CROSS = {
    "q_norm1": "norm_q", "kv_norm1": "norm_kv", "norm2": "norm2",
    "attn_q": "attention.q", "attn_kv": "attention.kv", "attn_out": "attention.out",
    "mlp.0": "mlp.up", "mlp.2": "mlp.down", "adaLN_modulation": "ada",
}
COMMON = {
    "sigma_map.mlp.0": "time.up", "sigma_map.mlp.2": "time.down",
    "output_layer.norm_final": "final.norm", "output_layer.linear": "head",
    "output_layer.adaLN_modulation": "final.ada",
}
SWAP = {
    "pre_query_norm": "norm", "query_processor": "process", "query_processor.0": "process.0",
    "query_processor.2": "process.2", "hidden_to_key_value": "kv", "output_linear": "out",
}


def _inside(old: str, new: str, table: dict[str, str]) -> dict[str, str]:
    return {f"{old}.{key}": f"{new}.{value}" for key, value in table.items()}


DIT = {**COMMON, **_inside("blocks.{i}", "blocks.{i}", BLOCK)}  # masked (MDLM) and autoregressive
PARTITION = {
    **COMMON,
    **_inside("encoder.blocks.{i}", "encoder.{i}", BLOCK),
    **_inside("decoder.group_swap", "swap", SWAP),
    **_inside("decoder.layers.{i}", "decoder.{i}", {**BLOCK, **CROSS}),  # of either kind
    "cls_embed.embedding_table": "labels", "reg_tokens": "registers",  # image models
}
MASKGIT = {
    "cls_emb": "labels", "tok_emb": "embedding", "pos_emb": "sites", "reg_tokens": "registers", "head": "head",
    "last_norm.norm_final": "norm", "last_norm.mlp.1": "ada",
    **_inside("transformer.layers.{i}", "blocks.{i}", {
        "mlp.1": "ada", "ln1": "norm1", "ln2": "norm2", "attn.wq": "attention.q", "attn.wk": "attention.k",
        "attn.wv": "attention.v", "attn.wo": "attention.out",
        "ff.w1": "mlp.gate", "ff.w3": "mlp.up", "ff.w2": "mlp.down",
    }),
}
MASKGIT_WHOLE = {"head.weight": "embedding.weight"}  # tied
WHOLE = {"vocab_embed.embedding": "embedding.weight", "decoder.group_swap.base_embedding": "swap.base"}
BUFFER = "rotary_emb.inv_freq"  # in the files, not among the parameters


def native_name(key: str, table: dict[str, str]) -> str:
    """The native name of a reference parameter.

    Raises:
        ValueError: the released models have no such parameter.
    """
    if key in WHOLE:
        return WHOLE[key]
    stem, _, leaf = key.rpartition(".")
    layer = re.search(r"(?<=blocks\.)\d+|(?<=layers\.)\d+", stem)
    name = table.get(re.sub(r"(blocks|layers)\.\d+", r"\1.{i}", stem))
    if name is not None and leaf in ("weight", "bias"):
        return f"{name}.{leaf}".replace("{i}", layer[0] if layer else "")
    raise ValueError(f"unknown parameter {key!r}: it belongs to no released model (MDLM, PGM, MaskGIT, AR)")


WRAPPERS = re.compile(r"^((backbone|module|_orig_mod)\.)+")


def bare(key: str) -> str:
    """Without what wrappers put before it: `module.`, `_orig_mod.`, any number of `backbone.`."""
    return WRAPPERS.sub("", key)


def stripped(key: str) -> str:
    """Bare, and without the `_orig_mod.` of parts that were compiled by themselves (text models)."""
    return bare(key.replace("_orig_mod.", ""))


def renamed(state: Mapping[str, T], name: Callable[[str], str] = stripped) -> dict[str, T]:
    """The state by other names, in file order.

    Raises:
        ValueError: two keys become one.
    """
    found = {name(key): value for key, value in state.items()}
    if len(found) < len(state):
        raise ValueError("two parameters have one name once wrapper prefixes are stripped: the file holds two models")
    return found
