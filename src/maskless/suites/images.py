"""`images`: images drawn from the model against real ones, by features of Inception or of a classifier.

    fid (frechet_distance)   kid (kernel_distance)   inception_score   precision   recall

The names in brackets are for features that are not Inception's. Protocols and errors: docs/evaluation-images.md.

n images, C channels, H, W pixels, F features.
"""
from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maskless.api.image import ImageModel
from maskless.data.images import Pictures
from maskless.data.pictures import Pixels, grid_of, in_unit_range, picture
from maskless.evaluation.feature_statistics import Origin, Statistics, load_statistics
from maskless.evaluation.features import (
    Extractor,
    InceptionFeatures,
    extract,
    extractor,
    statistics_of,
)
from maskless.evaluation.image_metrics import (
    Measurement,
    Sample,
    check_enough,
    check_neighbours,
    check_splits,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)
from maskless.evaluation.results import DataRecord, Named, Result, digest_of, hash_of
from maskless.evaluation.settings import ImageQuality
from maskless.suites.drawing import drawn, options_of
from maskless.suites.names import name_of
from maskless.suites.session import Session

TOGETHER = 64                                                       # images at once, whatever the batch size
SHOWN = 64                                                          # images of the picture beside the results
METRICS = {"FID": "fid", "Frechet distance": "frechet_distance", "KID": "kid", "kernel distance": "kernel_distance"}


@dataclass(frozen=True)
class Real:
    """Real images by their features: of all of them, or only their statistics."""

    statistics: Statistics | None
    sample: Sample | None
    record: DataRecord
    prepared: str                       # how they were brought to one size, where that is known


@dataclass
class Passing:
    """Pictures on their way to the features, a batch at a time; their number and the sha256 of their bytes so far."""

    pictures: Iterator[Pixels]
    count: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def __iter__(self) -> Iterator[Float[Tensor, "_ C H W"]]:
        while together := list(islice(self.pictures, TOGETHER)):
            pixels = np.stack(together)
            self.count += len(pixels)
            self.digest.update(pixels.tobytes())
            yield in_unit_range(torch.from_numpy(pixels))


def evaluate_images(session: Session, settings: ImageQuality) -> Iterator[Result]:
    """How near the images of a model are to real ones.

    Raises:
        ValueError: before anything is drawn: a model of text, too few images on either side, features that do not fit, or real images that
            cannot be had.
    """
    model = session.subject.opened
    if not isinstance(model, ImageModel):
        raise ValueError(f"{session.subject.record.path} is a model of text; measure it with the suite generative")
    if session.shard.alone:
        check_generated(settings, None)
        drawn(session, settings)
        return
    features = extractor(settings.features, model.device)
    features.check(model.codec.channels, *model.size)
    check_generated(settings, features)
    real = _real(session, settings, features, model)
    check_count(settings, real.record.documents, real.record.split, features)
    samples = drawn(session, settings)
    codes = torch.tensor([sample["tokens"] for sample in samples]).unflatten(1, model.grid)
    _show(model, codes[:SHOWN], session.out / f"samples-{session.title}.png")
    images = (model.codec.decode(part.to(torch.int64)) for part in codes.split(TOGETHER))
    made = extract(features, session.counted("features", images, len(codes), len), split="generated")
    options = options_of(session, settings.sampler)
    about = {"sampler": {**options, "refresh": settings.refresh}, "plan": options["plan"], "nfe": max(sample["nfe"] for sample in samples),
             "tokenizer": session.subject.tokenizer, "precision": session.sampling, "scorer": Named(features.name, digest_of(features.network))}
    for measured in _measured(settings, features, made, real):
        yield _result(session, measured, real, about)


def check_generated(settings: ImageQuality, features: Extractor | None) -> None:
    """Raise ValueError for metrics that the images to be drawn cannot give; without features, as far as those do not matter."""
    check_count(settings, settings.samples, "generated", features)
    if "inception_score" in settings.metrics:
        check_splits(settings.samples, settings.splits)
        if features is not None and not features.classes:
            raise ValueError(f"{features.name} has no classes, and an inception score needs them; leave inception_score out of metrics")


