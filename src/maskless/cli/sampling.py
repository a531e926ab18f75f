"""What `sample` and `infill` share: the options of a sampler, and painting tokens as they appear."""
from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from maskless.data.tokenizer import Tokenizer
    from maskless.decoding import Canvas, Record

ModelArgument = Annotated[str, typer.Argument(help="A run or checkpoint folder, tiny (in the package), or organisation/name on the Hugging Face Hub")]
Refresh = Annotated[int, typer.Option(help="Order-causal models: encode all that is known afresh every so many steps (0: keep the cache).")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same text or images.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Compile = Annotated[str, typer.Option(help="auto (CUDA graphs where there is CUDA), off, graphs, or inductor (torch.compile).")]
Weights = Annotated[str, typer.Option(help="ema (the moving average where there is one) or raw.")]
Watch = Annotated[bool, typer.Option("--watch", help="Paint tokens in the order in which they are revealed.")]
Label = Annotated[str | None, typer.Option(help="Images: class, by number or name; several (3,7,shoe) one after the other; all: each.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Images: a .png (one grid), an .npz, or a new folder.")]
Animate = Annotated[Path | None, typer.Option(help="Images: a .gif of how they come to be.")]

CHOICES = {
    "order": ("random", "left-to-right", "raster", "spaced", "halton", "confidence", "margin", "entropy-bound", "coarse-first", "token-by-token"),
    "plan": ("even", "root", "square", "cosine", "arccos", "arccos-maskgit", "arccos-pgm", "ancestral"),
    "guidance_schedule": ("constant", "linear"),
}


def one_of(value: str, name: str, values: tuple[str, ...]) -> str:
    if value not in values:
        raise ValueError(f"--{name.replace('_', '-')} {value} is not known; choose {', '.join(values)}")
    return value


def sampler_options(
    *,
    steps: Annotated[int | None, typer.Option(
        help="Calls of the model; by default min(64, sites to fill), of images 32; they need not divide it.")] = None,
    order: Annotated[str | None, typer.Option(
        help="random, left-to-right (raster), spaced, halton (images), confidence, margin, entropy-bound, or (Prime) coarse-first, "
        "token-by-token.")] = None,
    roll: Annotated[bool, typer.Option("--roll", help="Halton order: every image begins at a place of its own.")] = False,
    plan: Annotated[str | None, typer.Option(
        help="even, root, square, cosine, arccos, arccos-maskgit, arccos-pgm (as published) or ancestral: how many sites are revealed when.")] = None,
    block: Annotated[int, typer.Option(help="Sites of a block, for blocks from left to right (0: no blocks).")] = 0,
    alpha_power: Annotated[float | None, typer.Option(
        help="Ancestral plan: known at time t with probability (1 - t) to this power (Prime images: 3).")] = None,
    time_power: Annotated[float | None, typer.Option(help="Ancestral plan: time is bent, 1 - t becomes 1 - t to this power (1: as it is).")] = None,
    corrector: Annotated[float | None, typer.Option(
        help="Ancestral plan: how much is forgotten again on the way, in proportion to t (1 - t).")] = None,
    corrector_power: Annotated[float | None, typer.Option(help="The corrector is in proportion to t (1 - t) to this power.")] = None,
    temperature_rise: Annotated[float | None, typer.Option(help="The temperature rises by so much (falls, below 0) from first to last step.")] = None,
    temperature_rise_power: Annotated[float | None, typer.Option(help="It rises in proportion to 1 - t to this power.")] = None,
    temperature: Annotated[float, typer.Option(help="0 takes the most probable token.")] = 1.0,
    temperature_last: Annotated[float | None, typer.Option(help="Temperature of the last step; its inverse goes there in equal parts.")] = None,
    top_k: Annotated[int, typer.Option(help="Keep the k most probable tokens (0: all).")] = 0,
    top_k_last: Annotated[int | None, typer.Option(help="Top-k of the last step; --top-k goes there in equal parts.")] = None,
    top_p: Annotated[float, typer.Option(help="Nucleus mass (1: all).")] = 1.0,
    confidence_noise: Annotated[float, typer.Option(help="Gumbel noise of the confidence order.")] = 4.5,
    guidance: Annotated[float, typer.Option(
        help="Strength of guidance: by label where there is one, else by forgetting the prompt (0: none).")] = 0.0,
    guidance_schedule: Annotated[str, typer.Option(help="constant, or linear: from 0 at the first step to --guidance at the last.")] = "constant",
    candidates: Annotated[int, typer.Option(help="Scored orders: look at so many random open sites instead of all (0: all).")] = 0,
    draft: Annotated[int, typer.Option(help="Speculative decoding (token-causal models): sites drafted per round (0: none).")] = 0,
    factorised_digits: Annotated[bool, typer.Option("--factorised-digits",
        help="Prime: every digit from its own marginal, not a token for all.")] = False,
    filter_observed: Annotated[bool, typer.Option(help="Prime: draw only tokens that agree with the digits already known.")] = True,
    sampler: Annotated[list[str] | None, typer.Option("--sampler", metavar="KEY=VALUE",
        help="Any other field of SamplerOptions: temperature_warmup=1, gamma=0.05; may be given several times.")] = None,
) -> dict[str, Any]:
    """Fields of `SamplerOptions`, checked; what was not given is left out. KEY=VALUE goes before an option of the same name."""
    given, more = {**locals()}, sampler
    del given["sampler"]
    said = {name: one_of(value, name, CHOICES[name]) if name in CHOICES else value for name, value in given.items() if value is not None}

    from maskless.config import override

    named = override({}, more or [], example="temperature_warmup=1")
    if named:
        from maskless.decoding.options import check_names

        check_names(named)
    return {**said, **named}


def sampled(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes the options of a sampler in place of its parameter `chosen`, which is what they say."""
    own, shared = inspect.signature(command, eval_str=True).parameters, inspect.signature(sampler_options, eval_str=True).parameters

    @functools.wraps(command)
    def run(**given: Any) -> None:
        chosen = sampler_options(**{name: given.pop(name) for name in shared})
        command(**given, chosen=chosen)

    taken = [each for name, one in own.items() for each in (shared.values() if name == "chosen" else [one])]
    run.__signature__ = inspect.Signature([each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in taken])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in taken}
    return run


def open_model(source: str, weights: str, device: str, compile: str = "auto") -> Any:
    import maskless

    one_of(device, "device", ("auto", "cpu", "cuda", "mps"))
    return maskless.load(source, weights="ema" if one_of(weights, "weights", ("ema", "raw")) == "ema" else "raw", device=device,
                         compile=one_of(compile, "compile", ("auto", "off", "graphs", "inductor")))


def say_held(opened: Any, guidance: float) -> None:
    """Say so where guidance is asked of a model that has its teacher's in it."""
    if guidance and opened.guidance is not None:
        held = opened.guidance["weight"]
        typer.echo(f"this model was distilled from a teacher with guidance {held:g} and holds it; --guidance {guidance:g} comes on top", err=True)


def say_texts(texts: Sequence[Any]) -> None:
    """Print texts, with a line above each where there are several."""
    for number, text in enumerate(texts):
        if len(texts) > 1:
            typer.secho(f"--- {number + 1} of {len(texts)} ---", dim=True)
        typer.echo(text)


class Painter:
    """A live picture of the first row: known tokens, fresh ones highlighted, a dot for every site that is still open."""

    def __init__(self, tokenizer: Tokenizer):
        from rich.live import Live

        self.tokenizer = tokenizer
        self.live = Live(auto_refresh=False, transient=True)

    def __enter__(self) -> Painter:
        self.live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.live.stop()

    def __call__(self, canvas: Canvas, record: Record) -> None:
        import time

        self.live.update(self.picture(canvas, record), refresh=True)
        time.sleep(0.04)

    def picture(self, canvas: Canvas, record: Record) -> Any:
        from rich.text import Text

        from maskless.api.watching import shown

        picture = Text(f"step {record.step.index + 1}/{record.step.total}\n", style="dim")
        for site in shown(self.tokenizer, canvas, record):
            picture.append("·" if site.text is None else site.text, style="dim" if site.text is None else "bold green" if site.fresh else "")
        return picture
