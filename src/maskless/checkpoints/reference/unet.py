"""The released U-Nets of MDM-Prime's images into native ones.

The file numbers everything that a level has, what halves it too: where the numbers have a gap, a level ends. Sizes come from shapes: the
planes and digits from the table and the outputs, the base width from what the levels have in common. A model without sub-tokens (l = 1)
has the [MASK] among its outputs; here it has none.
"""
from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from maskless.checkpoints.reference.facts import Facts, real
from maskless.checkpoints.reference.importer import check_shapes
from maskless.checkpoints.reference.names import renamed
from maskless.models import UNetConfig, build
from maskless.models.prime import code_of
from maskless.subtokens import smallest_base

TABLE, OUT = "pixel_embedding.embedding_table.weight", "out.2"
RESIDUAL = {"in_layers.0": "norm_in", "in_layers.2": "conv_in", "out_layers.0": "norm_out", "out_layers.3": "conv_out", "skip_connection": "skip"}
ATTENTION = {"norm": "norm", "qkv": "qkv", "proj_out": "out"}
PART = re.compile(r"(input_blocks|middle_block|output_blocks)\.(\d+)\.(?:(\d+)\.)?(.+)")
COUNTER = "num_updates"                 # of the moving average; stands among the weights


def unet_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with bare reference keys.

    Raises:
        ValueError: two keys become one.
    """
    weights = {key: value for key, value in state.items() if not key.endswith(COUNTER)}
    return renamed(weights, lambda key: re.sub(r"^((module|_orig_mod|model|unet)\.)+", "", key))


def converted_unet(state: Mapping[str, Tensor], facts: Facts) -> tuple[UNetConfig, dict[str, Tensor]]:
    """The configuration and the tensors by native name; tensors on the meta device are looked at by shape only.

    Raises:
        ValueError: unknown, missing or misshapen parameters; sizes that fit no model.
    """
    weights = unet_names(state)
    for key in (TABLE, f"{OUT}.weight", f"{OUT}.bias", "input_blocks.1.0.in_layers.2.weight"):
        if key not in weights:
            raise ValueError(f"the weights do not fill the model: missing {key}; the file is incomplete")
    levels = _levels(weights, "input_blocks")
    config = _configuration(weights, levels, facts)
    places = _places(levels, _runs(weights, "output_blocks", len(levels)))
    named = {"embedding.weight": weights.pop(TABLE)}
    for leaf in ("weight", "bias"):
        named[f"norm.{leaf}"] = weights.pop(f"out.0.{leaf}")
        named[f"out.{leaf}"] = _outputs(weights.pop(f"{OUT}.{leaf}"), config)
    for key, value in weights.items():
        named[_native(key, places)] = _shaped(key, value)
    with torch.device("meta"):
        wanted = build(config).state_dict()
    check_shapes(named, {name: value for name, value in wanted.items() if name != "table"})
    return config, {"table": code_of(config).table, **named}        # which the files leave to the code


def _configuration(weights: Mapping[str, Tensor], levels: list[list[int]], facts: Facts) -> UNetConfig:
    widths = [weights[f"input_blocks.{level[0]}.0.in_layers.2.weight"].shape[0] for level in levels]
    width = facts.choose("width", None, math.gcd(*widths))
    entrance = weights["input_blocks.1.0.in_layers.2.weight"].shape[1]
    planes, digits, classes = _digits(weights[TABLE].shape, weights[f"{OUT}.weight"].shape[0], entrance)
    side = facts.choose("size", None, 32)
    attends = tuple(2**i for i, level in enumerate(levels) if f"input_blocks.{level[0]}.1.qkv.weight" in weights)
    return UNetConfig(
        vocab_size=classes, digits=digits, base=weights[TABLE].shape[0] - 1, length=planes * side * side, planes=planes,
        grid=(planes * side, side), width=width, multipliers=tuple(each // width for each in widths), blocks=len(levels[0]), attention=attends,
        head_width=facts.choose("head_width", None, 64), dropout=facts.choose("dropout", facts.settings.get("dropout"), 0.4, real))


def _digits(table: torch.Size, outputs: int, entrance: int) -> tuple[int, int, int]:
    """(planes, l, V): the only ones that fit the table (b + 1, entrance / (planes l)) and the outputs, planes V (l = 1: planes (V + 1))."""
    rows, width = table
    joined = entrance // width                                      # planes l
    if joined * rows == outputs:
        return joined, 1, rows - 1
    for planes in range(1, joined + 1):
        classes, digits = outputs // planes, joined // planes
        if planes * classes == outputs and planes * digits == joined and smallest_base(classes, digits) == rows - 1:
            return planes, digits, classes
    raise ValueError(f"a table of {rows} rows of {width}, {entrance} channels and {outputs} outputs fit no number of planes and digits")


def _outputs(tensor: Tensor, config: UNetConfig) -> Tensor:
    """Weight or bias of the last convolution without the outputs for [MASK], the last of each plane."""
    return tensor.unflatten(0, (config.planes, -1))[:, :config.vocab_size].flatten(0, 1)


def _numbers(weights: Mapping[str, Tensor], part: str) -> list[int]:
    return sorted({int(match[1]) for key in weights if (match := re.match(rf"{part}\.(\d+)\.0\.in_layers\.", key))})


def _levels(weights: Mapping[str, Tensor], part: str) -> list[list[int]]:
    """The numbers of the blocks of each level: runs without a gap."""
    numbers, levels = _numbers(weights, part), []
    for number in numbers:
        if levels and number == levels[-1][-1] + 1:
            levels[-1].append(number)
        else:
            levels.append([number])
    if len({len(level) for level in levels}) != 1:
        raise ValueError(f"the levels have {[len(level) for level in levels]} blocks; a released model has the same number in each")
    return levels


def _runs(weights: Mapping[str, Tensor], part: str, levels: int) -> list[list[int]]:
    """The numbers of the blocks on the way up, which have no gaps, in equal parts."""
    numbers = _numbers(weights, part)
    size = max(1, len(numbers) // levels)
    return [numbers[start:start + size] for start in range(0, len(numbers), size)]


def _places(down: list[list[int]], up: list[list[int]]) -> dict[tuple[str, int], str]:
    """Where every numbered block is here."""
    found = {("input_blocks", number): f"body.down.{level}.{i}" for level, numbers in enumerate(down) for i, number in enumerate(numbers)}
    return found | {("output_blocks", number): f"body.up.{level}.{i}" for level, numbers in enumerate(up) for i, number in enumerate(numbers)}


def _native(key: str, places: Mapping[tuple[str, int], str]) -> str:
    """The native name of a reference parameter inside the body.

    Raises:
        ValueError: there is no such parameter.
    """
    match = PART.fullmatch(key)
    place = None if match is None else _middle(match) if match[1] == "middle_block" else places.get((match[1], int(match[2])))
    if match is not None and place is not None:
        constant = re.fullmatch(r"emb_layers\.\d+\.\w+(\.weight)?", match[4])
        if constant:
            return f"{place}{'' if place == 'body.after' else '.residual'}.modulation.weight"
        stem, _, leaf = match[4].rpartition(".")
        if stem in RESIDUAL:
            return f"{place}{'' if place == 'body.after' else '.residual'}.{RESIDUAL[stem]}.{leaf}"
        if stem in ATTENTION:
            return f"{place}.attention.{ATTENTION[stem]}.{leaf}"
    raise ValueError(f"unknown parameter {key!r}: it belongs to no released U-Net of MDM-Prime")


def _middle(match: re.Match[str]) -> str | None:
    """A block and its attention are one here; the block after them is another."""
    return {"0": "body.middle", "1": "body.middle", "2": "body.after"}.get(match[2])


def _shaped(key: str, value: Tensor) -> Tensor:
    """1 x 1 convolutions along a line, as attention has them there, are matrices here."""
    return value[..., 0] if value.dim() == 3 and value.shape[-1] == 1 else value
