"""What the pictures of the demo, the bench and the report have in common. Loads no torch, and matplotlib only to draw."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def smoothed(values: Sequence[float], share: float = 0.9) -> list[float]:
    """An exponential mean without the pull towards its start."""
    total, weight, means = 0.0, 0.0, []
    for value in values:
        total, weight = share * total + (1 - share) * value, share * weight + (1 - share)
        means.append(total / weight)
    return means


def ticks_at(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic x axis with ticks where something was measured."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(set(values)), [f"{value:g}" for value in sorted(set(values))])
    axes.minorticks_off()
    axes.margins(x=0.08)


def logarithmic(axis: Any, unit: str = "") -> None:
    """Ticks at 1, 2 and 5 times powers of ten, with prefixes in place of powers."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high > 300 * low else (1.0, 2.0, 5.0) if high > 4 * low else tuple(range(1, 10))))
    axis.set_major_formatter(EngFormatter(unit, sep=" " if unit else ""))
    axis.set_minor_locator(NullLocator())
