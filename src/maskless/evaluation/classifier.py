"""A small convolutional classifier, whose penultimate layer serves as features for images that no published network knows.

Letters: B images, C channels, S pixels a side, F features, K classes.
"""
from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from maskless.checkpoints.native import check_sum, check_weights, read_tensors, write_tensors
from maskless.config import build, tree_of
from maskless.data.definition import read_json, write_json

FORMAT = 1
CARD, WEIGHTS = "classifier.json", "classifier.safetensors"


@dataclass(frozen=True)
class ClassifierConfig:
    """Sizes of a classifier.

    Args:
        channels, size: of the images, C and S; S is a multiple of 8.
        classes: K.
        width: channels of the first layer.
        features: F, the width of the penultimate layer.
    """

    channels: int = 1
    size: int = 32
    classes: int = 10
    width: int = 24
    features: int = 64

    def __post_init__(self) -> None:
        small = {name: value for name, value in dataclasses.asdict(self).items() if value < 1}
        if small:
            name, value = next(iter(small.items()))
            raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.size % 8:
            raise ValueError(f"size is {self.size}; it must be a multiple of 8, since the classifier halves images three times")


class Convolution(nn.Module):
    """A 3 x 3 convolution, batch normalisation, ReLU."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.norm(self.conv(x)))


class Classifier(nn.Module):
    """Four convolutions, three of them of stride 2; a hidden layer, the features; an affine head."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.convolutions = nn.Sequential(
            Convolution(config.channels, width, 2),
            Convolution(width, 2 * width, 2),
            Convolution(2 * width, 2 * width, 1),
            Convolution(2 * width, 4 * width, 2),
        )
        self.hidden = nn.Linear(4 * width * (config.size // 8) ** 2, config.features)
        self.head = nn.Linear(config.features, config.classes)

    def penultimate(self, images: Float[Tensor, "B C S S"]) -> Float[Tensor, "B F"]:
        """Features of images in [-1, 1]."""
        return functional.relu(self.hidden(self.convolutions(images).flatten(1)))

    def forward(self, images: Float[Tensor, "B C S S"]) -> Float[Tensor, "B K"]:
        return self.head(self.penultimate(images))


@dataclass(frozen=True)
class Trained:
    """A classifier that was read.

    Attributes:
        folder: where it lies.
        name: what its numbers are labelled with, such as "fashion classifier 3f2a": the data and the start of the check sum of its weights.
        card: what classifier.json says of its training (data hash, held-out accuracy, recipe).
    """

    folder: Path
    network: Classifier
    name: str
    card: Mapping[str, Any]


def save_classifier(folder: str | Path, network: Classifier, data_name: str, card: Mapping[str, Any]) -> Trained:
    """Write classifier.safetensors and classifier.json: a folder that is complete or absent.

    Raises:
        ValueError: the folder exists.
        OSError: it cannot be written; nothing is left of it.
    """
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} exists; choose a new folder or delete this one yourself")
    partial = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write_tensors(partial / WEIGHTS, _stored(network))
        digest = check_sum(partial / WEIGHTS)
        head = {"maskless": FORMAT, "name": f"{data_name} classifier {digest[:4]}", "classifier": tree_of(network.config), "crc32": digest}
        write_json(partial / CARD, head | dict(card))
        partial.rename(folder)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return load_classifier(folder)


def load_classifier(folder: str | Path) -> Trained:
    """Raises: ValueError if the folder holds no classifier, or one that is damaged or of another format."""
    folder = Path(folder)
    if not (folder / CARD).is_file():
        raise ValueError(f"{folder} holds no {CARD}; train a classifier with: maskless train image/classifier_fashion")
    card = read_json(folder / CARD)
    if not isinstance(card, dict) or card.get("maskless") != FORMAT or not {"name", "classifier", "crc32"} <= card.keys():
        raise ValueError(f"{folder / CARD} does not describe a classifier of format {FORMAT}; train it again with this version")
    network = Classifier(build(ClassifierConfig, card["classifier"]))
    weights = read_tensors(folder / WEIGHTS, card["crc32"])
    check_weights(weights, _stored(network), str(folder / WEIGHTS))
    network.load_state_dict(weights, strict=False)                  # strict but for the counters that are not stored
    return Trained(folder, network.eval(), card["name"], card)


def _stored(network: Classifier) -> dict[str, Tensor]:
    """The state without batch normalisation's counters of batches, which nothing reads."""
    return {name: tensor for name, tensor in network.state_dict().items() if not name.endswith("num_batches_tracked")}
