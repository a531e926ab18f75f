"""What may stand in one column, and what is best in it.

A table holds results of one suite, one kind of weights (averaged or raw) and, where it matters, one tokenizer or one machine and precision.
A column holds one metric of one kind (a joint cross-entropy is never a bound), judged by one scorer, on one set of data; of generated text
that is measured in the model's tokens, of one tokenizer. What differs in any of these stands apart; `refuse_splits` refuses it instead.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from maskless.evaluation.report.gather import Entry, acting, described

SURE = 2.0                                                          # standard errors of a difference that make it one
SUITES = ("likelihood", "generative", "images", "tasks", "speed", "parity")
TIMED = "speed"
OVER_ALL = ("distinct_", "self_bleu_", "mauve")                     # how metrics begin that depend on how many texts there are
PROTOCOL = {"length": "rows of", "batch": "batch", "window": "scorer reads", "retokenised": "retokenised", "transform": "transform",
            "real_images": "real images:", "real_rows": "real rows:", "decoded": "with decoding to pixels", "score": "score", "overlong": "overlong",
            "decoding": "decoding"}


@dataclass(frozen=True)
class Column:
    """What all values of a column share.

    Attributes:
        metric, unit, better, kind: as in the results.
        scorer: name and hash of the network that judged; empty without one.
        data: split and hash of what the value depends on; empty without any. `data_name` is what the first result calls it.
        protocol: what else changes the number: the length of the rows, how much the scorer reads, how many images.
        tokenizer: whose tokens text was measured in; empty where that is said of the table, or does not matter.
    """

    metric: str
    unit: str
    better: str | None
    kind: str
    scorer: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    protocol: tuple[str, ...] = ()
    tokenizer: str = ""
    data_name: str = field(default="", compare=False)


@dataclass(frozen=True)
class Cell:
    """A value in a table; `best` if it is better than all others of its column by more than their errors."""

    entry: Entry
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A model, and how it was used: (heading, text) pairs, the model's name first; and a cell for every column that it has a value in."""

    labels: tuple[tuple[str, str], ...]
    cells: Mapping[Column, Cell]


@dataclass(frozen=True)
class Table:
    """Results that can be read side by side.

    Attributes:
        suite: theirs.
        terms: what they all share, (name, value).
        columns: of values.
        rows: models.
    """

    suite: str
    terms: tuple[tuple[str, str], ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...] = field(default=())


def column_of(entry: Entry) -> Column:
    result = entry.result
    scorer = () if result.scorer is None else (result.scorer.name, result.scorer.hash)
    data = () if result.data is None else (result.data.split, result.data.hash)
    name = "" if result.data is None else result.data.name
    tokenizer = tokenizer_of(entry) or "" if result.suite == "generative" else ""
    return Column(result.metric, result.unit, result.better, result.kind, scorer, data, protocol_of(entry), tokenizer, name)


def protocol_of(entry: Entry) -> tuple[str, ...]:
    """What changes the number beside model and data, in words."""
    result, details = entry.result, entry.result.details
    said = [(what if details[key] is True else f"{what} {details[key]}") for key, what in PROTOCOL.items() if details.get(key) not in (None, False)]
    if result.metric == "weighted_bound" and "orders" in details:
        said.append(f"{details['orders']} orders")
    if result.suite == "generative" and result.sampler is not None and "length" in result.sampler:
        said.append(f"texts of {result.sampler['length']}")
    if result.suite == "generative" and result.metric.startswith(OVER_ALL):
        said.append(f"{result.samples:,} texts")
    return (*said, f"{result.samples:,} images") if result.suite == "images" else tuple(said)


def terms_of(entry: Entry) -> tuple[tuple[str, str], ...]:
    """What a table's results must share, in words."""
    result = entry.result
    terms = [("weights", {"ema": "moving average (EMA)", "raw": "raw, as trained"}[result.model.weights])]
    if result.suite == TIMED:
        terms += [("machine", machine(entry)), ("precision", precision(entry))]
    elif result.suite == "likelihood" and (tokenizer := tokenizer_of(entry)):
        terms.append(("tokenizer", tokenizer))
    return tuple(terms)


def tokenizer_of(entry: Entry) -> str | None:
    """Whose tokens a number is of: a likelihood's, and that of text which no scorer read in tokens of its own. None where it does not matter."""
    result = entry.result
    matters = result.suite == "likelihood" or (result.suite == "generative" and not result.details.get("retokenised"))
    return None if result.tokenizer is None or not matters else named(result.tokenizer.name, result.tokenizer.hash)


