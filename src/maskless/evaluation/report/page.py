"""The page: one HTML file that asks for nothing, with tables that a screen reader can walk and pictures that have their numbers beside them."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maskless.evaluation.report.compare import Cell, Table, precision, splits, tables
from maskless.evaluation.report.figures import bounds_svg, losses_svg, pareto_svg
from maskless.evaluation.report.gather import Curve, Entry, Gathered, Samples
from maskless.evaluation.report.html import Element, join, png, tag
from maskless.evaluation.report.pareto import SEPARATED, Pareto, paretos
from maskless.evaluation.report.words import common, details, heading, number, said, title, titled, words

CUT = 3000                                                          # characters of a sample that a page has room for
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # a reader's browser refuses whatever else a page might ask for
MADE = "made by maskless report"
LEGEND = ("≤ is an upper bound, ± a standard error, [±] half of the spread of repetitions. ★ marks a value that is better than every other of its "
          "column by more than two errors of their difference; a column without ★ has no such value.")
RUN = ("run", "objective", "data", "last step", "last loss", "last bound")
SOURCE = ("file", "value", "samples", "seed", "weights", "precision", "data", "plan", "code", "hardware", "seconds")
APART = "Kept apart, because the numbers cannot be compared:"
POINTS = ("Points are labelled with the calls of the model (NFE) and, where it was measured, the entropy H of the samples in nats. A point is hollow "
          f"if its samples have an entropy more than {SEPARATED} nats below the highest of its plot: text that repeats itself is easy to predict.")


def page(found: Gathered, name: str) -> str:
    """The whole of it."""
    sections = [each for each in (_results(found), _speed(found), _curves(found.curves), _samples(found.samples), _sources(found.entries)) if each]
    links = [tag("a", label, href=f"#{label.lower().replace(' ', '-')}") for label, _ in sections]
    bodies = [tag("section", tag("h2", label, id=label.lower().replace(" ", "-")), body) for label, body in sections]
    style = Element(Path(__file__).with_name("style.css").read_text(encoding="utf-8"))
    head = join(Element('<meta charset="utf-8">'), Element(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
                Element('<meta name="viewport" content="width=device-width, initial-scale=1">'), Element(f'<meta name="generator" content="{MADE}">'),
                tag("title", name), tag("style", style))
    body = tag("main", tag("h1", name), tag("p", _summary(found), class_="soft"), tag("nav", *links, aria_label="Sections"), *bodies,
               tag("footer", f"{MADE} from {len({entry.path for entry in found.entries})} result files."))
    return f"<!DOCTYPE html>\n{tag('html', tag('head', head), tag('body', body), lang='en')}\n"


def _summary(found: Gathered) -> str:
    """What the page is about, in a line."""
    models = {entry.result.model.name for entry in found.entries}
    counted = ((len(found.entries), "result"), (len(models), "model"), (len(found.curves), "run"), (sum(map(_count, found.samples)), "sample"))
    counts = ", ".join(f"{count:,} {what}{'s' if count != 1 else ''}" for count, what in counted if count)
    dates = sorted(entry.result.date for entry in found.entries if entry.result.date)
    return f"{counts}{f'; measured until {dates[-1]}' if dates else ''}"


def _count(samples: Samples) -> int:
    return samples.count


def wide(content: Element, label: str) -> Element:
    """A table that may be wider than the page: scrolled by touch or by keyboard."""
    return tag("div", content, class_="wide", role="region", aria_label=label, tabindex="0")


def plain_table(caption: str, head: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> Element:
    """A table whose first `left` columns are words and whose first is a row's name."""
    side = lambda place: "text" if place < left else None
    cell = lambda place, content: tag("td" if place else "th", content, class_=side(place), scope=None if place else "row")
    top = tag("tr", *(tag("th", name, scope="col", class_=side(place)) for place, name in enumerate(head)))
    body = [tag("tr", *(cell(place, content) for place, content in enumerate(row))) for row in rows]
    return wide(tag("table", tag("caption", caption, class_="unseen"), tag("thead", top), tag("tbody", *body)), caption)


# ------------------------------------------------------------------------------------------------------------ tables


def _results(found: Gathered) -> tuple[str, Element] | None:
    if not found.entries:
        return None
    notes = [f"{title(split.suite)}: {split}" for split in splits(found.entries)]
    apart = tag("div", tag("p", APART), tag("ul", *(tag("li", note) for note in notes)), class_="notes")
    made = [join(tag("h3", name), result_table(table, name)) for table, name in titled(tables(found.entries))]
    return "Tables", join(tag("p", LEGEND, class_="soft"), apart if notes else "", *made)


def result_table(table: Table, name: str) -> Element:
    """Models down, metrics across."""
    names = [name for name, _ in table.rows[0].labels]
    top = [tag("th", name, scope="col", class_="text") for name in names]
    for column in table.columns:
        metric, lines = heading(column)
        top.append(tag("th", metric, *(tag("small", line) for line in lines), scope="col"))
    rows = []
    for row in table.rows:
        (_, model), *rest = row.labels
        labels = [tag("th", model, scope="row"), *(tag("td", value, class_="text") for _, value in rest)]
        rows.append(tag("tr", *labels, *(_value(row.cells.get(column)) for column in table.columns)))
    inside = tag("table", tag("caption", name, class_="unseen"), tag("thead", tag("tr", *top)), tag("tbody", *rows))
    return join(tag("p", "; ".join(common(table)), class_="caption"), wide(inside, name))


