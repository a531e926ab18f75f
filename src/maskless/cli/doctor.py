"""`maskless doctor`: what this machine is, and what speed to expect of it."""
from __future__ import annotations

import typer


def doctor() -> None:
    """Print the torch build, threads, bf16, compiler, accelerator, and measured speeds of this machine."""
    from maskless.evaluation.machine import best_device, examine
    from maskless.evaluation.speed import expected

    for name, value in (examine() | expected(best_device())).items():
        typer.echo(f"{name:>22}  {value}")
