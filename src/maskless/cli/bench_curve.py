"""What `maskless bench curve` does."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import typer


def measure(models: Sequence[str], asked: dict[str, Any], sampler: Sequence[str], *, weights: str, device: str, dtype: str,
            out: Path) -> None:
    """Open the models, measure them, and say where everything lies."""
    from maskless.cli.sampling import one_of
    from maskless.config import build, override, tree_of
    from maskless.decoding.options import SamplerOptions
    from maskless.evaluation.bench.setting import dtype_or_auto
    from maskless.suites.curve import Curve, curve
    from maskless.suites.subject import open_subject

    given = override({}, sampler)
    if "steps" in given:
        raise ValueError("--sampler steps is what the curve runs over; give --steps")
    usual = tree_of(SamplerOptions())
    checked = tree_of(build(SamplerOptions, {**usual, **given}, where="--sampler"))
    plan = Curve(**asked, sampler={name: checked[name] for name in given})
    chosen = cast(Literal["ema", "raw"], one_of(weights, "weights", ("ema", "raw")))
    subjects = [open_subject(model, weights=chosen, device=device, dtype=dtype_or_auto(dtype)) for model in models]
    curve(subjects, plan, out, say=typer.echo)
    typer.echo(f"Written to {out}/: a file for every number, and curve.png")
