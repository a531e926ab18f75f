"""`maskless sample`: texts or images from a trained model."""
from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from maskless.cli import imaging
from maskless.cli import sampling as s


def sample(
    model: s.ModelArgument,
    n: Annotated[int, typer.Option("-n", "--number", help="How many.")] = 1,
    prompt: Annotated[str, typer.Option(help="How each text begins.")] = "",
    prompt_file: Annotated[Path | None, typer.Option(help="A file that holds the prompt.")] = None,
    length: Annotated[int | None, typer.Option(help="Sites of a row, prompt included; by default the model's length.")] = None,
    label: s.Label = None, out: s.Out = None, animate: s.Animate = None,
    steps: s.Steps = None, order: s.Order = None, roll: s.Roll = False, plan: s.Plan = None, block: s.Block = 0,
    alpha_power: s.AlphaPower = None, time_power: s.TimePower = None, corrector: s.Corrector = None, corrector_power: s.CorrectorPower = None,
    temperature_rise: s.TemperatureRise = None, temperature_rise_power: s.TemperatureRisePower = None,
    temperature: s.Temperature = 1.0, temperature_last: s.TemperatureLast = None, top_k: s.TopK = 0, top_k_last: s.TopKLast = None,
    top_p: s.TopP = 1.0, confidence_noise: s.ConfidenceNoise = 4.5, guidance: s.Guidance = 0.0,
    guidance_schedule: s.GuidanceSchedule = "constant", candidates: s.Candidates = 0, refresh: s.Refresh = 0, draft: s.Draft = 0,
    factorised_digits: s.FactorisedDigits = False, filter_observed: s.FilterObserved = True, sampler: s.More = None,
    stop: Annotated[bool, typer.Option("--stop", help="End a text at the first end-of-text token.")] = False,
    seed: s.Seed = 0, device: s.Device = "auto", compile: s.Compile = "auto", weights: s.Weights = "ema", watch: s.Watch = False,
) -> None:
    """Generate texts or images, in parallel and in any order."""
    if prompt_file is not None:
        prompt = _read_prompt(prompt_file, prompt)
    chosen = s.options(
        sampler, alpha_power=alpha_power, time_power=time_power, corrector=corrector, corrector_power=corrector_power,
        temperature_rise=temperature_rise, temperature_rise_power=temperature_rise_power,
        order=order, roll=roll, plan=plan, steps=steps, block=block, temperature=temperature, temperature_last=temperature_last, top_k=top_k,
        top_k_last=top_k_last, top_p=top_p, confidence_noise=confidence_noise, guidance=guidance, guidance_schedule=guidance_schedule,
        candidates=candidates, factorised_digits=factorised_digits, filter_observed=filter_observed, draft=draft, stop=stop)
    opened = s.open_model(model, weights, device, compile)
    s.say_held(opened, guidance)
    if imaging.makes_images(opened):
        imaging.refuse("images", prompt=prompt, length=length, watch=watch)
        imaging.check_guided(chosen["guidance"], label, opened)
        labels = imaging.labels_of(label, n, opened)
        imaging.paint(opened, lambda m, film: m.generate(n, labels=labels, seed=seed, watch=film, refresh=refresh, **chosen), out, animate)
    else:
        imaging.refuse("text", label=label, out=out, animate=animate)
        _write(opened, n, watch, prompt=prompt, length=length, seed=seed, refresh=refresh, **chosen)


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
