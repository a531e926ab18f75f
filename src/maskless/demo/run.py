"""Train a small PGM and a small MDLM with one recipe, and show what they do: bounds, texts, gaps, speed; and what a longer training gives."""
from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from maskless.api.text import TextModel
from maskless.evaluation.machine import versions
from maskless.evaluation.speed import Contender, Timing, even_random, race_them
from maskless.models import fold
from maskless.places import carried
from maskless.training.run import Run, train

LENGTH, BATCH, TIMED = 64, 32, 20
GAPPED = "If the ___{6} argument is given, the function returns a ___{6} object."
OPENING, HOUSE = "The old house stood", "The door opened, and ___{8} came in with a ___{4} in his hand."    # for the model that was trained on novels
NAMES = {"pgm": "PGM", "mdlm": "MDLM"}

Say = Callable[[str], None]
Recipes = Callable[[int], dict[str, Any]]                           # the recipe of a model, from the number of steps
Watch = Callable[[], AbstractContextManager[Callable[[Any], None]]]     # opens a live display of a training run


@dataclass(frozen=True)
class Scale:
    """How much time the demo takes.

    Args:
        seconds: of training, both models together; the number of steps follows from the machine's speed.
        speeds: steps per text of the speed table.
        repeats: interleaved repetitions of the speed table.
        steps: train exactly so many steps instead.
    """

    seconds: float
    speeds: tuple[int, ...]
    repeats: int
    steps: int | None = None


FULL = Scale(220.0, (4, 8, 16, 32), 3)
QUICK = Scale(12.0, (4, 16), 2)


