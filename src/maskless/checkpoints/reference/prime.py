"""Released text models of MDM-Prime into native ones (specification of Prime, section 8).

V classes (the head has no [MASK]), l digits, b base, D width. The table of digits tells most of it:

    v1   vocab_embed.embedding        (b + 1, D / l)             one table for all digits, joined
    v2   vocab_embed.weight.weight    ((b + 1) l, D / l or D)    one for each digit, joined or summed

How tokens are written is in no weight of v1 (the digits of the ids) and, for v2, in `wrapped_encoder.perm`, or in a file of its own: a model
read with another permutation than its own is garbage, and nothing in it would tell.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from maskless.checkpoints.reference.facts import Facts, flag, real
from maskless.checkpoints.reference.importer import Settings, check_fit, heads_of, layers_of
from maskless.checkpoints.reference.names import BUFFER, DIT, native_name, renamed
from maskless.checkpoints.torchfile import read_torch
from maskless.models import PrimeConfig, PrimeTransformer, build
from maskless.subtokens import SubTokenCode

SHARED, SEPARATE, CODEC = "vocab_embed.embedding", "vocab_embed.weight.weight", "wrapped_encoder."
PERMUTATION = f"{CODEC}perm"
UNKNOWN = "models of this form may shuffle ids, and nothing says whether this does"


def is_buffer(key: str) -> bool:
    """Names that are no parameters and stand in no moving average."""
    return key == BUFFER or key.startswith(CODEC)


def import_prime(state: Mapping[str, Tensor], settings: Settings | None = None, **given: Any) -> PrimeTransformer:
    """A native model with the weights of a released state dict.

    Args:
        settings: of the file, with its part `prime`.
        given: the user's answers: digits, code, permutation, heads, length, ...

    Raises:
        ValueError: weights that are no such model, or whose code is not known.
    """
    config, named = converted_prime(state, Facts(settings or {}, given))
    model = build(config)
    model.load_state_dict(named)
    assert isinstance(model, PrimeTransformer)
    return model.eval()


def converted_prime(state: Mapping[str, Tensor], facts: Facts) -> tuple[PrimeConfig, dict[str, Tensor]]:
    """The configuration and the tensors by native name; tensors on the meta device are looked at by shape only.

    Raises:
        ValueError: as `import_prime`.
    """
    weights = renamed(state)
    missing = [key for key in ("output_layer.norm_final.weight", "output_layer.linear.weight", "sigma_map.mlp.0.weight") if key not in weights]
    if missing or not (SHARED in weights or SEPARATE in weights):
        raise ValueError(f"there is no {(missing or [SHARED])[0]} among the weights: not a released text model of Prime")
    config = _configuration(weights, facts)
    named = {_native(key): value for key, value in weights.items() if not is_buffer(key)}
    named["table"] = _table(weights, config, facts)
    check_fit(named, config)
    return config, named


def _native(key: str) -> str:
    return "embedding.weight" if key == SEPARATE else native_name(key, DIT)


def _configuration(weights: Mapping[str, Tensor], facts: Facts) -> PrimeConfig:
    settings = facts.settings
    prime: Mapping[str, Any] = settings.get("prime", {})
    table = weights[SEPARATE] if SEPARATE in weights else weights[SHARED]
    width, classes = weights["output_layer.norm_final.weight"].shape[0], weights["output_layer.linear.weight"].shape[0]
    separate, summed = SEPARATE in weights, table.shape[1] == width
    digits = _digits(weights, facts, width // table.shape[1], summed)
    base = base_of(table.shape[0], digits, classes, tables=digits if separate else 1)
    for name, said in (("digits", prime.get("target_length")), ("vocab_size", prime.get("vocab_size"))):
        have = {"digits": digits, "vocab_size": classes}[name]
        if said is not None and int(said) != have:
            raise ValueError(f"the configuration says {name} {said}, the weights have {have}")
    if "carry_over" in prime:
        facts.note("filter_observed", bool(prime["carry_over"]), "carry_over of the file's settings; sampling filters by default")
    return PrimeConfig(
        vocab_size=classes, digits=digits, base=base, merge="sum" if summed and digits > 1 else "concatenate",
        tables="separate" if separate else "shared", width=width, heads=heads_of(weights, facts, width),
        layers=layers_of(weights, r"blocks\.(\d+)\."), cond_dim=weights["sigma_map.mlp.0.weight"].shape[0],
        length=facts.choose("length", settings.get("length"), 1024), dropout=facts.choose("dropout", settings.get("dropout"), 0.1, real),
        time_conditioned=facts.choose("time_conditioned", settings.get("time_conditioning"), False, flag))


def base_of(rows: int, digits: int, classes: int, *, tables: int) -> int:
    """b of so many tables of b + 1 rows, one below the other.

    Raises:
        ValueError: the rows are not those of so many tables, or too few for the classes.
    """
    if digits < 1:
        raise ValueError(f"digits is {digits}; a token has at least 1")
    base = rows // tables - 1
    if (base + 1) * tables != rows or base**digits < classes:
        raise ValueError(f"a table of {rows} rows in {digits} digits is base {base}, which cannot write {classes} classes; correct digits")
    return base


def _digits(weights: Mapping[str, Tensor], facts: Facts, by_width: int, summed: bool) -> int:
    if not summed:
        return by_width
    lookup = weights.get(f"{CODEC}lookup_table")
    said = facts.settings.get("prime", {}).get("target_length") if lookup is None else lookup.shape[1]
    digits = facts.choose("digits", said, None)
    if digits is None:
        raise ValueError("the vectors of digits are summed, so the number of digits is in no shape; give it with --set digits=16")
    return digits


def _table(weights: Mapping[str, Tensor], config: PrimeConfig, facts: Facts) -> Tensor:
    """(V, l): how the model writes its tokens."""
    prime: Mapping[str, Any] = facts.settings.get("prime", {})
    kind = str(prime.get("subtokenizer_type") or "")
    if prime.get("permutation_file_path") or "shuf" in kind or "perm" in kind:
        return written(weights, config, facts, "the settings say that ids were shuffled")
    unknown = SEPARATE in weights and not prime                     # of v2, and nothing says how it writes
    return written(weights, config, facts, UNKNOWN if unknown else None)


def written(weights: Mapping[str, Tensor], config: Any, facts: Facts, doubt: str | None) -> Tensor:
    """(V, l): how a model of a configuration writes its tokens.

    Args:
        doubt: why the digits may not be those of the ids, as half a sentence; None where nothing says so.

    Raises:
        ValueError: there is doubt, and no permutation.
    """
    permutation = _permutation(weights, facts, doubt)
    if permutation is None:
        return SubTokenCode.digits(config.vocab_size, config.digits, config.base).table
    if permutation.is_meta:
        return torch.empty(config.vocab_size, config.digits, dtype=torch.int64, device="meta")
    return SubTokenCode.permuted(config.vocab_size, config.digits, permutation, config.base).table


def _permutation(weights: Mapping[str, Tensor], facts: Facts, doubt: str | None) -> Tensor | None:
    """The numbers of the classes before they are cut into digits; None for the ids themselves."""
    facts.asked.update(("code", "permutation"))
    if (path := facts.overrides.get("permutation")) is not None:
        facts.note("permutation", path, "as you set it")
        return _read(str(path))
    if PERMUTATION in weights:
        facts.note("code", "shuffled", f"{PERMUTATION} in the file")
        return weights[PERMUTATION]
    if doubt is not None and facts.overrides.get("code") != "digits":
        raise ValueError(f"{doubt}, and the file has no {PERMUTATION}: with another order the model is garbage; give the file of the permutation "
                         "with --set permutation=perm.pt" + (", or say that there is none with --set code=digits" if doubt == UNKNOWN else ""))
    facts.note("code", "digits", "as you set it" if "code" in facts.overrides else "the digits of the ids, as nothing says that they were shuffled")
    return None


def _read(path: str) -> Tensor:
    file = read_torch(path)
    content = file.content
    try:
        tensor = file.tensor(content)
    except AttributeError:
        raise ValueError(f"{path} holds no single tensor; give the file of a permutation") from None
    return tensor.long()