def _value(cell: Cell | None) -> Element:
    if cell is None:
        return tag("td", tag("span", "–", aria_label="not measured"), class_="value")
    star = tag("span", " ★", role="img", aria_label="best") if cell.best else ""
    return tag("td", said(cell.entry), star, class_="value best" if cell.best else "value", title=details(cell))


# ----------------------------------------------------------------------------------------------------------- pictures


def _speed(found: Gathered) -> tuple[str, Element] | None:
    plots = paretos(found.entries)
    if not plots:
        return None
    return "Quality against speed", join(tag("p", POINTS, class_="soft"), *(_pareto(plot, f"p{place}") for place, plot in enumerate(plots)))


def _pareto(plot: Pareto, name: str) -> Element:
    terms = "; ".join(f"{key}: {value}" for key, value in plot.terms)
    caption = f"{words(plot.metric)} against {plot.rate}. {terms}"
    figure = tag("figure", Element(pareto_svg(plot, name)), tag("figcaption", caption))
    head, rows = pareto_rows(plot)
    return join(tag("h3", f"{words(plot.metric)} against {plot.rate}"), figure,
                tag("details", tag("summary", "The same as a table"), plain_table(caption, head, rows)))


def pareto_rows(plot: Pareto) -> tuple[list[str], list[list[str]]]:
    """The points of a plot as a table."""
    head = ["model", "NFE", words(plot.metric), plot.rate, "entropy", "not beaten in both"]
    entropy = lambda point: "–" if point.entropy is None else number(point.entropy)
    return head, [[point.model, str(point.nfe), said(point.quality), number(point.rate, point.rate_error), entropy(point),
                   "yes" if point.front else "no"] for point in plot.points]


def _curves(curves: Sequence[Curve]) -> tuple[str, Element] | None:
    if not curves:
        return None
    drawn = []
    for place, (what, group) in enumerate(curve_groups(curves).items()):
        draw, title_, caption = (losses_svg, "Training loss", "mean of neighbouring steps (pale) and smoothed") if what[0] == "loss" else \
            (bounds_svg, "Bound on held-out rows", "bars are two standard errors")
        note = "; losses of other objectives are other quantities and stand apart" if what[0] == "loss" else ""
        drawn += [tag("h3", f"{title_}: {what[1]}"), tag("figure", Element(draw(group, f"c{place}")), tag("figcaption", f"{caption}{note}"))]
    return "Training", join(*drawn, plain_table("Runs", RUN, [curve_row(curve) for curve in curves], left=3))


def curve_row(curve: Curve) -> list[str]:
    """A run in words, for a table."""
    last = max([step for step, *_ in (*curve.losses, *curve.bounds)])
    bound = "–"
    if curve.bounds:
        _, value, error = curve.bounds[-1]
        bound = f"≤ {number(value, error)} ± {number(error, error)}" if error else f"≤ {number(value)}"
    return [curve.name, curve.objective, curve.data, f"{last:,.0f}", number(curve.losses[-1][1]) if curve.losses else "–", bound]


def curve_groups(curves: Sequence[Curve]) -> dict[tuple[str, str], list[Curve]]:
    """Curves that may share axes: losses by objective, bounds by data."""
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in curves:
        if curve.losses:
            groups.setdefault(("loss", f"objective {curve.objective}"), []).append(curve)
        if curve.bounds:
            groups.setdefault(("bound", curve.data or "unknown data"), []).append(curve)
    return dict(sorted(groups.items(), key=lambda group: group[0][0], reverse=True))


# ------------------------------------------------------------------------------------------------- samples and sources


def _samples(samples: Sequence[Samples]) -> tuple[str, Element] | None:
    if not samples:
        return None
    return "Samples", join(tag("p", "The first of each file, as they came.", class_="soft"),
                           *(_browser(each, opened=not place) for place, each in enumerate(samples)))


def _browser(samples: Samples, *, opened: bool) -> Element:
    """What one model made, folded."""
    name = samples.path.stem.removeprefix("samples-")
    result = samples.entry.result if samples.entry is not None else None
    how = "" if result is None else f": {result.model.name}, NFE {result.nfe}"
    if samples.picture is not None:
        count = f"{samples.count:,} images" if samples.count > 1 else "a picture"
        content: Sequence[Element] = [png(samples.picture, f"Samples of {name}")]
    else:
        count = f"{len(samples.texts)} of {samples.count:,} texts"
        content = [tag("pre", each if len(each) <= CUT else f"{each[:CUT]} […]") for each in samples.texts]
    summary = tag("summary", tag("strong", name), f"{how} ", tag("span", f"({count})", class_="soft"))
    return tag("details", summary, *content, open="" if opened else None)


def _sources(entries: Sequence[Entry]) -> tuple[str, Element] | None:
    """Every result and what decided it."""
    if not entries:
        return None
    table = plain_table("Results and their files", SOURCE, [source_row(entry) for entry in entries])
    return "Sources", tag("details", tag("summary", f"All {len(entries)} results, and what decided their values"), table)


def source_row(entry: Entry) -> list[str]:
    result = entry.result
    data = "–" if result.data is None else f"{result.data.name} {result.data.split} ({result.data.hash[:8]}), {result.data.documents:,} documents"
    machine = result.hardware.get("processor") or result.hardware.get("device") or "–"
    weights = f"{result.model.weights} {result.model.hash[:8]}"
    return [entry.place, said(entry), f"{result.samples:,}", str(result.seed), weights, precision(entry), data, result.plan or "–",
            f"{result.code.version} {result.code.source[:8]}", machine, f"{result.wall_seconds:,.1f}"]


