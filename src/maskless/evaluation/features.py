"""What turns images into features, by name, so that every number says what it was measured with.

    features = classifier_features(load_classifier("runs/fashion_classifier"))
    sample = extract(features, batches, split="generated")

Letters: B images, C channels, H x W pixels, F features, K classes.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from maskless.evaluation.classifier import Classifier, Trained, load_classifier
from maskless.evaluation.feature_statistics import GROUPS, Moments, Statistics
from maskless.evaluation.image_metrics import Sample
from maskless.evaluation.image_transform import PROTOCOLS, Transform, protocol
from maskless.evaluation.inception import CLASSES, WIDTH, Inception, load_inception


@runtime_checkable
class Features(Protocol):
    """An extractor.

    Attributes:
        name: what its numbers are labelled with; names the weights as well.
        transform: what it does to images before the network.
        width: F.
        classes: K of `logits`; 0 if it has none.
    """

    name: str
    width: int
    classes: int

    @property
    def transform(self) -> str: ...

    def __call__(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
        """Features of images in [-1, 1]."""
        ...

    def logits(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B K"] | None:
        """Of the classes, for the inception score, from features; None where there are no classes."""
        ...


@dataclass
class InceptionFeatures:
    """The features of FID: Inception behind a protocol's resize and rounding."""

    network: Inception
    name: str
    resize: Transform
    width: int = WIDTH
    classes: int = CLASSES
    channels: int = 3
    side: int | None = None                                         # any size is resized

    @property
    def transform(self) -> str:
        return self.resize.name

    def check(self, channels: int, height: int, width: int) -> None:
        """Images of any size will do, grey or in colour."""

    def __call__(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
        weight = self.network.fc.weight
        return self.network(self.resize(images).to(weight.device, weight.dtype))

    def logits(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B K"]:
        weight = self.network.fc.weight
        return self.network.unbiased_logits(features.to(weight.device, weight.dtype))


def inception_features(protocol_name: str = "pgm-val", *, weights: str | Path | None = None, fetch: bool = True) -> InceptionFeatures:
    """Inception with the input of a protocol (pgm-val, halton-train, adm); the name ends with the start of the weights' sha256.

    Raises:
        ValueError: no such protocol, or the weights cannot be had.
    """
    resize = protocol(protocol_name).transform
    network, digest = load_inception(weights, fetch=fetch)
    return InceptionFeatures(network, f"inception-v3-compat {digest}", resize)


class ClassifierFeatures:
    """The penultimate layer of a classifier that was trained on the data at hand; images are clipped to [-1, 1]."""

    transform = "clipped to [-1, 1]"

    def __init__(self, network: Classifier, name: str) -> None:
        self.network, self.name = network.eval().requires_grad_(False), name
        self.width, self.classes = network.config.features, network.config.classes
        self.channels, self.side = network.config.channels, network.config.size

    def __call__(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
        self.check(*images.shape[1:])
        weight = self.network.head.weight
        return self.network.penultimate(images.to(weight.device, weight.dtype).clamp(-1, 1))

    def check(self, channels: int, height: int, width: int) -> None:
        """Raise ValueError for images of a shape that the classifier does not take."""
        if (channels, height, width) != (self.channels, self.side, self.side):
            raise ValueError(f"images of {height} x {width} pixels in {channels} channels do not fit the {self.name}, which takes "
                             f"{self.side} x {self.side} in {self.channels}; use a classifier of such images")

    def logits(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B K"]:
        weight = self.network.head.weight
        return self.network.head(features.to(weight.device, weight.dtype))


def classifier_features(trained: Trained | str | Path) -> ClassifierFeatures:
    """Features of a classifier or of the folder of one."""
    found = trained if isinstance(trained, Trained) else load_classifier(trained)
    return ClassifierFeatures(found.network, found.name)


Extractor = InceptionFeatures | ClassifierFeatures


def extractor(name: str, device: torch.device | str) -> Extractor:
    """Inception behind a protocol, its weights in the cache or after a colon (pgm-val:/path/to/weights.pth); or a trained classifier's folder.

    Raises:
        ValueError: as `inception_features` and `load_classifier` say.
    """
    protocol_name, colon, weights = name.partition(":")
    known = protocol_name in PROTOCOLS
    features = inception_features(protocol_name, weights=weights if colon else None) if known else classifier_features(name)
    features.network.to(device)
    return features


@torch.no_grad()
def extract(features: Features, batches: Iterable[Float[Tensor, "_ C H W"]], *, split: str) -> Sample:
    """Features of all images, on the CPU: for the distances that need every image.

    Args:
        batches: images in [-1, 1]; how they are cut does not change the result.
        split: which images these are.

    Raises:
        ValueError: no images, or features that are not finite.
    """
    found = [features(images).cpu() for images in batches]
    if not found:
        raise ValueError(f"there are no images of {split}; check what is measured")
    return Sample(torch.cat(found), features.name, features.transform, split)


@torch.no_grad()
def gathered(features: Features, batches: Iterable[Float[Tensor, "_ C H W"]], *, split: str, prepared: str = "") -> Statistics:
    """Mean and covariance of any number of images in the memory of a batch, without the groups of an error: as a file keeps them.

    Args:
        batches, split: as for `extract`.
        prepared: as in `Statistics`.

    Raises:
        ValueError: fewer than two images, or features that are not finite.
    """
    moments = Moments(features.width, features.name, features.transform, split, groups=1)
    for images in batches:
        moments.add(features(images))
    return replace(moments.statistics(), prepared=prepared)


def statistics_of(sample: Sample, *, groups: int = GROUPS) -> Statistics:
    """Mean and covariance of features that are there already; `Moments` gathers them batch by batch."""
    moments = Moments(sample.features.shape[1], sample.name, sample.transform, sample.split, groups=groups)
    moments.add(sample.features)
    return moments.statistics()
