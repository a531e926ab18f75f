"""`maskless convert`: a released file becomes a folder of this library, a run becomes a folder for inference."""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskless.cli.sampling import Weights, one_of


def convert(
    source: Annotated[str, typer.Argument(help=(
        "A .ckpt, .pt, .pth or .safetensors file, or organisation/name[@revision][:file] on the Hub; with --dtype also a run."))],
    dest: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
    weights: Weights = "ema",
    set: Annotated[list[str], typer.Option("--set", metavar="NAME=VALUE", help=(
        "What weights cannot tell: length=512, query=learned, heads=12, mask_id=103, ... May be repeated."))] = [],  # noqa: B006
    tokenizer: Annotated[str | None, typer.Option(help="A tokenizer.json, its folder, or a name; else the file's own, or the published one.")] = None,
    codec: Annotated[Path | None, typer.Option(help="Of an image model: a released VQ tokenizer, or the folder of a codec.")] = None,
    dtype: Annotated[str | None, typer.Option(help=(
        "float32 or bfloat16: of the weights in the folder. Of a run, its tokenizer and its weights for inference are taken, no optimiser."))] = None,
) -> None:
    """Convert released weights, printing everything that was inferred. Nothing in the file is run."""
    import torch

    from maskless.checkpoints.convert import convert as run
    from maskless.config import override

    average = one_of(weights, "weights", ("ema", "raw")) == "ema"
    stored = None if dtype is None else getattr(torch, one_of(dtype, "dtype", ("float32", "bfloat16")))
    done = run(source, dest, average=average, overrides=override({}, set), tokenizer=tokenizer, codec=codec, dtype=stored)
    for note in done.notes:
        typer.echo(f"  {note}")
    typer.echo(f"{done.folder}: {done.kind}, {'moving average' if done.weights == 'ema' else 'weights as trained'}")
