"""The pictures of a bench: speed against steps and length, measured time against counted cost."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from maskless.evaluation.bench.sampling import LARGE, Row, Sampling
from maskless.evaluation.bench.setting import name_of

COLOURS = {"pgm-cached": "#d1603d", "pgm-speculative": "#8c2f39", "pgm": "#e2a72e", "pgm-confidence": "#b08d57", "pgm-entropy-bound": "#7f6a4a",
           "mdlm-fair": "#1b6ca8", "mdlm-published": "#7aa6cc", "ar": "#4f7f52"}
OTHERS = ("#6b4e9b", "#3b8f8c", "#999999")


def colour(name: str, names: Sequence[str]) -> str:
    return COLOURS.get(name) or OTHERS[list(names).index(name) % len(OTHERS)]


def figure_of(panels: int, title: str) -> tuple[Any, list[Any]]:
    """A figure without a window, its panels in rows of two."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    rows = (panels + 1) // 2
    figure = Figure(figsize=(11, 0.6 + 4 * rows), layout="constrained")
    figure.suptitle(title, fontsize=10, color="#444444")
    axes = list(figure.subplots(rows, 2, squeeze=False).flat)
    for spare in axes[panels:]:
        spare.remove()
    for each in axes[:panels]:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(alpha=0.25, linewidth=0.6)
        each.set_axisbelow(True)
    return figure, axes[:panels]


def ticks_at(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic x axis with ticks where something was measured."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(set(values)), [f"{value:g}" for value in sorted(set(values))])
    axes.minorticks_off()


def draw_sampling(path: Path, found: Sampling, subtitle: str) -> None:
    """Write a PNG: tokens/s against calls and against length, and time against counted operations and bytes."""
    names = list(dict.fromkeys(row.contender for row in found.rows))
    setting = found.setting
    title = (f"Sampling, {subtitle}, {name_of(setting.dtype)}: V = {setting.vocab_size:,}, width {setting.width}, {setting.layers} layers "
             f"(partition models {setting.encoder_layers} + {setting.decoder_layers})")
    figure, (steps, lengths, flops, moved) = figure_of(4, title)
    _speeds(steps, [*found.at("headline"), *found.at("steps")], names, lambda row: row.nfe)
    steps.set(title=f"Speed against steps, L = {setting.length}", xlabel="calls of the model (NFE)", ylabel="tokens per second")
    _speeds(lengths, [*found.at("headline"), *found.at("length")], names, lambda row: row.length)
    lengths.set(title=f"Speed against length, {setting.steps} steps (ar: one call a token)", xlabel="length L (tokens)", ylabel="tokens per second")
    _costs(flops, found.rows, names, lambda row: row.flops)
    flops.set(title="Time against counted operations", xlabel="counted FLOP of a generation", ylabel="seconds of a generation")
    rates = {m: rate for m, rate in found.matrix_rates.items() if m in (LARGE, min(found.matrix_rates))}
    _rate_lines(flops, [row.flops for row in found.rows if row.flops], rates)
    _costs(moved, found.rows, names, lambda row: row.bytes)
    moved.set(title="Time against counted bytes", xlabel="counted bytes read and written by products", ylabel="seconds of a generation")
    handles, labels = steps.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=130)


def _speeds(axes: Any, rows: Sequence[Row], names: Sequence[str], x: Callable[[Row], float]) -> None:
    """One line a contender: medians, with bars from slowest to fastest."""
    for name in names:
        mine = sorted((row for row in rows if row.contender == name), key=x)
        medians = [row.tokens_per_second for row in mine]
        spread = [[row.tokens_per_second - row.slowest for row in mine], [row.fastest - row.tokens_per_second for row in mine]]
        axes.errorbar([x(row) for row in mine], medians, yerr=spread, color=colour(name, names), marker="o", markersize=5, capsize=3, label=name)
    ticks_at(axes, [x(row) for row in rows])
    axes.set_yscale("log")


def _costs(axes: Any, rows: Sequence[Row], names: Sequence[str], x: Callable[[Row], float | None]) -> None:
    """A point for every contender and setting; the headline's are filled."""
    for name in names:
        for row in rows:
            cost = x(row)
            if row.contender == name and cost:
                face = colour(name, names) if row.point == "headline" else "white"
                axes.plot(cost, row.median_seconds, marker="o", markersize=6, color=colour(name, names), markerfacecolor=face)
    axes.set(xscale="log", yscale="log")


def _rate_lines(axes: Any, flops: Sequence[float], rates: dict[int, float]) -> None:
    """The time that the machine's matrix rate would give."""
    if not flops:
        return
    span = [min(flops), max(flops)]
    for style, (rows, rate) in zip((":", "--"), sorted(rates.items())):
        axes.plot(span, [f / rate / 1e9 for f in span], color="#888888", linestyle=style, linewidth=1, label=f"matrix rate, M = {rows}")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
