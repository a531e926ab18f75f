"""The large models of lit-gpt's form into native ones: MDM-Prime-v2 on SlimPajama, and SMDM, which is the same network with one digit.

    transformer.wte.weight                      ((b + 1) l, D)    a table for each digit; row b of each: not known
    transformer.h.N.attn.attn.weight            (3 D, D)          head by head: its queries, its keys, its values
    transformer.h.N.mlp.swiglu.{w1, w2, w3}     w3(silu(w1 x) * w2 x)
    lm_head.weight                              (V, D)

Neither heads nor digits are in any shape, and how ids were shuffled is in a file of its own. The released code turns queries and keys by
cosines and sines rounded to bfloat16; here they are exact.

Source: the released code's names and shapes (specification of Prime, section 8).
"""
from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from maskless.checkpoints.reference.facts import Facts
from maskless.checkpoints.reference.importer import check_fit, layers_of
from maskless.checkpoints.reference.names import renamed
from maskless.checkpoints.reference.prime import UNKNOWN, base_of, written
from maskless.models import PrimeLlamaConfig

TABLE, HEAD = "transformer.wte.weight", "lm_head.weight"
WHOLE = {TABLE: "embedding.weight", HEAD: "head.weight", "transformer.ln_f.weight": "norm.weight"}
PARTS = {"norm_1": "norm1", "norm_2": "norm2", "attn.attn": "attention.qkv", "attn.proj": "attention.out", "mlp.swiglu.w1": "mlp.gate",
         "mlp.swiglu.w2": "mlp.up", "mlp.swiglu.w3": "mlp.down"}
LAYER = "transformer.h."


def converted_lit_gpt(weights: Mapping[str, Tensor], facts: Facts) -> tuple[PrimeLlamaConfig, dict[str, Tensor]]:
    """The configuration and the tensors by native name; tensors on the meta device are looked at by shape only.

    Raises:
        ValueError: weights of another network, or whose heads, digits or code are not known.
    """
    weights = renamed(weights)
    config, named = _configuration(weights, facts), {}
    for key, value in weights.items():
        name = _native(key)
        named[name] = _together(value, config.heads) if name.endswith("attention.qkv.weight") else value
    named["table"] = written(weights, config, facts, UNKNOWN if config.digits > 1 else None)
    check_fit(named, config)
    return config, named


def _configuration(weights: Mapping[str, Tensor], facts: Facts) -> PrimeLlamaConfig:
    (rows, width), classes = weights[TABLE].shape, weights[HEAD].shape[0]
    inner = next((value.shape[0] for key, value in weights.items() if key.endswith("mlp.swiglu.w1.weight")), None)
    if inner is None:
        raise ValueError("there is no mlp.swiglu.w1.weight among the weights: a network of another form, which is not known here")
    digits = facts.choose("digits", 1 if rows == classes + 1 else None, None)
    heads = facts.choose("heads", None, None)
    for name, value, example in (("digits", digits, 15), ("heads", heads, 14)):
        if value is None:
            raise ValueError(f"the number of {name} is in no shape; give it with --set {name}={example}")
        if int(value) < 1:
            raise ValueError(f"{name} is {value}; give at least 1")
    base = base_of(rows, digits, classes, tables=digits)
    return PrimeLlamaConfig(classes, digits=digits, base=base, length=facts.choose("length", None, 2048), width=width, heads=heads,
                            layers=layers_of(weights, r"transformer\.h\.(\d+)\."), inner=inner)


def _native(key: str) -> str:
    if key in WHOLE:
        return WHOLE[key]
    number, _, part = key.removeprefix(LAYER).partition(".")
    return f"blocks.{number}.{PARTS.get(part.removesuffix('.weight'), part)}.weight" if key.startswith(LAYER) else key


def _together(weight: Tensor, heads: int) -> Tensor:
    """(3 D, D), head by head, into all queries, all keys, all values.

    Raises:
        ValueError: keys are shared between heads.
    """
    if weight.shape[0] != 3 * weight.shape[1] or weight.shape[1] % heads:
        raise ValueError(f"attn.attn.weight has shape {tuple(weight.shape)}, which are no queries, keys and values of {heads} heads; correct heads")
    return weight.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
