"""Numbers and headings as words, for HTML and Markdown alike."""
from __future__ import annotations

import math
from collections.abc import Sequence

from maskless.evaluation.report.compare import Cell, Column, Table, named
from maskless.evaluation.report.gather import Entry, acting, described

KINDS = {"bound": "upper bound", "exact": "exact", "estimate": "", "joint_ce": "joint cross-entropy, no bound", "measurement": "", "check": ""}
TITLES = {"generative": "Generated text", "images": "Generated images"}
ARROWS = {"lower": "lower is better", "higher": "higher is better", None: ""}


def number(value: float, error: float | None = None) -> str:
    """A value to the digits that its error leaves, or to four.

    Example:
        >>> number(27.6712, 0.123), number(5586.2, 41.0), number(0.00031416), number(1931.0), number(5586.2)
        ('27.67', '5,586', '0.0003142', '1,931', '5,586')
    """
    if not value or not math.isfinite(value):
        return f"{value:g}"
    size = math.floor(math.log10(abs(value)))
    digits = 3 - size if not error else 1 - math.floor(math.log10(error))
    digits = max(0, min(digits, 12))
    return f"{value:,.{digits}f}"


def said(entry: Entry) -> str:
    """A value with its error: `27.67 ± 0.12`; with the sign of a bound in front.

    A spread of repetitions is written `[± 4]`, for it is no standard error. A likelihood has its perplexity behind it.
    """
    result = entry.result
    error = result.uncertainty.value
    sign = "≤ " if result.kind == "bound" else ""
    perplexity = result.details.get("perplexity")
    more = f" (ppl {number(perplexity)})" if isinstance(perplexity, float) and result.kind in ("bound", "exact") else ""
    if error is None:
        return f"{sign}{number(result.value)}{more}"
    around = f"± {number(error, error)}"
    return f"{sign}{number(result.value, error)} {around if result.uncertainty.kind == 'standard error' else f'[{around}]'}{more}"


def words(metric: str) -> str:
    return metric.replace("_", " ")


def heading(column: Column) -> tuple[str, list[str]]:
    """The head of a column: the metric, and what all its values share."""
    data = [] if not column.data else [f"{named(column.data_name, column.data[1])}, {column.data[0]}"]
    scorer = [] if not column.scorer else [f"scorer {named(*column.scorer)}"]
    unit = "" if column.unit == words(column.metric) else column.unit
    tokens = f"tokens of {column.tokenizer}" if column.tokenizer else ""
    lines = (unit, KINDS[column.kind], *scorer, tokens, *data, ", ".join(column.protocol), ARROWS[column.better])
    return words(column.metric), [line for line in lines if line]


def title(suite: str) -> str:
    return TITLES.get(suite, suite.capitalize())


def titled(found: Sequence[Table]) -> list[tuple[Table, str]]:
    """Tables with headings; where a suite has several, what tells them apart."""
    named_ = []
    for table in found:
        others = [other for other in found if other.suite == table.suite and other is not table]
        apart = [value for name, value in table.terms if any(dict(other.terms).get(name) != value for other in others)]
        named_.append((table, ": ".join([title(table.suite), *(["; ".join(apart)] if apart else [])])))
    return named_


def details(cell: Cell) -> str:
    """What else belongs to a value, in one line."""
    result = cell.entry.result
    uncertainty = {"none": "no uncertainty known", "spread": "half of the spread of the repetitions"}.get(result.uncertainty.kind, "standard error")
    return f"{result.samples:,} samples, {uncertainty}, seed {result.seed}; {cell.entry.place}"


def common(table: Table) -> list[str]:
    """What the rows of a table share and need not say each: the caption."""
    lines = [f"{name}: {value}" for name, value in table.terms]
    entries = [cell.entry for row in table.rows for cell in row.cells.values()]
    told = {name for row in table.rows for name, _ in row.labels}
    seeds = {entry.result.seed for entry in entries}
    if "seed" not in told and len(seeds) == 1:
        lines.append(f"seed {seeds.pop()}")
    samplers = [acting(entry.result.sampler) for entry in entries if entry.result.sampler]
    shared = {key: value for key, value in (samplers[0] if samplers else {}).items() if all(other.get(key) == value for other in samplers)}
    if options := described(shared):
        lines.append(f"sampler: {options}")
    return lines
