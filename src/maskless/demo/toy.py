"""The toy experiment of MDM-Prime in the plane (arXiv 2505.18495): points of a picture, two tokens each, in one digit or in several.

A point is (y, x), two of 512 tokens. Drawn in one call, y and x know nothing of each other and the picture is a product of its margins; each
further call mends some of that, and more digits leave more room for calls. The law is known, so that bounds can be held against its entropy.

B rows, L = 2 sites, l digits of a site, S = L l slots, b base, D width, V = 512 classes.
"""
from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskless.data.batch import Batch
from maskless.data.loader import Loader
from maskless.data.store import MemoryStore
from maskless.decoding import Ancestral, Noise, Sampler
from maskless.demo.cat import cat, distance, entropy, histogram, points
from maskless.demo.run import Say, begin
from maskless.evaluation.machine import versions
from maskless.models.prime import OverDigits
from maskless.objectives import JointCE, SubNelbo, draws
from maskless.subtokens import SubTokenCode
from maskless.training.distributed import start
from maskless.training.loop import fit
from maskless.training.optim import optimizer
from maskless.training.recipe import Training
from maskless.training.state import new_state

SIZE, TRAINED, HELD_OUT = 512, 1 << 18, 4096
SAMPLES = 8                             # times for each point of a bound
DRAWN = 8000                            # points a distance is measured with


@dataclass(frozen=True)
class ToyScale:
    """How much is done.

    Args:
        digits: l of each model.
        steps: of training each.
        calls: steps of the sampler.
        width: D.
        batch: points of a training step.
    """

    digits: tuple[int, ...] = (1, 2, 9)
    steps: int = 2000
    calls: tuple[int, ...] = (1, 2, 4, 8, 32)
    width: int = 128
    batch: int = 512


FULL = ToyScale()
QUICK = ToyScale(digits=(1, 2), steps=200, calls=(1, 2, 8))


@dataclass(frozen=True)
class ToyConfig:
    """Sizes of a `ToyModel`."""

    vocab_size: int = SIZE
    digits: int = 2
    width: int = 256
    length: int = 2
    dropout: float = 0.1
    forbidden: tuple[int, ...] = ()


