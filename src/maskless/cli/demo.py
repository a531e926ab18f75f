"""`maskless demo`: one command, no network, no GPU, under six minutes on two cores."""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    quick: Annotated[bool, typer.Option("--quick", help="Under one minute instead of under six.")] = False,
    steps: Annotated[int | None, typer.Option(help="Train exactly so many steps (to repeat a run).", min=1)] = None,
    out: Annotated[Path, typer.Option(help="A folder that does not exist yet.")] = Path("maskless-demo"),
) -> None:
    """Train a small PGM and a small MDLM on the prose of the standard library; show bounds, texts, filled gaps and speeds."""
    from dataclasses import replace

    from maskless.cli.train import Progress
    from maskless.demo.run import FULL, QUICK
    from maskless.demo.run import demo as run

    run(out, replace(QUICK if quick else FULL, steps=steps), say=typer.echo, watch=Progress)
