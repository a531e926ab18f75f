"""What a whole generation costs, counted from sizes and plan: floating-point operations, and bytes that its products read and write.

Counted: every matrix product with a weight (2 operations a multiply-add) and the two products of attention, over the full rectangle of
queries x keys that is computed (where values are projected after mixing, that projection too). Bytes: a product reads both factors and
writes its result once, attention reads q, k, v and writes its output once, all in the dtype of the run. Not counted: norms, activations,
rotations, softmax, embeddings, masks, the draw of tokens, copies.

B rows, L sites, D width, V vocabulary.
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from maskless.decoding.choice import FIRST, Choice
from maskless.decoding.ends import even
from maskless.layers.attention import Absorbing


class Cost(NamedTuple):
    flops: float = 0.0
    bytes: float = 0.0

    def plus(self, other: Cost, times: int = 1) -> Cost:
        return Cost(self.flops + times * other.flops, self.bytes + times * other.bytes)


Parts = dict[str, Cost]
"""Costs by part of the model: layers, attention, swap, swap attention, head."""


class Call(NamedTuple):
    """One call of the predictor, a row: `known` sites are visible, `fresh` of them were not at the last call, `asked` are queried."""

    known: int
    fresh: int
    asked: int


@dataclass(frozen=True)
class Run:
    """B rows of L sites, in numbers of `itemsize` bytes."""

    batch: int
    length: int
    itemsize: int

    def product(self, sites: int, inner: int, outer: int, reads: int = 1) -> Cost:
        """(B * sites, inner) @ (inner, outer); the weight is read `reads` times."""
        rows = self.batch * sites
        return Cost(2.0 * rows * inner * outer, self.itemsize * (rows * (inner + outer) + reads * inner * outer))

    def attention(self, queries: int, keys: int, width: int) -> Cost:
        return Cost(4.0 * self.batch * queries * keys * width, self.itemsize * self.batch * width * 2 * (queries + keys))


def calls_of(length: int, steps: int) -> list[Call]:
    """The plan of PGM's uniform-k on rows that know their BOS: each call asks for what it reveals."""
    ends = [0, *even(length - 1, steps)]
    known, calls = 0, []
    for begin, end in pairwise(ends):
        if end > begin:
            calls.append(Call(1 + begin, 1 + begin - known, end - begin))
            known = 1 + begin
    return calls


def total(parts: Parts) -> Cost:
    return _sum(parts.values())


def attention(parts: Parts) -> Cost:
    """What all attention costs, the swap's too."""
    return _sum(part for name, part in parts.items() if name.endswith("attention"))


def _sum(costs: Iterable[Cost]) -> Cost:
    whole = Cost()
    for cost in costs:
        whole = whole.plus(cost)
    return whole


def _sums(parts: Iterable[Parts]) -> Parts:
    """The sum over calls, part by part."""
    whole: Parts = {}
    for of_call in parts:
        for name, cost in of_call.items():
            whole[name] = whole.get(name, Cost()).plus(cost)
    return whole


def _self_layers(run: Run, sites: int, width: int, layers: int) -> Cost:
    """Queries, keys, values and output projection; up and down of the MLP."""
    one = _sum([run.product(sites, width, 3 * width), run.product(sites, width, width), *_mlp(run, sites, width)])
    return Cost().plus(one, layers)


def _cross_layers(run: Run, sites: int, width: int, layers: int) -> Cost:
    one = _sum([run.product(sites, width, width), run.product(sites, width, width), *_mlp(run, sites, width)])
    return Cost().plus(one, layers)


def _mlp(run: Run, sites: int, width: int) -> list[Cost]:
    return [run.product(sites, width, 4 * width), run.product(sites, 4 * width, width)]


