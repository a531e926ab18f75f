"""`maskless bench`: sampling speed of several models side by side, in one process."""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bench(
    what: Annotated[str, typer.Argument(help="sampling")] = "sampling",
    preset: Annotated[str, typer.Option(help="cpu-small (the configuration of the project's CPU figures) or toy.")] = "cpu-small",
    models: Annotated[str, typer.Option(help="Comma-separated: pgm, mdlm-fair, mdlm-published, ar.")] = "pgm,mdlm-fair,mdlm-published,ar",
    repeats: Annotated[int, typer.Option(help="Interleaved repetitions.", min=1)] = 5,
    out: Annotated[Path | None, typer.Option(help="Write bench.json into this folder.")] = None,
) -> None:
    """Time sampling: random weights, median and extremes of interleaved repetitions."""
    import dataclasses
    import json

    from maskless.evaluation.machine import best_device, versions
    from maskless.evaluation.speed import PRESETS, contenders, race_them

    if what != "sampling":
        raise ValueError(f"there is no bench {what}; choose sampling")
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset}; choose from {', '.join(PRESETS)}")
    setting, device = PRESETS[preset], best_device()
    timings = race_them(contenders(setting, models.split(","), device), setting.batch, setting.length, device=device, repeats=repeats,
                        progress=lambda line: typer.echo(line, err=True))
    described = {name: str(value) for name, value in dataclasses.asdict(setting).items()}
    typer.echo(", ".join(f"{name} {value}" for name, value in (described | versions()).items()))
    for timing in timings:
        typer.echo(timing.line())
    rates = {timing.name: timing.tokens_per_second for timing in timings}
    for name, rate in rates.items():
        if "pgm" in rates and name != "pgm":
            typer.echo(f"pgm is {rates['pgm'] / rate:.2f}x {name}")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        result = {"preset": preset, "setting": described, "where": versions(), "timings": [dataclasses.asdict(timing) for timing in timings]}
        (out / "bench.json").write_text(json.dumps(result, indent=2) + "\n")