class Swish(nn.Module):
    """x sigmoid(beta x), beta learned."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(()))

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        return x * torch.sigmoid(self.beta * x)


class ToyModel(OverDigits):
    """p(x_i | known digits) of both sites from a multilayer perceptron on the joined vectors of all digits.

    As published but for the time, which it is not told: how much is known can be seen. Laws are uniform at first.
    """

    def __init__(self, config: ToyConfig):
        super().__init__()
        self.config, width = config, config.width
        self.write_in(SubTokenCode.digits(config.vocab_size, config.digits))
        self.embedding = nn.Embedding(self.base + 1, width)
        layers: list[nn.Module] = [nn.Linear(config.length * config.digits * width, width)]
        for _ in range(2):
            layers += [nn.Linear(width, width), nn.LayerNorm(width), Swish(), nn.Dropout(config.dropout)]
        self.body = nn.Sequential(*layers, nn.Linear(width, config.length * width))
        self.first = Swish()
        self.head: Any = nn.Linear(width, config.vocab_size)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def hidden_of_digits(self, digits: Int[Tensor, "B S"], known: Bool[Tensor, "B S"], *, cond: Int[Tensor, " B"] | None = None,
                         t: Float[Tensor, " B"] | None = None, present: Bool[Tensor, "B S"] | None = None) -> Float[Tensor, "B L D"]:
        vectors = self.embedding(torch.where(known, digits, self.base)).flatten(1)
        return F.silu(self.body(self.first(vectors))).unflatten(1, (self.config.length, -1))


def learned(law: Tensor, digits: int, scale: ToyScale) -> ToyModel:
    """A model trained on points of the law by the published loss; every hidden token counts alike: the toy's 1 / (t + 0.005) learns slower."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ToyModel(ToyConfig(digits=digits, width=scale.width))
    training = Training(steps=scale.steps, batch_size=scale.batch, lr=2e-3, warmup=min(100, scale.steps // 5), schedule="cosine", ema=0.0, clip=0.0)
    machine = start("cpu", "fp32", "ddp")
    state = new_state(model, machine, lambda module: optimizer(module, training), average=False)
    loader = Loader(MemoryStore(points(law, TRAINED)), batch_size=scale.batch, seed=0)
    fit(state, machine, training, JointCE(weights="unit", low=0.0), loader=loader, hooks=[])
    state.release()
    return model.eval()


def drawn(model: ToyModel, calls: int, count: int) -> tuple[Int[Tensor, "n 2"], int]:
    """Points of a model in `calls` steps of ancestral sampling, and the calls that were needed."""
    blank = torch.zeros(count, 2, dtype=torch.int64)
    canvas = model.canvas(blank, torch.zeros_like(blank, dtype=torch.bool))
    nfe = Sampler(Ancestral(calls))(model, canvas, Noise.of(1, count))
    return canvas.by_site().tokens, nfe


class Measured(NamedTuple):
    """Nats per token of fresh points: the bound, its standard error over points, and the published loss with the bound's weights."""

    bound: float
    error: float
    published: float


def measured(model: ToyModel, law: Tensor) -> Measured:
    """Both losses at the same times and hidden digits, so that they differ by what they charge and by nothing else."""
    sub, joint = SubNelbo(), JointCE()
    fresh, nats, published = points(law, HELD_OUT, seed=1), torch.zeros(HELD_OUT), 0.0
    with torch.inference_mode():
        for rows in torch.arange(HELD_OUT).split(512):
            part = Batch.of(fresh[rows])
            for sample in range(SAMPLES):
                noise = draws(1, sample, rows, HELD_OUT, 2, low=sub.low)
                nats[rows] += sub(model, part, noise).bound / (2 * SAMPLES)
                published += float(joint(model, part, noise).loss) / (2 * HELD_OUT * SAMPLES)
    return Measured(float(nats.mean()), float(nats.std()) / HELD_OUT**0.5, published)


def demo_toy(out: Path, scale: ToyScale, *, say: Say) -> dict[str, Any]:
    """Train one model for each number of digits, and show what they draw in few and in many calls.

    Args:
        out: made by the demo; must not exist.
        say: prints a line.

    Returns:
        what `results.json` holds.

    Raises:
        ValueError: if the folder exists.
    """
    begun = begin(out, say)
    out.mkdir(parents=True)
    law = cat(SIZE)
    truth, floor = entropy(law) / 2, distance(points(law, DRAWN, seed=2), law)
    say(f"\nA cat of {SIZE} x {SIZE} places. Entropy {truth:.3f} nats a token. Distance of {DRAWN:,} of its own points: {floor:.3f}")
    asked = ", ".join(map(str, scale.calls))
    say(f" digits  base            bound  published loss   distance after {asked} steps (calls)")
    rows, panels = [], {}
    for digits in scale.digits:
        model = learned(law, digits, scale)
        found = measured(model, law)
        row: dict[str, Any] = {"digits": digits, "base": model.base, "parameters": model.parameter_count(), "bound": found.bound,
                               "standard_error": found.error, "published_loss": found.published, "distances": []}
        for calls in scale.calls:
            made, nfe = drawn(model, calls, DRAWN)
            row["distances"].append({"steps": calls, "nfe": nfe, "distance": distance(made, law)})
            panels[digits, calls] = made
        rows.append(row)
        shown = ", ".join(f"{each['distance']:.3f} ({each['nfe']})" for each in row["distances"])
        say(f"{digits:>7}  {model.base:>4}  {found.bound:.3f} +- {found.error:.3f}  {found.published:>14.3f}   {shown}")
    results = {"where": versions(), "scale": asdict(scale), "entropy": truth, "floor": floor, "rows": rows,
               "command": f"maskless demo --toy --steps {scale.steps}", "seconds": round(time.perf_counter() - begun, 1)}
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    draw(out / "toy.png", law, panels, results)
    say(f"\nWritten to {out}/ in {results['seconds']:.0f} s: toy.png, results.json. The published loss of several digits is no bound on the entropy.")
    return results


def draw(path: Path, law: Float[Tensor, "H W"], panels: dict[tuple[int, int], Tensor], results: dict[str, Any]) -> None:
    """Write a PNG: the law and its own points in front, then a row for each number of digits, a column for each number of steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    rows = results["rows"]
    columns = len(rows[0]["distances"]) + 1
    figure = Figure(figsize=(1.9 * columns, 2.2 * len(rows)), layout="constrained")
    for axes in (grid := figure.subplots(len(rows), columns, squeeze=False)).flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    show = {"cmap": "Greys", "extent": (0, SIZE, SIZE, 0), "interpolation": "nearest"}
    grid[0, 0].imshow(law.numpy(), **show)
    grid[0, 0].set_title("the law", fontsize=9)
    if len(rows) > 1:
        _scatter(grid[1, 0], points(law, DRAWN, seed=2), f"its own points\n{results['floor']:.3f}")
    for line, row in zip(grid, rows):
        for axes, each in zip(line[1:], row["distances"]):
            title = f"{each['nfe']} call{'s' if each['nfe'] > 1 else ''}\n{each['distance']:.3f}"
            _scatter(axes, panels[row["digits"], each["steps"]], title)
        line[1].set_ylabel(f"l = {row['digits']}, base {row['base']}", fontsize=9)
    figure.suptitle("Points drawn, and their distance to the law (total variation in 32 x 32 squares)", fontsize=10)
    figure.savefig(path, dpi=110)


def _scatter(axes: Any, found: Int[Tensor, "n 2"], title: str) -> None:
    axes.imshow((histogram(found, SIZE, 128) ** 0.7).numpy(), cmap="Greys", extent=(0, SIZE, SIZE, 0), interpolation="nearest")
    axes.set_title(title, fontsize=8)
