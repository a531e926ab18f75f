"""The pictures of a bench: speed against steps and length, measured time against counted cost."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from maskless.evaluation.bench.sampling import LARGE, Row, Sampling
from maskless.evaluation.bench.setting import Setting, name_of
from maskless.evaluation.bench.training import Step
from maskless.evaluation.drawing import logarithmic, ticks_at

COLOURS = {"pgm-cached": "#d1603d", "pgm-speculative": "#8c2f39", "pgm": "#e2a72e", "pgm-confidence": "#b08d57", "pgm-entropy-bound": "#7f6a4a",
           "any-order": "#d1603d", "mdlm": "#1b6ca8", "mdlm-fair": "#1b6ca8", "mdlm-published": "#7aa6cc", "ar": "#4f7f52"}
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


def draw_sampling(path: Path, found: Sampling, subtitle: str) -> None:
    """Write a PNG: tokens/s against calls and against length, and time against counted operations and bytes."""
    names, setting, headline = _names(found), found.setting, found.at("headline")
    figure, (steps, lengths, flops, moved) = figure_of(4, f"Sampling, {_subtitle(found, subtitle)}")
    _lines(steps, [*headline, *found.at("steps")], names, lambda row: row.nfe)
    steps.set(title=f"Speed against steps, L = {setting.length}", xlabel="calls of the model (NFE)", ylabel="tokens per second")
    _lines(lengths, [*headline, *found.at("length")], names, lambda row: row.length)
    lengths.set(title=f"Speed against length, {setting.steps} steps (ar: a call a token)", xlabel="length L (tokens)", ylabel="tokens per second")
    _costs(flops, found.rows, names, lambda row: row.flops)
    flops.set(title="Time against counted operations", xlabel="operations of a generation (FLOP)", ylabel="time of a generation")
    _rate_lines(flops, found)
    _costs(moved, found.rows, names, lambda row: row.bytes, "B")
    moved.set(title="Time against counted bytes", xlabel="bytes that products read and write", ylabel="time of a generation")
    _finish(figure, steps, path, "filled: the setting itself; hollow: other steps and lengths" if len(found.rows) > len(headline) else "")


def draw_scaling(path: Path, found: Sampling, subtitle: str) -> None:
    """Write a PNG: time per call and speed against k, time per token against length, and the counted attention beside it."""
    names, setting = _names(found), found.setting
    figure, (calls, speed, tokens, attention) = figure_of(4, f"Scaling, {_subtitle(found, subtitle)}")
    size = lambda row: row.size
    _lines(calls, found.at("size"), names, size, lambda row, seconds: seconds / row.nfe, "s")
    calls.set(title=f"Time per call, L = {setting.length}", xlabel="tokens a call, k", ylabel="time of a call")
    _lines(speed, found.at("size"), names, size)
    speed.set(title=f"Speed, L = {setting.length}", xlabel="tokens a call, k", ylabel="tokens per second")
    _lines(tokens, found.at("length"), names, lambda row: row.length, lambda row, seconds: seconds / (row.batch * row.length), "s")
    tokens.set(title="Time per token", xlabel="length L (tokens)", ylabel="time of a token")
    counted = [row for row in found.at("length") if row.attention_flops]
    _lines(attention, counted, names, lambda row: row.length, lambda row, _: (row.attention_flops or 0) / (row.batch * row.length))
    attention.set(title="Counted attention per token", xlabel="length L (tokens)", ylabel="operations of attention a token (FLOP)")
    _finish(figure, tokens, path)


def draw_training(path: Path, rows: Sequence[Step], setting: Setting, subtitle: str) -> None:
    """Write a PNG: step time, and step time over MDLM's, against length."""
    names = list(dict.fromkeys(row.contender for row in rows))
    figure, (time, relative) = figure_of(2, f"Training, {subtitle}, {name_of(setting.dtype)}: V = {setting.vocab_size:,}, width {setting.width}, "
                                            f"{setting.layers} layers (partition models half and half)")
    for name in names:
        mine = sorted((row for row in rows if row.contender == name), key=lambda row: row.length)
        lengths, style = [row.length for row in mine], {"color": colour(name, names), "marker": "o", "markersize": 5, "capsize": 3, "label": name}
        time.errorbar(lengths, [row.median_seconds for row in mine], yerr=_spread([(row.median_seconds, row.seconds) for row in mine]), **style)
        ratios = [row.relative for row in mine if row.relative]
        if ratios:
            relative.errorbar(lengths, [each[0] for each in ratios], yerr=_spread([(each[0], each) for each in ratios]), **style)
    for axes in (time, relative):
        ticks_at(axes, [row.length for row in rows])
    logarithmic(time.yaxis, "s")
    time.set(title="Time of a step", xlabel="length L (tokens), equal sites a batch", ylabel="forward and backward")
    relative.set(title="Relative to mdlm", xlabel="length L (tokens), equal sites a batch", ylabel="time of a step / mdlm's")
    _finish(figure, time, path)


