"""Train a small image PGM and a small MaskGIT with one recipe, on handwritten digits, and show what they do: grids, bounds, speed, distance."""
from __future__ import annotations

import dataclasses
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskless.api.image import ImageModel
from maskless.api.image_files import Film
from maskless.api.image_quality import batches_of, in_halton_order
from maskless.data.image_sources import Digits
from maskless.demo.run import TIMED, Say, Scale, Watch, affordable, begin, quickly, trained
from maskless.evaluation.features import ClassifierFeatures, classifier_features, extract, statistics_of
from maskless.evaluation.image_metrics import Measurement, frechet_distance
from maskless.evaluation.machine import versions
from maskless.evaluation.speed import Contender, Timing, race_them
from maskless.models import fold
from maskless.training.classifier import train_classifier
from maskless.training.run import Run

SIDE, BATCH, TRAINED, STEPS, HELD_OUT = 8, 64, 32, 16, 297
NAMES = {"pgm": "PGM", "maskgit": "MaskGIT"}
FULL = Scale(165.0, (4, 8, 16, 32), 3)
QUICK = Scale(2.0, (4,), 2)
MEASURED = {FULL: 500, QUICK: 100}                                  # images a distance is measured with


def recipe(name: str, steps: int, data: Path) -> dict[str, Any]:
    """The recipe of one of the two models; they differ in nothing but the model and its loss."""
    sizes = {"length": SIDE * SIDE, "grid": [SIDE, SIDE], "positions": "axial", "width": 96, "heads": 4, "classes": 10, "dropout": 0.1}
    model = {"pgm": {"type": "partition", **sizes, "encoder_layers": 3, "decoder_layers": 3, "registers": 2},
             "maskgit": {"type": "maskgit", **sizes, "layers": 6, "registers": 1}}
    loss = {"pgm": {"type": "partition"}, "maskgit": {"type": "masked", "targets": "all"}}
    return {
        "model": model[name],
        "objective": {**loss[name], "schedule": {"type": "arccos"}, "weights": "unit", "low": 0},
        "data": {"type": "images", "source": {"type": "arrays", "train": str(data), "valid": str(data)}, "size": SIDE,
                 "codec": {"type": "pixels", "levels": 16}},
        "training": {
            "steps": steps, "batch_size": TRAINED, "lr": 1e-3, "betas": [0.9, 0.95], "warmup": min(50, steps // 5), "schedule": "cosine",
            "ema": 0.99, "precision": "fp32", "attention": "dense" if name == "pgm" else "auto",
        },
        "validation": {"samples": 4},
    }


def demo_images(out: Path, scale: Scale, *, say: Say, watch: Watch) -> dict[str, Any]:
    """Run the demo of images into a new folder; arguments, return value and errors are those of `demo.run.demo`."""
    begun = begin(out, say)
    out.mkdir(parents=True)
    data = _digits(out / "digits.npz")
    steps = scale.steps
    if steps is None:
        say(f"\nTiming {TIMED} steps of either model on {1797 - HELD_OUT} handwritten digits ...")
        recipes = {title: partial(recipe, name, data=data) for name, title in NAMES.items()}
        steps = affordable(scale.seconds, recipes, f"{TRAINED} images", say)
    runs = {name: trained(title, recipe(name, steps, data), out / name, say, watch) for name, title in NAMES.items()}
    models = {name: ImageModel.from_pretrained(run.folder, device="cpu") for name, run in runs.items()}
    bounds = {name: next(record for record in reversed(run.metrics) if "bound" in record) for name, run in runs.items()}
    _say_bounds(models, bounds, say)
    _draw_grids(models, out, say)
    distances = _distances(models, data, out, MEASURED.get(dataclasses.replace(scale, steps=None), 100), say)
    speeds = _speeds(models, scale, say)
    results = {
        "where": versions(), "steps": steps, "command": f"maskless demo --images{quickly(scale, QUICK)} --steps {steps}",
        "recipes": {name: recipe(name, steps, Path("digits.npz")) for name in NAMES},
        "parameters": {name: model.model.parameter_count() for name, model in models.items()},
        "bounds": {name: {key: bound[key] for key in ("bound", "standard_error")} for name, bound in bounds.items()},
        "distances": {name: dataclasses.asdict(found) for name, found in distances.items()},
        "speeds": {name: [dataclasses.asdict(timing) for timing in timings] for name, timings in speeds.items()},
        "seconds": round(time.perf_counter() - begun, 1),
    }
    _write(out, results, runs, speeds)
    say(f"\nWritten to {out}/ in {results['seconds']:.0f} s: pgm/ and maskgit/ (checkpoints), pgm.png, maskgit.png, pgm.gif, results.json, demo.png")
    say(f"The same run again: {results['command']}     More: maskless sample {out}/pgm -n 16 --label 3 --out three.png")
    return results


def _digits(path: Path) -> Path:
    """The digits of scikit-learn as arrays, the last ones held out."""
    found = list(Digits().pictures("train"))
    pixels, labels = np.stack([np.asarray(each.image) for each in found]), np.array([each.label for each in found])
    train, test = slice(None, -HELD_OUT), slice(-HELD_OUT, None)
    np.savez(path, x_train=pixels[train], y_train=labels[train], x_test=pixels[test], y_test=labels[test])
    return path


def _say_bounds(models: dict[str, ImageModel], bounds: dict[str, dict[str, Any]], say: Say) -> None:
    say("\nValidation bound (an upper bound on nats per pixel of held-out digits; lower is better):")
    for name, bound in bounds.items():
        say(f"  {NAMES[name]:>7}  {bound['bound']:.3f} +- {bound['standard_error']:.3f}   {models[name].model.parameter_count():,} parameters")


def _draw_grids(models: dict[str, ImageModel], out: Path, say: Say) -> None:
    """Four of every digit by either model, and a film of PGM at work."""
    labels = [digit for _ in range(4) for digit in range(10)]
    for name, model in models.items():
        images = model.generate(40, labels=labels, steps=STEPS, seed=1)
        larger = dataclasses.replace(images, pixels=images.pixels.repeat(6, 1).repeat(6, 2))
        larger.save(out / f"{name}.png", columns=10)
    film = Film(models["pgm"], enlarge=6)
    models["pgm"].generate(10, labels=list(range(10)), steps=STEPS, seed=1, watch=film)
    film.save(out / "pgm.gif")
    say(f"\nFour of every digit, {STEPS} steps in Halton order: {out}/pgm.png, {out}/maskgit.png; how they come to be: {out}/pgm.gif")


def _distances(models: dict[str, ImageModel], data: Path, out: Path, count: int, say: Say) -> dict[str, Measurement]:
    """The Frechet distance to the training images, in features of a classifier trained on them; that of held-out images is the floor."""
    say("\nTraining a classifier whose features measure images ...")
    numbers = {"epochs": 8, "batch_size": 64, "threads": torch.get_num_threads()}
    classifier = {"channels": 1, "size": SIDE, "classes": 10, "width": 24, "features": 32}
    images = {"name": "digits", "source": {"type": "arrays", "train": str(data)}, "size": SIDE, "channels": 1}
    trained = train_classifier({"classifier": classifier, "data": images, "training": numbers}, out=out / "classifier")
    features, arrays = classifier_features(trained), np.load(data)
    measured = {"held-out digits": arrays["x_test"][..., None]}
    for name, model in models.items():
        made = model.generate(count, labels=[n % 10 for n in range(count)], steps=STEPS, seed=2)
        measured[NAMES[name]] = made.pixels
    reference = statistics_of(extract(features, batches_of(arrays["x_train"][..., None]), split="train"))
    found = {}
    say(f"Frechet distance to the training digits in features of this {features.name} ({trained.card['accuracy']:.1%} right; lower is better):")
    for name, pixels in measured.items():
        found[name] = _distance(features, pixels, name, reference)
        say(f"  {name:>16}  {found[name].value:.2f} +- {found[name].standard_error or 0:.2f}   ({len(pixels)} images)")
    return found


def _distance(features: ClassifierFeatures, pixels: np.ndarray, split: str, reference: Any) -> Measurement:
    return frechet_distance(statistics_of(extract(features, batches_of(pixels), split=split)), reference)


def _speeds(models: dict[str, ImageModel], scale: Scale, say: Say) -> dict[str, list[Timing]]:
    """Images per second at equal numbers of steps, interleaved."""
    say(f"\nSampling speed, {BATCH} images of {SIDE} x {SIDE} cells, images/s (median of {scale.repeats}, [slowest .. fastest]):")
    say(f"  {'steps (NFE)':>11}  {'PGM':>24}  {'MaskGIT':>24}  {'PGM / MaskGIT':>13}")
    table: dict[str, list[Timing]] = {name: [] for name in NAMES}
    for steps in scale.speeds:
        pair = [Contender(name, fold(model.model), in_halton_order((SIDE, SIDE)), BATCH, SIDE * SIDE, steps) for name, model in models.items()]
        timings = race_them(pair, device=torch.device("cpu"), repeats=scale.repeats)
        for timing in timings:
            table[timing.name].append(timing)
        cells = [f"{BATCH / t.median_seconds:,.1f} [{BATCH / max(t.seconds):,.1f} .. {BATCH / min(t.seconds):,.1f}]" for t in timings]
        say(f"  {steps:>11}  {cells[0]:>24}  {cells[1]:>24}  {timings[1].median_seconds / timings[0].median_seconds:>12.1f}x")
    return table


def _write(out: Path, results: dict[str, Any], runs: dict[str, Run], speeds: dict[str, list[Timing]]) -> None:
    from maskless.demo.picture import draw

    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    titles = {"pgm": "PGM", "maskgit": "MaskGIT, known cells among its targets"}
    curves = {titles[name]: [(record["step"], record["loss"]) for record in run.metrics if "loss" in record] for name, run in runs.items()}
    draw(out / "demo.png", curves, {NAMES[name]: timings for name, timings in speeds.items()})