def machine(entry: Entry) -> str:
    hardware = entry.result.hardware
    found = [hardware[key] for key in ("device", "processor") if hardware.get(key)]
    threads = [f"{hardware['threads']} threads"] if "threads" in hardware else []
    return ", ".join([*found, *threads]) or "an unknown machine"


def precision(entry: Entry) -> str:
    used = entry.result.precision
    return ", ".join(f"{what} {value}" for what, value in (("weights", used.weights), ("logits", used.logits), ("draws", used.draws)) if value)


def named(name: str, digest: str) -> str:
    return f"{name} ({digest[:8]})" if digest else name


def tables(entries: Sequence[Entry]) -> list[Table]:
    """All results as tables, by suite; in the order of the files within one."""
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.result.suite, terms_of(entry)), []).append(entry)
    known = {suite: place for place, suite in enumerate(SUITES)}
    ordered = sorted(groups.items(), key=lambda group: (known.get(group[0][0], len(SUITES)), group[0][0]))
    return [_table(suite, terms, members) for (suite, terms), members in ordered]


def _table(suite: str, terms: tuple[tuple[str, str], ...], entries: Sequence[Entry]) -> Table:
    columns = _neighbours(dict.fromkeys(map(column_of, entries)))
    rows: dict[tuple[Any, ...], dict[Column, Entry]] = {}
    for entry in entries:
        key: tuple[Any, ...] = _row_key(entry)
        there = rows.get(key, {}).get(column_of(entry))
        if there is not None and there.result.value == entry.result.value:
            continue                                                # one measurement under two names
        if there is not None:
            key = (*key, entry.place)                               # measured twice in other ways than a row tells: a row of its own
        rows.setdefault(key, {})[column_of(entry)] = entry
    rows = dict(_steps_in_order(rows))
    best = {column: best_of([row[column] for row in rows.values() if column in row]) for column in columns}
    firsts = [next(iter(row.values())) for row in rows.values()]
    labels = _labels(firsts, [first.place if len(key) > len(_row_key(first)) else "" for key, first in zip(rows, firsts)])
    made = (Row(label, {column: Cell(entry, entry is best[column]) for column, entry in row.items()}) for label, row in zip(labels, rows.values()))
    return Table(suite, terms, columns, tuple(made))


def _neighbours(columns: Iterable[Column]) -> tuple[Column, ...]:
    """Columns in their order, those of one metric and set of data side by side whatever the kind of value."""
    groups: dict[tuple[Any, ...], list[Column]] = {}
    for column in columns:
        groups.setdefault((column.metric, column.scorer, column.data, column.protocol, column.tokenizer), []).append(column)
    return tuple(column for group in groups.values() for column in group)


def _steps_in_order(rows: Mapping[tuple[Any, ...], dict[Column, Entry]]) -> list[tuple[tuple[Any, ...], dict[Column, Entry]]]:
    """Models in their order, and the rows of one model from few calls to many."""
    models = {key: place for place, key in enumerate(dict.fromkeys(key[:3] for key in rows))}
    return sorted(rows.items(), key=lambda row: (models[row[0][:3]], next(iter(row[1].values())).result.nfe or 0))


def _row_key(entry: Entry) -> tuple[Any, ...]:
    result = entry.result
    return (result.model.name, result.model.hash, result.model.step, entry.how, result.plan, result.nfe, result.seed, precision(entry))


def _labels(entries: Sequence[Entry], files: Sequence[str]) -> list[tuple[tuple[str, str], ...]]:
    """Row heads. Model, parameters and steps of training are always told, the rest where it tells rows apart."""
    samplers = differing([_beside_calls(entry) for entry in entries])
    asked: list[tuple[str, list[str], bool]] = [
        ("model", _model_names(entries), True),
        ("kind", [entry.result.model.kind for entry in entries], True),
        ("parameters", [f"{entry.result.model.parameters:,}" for entry in entries], True),
        ("updates", ["" if entry.result.model.step is None else f"{entry.result.model.step:,}" for entry in entries], True),
        ("sampler", [described(sampler) for sampler in samplers], False),
        ("NFE", ["" if entry.result.nfe is None else f"{entry.result.nfe:,}" for entry in entries], True),
        ("precision", [precision(entry) for entry in entries], False),
        ("seed", [str(entry.result.seed) for entry in entries], False),
        ("file", list(files), True),
    ]
    shown = [(name, texts) for name, texts, always in asked if any(texts) and (always or len(set(texts)) > 1)]
    return [tuple((name, texts[place]) for name, texts in shown) for place in range(len(entries))]


