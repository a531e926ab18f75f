"""Image models side by side: how far their images are from real ones, and how many they make a second.

C channels, H x W pixels.
"""
from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskless.api.image import ImageModel
from maskless.data.pictures import to_pixels
from maskless.decoding import Canvas, Halton, Noise, Sampler, Scheduled, arccos, constant
from maskless.evaluation.feature_statistics import Statistics
from maskless.evaluation.features import Features, extract, statistics_of
from maskless.evaluation.image_metrics import Measurement, frechet_distance
from maskless.evaluation.speed import Contender, Generate, Timing, race_them
from maskless.models import Denoiser, MaskGITConfig, PartitionConfig, build

PLANS = {"halton": "arccos", "confidence": "arccos", "random": "arccos", "raster": "even"}
NOISE = 5.0                                                         # of the confidence order, as published for images


@dataclass(frozen=True)
class Way:
    """How images are sampled."""

    order: str
    steps: int
    guidance: float = 0.0

    def options(self) -> dict[str, Any]:
        noise = {"confidence_noise": NOISE} if self.order == "confidence" else {}
        return {"order": self.order, "steps": self.steps, "plan": PLANS[self.order], "guidance": self.guidance, **noise}


@dataclass(frozen=True)
class Row:
    """One model sampled in one way.

    Attributes:
        distance: to the reference, with its standard error.
        images_per_second: median over batches, [slowest, fastest]; decoding of the codes included.
        nfe: calls of the model a batch; guidance doubles the rows of a call, not their number.
    """

    model: str
    way: Way
    distance: Measurement
    images_per_second: float
    slowest: float
    fastest: float
    nfe: int
    batch: int
    parameters: int

    def tree(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def ways(orders: Iterable[str], steps: Sequence[int], guidances: Sequence[float], at: Sequence[int]) -> list[Way]:
    """Every order at every number of steps without guidance, and at every number in `at` with each strength of it.

    Raises:
        ValueError: an order that is not known here, no steps, guidance that is not finite.
    """
    orders = list(orders)
    for order in orders:
        if order not in PLANS:
            raise ValueError(f"there is no order {order} here; choose {', '.join(PLANS)}")
    if not steps or min(*steps, *at) < 1:
        raise ValueError(f"steps {', '.join(map(str, steps)) or 'none'} and {', '.join(map(str, at))} must be at least 1")
    for w in guidances:
        constant(w)
    plain = [Way(order, n) for order in orders for n in steps]
    guided = [Way(order, n, w) for order in orders for n in at for w in guidances if w]
    return [*plain, *guided]


def compare(models: Mapping[str, ImageModel], asked: Sequence[Way], features: Features, reference: Statistics, *, count: int, batch: int = 50,
            seed: int = 0, say: Callable[[str], None] = lambda line: None) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Measure every model in every way; batches of the models are made in turn, so that a busy machine is busy for all.

    Args:
        count: images of a distance, labels in equal parts.

    Returns:
        the rows, and the images of each model and way, (count, H, W, C) uint8, by "model order steps guidance".
    """
    rows, kept = [], {}
    for way in asked:
        made: dict[str, list[np.ndarray]] = {name: [] for name in models}
        seconds: dict[str, list[float]] = {name: [] for name in models}
        calls = {}
        for start in range(0, count, batch):
            numbers = range(start, min(start + batch, count))
            for name, model in models.items():
                labels = None if model.model.null_label is None else [n % model.model.null_label for n in numbers]
                begun = time.perf_counter()
                images = model.generate(len(numbers), labels=labels, seed=[seed + n for n in numbers], **way.options())
                seconds[name].append((time.perf_counter() - begun) / len(numbers))
                made[name].append(images.pixels)
                calls[name] = images.nfe
        for name, model in models.items():
            pixels = np.concatenate(made[name])
            distance = frechet_distance(statistics_of(extract(features, batches_of(pixels), split=name)), reference)
            each = seconds[name]
            rows.append(Row(name, way, distance, 1 / statistics.median(each), 1 / max(each), 1 / min(each), calls[name], min(batch, count),
                            model.model.parameter_count()))
            kept[f"{name} {way.order} {way.steps} {way.guidance:g}"] = pixels
            say(line_of(rows[-1]))
    return rows, kept


def batches_of(pixels: np.ndarray) -> Iterator[Any]:
    """(n, H, W, C) uint8 in pieces, as numbers in [-1, 1]."""
    for start in range(0, len(pixels), 256):
        yield to_pixels(pixels[start:start + 256])


def reconstructed(model: ImageModel, pixels: np.ndarray) -> np.ndarray:
    """Real images through the codec and back: what no model of its codes can beat by much."""
    found = [model.render(model.codec.encode(images)) for images in batches_of(pixels)]
    return np.concatenate(found)


def line_of(row: Row) -> str:
    return (f"{row.model:>12}  {row.way.order:>10}  {row.way.steps:>5}  {row.way.guidance:>4g}  {row.distance.value:>8.2f} +- "
            f"{row.distance.standard_error or 0:<5.2f}  {row.images_per_second:>8.2f} [{row.slowest:.2f} .. {row.fastest:.2f}]")


def in_halton_order(grid: tuple[int, int]) -> Generate:
    """A way of sampling for `evaluation.speed`: Halton order, the arccos table of counts."""
    def generate(model: Denoiser, canvas: Canvas, noise: Noise, steps: int) -> Iterator[Any]:
        return Sampler(Scheduled(steps, arccos), Halton(grid)).records(model, canvas, noise)
    return generate


def random_pair(side: int, *, width: int, layers: int, codes: int) -> dict[str, Denoiser]:
    """A PGM and a MaskGIT of as many blocks on side x side cells, with random weights: speed does not depend on them here."""
    sizes: dict[str, Any] = {"length": side * side, "width": width, "heads": width // 64, "dropout": 0.0, "classes": 10, "grid": (side, side)}
    half = layers // 2
    configs = {"pgm": PartitionConfig(codes, **sizes, encoder_layers=half, decoder_layers=layers - half, registers=2),
               "maskgit": MaskGITConfig(codes, **sizes, layers=layers, registers=1)}
    found = {}
    for name, config in configs.items():
        torch.manual_seed(0)
        found[name] = build(config).eval()
    return found


def race(side: int, *, steps: int, batch: int, width: int = 256, layers: int = 12, codes: int = 1024, repeats: int = 3,
         device: str = "cpu", progress: Callable[[str], None] = lambda line: None) -> list[Timing]:
    """Images a second of PGM and MaskGIT at equal depth, width, precision and steps, interleaved; MaskGIT's calls cost alike, so four are timed.

    Raises:
        ValueError: more steps than cells.
    """
    if steps > side**2:
        raise ValueError(f"steps {steps} are more than the {side**2} cells of a grid of {side}; give at most those")
    pair = random_pair(side, width=width, layers=layers, codes=codes)
    where = torch.device(device)
    timed, generate = {"pgm": None, "maskgit": min(4, steps)}, in_halton_order((side, side))
    contenders = [Contender(name, model.to(where), generate, batch, side * side, steps, timed[name]) for name, model in pair.items()]
    return race_them(contenders, device=where, repeats=repeats, progress=progress)


HEADER = f"{'model':>12}  {'order':>10}  {'steps':>5}  {'w':>4}  {'distance':>17}  {'images/s':>8}"


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Distance against images per second, a panel for every strength of guidance: one line per model and order over its steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    strengths = sorted({row.way.guidance for row in rows})
    figure = Figure(figsize=(2.4 + 3.4 * len(strengths), 4.4), layout="constrained")
    panels = figure.subplots(1, len(strengths), sharex=True, sharey=True, squeeze=False)[0]
    colours = ("#1b6ca8", "#d1603d", "#4f9d69", "#8a5fa8")
    for axes, strength in zip(panels, strengths):
        for colour, name in zip(cycle(colours), dict.fromkeys(row.model for row in rows)):
            for style, order in zip(cycle(("-", "--", ":", "-.")), dict.fromkeys(row.way.order for row in rows)):
                some = sorted((row for row in rows if (row.model, row.way.order, row.way.guidance) == (name, order, strength)),
                              key=lambda row: row.way.steps)
                errors = [row.distance.standard_error or 0 for row in some]
                axes.errorbar([row.images_per_second for row in some], [row.distance.value for row in some], yerr=errors, color=colour,
                              linestyle=style, marker="o", markersize=4, linewidth=1.2, label=f"{name}, {order}")
                for row in some:
                    axes.annotate(str(row.way.steps), (row.images_per_second, row.distance.value), textcoords="offset points", xytext=(4, 4),
                                  fontsize=7, color=colour)
        axes.set(xscale="log", xlabel="images per second", title=f"guidance {strength:g}" if strength else "no guidance")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    panels[0].set_ylabel(rows[0].distance.label)
    figure.suptitle("Distance against speed (numbers: steps)", fontsize=11)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
