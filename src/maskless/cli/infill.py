"""`maskless infill`: fill the gaps of a text."""
from __future__ import annotations

import re
from contextlib import nullcontext
from typing import Annotated

import typer

from maskless.cli import sampling as s


def infill(
    model: s.ModelArgument,
    text: Annotated[str, typer.Option(help="A text with ___ where tokens are missing; ___{12} is a gap of 12 tokens.")],
    lengths: Annotated[str, typer.Option(help="Tokens of each ___ : a number, one per gap (8,3), or search.")] = "search",
    steps: s.Steps = None, order: s.Order = None, plan: s.Plan = "even", block: s.Block = 0, temperature: s.Temperature = 1.0,
    top_k: s.TopK = 0, top_p: s.TopP = 1.0, guidance: s.Guidance = 0.0, candidates: s.Candidates = 0, refresh: s.Refresh = 0,
    seed: s.Seed = 0, device: s.Device = "auto",
    weights: s.Weights = "ema", watch: s.Watch = False,
) -> None:
    """Fill the gaps of a text; what is known comes back unchanged."""
    chosen = s.options(order=order, plan=plan, steps=steps, block=block, temperature=temperature, top_k=top_k, top_p=top_p, guidance=guidance,
                       candidates=candidates)
    wanted = _lengths(lengths)
    opened = s.open_model(model, weights, device)
    with s.Painter(opened.tokenizer) if watch else nullcontext() as painter:
        typer.echo(opened.infill(text, lengths=wanted, seed=seed, watch=painter, refresh=refresh, **chosen))


def _lengths(given: str) -> int | list[int] | str:
    if given == "search":
        return given
    if not re.fullmatch(r"\d+(,\d+)*", given):
        raise ValueError(f"--lengths {given} is not understood; give a number (8), one per gap (8,3) or search")
    numbers = [int(number) for number in given.split(",")]
    return numbers[0] if len(numbers) == 1 else numbers
