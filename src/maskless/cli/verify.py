"""`maskless verify`: does this build, on this machine and device, compute the right thing?"""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from maskless.evaluation.golden import Report

DTYPES = ("float32", "float64", "bfloat16", "float16")


def verify(
    files: Annotated[list[Path], typer.Argument(
        metavar="FILE...", help="Golden files; the kind follows from the name (text_pgm_loss*.safetensors).")],
    device: Annotated[str, typer.Option(help="Where the networks run: cpu, cuda, cuda:1, mps.")] = "cpu",
    dtype: Annotated[str, typer.Option(help=f"Of the weights: {', '.join(DTYPES)}.")] = "float32",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print failures and the total only.")] = False,
) -> None:
    """Compare golden files with this build: exit 1 beyond tolerance, 2 on a file that cannot be checked."""
    import torch

    from maskless.evaluation.golden import verify as check
    from maskless.suites.parity import MORE

    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    compared, wrong, refused = 0, 0, 0
    for path in files:
        try:
            report = check(path, device=device, dtype=getattr(torch, dtype), more=MORE)
        except (ValueError, OSError) as error:
            typer.echo(f"{path.name}: cannot be checked: {error}", err=True)
            refused += 1
            continue
        show(report, quiet=quiet)
        compared += len(report.found)
        wrong += sum(not each.passed for each in report.found)
        refused += bool(report.unchecked)
    where = f"{device}, {dtype}, torch {torch.__version__}"
    typer.echo(f"{compared} tensors of {len(files)} files compared, {wrong} beyond tolerance; {where}")
    if wrong or refused:
        raise typer.Exit(1 if wrong else 2)


def show(report: Report, *, quiet: bool = False) -> None:
    """One line a tensor: worst absolute error, worst error relative to the tensor's largest entry."""
    if not quiet:
        typer.echo(f"{report.path.name} ({report.kind})")
    for each in report.found:
        if quiet and each.passed:
            continue
        verdict = "ok  " if each.passed else "FAIL"
        errors = f"abs {each.absolute:8.1e}  rel {each.relative:8.1e}"
        typer.echo(f"  {verdict}  {errors}  {each.name}  {each.note}".rstrip())
    if report.unchecked:
        names = ", ".join(report.unchecked[:5]) + (" ..." if len(report.unchecked) > 5 else "")
        typer.echo(f"{report.path.name}: not checked: {names} mean nothing in a {report.kind}", err=True)
