"""`maskless score`: how probable a text is, alone or in the gaps of another."""
from __future__ import annotations

from typing import Annotated

import typer

from maskless.cli import imaging
from maskless.cli import sampling as s


def score(
    model: s.ModelArgument,
    text: Annotated[list[str], typer.Option(help="What is scored; given several times, one for each gap of --given.")],
    given: Annotated[str, typer.Option(help="A text with ___ where what is scored stands; without any, what goes before it.")] = "___",
    samples: Annotated[int, typer.Option(help="Draws of the bound, at least 2.")] = 128,
    seed: Annotated[int, typer.Option(help="Of these draws.")] = 0,
    device: s.Device = "auto", weights: s.Weights = "ema",
) -> None:
    """Say the log-probability of a text, in nats: a lower bound with its error, exact for an autoregressive model."""
    opened = s.open_model(model, weights, device)
    if imaging.makes_images(opened):
        raise ValueError(f"{model} makes images, and texts are scored; give a model of text")
    found = opened.logprob(text, given=given, samples=samples, seed=seed)
    error = "" if found.kind == "exact" else f" +- {found.standard_error:.3f}"
    typer.echo(f"{found.nats:.3f}{error} nats ({found.kind}), {found.tokens} tokens, {found.nats_per_token:.3f} each")
