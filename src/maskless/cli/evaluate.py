"""`maskless evaluate`: what a model is worth, each number with its error, its seed and everything that decided it."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from maskless.cli import sampling as s
from maskless.cli.live import live_line

Words = Annotated[list[str] | None, typer.Argument(
    metavar="[SUITE|RECIPE|SUITE.KEY=VALUE]...",
    help="likelihood, generative, images, tasks, speed, parity; a recipe with an evaluation section; changes such as likelihood.budget=8. "
    "By default what the recipe of the model's run says.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="The folder of results and samples (default: RUN/results, else results).")]
Name = Annotated[str | None, typer.Option(help="What results and tables call the model (default: the last word of its path).")]
Seed = Annotated[int | None, typer.Option(help="Of everything that is drawn.", min=0)]
Samples = Annotated[int | None, typer.Option(help="generative, images: how many to draw.")]
Budget = Annotated[int | None, typer.Option(help="likelihood: draws (orders) per row; tasks: draws per answer.")]
Rows = Annotated[int | None, typer.Option(help="likelihood, images, tasks: at most so many real rows (questions).")]
Files = Annotated[list[str] | None, typer.Option(help="tasks: question files or folders; parity: golden files. May be given several times.")]
SamplerChanges = Annotated[list[str] | None, typer.Option(
    "--sampler", metavar="KEY=VALUE", help="steps=64, order=margin, top_p=0.9, ...; may be given several times.")]
Scorer = Annotated[str | None, typer.Option(help="generative: an autoregressive checkpoint, or a causal model of transformers (gpt2-large).")]
Data = Annotated[str | None, typer.Option(help="likelihood, images: a recipe, a known data set, a text file or folder, or a data section in YAML.")]
BatchSize = Annotated[int, typer.Option(help="Rows read at a time; no result depends on it.", min=1)]
Share = Annotated[str | None, typer.Option(help="i/n: draw only this process's samples, to be measured by a later command without it.")]
Raw = Annotated[bool, typer.Option("--raw", help="The weights as trained, not their moving average.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[str, typer.Option(help="Of the weights that sample: auto, float32, bfloat16 or float16. Likelihoods always use float32.")]
TokenizerName = Annotated[str | None, typer.Option("--tokenizer", help="Of released files that neither hold nor name theirs.")]
CodecName = Annotated[str | None, typer.Option("--codec", help="Of image models that come without theirs.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def evaluate(
    model: s.ModelArgument, words: Words = None, out: Out = None, name: Name = None, seed: Seed = None, samples: Samples = None,
    budget: Budget = None, rows: Rows = None, sampler: SamplerChanges = None, scorer: Scorer = None, data: Data = None, files: Files = None,
    batch_size: BatchSize = 64, shard: Share = None, raw: Raw = False, device: Device = "auto", dtype: Dtype = "auto",
    tokenizer: TokenizerName = None, codec: CodecName = None, quiet: Quiet = False,
) -> None:
    """Measure a model: one JSON file a number. A second run gives the same bytes but for times, and goes on where a killed one stopped."""
    from maskless.evaluation.bench.setting import dtype_or_auto
    from maskless.suites.evaluate import evaluate as measure
    from maskless.suites.request import sampler_of
    from maskless.suites.session import shard_of

    with Progress(quiet or shard_of(shard).index > 0) as progress:
        found = measure(
            model, *(words or []), out=out, name=name, weights="raw" if raw else "ema", seed=seed, samples=samples, budget=budget, rows=rows,
            sampler=sampler_of(sampler or []), scorer=scorer, data=data, files=files, batch_size=batch_size, shard=shard, say=progress.say,
            progress=progress, device=_own(device), dtype=dtype_or_auto(dtype), tokenizer=tokenizer, codec=codec)
    if any(result.details.get("beyond_tolerance") for result in found):
        raise typer.Exit(1)


def _own(device: str) -> str:
    """The GPU of this process, where torchrun started one for each."""
    if device != "auto" or "LOCAL_RANK" not in os.environ:
        return device
    import torch

    return f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else device


class Progress:
    """A live line: what is being done, how much of it, and the time that is left; results scroll above it."""

    def __init__(self, quiet: bool):
        self.quiet, self.task, self.what = quiet, None, ""

    def __enter__(self) -> Progress:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(elapsed_when_finished=True))
        self.bar = live_line(*columns, quiet=self.quiet)
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def say(self, line: str) -> None:
        if not self.quiet:
            self.bar.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def __call__(self, what: str, done: int, total: int) -> None:
        if self.task is None or what != self.what or done == 0:
            if self.task is not None:
                self.bar.remove_task(self.task)
            self.task, self.what = self.bar.add_task(what, total=total or None), what
        self.bar.update(self.task, completed=done)