def check_count(settings: ImageQuality, count: int, split: str, features: Extractor | None) -> None:
    """Raise ValueError for metrics that so few images of one side cannot give."""
    if "distance" in settings.metrics and features is not None:
        check_enough(count, split, features.width)
    if "kernel_distance" in settings.metrics and not 2 <= settings.subset <= count:
        raise ValueError(f"{count} images of {split} cannot be cut into subsets of {settings.subset}; give more images, or a subset of 2 to {count}")
    if "precision_recall" in settings.metrics:
        check_neighbours(count, split)


def _measured(settings: ImageQuality, features: Extractor, made: Sample, real: Real) -> Iterator[Measurement]:
    if "distance" in settings.metrics:
        assert real.statistics is not None
        yield frechet_distance(statistics_of(made), real.statistics)
    if "inception_score" in settings.metrics:
        logits = features.logits(made.features)
        yield inception_score(logits.cpu(), made, splits=settings.splits, seed=settings.seed)
    if "kernel_distance" in settings.metrics and real.sample is not None:
        yield kernel_distance(made, real.sample, size=settings.subset, seed=settings.seed)
    if "precision_recall" in settings.metrics and real.sample is not None:
        yield from precision_recall(made, real.sample)


def _result(session: Session, found: Measurement, real: Real, about: dict[str, Any]) -> Result:
    metric = METRICS.get(found.metric, found.metric.replace(" ", "_"))
    better = "lower" if metric in METRICS.values() else "higher"
    details = {"transform": found.transform, "error_from": found.error_from, "real_images": found.reference_count,
               **({"real_images_prepared": real.prepared} if found.reference_count is not None and real.prepared else {})}
    data = None if found.reference_count is None else real.record
    return session.result(metric, found.value, found.standard_error, found.count, kind="estimate", better=better, data=data, details=details,
                          **about)


# -------------------------------------------------------------------------------------------------------- real images


def _real(session: Session, settings: ImageQuality, features: Extractor, model: ImageModel) -> Real:
    """The real images' features, or what a file says of them.

    Raises:
        ValueError: there are none, they are codes and not pixels, or the file is of other features.
    """
    if settings.reference is not None:
        found = load_statistics(settings.reference, features=features.name, origin=_origin(settings, features))
        return Real(found, None, DataRecord(Path(settings.reference).name, found.split, hash_of(settings.reference), found.count), found.prepared)
    source = session.subject.data(settings.data)
    if not isinstance(source, Pictures):
        raise ValueError(f"the data of {session.subject.record.path} are no pictures (codes are not compared); name data of images, "
                         "or give statistics as images.reference")
    pictures = (pixels for pixels, _ in islice(source.pictures(settings.split, model.codec.channels), settings.rows))
    first = next(pictures, None)
    if first is None:
        raise ValueError(f"the data have no images of {settings.split}; name another split or other data")
    passing = Passing(chain([first], pictures))
    sample = extract(features, session.counted("real images", passing, settings.rows or 0, len), split=settings.split)
    record = DataRecord(name_of(source, settings.split), settings.split, passing.digest.hexdigest(), passing.count)
    return Real(statistics_of(sample) if "distance" in settings.metrics else None, sample, record,
                f"{source.fit} to {source.size} x {source.size}")


def _origin(settings: ImageQuality, features: Extractor) -> Origin | None:
    """What a reference file of others is of; they all hold Inception's features."""
    if settings.reference_count is None:
        return None
    if not isinstance(features, InceptionFeatures):
        raise ValueError("reference_count is for files of others, which hold Inception's features, and the images are measured with "
                         f"{features.name}; leave it out, or make the file with maskless image-statistics")
    return Origin(settings.reference_count, features.transform, settings.split)


def _show(model: ImageModel, codes: Tensor, path: Path) -> None:
    """A picture of the first images."""
    partial = path.with_name(f"{path.stem}.tmp.png")
    picture(grid_of(model.render(codes))).save(partial)
    partial.replace(path)