def _head(run: Run, sites: int, config: Any, chunk: int = Choice().chunk) -> Cost:
    """The head on the queried sites, in the pieces of a draw: its weight is read once for each."""
    later = max(0, run.batch * sites - FIRST)
    return run.product(sites, config.width, config.vocab_size, 1 + math.ceil(later / max(1, chunk // config.vocab_size)))


def masked_fair(config: Any, run: Run, calls: Sequence[Call]) -> Parts:
    """All sites pass the layers at every call, the head sees the asked ones."""
    return _sums({**_masked_layers(config, run), "head": _head(run, call.asked, config)} for call in calls)


def masked_published(config: Any, run: Run, calls: Sequence[Call]) -> Parts:
    """All sites pass the layers and the head at every call."""
    return _sums({**_masked_layers(config, run), "head": _head(run, run.length, config, 1 << 30)} for _ in calls)


def _masked_layers(config: Any, run: Run) -> Parts:
    return {"layers": _self_layers(run, run.length, config.width, config.layers),
            "attention": Cost().plus(run.attention(run.length, run.length, config.width), config.layers)}


class Look(NamedTuple):
    """What queries of one call cost: keys and values for the swap and for the decoder, and the attention of one layer."""

    swap: Cost
    decoder: Cost
    attention: Cost


def partition(config: Any, run: Run, calls: Sequence[Call]) -> Parts:
    """Everything known passes the encoder at every call; values are projected after mixing where that is less work (`Absorbing`)."""
    def look(call: Call) -> Look:
        few = Absorbing.pays(call.asked, config.heads, config.width)
        return _absorbing(config, run, call) if few else _values_of_all(config, run, call)

    return _partition(config, run, [(call, call.known, look(call)) for call in calls])


def partition_published(config: Any, run: Run, calls: Sequence[Call]) -> Parts:
    """The same with values of every key at every call, as the paper has it."""
    return _partition(config, run, [(call, call.known, _values_of_all(config, run, call)) for call in calls])


def partition_cached(config: Any, run: Run, calls: Sequence[Call]) -> Parts:
    """What became known since the last call passes the encoder, and looks at everything known; one product makes the decoder's keys and values."""
    def look(call: Call) -> Look:
        return Look(run.product(call.fresh, config.width, 2 * config.width),
                    run.product(call.fresh, config.width, 2 * config.width * config.decoder_layers),
                    run.attention(call.asked, call.known, config.width))

    return _partition(config, run, [(call, call.fresh, look(call)) for call in calls])


def _values_of_all(config: Any, run: Run, call: Call) -> Look:
    one = run.product(call.known, config.width, 2 * config.width)
    return Look(one, Cost().plus(one, config.decoder_layers), run.attention(call.asked, call.known, config.width))


def _absorbing(config: Any, run: Run, call: Call) -> Look:
    """Scores from keys, the memory itself mixed by each head, the mixtures projected."""
    width, mixtures = config.width, config.heads * call.asked
    keys = run.product(call.known, width, width)
    flops = 2.0 * run.batch * width * (call.asked * call.known + mixtures * call.known + call.asked * width)
    numbers = run.batch * width * 2 * (call.asked + call.known + mixtures) + width * width
    return Look(keys, Cost().plus(keys, config.decoder_layers), Cost(flops, run.itemsize * numbers))


def _partition(config: Any, run: Run, encoded: Sequence[tuple[Call, int, Look]]) -> Parts:
    """For every call, how many sites pass the encoder, and what its queries cost beside their own layers."""
    width, encoder, decoder = config.width, config.encoder_layers, config.decoder_layers
    parts = _sums({
        "layers": _self_layers(run, sites, width, encoder).plus(look.decoder).plus(_cross_layers(run, call.asked, width, decoder)),
        "attention": Cost().plus(run.attention(sites, call.known, width), encoder).plus(look.attention, decoder),
        "swap": look.swap.plus(run.product(call.asked, width, width)),
        "swap attention": look.attention,
        "head": _head(run, call.asked, config),
    } for call, sites, look in encoded)
    queries = Run(1, run.length, run.itemsize).product(run.length, width, width)                # of all sites, once, shared by the rows
    return {**parts, "swap": parts["swap"].plus(queries)}


def autoregressive(config: Any, run: Run, calls: Sequence[Call]) -> Parts:
    """One fresh token a call, which looks at every key of the cache."""
    width = config.width
    return _sums({
        "layers": _self_layers(run, call.fresh, width, config.layers),
        "attention": Cost().plus(run.attention(call.fresh, call.known, width), config.layers),
        "head": _head(run, call.asked, config),
    } for call in calls)


def no_cache(config: Any, run: Run) -> int:
    return 0


def autoregressive_cache(config: Any, run: Run) -> int:
    """Bytes of the keys and values of every layer."""
    return 2 * config.layers * run.batch * (run.length + 1) * config.width * run.itemsize


def partition_cache(config: Any, run: Run) -> int:
    """Bytes of the keys and values of encoder, swap and decoder."""
    return 2 * (config.encoder_layers + 1 + config.decoder_layers) * run.batch * (run.length + 1) * config.width * run.itemsize