def recipe(name: str, steps: int) -> dict[str, Any]:
    """The recipe of one of the two models; they differ in nothing but the model and its loss."""
    sizes = {"length": LENGTH, "width": 128, "heads": 4, "cond_dim": 0, "dropout": 0.0}
    attention = {"pgm": "dense", "mdlm": "auto"}                    # not measured: the same run again is the same run
    model = {"pgm": {"type": "partition", **sizes, "encoder_layers": 3, "decoder_layers": 3}, "mdlm": {"type": "masked", **sizes, "layers": 6}}
    return {
        "model": model[name],
        "objective": {"type": model[name]["type"], "weights": {"pgm": "half", "mdlm": "unit"}[name]},
        "data": {"type": "prose", "tokenizer": "bpe", "bpe_size": 1024, "packing": "stream"},
        "training": {
            "steps": steps, "batch_size": BATCH, "lr": 1e-3, "betas": [0.9, 0.95], "warmup": min(50, steps // 5), "schedule": "cosine",
            "ema": 0.99, "precision": "fp32", "attention": attention[name],
        },
        "validation": {"rows": 256},
    }


def quickly(scale: Scale, quick: Scale) -> str:
    """What a command says of its size."""
    return " --quick" if dataclasses.replace(scale, steps=None) == quick else ""


def demo(out: Path, scale: Scale, *, say: Say, watch: Watch) -> dict[str, Any]:
    """Run the demo into a new folder.

    Args:
        out: made by the demo; must not exist.
        say: prints a line.
        watch: opens a live display for each training run.

    Returns:
        what `results.json` holds.

    Raises:
        ValueError: if the folder exists.
    """
    begun = begin(out, say)
    steps = scale.steps
    if steps is None:
        say(f"\nPreparing the prose of the standard library, and timing {TIMED} steps of either model ...")
        recipes = {title: partial(recipe, name) for name, title in NAMES.items()}
        steps = affordable(scale.seconds, recipes, f"{BATCH} x {LENGTH} tokens", say)
    runs = {name: trained(title, recipe(name, steps), out / name, say, watch) for name, title in NAMES.items()}
    models = {name: TextModel.from_pretrained(run.folder, device="cpu") for name, run in runs.items()}
    bounds = {name: next(record for record in reversed(run.metrics) if "bound" in record) for name, run in runs.items()}
    _say_bounds(runs, bounds, say)
    samples = _samples(models["pgm"], say)
    pretrained = longer_trained(say)
    speeds = _speeds(models, scale, say)
    # unit weights: PGM's loss is halved over all tokens, MDLM's counts the hidden half of them; twice either is nats per predicted token
    curves = {name: [(record["step"], 2 * record["loss"]) for record in run.metrics if "loss" in record] for name, run in runs.items()}
    results = {
        "where": versions(), "steps": steps, "command": f"maskless demo{quickly(scale, QUICK)} --steps {steps}",
        "recipes": {name: recipe(name, steps) for name in NAMES},
        "parameters": {name: model.model.parameter_count() for name, model in models.items()},
        "bounds": {name: {key: bound[key] for key in ("bound", "standard_error", "perplexity")} for name, bound in bounds.items()},
        "samples": samples, **({} if pretrained is None else {"pretrained": pretrained}),
        "speeds": {name: [dataclasses.asdict(timing) for timing in timings] for name, timings in speeds.items()},
        "seconds": round(time.perf_counter() - begun, 1),
    }
    _write(out, results, curves, speeds)
    say(f"\nWritten to {out}/ in {results['seconds']:.0f} s: pgm/ and mdlm/ (checkpoints), samples.txt, results.json, demo.png")
    say(f"The same run again: {results['command']}     More text: maskless sample {out}/pgm --watch")
    return results


def begin(out: Path, say: Say) -> float:
    """Say where this runs; the time at which it begins. Raises: ValueError if the folder exists."""
    if out.exists():
        raise ValueError(f"{out} exists already; choose another folder with --out, or delete it yourself")
    say(", ".join(f"{name} {value}" for name, value in versions().items()))
    return time.perf_counter()


def affordable(seconds: float, recipes: Mapping[str, Recipes], each: str, say: Say) -> int:
    """Time twenty steps of either model (of `each`, in words); the number of steps that the budget allows."""
    times = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, recipe_of in recipes.items():
            timed = train(recipe_of(TIMED) | {"validation": {"rows": 0}}, out=Path(folder) / name)
            times[name] = statistics.median(record["seconds"] for record in timed.metrics[5:] if "seconds" in record)
    steps = max(10, round(seconds / sum(times.values()) / 10) * 10)
    taken = " and ".join(f"{time * 1e3:.0f} ms ({name})" for name, time in times.items())
    say(f"A step takes {taken}: training each for {steps} steps of {each} (repeat with --steps {steps}).")
    return steps


def trained(title: str, recipe: dict[str, Any], out: Path, say: Say, watch: Watch) -> Run:
    """Train into a folder, with a live display."""
    say(f"\nTraining {title} ...")
    with watch() as display:
        run = train(recipe, out=out, callbacks=[display])
    if run.interrupted:
        raise KeyboardInterrupt
    return run


def _say_bounds(runs: dict[str, Run], bounds: dict[str, dict[str, Any]], say: Say) -> None:
    say("\nValidation bound (an upper bound on nats per token of held-out prose; lower is better):")
    for name, bound in bounds.items():
        count = runs[name].model.parameter_count()
        say(f"  {NAMES[name]:>5}  {bound['bound']:.3f} +- {bound['standard_error']:.3f}   perplexity at most {bound['perplexity']:.0f}   "
            f"{count:,} parameters")


def _samples(model: TextModel, say: Say) -> dict[str, str]:
    text = model.generate(1, steps=LENGTH // 2, temperature=0.8, seed=1)[0].text
    filled = model.infill(GAPPED, steps=12, temperature=0.5, seed=1)
    say(f"\nA text by PGM, {LENGTH // 2} steps of 2 tokens, temperature 0.8:\n{_indented(text)}")
    say(f"\nTwo gaps filled by PGM:\n  {GAPPED}\n  {filled.text}")
    return {"generated": text, "template": GAPPED, "infilled": filled.text}


def longer_trained(say: Say) -> dict[str, Any] | None:
    """A text and a filled gap of the model in the package, with their times; None where the package carries none."""
    if (folder := carried().get("tiny")) is None:
        return None
    begun = time.perf_counter()
    model = TextModel.from_pretrained(folder, device="cpu")
    loaded = time.perf_counter()
    text = model.generate(1, prompt=OPENING, length=LENGTH, steps=LENGTH // 2, temperature=0.8, seed=1)[0].text
    written = time.perf_counter()
    filled = model.infill(HOUSE, steps=12, temperature=0.5, seed=1).text
    seconds = {"load": loaded - begun, "generate": written - loaded, "infill": time.perf_counter() - written}
    say(f"\nA text by tiny, the pretrained model of this package ({model.model.parameter_count():,} parameters, novels; maskless sample tiny), "
        f"{LENGTH // 2} steps of 2 tokens, {seconds['generate']:.1f} s (and {seconds['load']:.1f} s to load):\n{_indented(text)}")
    say(f"\nTwo gaps filled by tiny, {seconds['infill']:.1f} s:\n  {HOUSE}\n  {filled}")
    return {"generated": text, "template": HOUSE, "infilled": filled, "seconds": {name: round(time, 2) for name, time in seconds.items()}}


def _indented(text: str) -> str:
    return "\n".join(f"  | {line}" for line in text.strip().splitlines())


def _speeds(models: dict[str, TextModel], scale: Scale, say: Say) -> dict[str, list[Timing]]:
    """Tokens per second at equal numbers of steps, interleaved."""
    say(f"\nSampling speed, {BATCH} texts of {LENGTH} tokens, tokens/s (median of {scale.repeats}, [slowest .. fastest]):")
    say(f"  {'steps (NFE)':>11}  {'PGM':>28}  {'MDLM':>28}  {'PGM / MDLM':>10}")
    table: dict[str, list[Timing]] = {name: [] for name in NAMES}
    for steps in scale.speeds:
        pair = [Contender(name, fold(model.model), even_random, BATCH, LENGTH, steps) for name, model in models.items()]
        timings = race_them(pair, device=torch.device("cpu"), repeats=scale.repeats)
        for timing in timings:
            table[timing.name].append(timing)
        cells = [f"{t.tokens_per_second:,.0f} [{t.slowest:,.0f} .. {t.fastest:,.0f}]" for t in timings]
        say(f"  {steps:>11}  {cells[0]:>28}  {cells[1]:>28}  {timings[0].tokens_per_second / timings[1].tokens_per_second:>9.1f}x")
    return table


def _write(out: Path, results: dict[str, Any], curves: dict[str, list[tuple[int, float]]], speeds: dict[str, list[Timing]]) -> None:
    from maskless.demo.picture import draw

    samples = results["samples"]
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (out / "samples.txt").write_text(f"{samples['generated']}\n\n{'-' * 40}\n{samples['template']}\n{samples['infilled']}\n", encoding="utf-8")
    draw(out / "demo.png", {NAMES[name]: curve for name, curve in curves.items()}, {NAMES[name]: timings for name, timings in speeds.items()})