def _beside_calls(entry: Entry) -> dict[str, Any]:
    """The options of a sampler, without the number of steps where it is that of the calls."""
    return {key: value for key, value in acting(entry.result.sampler).items() if key != "steps" or value != entry.result.nfe}


def _model_names(entries: Sequence[Entry]) -> list[str]:
    """Names; with the start of a hash where one name is of several weights."""
    weights: dict[str, set[str]] = {}
    for entry in entries:
        weights.setdefault(entry.result.model.name, set()).add(entry.result.model.hash)
    models = [entry.result.model for entry in entries]
    return [named(model.name, model.hash if len(weights[model.name]) > 1 else "") for model in models]


def differing(trees: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of every mapping, the keys that do not say the same in all of them.

    Example:
        >>> differing([{"steps": 32, "order": "random"}, {"steps": 64, "order": "random"}])
        [{'steps': 32}, {'steps': 64}]
    """
    keys = dict.fromkeys(key for tree in trees for key in tree)
    apart = [key for key in keys if any(tree.get(key) != trees[0].get(key) for tree in trees)]
    return [{key: tree[key] for key in apart if key in tree} for tree in trees]


def best_of(entries: Sequence[Entry]) -> Entry | None:
    """The best of a column: better than each other one by more than `SURE` standard errors of the difference; None if it is not that sure.

    A value whose uncertainty is unknown is compared with nothing, and a column of one value has no best.
    """
    way = entries[0].result.better
    if way is None or len(entries) < 2:
        return None
    sign = 1.0 if way == "lower" else -1.0
    first, *others = sorted(entries, key=lambda entry: sign * entry.result.value)
    return first if all(differs(first, other) for other in others) else None


def differs(one: Entry, other: Entry) -> bool:
    """Whether two values differ by more than their errors."""
    errors = [entry.result.uncertainty.value for entry in (one, other)]
    if errors[0] is None or errors[1] is None:
        return False
    return abs(one.result.value - other.result.value) > SURE * math.hypot(errors[0], errors[1])


# ----------------------------------------------------------------------------------------------- what is kept apart

APART: dict[str, Callable[[Entry], Any]] = {                        # why results of one metric are kept apart, and what of each says so
    "kinds of value": lambda entry: entry.result.kind,
    "weights": lambda entry: entry.result.model.weights,
    "scorers": lambda entry: None if entry.result.scorer is None else named(entry.result.scorer.name, entry.result.scorer.hash),
    "protocols": lambda entry: ", ".join(protocol_of(entry)),
    "units": lambda entry: entry.result.unit,
    "tokenizers": tokenizer_of,
    "machines": lambda entry: dict(terms_of(entry)).get("machine"),
    "precisions": lambda entry: dict(terms_of(entry)).get("precision"),
}


@dataclass(frozen=True)
class Split:
    """Why results of one metric are kept apart: what differs, and one result for each of its values."""

    suite: str
    metric: str
    why: str
    entries: tuple[Entry, ...]

    def __str__(self) -> str:
        values = "; ".join(_said(APART[self.why](entry)) for entry in self.entries)
        return f"{self.metric.replace('_', ' ')} for different {self.why} ({values})"


def splits(entries: Sequence[Entry]) -> list[Split]:
    """Everything that keeps results of one metric apart."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.result.suite, entry.result.metric), []).append(entry)
    found = []
    for (suite, metric), members in groups.items():
        for why, of in APART.items():
            values = {of(entry): entry for entry in reversed(members)}
            if len(values) > 1:
                found.append(Split(suite, metric, why, tuple(reversed(values.values()))))
    return found


def refuse_splits(entries: Sequence[Entry]) -> None:
    """Raise ValueError if results of one metric cannot stand in one column."""
    for split in splits(entries):
        files = " and ".join(entry.full_place for entry in split.entries[:2])
        raise ValueError(f"{files} give {split}, which no column may mix; report them apart, or leave out --together")


def _said(value: Any) -> str:
    return {"joint_ce": "joint cross-entropy, no bound", "ema": "EMA", None: "none"}.get(value, str(value))
