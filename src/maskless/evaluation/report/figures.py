"""The pictures of a report, as SVG that takes its colours from the page: one file suits light, dark and paper."""
from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from maskless.evaluation.drawing import logarithmic, smoothed
from maskless.evaluation.report.gather import Curve
from maskless.evaluation.report.html import clean
from maskless.evaluation.report.pareto import Pareto, by_model

INK = "#010203"                                                     # stands for the page's own colour of text
COLOURS = ("#1b6ca8", "#d1603d", "#4f7f52", "#8a63b8", "#b98216", "#3b8f8c", "#a8324a", "#7d7d7d")  # --c0 to --c7 of style.css
MARKS = "osD^vPXh"                                                  # so that nothing is told by colour alone
SIZE = (7.2, 4.3)                                                   # inches
MOST_LABELS = 40                                                    # of points; beyond that only the table tells


def svg(draw: Callable[[Any], None], name: str) -> str:
    """One plot as the text of an <svg> element.

    Args:
        draw: is given the axes.
        name: tells the ids of one plot of a page from those of another.
    """
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), INK)
    style.update({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 10})
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")  # the reader's fonts will have it
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.15, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.patch.set_visible(False)
        draw(axes)
        handles, labels = axes.get_legend_handles_labels()
        if labels:
            figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return from_page(file.getvalue(), name)


def from_page(text: str, name: str) -> str:
    """An SVG file as an element: the page's colours and fonts, no ids of its own but those that it refers to, as wide as there is room."""
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' id="(?:figure|axes|patch|line2d|text|matplotlib\.axis|xtick|ytick|legend|PathCollection|LineCollection|PolyCollection'
                  r'|FillBetweenPolyCollection)_\d+"', "", text)
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", text).replace("xlink:href", "href")
    text = re.sub(r' (?:xmlns:xlink|width|height|version)="[^"]*"', "", text, count=4)
    for place, colour in enumerate(COLOURS):
        text = text.replace(colour, f"var(--c{place})")
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text.replace(INK, "currentColor"))
    return text.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1).strip()


def pareto_svg(found: Pareto, name: str) -> str:
    """Quality against speed, a line a model; hollow where the samples are much more uniform than another's."""

    def draw(axes: Any) -> None:
        for place, (model, points) in enumerate(by_model(found.points).items()):
            colour, mark = COLOURS[place % len(COLOURS)], MARKS[place % len(MARKS)]
            speeds, qualities = [p.rate for p in points], [p.quality.result.value for p in points]
            errors = {"xerr": [p.rate_error for p in points], "yerr": [p.quality.result.uncertainty.value or 0.0 for p in points]}
            axes.errorbar(speeds, qualities, **errors, color=colour, linewidth=1, capsize=2, elinewidth=0.8, zorder=2)
            for point, speed, quality in zip(points, speeds, qualities):
                axes.plot(speed, quality, marker=mark, markersize=8, color=colour, markerfacecolor="none" if point.doubtful else colour, zorder=3)
                if len(found.points) <= MOST_LABELS:
                    axes.annotate(_beside(point), (speed, quality), xytext=(7, 5), textcoords="offset points", fontsize=8.5)
            axes.plot([], [], marker=mark, color=colour, label=_plain(model))
        _front(axes, found)
        logarithmic(axes.xaxis)
        logarithmic(axes.yaxis)
        axes.margins(0.12)
        axes.set(xlabel=_plain(found.rate), ylabel=_plain(f"{found.metric.replace('_', ' ')}, {found.better} is better"))

    return svg(draw, name)


def _front(axes: Any, found: Pareto) -> None:
    """A dotted line along the points that no other beats."""
    front = sorted((p.rate, p.quality.result.value) for p in found.points if p.front)
    if len(front) > 1:
        axes.plot(*zip(*front), color=INK, linestyle=":", linewidth=1, alpha=0.6, zorder=1, label="not beaten in both")


def _beside(point: Any) -> str:
    return f"{point.nfe}" if point.entropy is None else f"{point.nfe} · H {point.entropy:.2f}"


def losses_svg(curves: Sequence[Curve], name: str) -> str:
    """Training losses of one objective, smoothed over what was drawn at each step."""

    def draw(axes: Any) -> None:
        for place, curve in enumerate(curves):
            colour = COLOURS[place % len(COLOURS)]
            steps, losses = zip(*curve.losses)
            axes.plot(steps, losses, color=colour, alpha=0.2, linewidth=0.8)
            axes.plot(steps, smoothed(losses), color=colour, linewidth=1.6, label=_plain(curve.name), **_marked(place, len(steps)))
        axes.set(xlabel="step", ylabel="training loss")

    return svg(draw, name)


def bounds_svg(curves: Sequence[Curve], name: str) -> str:
    """Bounds on held-out rows of the same data, with two standard errors."""

    def draw(axes: Any) -> None:
        for place, curve in enumerate(curves):
            steps, bounds, errors = zip(*curve.bounds)
            axes.errorbar(steps, bounds, yerr=[2 * error for error in errors], color=COLOURS[place % len(COLOURS)], linewidth=1.6, capsize=3,
                          label=_plain(curve.name), **_marked(place, len(steps)))
        axes.set(xlabel="step", ylabel="bound on held-out rows")

    return svg(draw, name)


def _marked(place: int, count: int) -> dict[str, Any]:
    """A mark every tenth of a curve."""
    return {"marker": MARKS[place % len(MARKS)], "markersize": 5, "markevery": max(1, count // 10)}


def _plain(text: str) -> str:
    """Text that matplotlib takes as it is: neither mathematics nor a label that legends leave out."""
    text = clean(text).replace("\ufffd", "?")
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")
