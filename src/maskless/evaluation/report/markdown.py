"""The same tables as Markdown, for a repository or a letter. Pictures become tables of their points."""
from __future__ import annotations

import re
from collections.abc import Sequence

from maskless.evaluation.report.compare import Table, splits, tables
from maskless.evaluation.report.gather import Gathered
from maskless.evaluation.report.html import clean
from maskless.evaluation.report.page import APART, LEGEND, MADE, RUN, SOURCE, curve_row, pareto_rows, source_row
from maskless.evaluation.report.pareto import paretos
from maskless.evaluation.report.words import common, heading, said, title, titled, words

SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#!~&])")


def plain(text: object) -> str:
    """Text in which nothing is Markdown or HTML, on one line.

    Example:
        >>> plain("a|b <i>_c_")
        'a\\\\|b \\\\<i\\\\>\\\\_c\\\\_'
    """
    return SPECIAL.sub(r"\\\1", " ".join(clean(text).split()))


def markdown(found: Gathered, name: str) -> str:
    """The whole of it."""
    parts = [f"<!-- {MADE} -->", f"# {plain(name)}"]
    if found.entries:
        parts += ["## Tables", plain(LEGEND)]
        if notes := [f"{title(split.suite)}: {split}" for split in splits(found.entries)]:
            parts += [APART, "\n".join(f"* {plain(note)}" for note in notes)]
        for table, name_of in titled(tables(found.entries)):
            parts += [f"### {plain(name_of)}", plain("; ".join(common(table))), result_table(table)]
    if plots := paretos(found.entries):
        parts.append("## Quality against speed")
        for plot in plots:
            head, rows = pareto_rows(plot)
            said_of = [f"{words(plot.metric)} against {plot.rate}", *(f"{key}: {value}" for key, value in plot.terms)]
            parts += [plain("; ".join(said_of)), grid(head, rows)]
    if found.curves:
        parts += ["## Training", grid(RUN, [curve_row(curve) for curve in found.curves], left=3)]
    if found.samples:
        parts.append("## Samples")
        for samples in found.samples:
            parts.append(f"### {plain(samples.path.stem.removeprefix('samples-'))}")
            parts += [fenced(text) for text in samples.texts[:3]] or [f"{samples.count:,} images in {plain(samples.path.name)}"]
    if found.entries:
        parts += ["## Sources", grid(SOURCE, [source_row(entry) for entry in found.entries])]
    return "\n\n".join(parts) + "\n"


def grid(head: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> str:
    """A table whose first `left` columns are words."""
    top, *body = [[plain(cell) for cell in row] for row in (head, *rows)]
    ruled = ["---" if place < left else "---:" for place in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (top, ruled, *body))


def result_table(table: Table) -> str:
    names = [name for name, _ in table.rows[0].labels]
    heads = [f"{metric} ({', '.join(lines)})" if lines else metric for metric, lines in map(heading, table.columns)]
    rows = []
    for row in table.rows:
        cells = [row.cells.get(column) for column in table.columns]
        values = ["–" if cell is None else said(cell.entry) + (" ★" if cell.best else "") for cell in cells]
        rows.append([*(value for _, value in row.labels), *values])
    return grid([*names, *heads], rows, left=len(names))


def fenced(text: str, most: int = 1000) -> str:
    """A sample between fences longer than any that it holds."""
    text = clean(text if len(text) <= most else f"{text[:most]} […]")
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"
