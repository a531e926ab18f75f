"""`maskless infill`: fill the gaps of a text, or part of an image."""
from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from maskless.cli import imaging
from maskless.cli import sampling as s


@s.sampled
def infill(
    model: s.ModelArgument, *,
    text: Annotated[str | None, typer.Option(help="A text with ___ where tokens are missing; ___{12} is a gap of 12 tokens.")] = None,
    lengths: Annotated[str | None, typer.Option(help="Tokens of each ___ : a number, one per gap (8,3), or search (the default).")] = None,
    image: Annotated[Path | None, typer.Option(help="An image, at most of the model's size; what it does not cover is painted.")] = None,
    mask: Annotated[Path | None, typer.Option(help="An image of the same size, bright where to paint anew.")] = None,
    digits: Annotated[str | None, typer.Option(help="Prime: keep these digits of all pixels of the image (0, or 0,2), draw the others.")] = None,
    at: Annotated[str, typer.Option(help="Row and column where the image lies on the model's canvas.")] = "0,0",
    n: Annotated[int, typer.Option("-n", "--number", help="How many.")] = 1,
    label: s.Label = None, out: s.Out = None, animate: s.Animate = None,
    chosen: dict[str, Any], refresh: s.Refresh = 0,
    seed: s.Seed = 0, device: s.Device = "auto", compile: s.Compile = "auto", weights: s.Weights = "ema", watch: s.Watch = False,
) -> None:
    """Fill the gaps of a text, or paint part of an image; what is known comes back unchanged."""
    corner, wanted, kept = _corner(at), _lengths(lengths), _digits(digits)
    opened = s.open_model(model, weights, device, compile)
    s.say_held(opened, chosen["guidance"])
    if imaging.makes_images(opened):
        imaging.refuse("images", text=text, lengths=lengths, watch=watch)
        more = {"n": n, "labels": imaging.labels_of(label, n, opened), "seed": seed, "refresh": refresh, **chosen}
        if kept is not None:
            imaging.refuse("images where --digits is given", mask=mask, refresh=more.pop("refresh"), at=corner != (0, 0))
            imaging.paint(opened, lambda m, film: m.impute(_pixels(m, image, None)[0], kept, watch=film, **more), out, animate)
        else:
            imaging.paint(opened, lambda m, film: m.infill(*_pixels(m, image, mask), at=corner, watch=film, **more), out, animate)
    else:
        imaging.refuse("text", image=image, mask=mask, digits=digits, label=label, out=out, animate=animate)
        if text is None:
            raise ValueError("--text is missing; give a text with ___ where tokens are missing")
        with s.Painter(opened.tokenizer) if watch else nullcontext() as painter:
            found = opened.infill(text, n=n, lengths=wanted, seed=seed, watch=painter, refresh=refresh, **chosen)
        s.say_texts([found] if n == 1 else found)


def _pixels(model: Any, image: Path | None, mask: Path | None) -> tuple[Any, Any]:
    if image is None:
        raise ValueError("--image is missing; give the image to fill")
    return imaging.read_image(image, model.codec.channels), None if mask is None else imaging.read_mask(mask)


def _corner(given: str) -> tuple[int, int]:
    if not re.fullmatch(r"\d+,\d+", given):
        raise ValueError(f"--at {given} is not understood; give a row and a column, such as 8,0")
    row, column = given.split(",")
    return int(row), int(column)


def _digits(given: str | None) -> list[int] | None:
    if given is None:
        return None
    if not re.fullmatch(r"\d+(,\d+)*", given):
        raise ValueError(f"--digits {given} is not understood; give the numbers of the digits to keep, such as 0 or 0,2")
    return [int(number) for number in given.split(",")]


def _lengths(given: str | None) -> int | list[int] | str:
    if given is None or given == "search":
        return "search"
    if not re.fullmatch(r"\d+(,\d+)*", given):
        raise ValueError(f"--lengths {given} is not understood; give a number (8), one per gap (8,3) or search")
    numbers = [int(number) for number in given.split(",")]
    return numbers[0] if len(numbers) == 1 else numbers
