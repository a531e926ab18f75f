"""What a bench prints and writes."""
from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from maskless.evaluation.bench.contenders import Networks
from maskless.evaluation.bench.peak import Memory, note
from maskless.evaluation.bench.sampling import LARGE, Row, Sampling
from maskless.evaluation.bench.setting import Setting, name_of
from maskless.evaluation.bench.training import Step
from maskless.evaluation.machine import versions

WIDE = 140                                                          # characters that a table may take, whatever the terminal says
FLOPS, BYTES = ("", "K", "M", "G", "T", "P"), ("B", "kB", "MB", "GB", "TB", "PB")


def short(value: float | None, units: Sequence[str]) -> str:
    """Three digits and a unit of a thousand; a dash for what is not known.

    Example:
        >>> short(1.25e11, FLOPS), short(50.3e6, BYTES), short(None, BYTES)
        ('125 G', '50.3 MB', '-')
    """
    if value is None:
        return "-"
    power = 0
    while value >= 999.5 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    digits = 0 if value >= 99.95 or (not power and value == int(value)) else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {units[power]}".rstrip()


def where(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    return versions(device) | {"dtype": name_of(dtype)}


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """A table on the standard output; all columns but the first `left` ones are numbers."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, width=WIDE)
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(head):
        table.add_column(escape(name), justify="left" if place < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print()
    console.print(table)


def print_sampling(found: Sampling) -> None:
    for point, title in (("headline", "Sampling"), ("steps", "Other numbers of steps"), ("length", "Other lengths")):
        if rows := found.at(point):
            print_table(title, ("contender", "B", "L", "NFE", "tokens/s", "[slowest .. fastest]", "n", "counted", "moved", "FLOP/s", "of rate",
                                "memory"), [_cells(row) for row in rows])
    rates = ", ".join(f"{rate:,.1f} at M = {rows}" for rows, rate in found.matrix_rates.items())
    width = found.setting.width
    print(f"\nmatrix rate, GFLOP/s of a product (M, {width}) @ ({width}, {4 * width}): {rates}")
    if any(row.timed_calls < row.nfe for row in found.rows):
        print("* timed on 5 calls (mdlm-published: 3): the first one, with what is made once, as it is; those after it all cost the same")
    for line in ratios(found.at("headline")):
        print(line)


def _cells(row: Row) -> list[str]:
    scaled = "*" if row.timed_calls < row.nfe else ""
    return [row.contender, str(row.batch), str(row.length), f"{row.nfe}{scaled}", f"{row.tokens_per_second:,.1f}",
            f"[{row.slowest:,.1f} .. {row.fastest:,.1f}]", str(row.repeats), short(row.flops, FLOPS), short(row.bytes, BYTES),
            short(row.gflops_per_second and row.gflops_per_second * 1e9, FLOPS), "-" if row.share is None else f"{row.share:.0%}",
            short(row.peak_bytes, BYTES)]


def ratios(rows: Sequence[Row]) -> list[str]:
    """How many times as fast the partition models are as each of the others, and variants of them as the plain and the cached one."""
    rates = {row.contender: row.tokens_per_second for row in rows}
    lines = []
    for ours in (name for name in rates if name.startswith("pgm")):
        others = [f"{rates[ours] / rate:.2f}x {name}" for name, rate in rates.items()
                  if name != ours and (name == "pgm" or not name.startswith("pgm") or (name == "pgm-cached" and ours != "pgm"))]
        if others:
            lines.append(f"{ours} is {', '.join(others)}")
    return lines


def print_scaling(found: Sampling) -> None:
    head = ("contender", "B", "L", "k", "NFE", "ms a call", "[fastest .. slowest]", "n", "us a token",
            "attention a token", "counted a token", "tokens/s")
    for point, title in (("size", f"Time per call as k falls, L = {found.setting.length}"), ("length", "Time per token as L grows")):
        rows = found.at(point)
        if rows:
            print_table(title, head, [_scaling_cells(row) for row in rows])


def _scaling_cells(row: Row) -> list[str]:
    tokens = row.batch * row.length
    times = [f"{1000 * s / row.nfe:,.3f}" for s in (min(row.seconds), max(row.seconds))]
    return [row.contender, str(row.batch), str(row.length), str(row.size), f"{row.nfe}{'*' * (row.timed_calls < row.nfe)}",
            f"{1000 * row.seconds_per_call:,.3f}", f"[{times[0]} .. {times[1]}]", str(row.repeats), f"{1e6 * row.seconds_per_token:,.1f}",
            *(short(cost and cost / tokens, FLOPS) for cost in (row.attention_flops, row.flops)), f"{row.tokens_per_second:,.1f}"]


def print_memory(rows: Sequence[Memory], device: torch.device) -> None:
    head = ("contender", "B", "L", "steps", "calls run", "weights", "caches", "peak above weights", "working", "limit", "within")
    print_table(f"Memory of sampling: {note(device)}", head, [
        [row.contender, str(row.batch), str(row.length), str(row.steps), str(row.calls), *(short(size, BYTES) for size in (
            row.weights, row.caches, row.peak, row.working, row.limit)), "yes" if row.within else "NO"] for row in rows])
    print("\nworking = peak above weights - caches (counted at full length); the limit is on it")


def print_training(rows: Sequence[Step]) -> None:
    head = ("contender", "attention", "B", "L", "ms a step", "[fastest .. slowest]", "n", "tokens/s",
            "of mdlm's time", "[least .. most]", "parameters")
    print_table("Training: forward, head on all sites, backward", head, [
        [row.contender, row.attention, str(row.batch), str(row.length), f"{1000 * row.median_seconds:,.1f}",
         f"[{1000 * min(row.seconds):,.1f} .. {1000 * max(row.seconds):,.1f}]", str(row.repeats), f"{row.tokens_per_second:,.0f}",
         *(("-", "-") if row.relative is None else (f"{row.relative[0]:.3f}", f"[{row.relative[1]:.3f} .. {row.relative[2]:.3f}]")),
         f"{row.parameters:,}"] for row in rows], left=2)


def write_json(folder: Path, document: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bench.json"
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path


def rows_document(found: Sampling, bench: str, preset: str, device: torch.device, compile: str) -> dict[str, Any]:
    """What bench.json holds; docs/bench.md says what each entry means."""
    rows = [dataclasses.asdict(row) | {"share_of_matrix_rate": row.share, "seconds_per_call": row.seconds_per_call,
                                       "seconds_per_token": row.seconds_per_token} for row in found.rows]
    return {"bench": bench, "preset": preset, "setting": found.setting.described(), "compile": compile, "weights": found.weights,
            "where": where(device, found.setting.dtype),
            "matrix_rates": {str(rows): rate for rows, rate in found.matrix_rates.items()}, "large": LARGE, "rows": rows}


def training_document(rows: Sequence[Step], setting: Setting, preset: str, device: torch.device) -> dict[str, Any]:
    return {"bench": "training", "preset": preset, "setting": setting.described(), "where": where(device, setting.dtype),
            "rows": [dataclasses.asdict(row) for row in rows]}


def memory_document(rows: Sequence[Memory], networks: Networks, preset: str) -> dict[str, Any]:
    found = [dataclasses.asdict(row) | {"working": row.working, "within": row.within} for row in rows]
    return {"bench": "memory", "preset": preset, "setting": networks.setting.described(), "weights": networks.weights,
            "where": where(networks.device, networks.setting.dtype),
            "rows": found}
