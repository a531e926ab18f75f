"""The demo's picture: loss curves, and speed against steps."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from maskless.evaluation.drawing import smoothed
from maskless.evaluation.speed import Timing

COLOURS = ("#1b6ca8", "#d1603d")


def draw(path: Path, curves: Mapping[str, Sequence[tuple[int, float]]], speeds: Mapping[str, Sequence[Timing]]) -> None:
    """Write a PNG with both panels."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, (name, curve) in zip(COLOURS, curves.items()):
        steps, losses = zip(*curve)
        left.plot(steps, losses, color=colour, alpha=0.2, linewidth=0.8)
        left.plot(steps, smoothed(losses), color=colour, label=name)
    left.set(title="Training loss", xlabel="step", ylabel="nats per predicted token")
    left.legend(frameon=False)
    for colour, (name, timings) in zip(COLOURS, speeds.items()):
        steps = [timing.nfe for timing in timings]
        medians = [timing.tokens_per_second for timing in timings]
        spread = [[m - t.slowest for m, t in zip(medians, timings)], [t.fastest - m for m, t in zip(medians, timings)]]
        right.errorbar(steps, medians, yerr=spread, color=colour, marker="o", capsize=3, label=name)
    right.set(title="Sampling speed", xlabel="steps (calls of the model)", ylabel="tokens per second", xscale="log", yscale="log")
    right.set_xticks([timing.nfe for timing in next(iter(speeds.values()))])
    right.xaxis.set_major_formatter(ScalarFormatter())
    right.xaxis.set_minor_formatter(lambda *_: "")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    figure.savefig(path, dpi=120)
