"""`maskless verify`: does this build, on this machine and device, compute the right thing?"""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from maskless.evaluation.golden import Case, Report

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

    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    compared, wrong, refused = 0, 0, 0
    for path in files:
        try:
            report = check(path, device=device, dtype=getattr(torch, dtype), more={"text_ema": check_ema, "image_schedules": check_schedules})
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


def check_ema(case: Case) -> None:
    """text_ema*: the moving average after each update, from recorded parameters."""
    import torch
    from torch import nn

    from maskless.training.ema import effective_decay, update

    def module(prefix: str) -> nn.ParameterList:
        return nn.ParameterList(case.input(name).clone() for name in case.names(prefix))

    average, decay = module("init/"), float(case.meta.get("decay", 0.9999))
    steps = sorted({name.split("/")[0] for name in case.names("step")}, key=lambda step: int(step[4:]))
    for n, step in enumerate(steps, 1):
        update(average, module(f"{step}/param"), effective_decay(decay, n))
        for i, shadow in enumerate(average):
            case.expect(f"{step}/shadow{i}", torch.as_tensor(shadow))


def check_schedules(case: Case) -> None:
    """image_schedules*: what decoding knows of them, and the learning rates."""
    from maskless.evaluation.golden.image_samplers import check_schedules as check_tables

    check_tables(case)
    if case.has("lr/iter"):
        check_rates(case)


def check_rates(case: Case) -> None:
    """lr/* of image_schedules*: the learning rates of the released image code, which are ours of one update earlier."""
    import torch

    from maskless.training.optim import learning_rate
    from maskless.training.recipe import Training

    about = {"base": 1e-4, "floor": 0.01, "max_iter": 1_000_000, "warmup": 2500, **case.meta.get("config", {}).get("lr", {})}
    training = Training(
        steps=about["max_iter"], lr=about["base"], lr_floor=about["base"] * about["floor"], warmup=about["warmup"], schedule="cosine_tail",
    )
    rates = [learning_rate(training, int(n) - 1) for n in case.input("lr/iter")]
    case.expect("lr/value", torch.tensor(rates, dtype=torch.float64))
