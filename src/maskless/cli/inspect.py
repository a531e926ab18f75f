"""`maskless inspect`: what is in a file or folder of weights, without reading the weights."""
from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from maskless.checkpoints.inspect import Report


def inspect(
    source: Annotated[str, typer.Argument(help="A file or folder of weights, tiny (in the package), or a name on the Hugging Face Hub.")],
    set: Annotated[list[str], typer.Option("--set", metavar="NAME=VALUE", help="As for convert; may be repeated.")] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a checkpoint is: kind, architecture, parameters, tokenizer, training, moving average, and what is wrong with it."""
    from maskless.checkpoints.inspect import inspect as look
    from maskless.config import override

    report = look(source, overrides=override({}, set))
    typer.echo(json.dumps(report.tree(), indent=2) if as_json else "\n".join(lines(report)))
    if report.problems:
        raise typer.Exit(2)


def lines(report: Report) -> list[str]:
    """The report as text."""
    said = lambda tree: ", ".join(f"{name} {value}" for name, value in tree.items()) or "nothing"
    table = [f"  {group.name:<28}{group.layers:>7}{group.tensors:>9}{group.parameters:>15,}  {', '.join(group.dtypes)}" for group in report.groups]
    return [
        f"{report.source}: {report.kind} ({report.layout})",
        f"architecture: {said(report.architecture)}",
        f"  {'part':<28}{'layers':>7}{'tensors':>9}{'parameters':>15}  stored as", *table,
        f"  {'all':<28}{'':>7}{sum(group.tensors for group in report.groups):>9}{report.parameters:>15,}",
        f"tokenizer: {report.tokenizer}",
        f"training: {said(report.training)}",
        f"moving average: {report.ema}",
        *(f"inferred: {note}" for note in report.inferred),
        *(f"problem: {problem}" for problem in report.problems),
    ]
