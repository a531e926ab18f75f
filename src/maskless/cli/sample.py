"""`maskless sample`: texts from a trained model."""
from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from maskless.cli import sampling as s


def sample(
    model: s.ModelArgument,
    n: Annotated[int, typer.Option("-n", "--number", help="How many texts.")] = 1,
    prompt: Annotated[str, typer.Option(help="How each text begins.")] = "",
    prompt_file: Annotated[Path | None, typer.Option(help="A file that holds the prompt.")] = None,
    length: Annotated[int | None, typer.Option(help="Sites of a row, prompt included; by default the model's length.")] = None,
    steps: s.Steps = None, order: s.Order = None, plan: s.Plan = "even", block: s.Block = 0, temperature: s.Temperature = 1.0,
    top_k: s.TopK = 0, top_p: s.TopP = 1.0, guidance: s.Guidance = 0.0, candidates: s.Candidates = 0, refresh: s.Refresh = 0, draft: s.Draft = 0,
    stop: Annotated[bool, typer.Option("--stop", help="End a text at the first end-of-text token.")] = False,
    seed: s.Seed = 0, device: s.Device = "auto", weights: s.Weights = "ema", watch: s.Watch = False,
) -> None:
    """Generate texts, in parallel and in any order."""
    if prompt_file is not None:
        prompt = _read_prompt(prompt_file, prompt)
    chosen = s.options(order=order, plan=plan, steps=steps, block=block, temperature=temperature, top_k=top_k, top_p=top_p,
                       guidance=guidance, candidates=candidates, draft=draft, stop=stop)
    opened = s.open_model(model, weights, device)
    with s.Painter(opened.tokenizer) if watch else nullcontext() as painter:
        texts = opened.generate(n, prompt=prompt, length=length, seed=seed, watch=painter, refresh=refresh, **chosen)
    for number, text in enumerate(texts):
        if n > 1:
            typer.secho(f"--- {number + 1} of {n} ---", dim=True)
        typer.echo(text)


def _read_prompt(path: Path, prompt: str) -> str:
    if prompt:
        raise ValueError("--prompt and --prompt-file were both given; give one")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else "is not UTF-8 text"
        raise ValueError(f"the prompt file {path} {reason}; give a text file that holds the beginning of the text") from None
    if not text.strip():
        raise ValueError(f"the prompt file {path} is empty; write the beginning of the text into it")
    return text
