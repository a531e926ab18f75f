"""`maskless sample`: texts or images from a trained model."""
from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from maskless.cli import imaging
from maskless.cli import sampling as s


@s.sampled
def sample(
    model: s.ModelArgument, *,
    n: Annotated[int, typer.Option("-n", "--number", help="How many.")] = 1,
    prompt: Annotated[str, typer.Option(help="How each text begins.")] = "",
    prompt_file: Annotated[Path | None, typer.Option(help="A file that holds the prompt.")] = None,
    length: Annotated[int | None, typer.Option(help="Sites of a row, prompt included; by default the model's length.")] = None,
    label: s.Label = None, out: s.Out = None, animate: s.Animate = None,
    chosen: dict[str, Any], refresh: s.Refresh = 0,
    stop: Annotated[bool, typer.Option("--stop", help="End a text at the first end-of-text token.")] = False,
    seed: s.Seed = 0, device: s.Device = "auto", compile: s.Compile = "auto", weights: s.Weights = "ema", watch: s.Watch = False,
) -> None:
    """Generate texts or images, in parallel and in any order."""
    if prompt_file is not None:
        prompt = _read_prompt(prompt_file, prompt)
    how = {"refresh": refresh, "stop": stop, **chosen}
    opened = s.open_model(model, weights, device, compile)
    s.say_held(opened, chosen["guidance"])
    if imaging.makes_images(opened):
        imaging.refuse("images", prompt=prompt, length=length, watch=watch)
        labels = imaging.labels_of(label, n, opened)
        imaging.paint(opened, lambda m, film: m.generate(n, labels=labels, seed=seed, watch=film, **how), out, animate)
    else:
        imaging.refuse("text", label=label, out=out, animate=animate)
        _write(opened, n, watch, prompt=prompt, length=length, seed=seed, **how)


def _write(opened: Any, n: int, watch: bool, **how: Any) -> None:
    with s.Painter(opened.tokenizer) if watch else nullcontext() as painter:
        texts = opened.generate(n, watch=painter, **how)
    s.say_texts(texts)


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