def _spread(values: Sequence[tuple[float, Sequence[float]]]) -> list[list[float]]:
    """Distances from each middle down to the least and up to the largest of its values."""
    return [[max(0.0, middle - min(each)) for middle, each in values], [max(0.0, max(each) - middle) for middle, each in values]]


def _names(found: Sampling) -> list[str]:
    return list(dict.fromkeys(row.contender for row in found.rows))


def _subtitle(found: Sampling, subtitle: str) -> str:
    setting = found.setting
    return (f"{subtitle}, {name_of(setting.dtype)}: V = {setting.vocab_size:,}, width {setting.width}, {setting.layers} layers "
            f"(partition models {setting.encoder_layers} + {setting.decoder_layers})")


def _finish(figure: Any, legend: Any, path: Path, note: str = "") -> None:
    handles, labels = legend.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), frameon=False, title=note, title_fontsize=9)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    figure.savefig(path, dpi=130)


def _lines(axes: Any, rows: Sequence[Row], names: Sequence[str], x: Callable[[Row], float],
           y: Callable[[Row, float], float] = lambda row, seconds: row.batch * row.length / seconds, unit: str = "") -> None:
    """One line a contender: y of the median time, with bars over the repetitions."""
    for name in names:
        mine = sorted((row for row in rows if row.contender == name), key=x)
        middle = [y(row, row.median_seconds) for row in mine]
        spread = _spread([(m, [y(row, seconds) for seconds in row.seconds]) for m, row in zip(middle, mine)])
        if mine:
            axes.errorbar([x(row) for row in mine], middle, yerr=spread, color=colour(name, names), marker="o", markersize=5, capsize=3, label=name)
    ticks_at(axes, [x(row) for row in rows])
    logarithmic(axes.yaxis, unit)


def _costs(axes: Any, rows: Sequence[Row], names: Sequence[str], x: Callable[[Row], float | None], unit: str = "") -> None:
    """A point for every contender and setting; the headline's are filled."""
    for row in rows:
        if cost := x(row):
            own = colour(row.contender, names)
            axes.plot(cost, row.median_seconds, marker="o", markersize=6.5, color=own, alpha=0.9, zorder=3 if row.point == "headline" else 2,
                      markerfacecolor=own if row.point == "headline" else "white")
    logarithmic(axes.xaxis, unit)
    logarithmic(axes.yaxis, "s")


def _rate_lines(axes: Any, found: Sampling) -> None:
    """The time that the machine's matrix rate would give, at the shapes of the setting itself."""
    flops = [row.flops for row in found.rows if row.flops]
    if not flops:
        return
    span, shapes = [min(flops), max(flops)], {LARGE, *(row.matrix_rows for row in found.at("headline") if row.contender != "ar")}
    for style, rows in zip(("--", ":", "-."), sorted(shapes, reverse=True)):
        axes.plot(span, [f / found.matrix_rates[rows] / 1e9 for f in span], color="#888888", linestyle=style, linewidth=1,
                  label=f"matrix rate, M = {rows}")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    logarithmic(axes.yaxis, "s")
