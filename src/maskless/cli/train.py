"""`maskless train`: a recipe, changes to it, a run folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from maskless.cli.live import live_line

Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RECIPE [KEY=VALUE]...",
        help="A YAML file, the name of a packaged recipe (tiny/pgm, distill/tiny_pgm) or, with --resume, a run folder; "
        "then changes such as training.steps=100.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run folder from its newest checkpoint.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="The run folder (default: runs/NAME).")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and the folder.")]


def train(arguments: Arguments = None, resume: Resume = False, out: Out = None, quiet: Quiet = False) -> None:
    """Train a model from a recipe; metrics, checkpoints and the resolved recipe go to the run folder. Ctrl-C saves."""
    from maskless.training.classifier import describes_classifier, train_classifier
    from maskless.training.run import train as run_recipe

    source, changes = asked("train", "tiny/pgm", arguments or [], resume=resume, out=out)
    if not resume and describes_classifier(source):
        trained = train_classifier(source, *changes, out=out, say=(lambda line: None) if quiet else typer.echo)
        typer.echo(trained.folder)
    else:
        carry_out("train", run_recipe, source, changes, resume=resume, out=out, quiet=quiet)


def asked(verb: str, example: str, arguments: list[str], *, resume: bool, out: Path | None) -> tuple[Any, list[str]]:
    """The recipe of a command line, or the folder to resume, and the changes to it."""
    named = [argument for argument in arguments if "=" not in argument]
    if len(named) > 1:
        raise ValueError(f"{named[1]!r} is one recipe too many after {named[0]!r}; changes are written key=value")
    source = named[0] if named else out if resume else None
    if resume and named and out is not None and (Path(named[0]) / "config.yaml").is_file() and Path(named[0]) != out:
        raise ValueError(f"{named[0]} is the run to resume and --out {out} another folder; leave --out out")
    if source is None and resume:
        raise ValueError(f"no run was given; name its folder, for example: maskless {verb} --resume runs/first")
    if source is None:
        raise ValueError(f"no recipe was given; name one, for example: maskless {verb} {example}")
    return source, [argument for argument in arguments if "=" in argument]


def carry_out(
    verb: str, run_recipe: Any, source: Any, changes: list[str], *, resume: bool, out: Path | None, quiet: bool
) -> None:
    """What train and distill share: progress, the last line, the exit code."""
    main = int(os.environ.get("RANK", "0")) == 0
    if quiet or not main:
        run = run_recipe(source, *changes, out=out, resume=resume)
    else:
        with Progress() as progress:
            run = run_recipe(source, *changes, out=out, resume=resume, callbacks=[progress])
    if main:
        typer.echo(_last_line(verb, run))
    if run.interrupted:
        raise typer.Exit(130)


def _last_line(verb: str, run: Any) -> str:
    if run.interrupted:
        where = f"stopped at step {run.state.step}, saved as {run.checkpoint}"
        return f"{where}; continue with: maskless {verb} --resume {run.folder}"
    return str(run.folder)


class Progress:
    """A live line with loss, speed and remaining time; validations, checkpoints and notes scroll above it."""

    def __enter__(self) -> Progress:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        self.bar = live_line(TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}"), TimeRemainingColumn())
        self.bar.start()
        self.task = self.bar.add_task("training", total=None, numbers="")
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def __call__(self, record: Mapping[str, Any]) -> None:
        if "steps" in record:
            self.bar.update(self.task, total=record["steps"], completed=record["step"])
        if "loss" in record:
            numbers = f"loss {record['loss']:.4f}  {record['tokens_per_second']:,.0f} tokens/s"
            self.bar.update(self.task, completed=record["step"], numbers=numbers)
        elif line := describe(record):
            self.bar.console.print(line, highlight=False, markup=False, soft_wrap=True)


def describe(record: Mapping[str, Any]) -> str:
    """One line for people about a record that is not an update; empty if there is nothing to say."""
    step = f"step {record['step']}: "
    if "bound" in record:
        perplexity = f", perplexity at most {record['perplexity']:.2f}" if "perplexity" in record else ""
        return (
            f"{step}validation bound {record['bound']:.4f} +- {record['standard_error']:.4f} nats per token{perplexity}"
        )
    if others := [f"{name} {value:.4f}" for name, value in record.items() if name.startswith("bound_") and isinstance(value, float)]:
        return f"{step}validation {', '.join(others)} nats per token"
    if "psnr" in record:
        used, perplexity = record["codes_used"], record["code_perplexity"]
        return f"{step}{record['psnr']:.2f} dB, {used:.1%} of the codes used, code perplexity {perplexity:.1f}"
    if "solved" in record:
        cells, solved, boards = record["cell_accuracy"], record["solved"], record["boards"]
        return f"{step}{cells:.1%} of the cells right, {solved:.1%} of {boards} boards solved"
    if "samples" in record:
        return "\n".join(
            [
                f"{step}samples",
                *(f"  | {line}" for sample in record["samples"] for line in str(sample)[:400].splitlines()),
            ]
        )
    if "picture" in record:
        return f"{step}samples in {record['picture']}"
    if "checkpoint" in record:
        return f"{step}saved {record['checkpoint']}"
    return f"{step}{record['note']}" if "note" in record else ""
