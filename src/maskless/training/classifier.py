"""Training of the small image classifier whose features measure images (docs/evaluation-images.md)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional

from maskless.config import build, override, read, tree_of
from maskless.data.images import PlainPixels
from maskless.data.labelled import LabelledImages, labelled_images
from maskless.data.pictures import in_unit_range
from maskless.data.source import SPLITS
from maskless.evaluation.classifier import Classifier, ClassifierConfig, Trained, save_classifier
from maskless.evaluation.machine import device_of, versions
from maskless.noise import uniform
from maskless.places import no_file_above
from maskless.training.recipe import at_least
from maskless.training.recipes import find

ORDER = 0x53484646  # the purpose word of the order of images


@dataclass(frozen=True, kw_only=True)
class ClassifierData(PlainPixels):
    """Labelled images of any source.

    Args:
        name: what results are labelled with: "NAME classifier 3f2a".
    """

    name: str


@dataclass(frozen=True)
class ClassifierTraining:
    """Numbers of the training; adamw, a linear warm-up over a tenth of the steps, then half a cosine down to 0."""

    epochs: int = 3
    batch_size: int = 128
    lr: float = 4e-3
    weight_decay: float = 0.02
    seed: int = 0
    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        at_least(1, epochs=self.epochs, batch_size=self.batch_size, threads=self.threads)
        if self.lr <= 0:
            raise ValueError(f"lr is {self.lr}; it must be above 0")


@dataclass(frozen=True)
class ClassifierRecipe:
    """A classifier, its images and numbers."""

    classifier: ClassifierConfig
    data: ClassifierData
    training: ClassifierTraining


def describes_classifier(source: str | Path) -> bool:
    """Whether a recipe (a file or a name) is one of a classifier. Raises ValueError if there is no such recipe."""
    return "classifier" in read(find(source))


def train_classifier(
    source: str | Path | Mapping, *changes: str, out: str | Path | None = None, say: Callable[[str], None] = lambda line: None
) -> Trained:
    """Train by a recipe on the train split, measure on the test split, save.

    Args:
        source: path of a YAML file, name of a packaged recipe, or a mapping.
        changes: such as `training.epochs=5`.
        out: the folder (default: runs/NAME_classifier).
        say: given one line per epoch.

    Raises:
        ValueError: for anything wrong in the recipe or the data, or if the folder exists.
    """
    tree = override(source if isinstance(source, Mapping) else read(find(source)), changes)
    recipe = build(ClassifierRecipe, tree)
    folder = Path(out) if out is not None else Path("runs") / f"{recipe.data.name}_classifier"
    no_file_above(folder)
    if folder.exists():
        raise ValueError(f"{folder} exists; choose another folder with --out, or delete this one yourself")
    images, held_out = (labelled_images(recipe.data, split) for split in SPLITS)
    for split in (images, held_out):
        _check(recipe, split)
    with threads(recipe.training.threads):
        network = fit(recipe, images, say)
        right = accuracy(network, held_out)
    say(f"{right:.2%} of {len(held_out)} held-out images right")
    card = {
        "accuracy": right,
        "data": {"name": recipe.data.name, "sha256": images.sha256, "train": len(images), "held_out": len(held_out)},
        "recipe": {**tree_of(recipe), "data": _without_places(tree_of(recipe.data))},
        "where": versions(torch.device(recipe.training.device)),
    }
    return save_classifier(folder, network, recipe.data.name, card)


def _without_places(data: dict[str, Any]) -> dict[str, Any]:
    """What a recipe says of its data, files and folders by their names alone."""
    source = {key: Path(value).name if key in ("train", "valid") and value else value for key, value in data["source"].items()}
    return {**data, "source": source}


def _check(recipe: ClassifierRecipe, images: LabelledImages) -> None:
    config, shape = recipe.classifier, images.pixels.shape[1:]
    if tuple(shape) != (config.channels, config.size, config.size):
        raise ValueError(
            f"the images are {' x '.join(map(str, shape))} and the classifier takes {config.channels} x {config.size} x {config.size}; "
            "set classifier.channels and data.channels, classifier.size and data.size alike"
        )
    low, high = int(images.labels.min()), int(images.labels.max())
    if low < 0 or high >= config.classes:
        raise ValueError(f"labels run from {low} to {high} and classifier.classes is {config.classes}; set classifier.classes={high + 1}")


def fit(recipe: ClassifierRecipe, images: LabelledImages, say: Callable[[str], None] = lambda line: None) -> Classifier:
    """The trained classifier: a pure function of recipe and images, for equal threads and device."""
    numbers = recipe.training
    device = device_of(numbers.device)
    with torch.random.fork_rng():
        torch.manual_seed(numbers.seed)
        network = Classifier(recipe.classifier).train()
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  (a quarter less time on a CPU)
    optimizer = torch.optim.AdamW(network.parameters(), lr=numbers.lr, weight_decay=numbers.weight_decay)
    each = math.ceil(len(images) / numbers.batch_size)
    for epoch in range(numbers.epochs):
        losses = []
        for step, rows in enumerate(batches(len(images), numbers, epoch), epoch * each):
            for group in optimizer.param_groups:
                group["lr"] = rate(numbers.lr, step, each * numbers.epochs)
            logits = network(in_unit_range(images.pixels[rows].to(device)))
            loss = functional.cross_entropy(logits, images.labels[rows].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        loss = float(torch.stack(losses).mean())
        if not math.isfinite(loss):
            raise ValueError(f"the loss is {loss} in epoch {epoch + 1}; start again with a lower training.lr (now {numbers.lr:g})")
        say(f"epoch {epoch + 1} of {numbers.epochs}: loss {loss:.4f}")
    return network.eval()


def rate(peak: float, step: int, steps: int) -> float:
    """Up over a tenth of the steps, then half a cosine down to 0."""
    warm = max(1, steps // 10)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def batches(count: int, numbers: ClassifierTraining, epoch: int) -> Iterator[Int[Tensor, " B"]]:
    """Row numbers of every batch of an epoch: a permutation that is a function of (seed, epoch)."""
    order = uniform(numbers.seed, ORDER, epoch, torch.arange(count)).argsort(stable=True)
    yield from order.split(numbers.batch_size)


@torch.inference_mode()
def accuracy(network: Classifier, images: LabelledImages, batch_size: int = 500) -> float:
    """The share of images whose largest logit is their label's."""
    device, right = next(network.parameters()).device, 0
    for pixels, labels in zip(images.pixels.split(batch_size), images.labels.split(batch_size)):
        right += int((network(in_unit_range(pixels.to(device))).argmax(-1).cpu() == labels).sum())
    return right / len(images)


@contextmanager
def threads(count: int) -> Iterator[Any]:
    """So many threads, and back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
