"""Samples of a model for a suite: an `Album` of them, filled by this process and its neighbours."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from maskless.api.image import ImageModel
from maskless.api.text import TextModel
from maskless.decoding.options import SamplerOptions
from maskless.evaluation.micro import micro_rows
from maskless.evaluation.samples import Album, Sample
from maskless.evaluation.settings import Generative, ImageQuality
from maskless.suites.session import Session

SEEDS = 20                                                          # bits of a sample's index within a seed


def completed(opened: TextModel | ImageModel, given: Mapping[str, Any]) -> dict[str, Any]:
    """Some options of a sampler, and what the model's `generate` takes in place of the others where that is not the default."""
    usual = opened.usual(dict(given), opened.codes.length) if isinstance(opened, ImageModel) else {}
    return {**usual, **given}


def options_of(session: Session, options: SamplerOptions | None) -> dict[str, Any]:
    """The sampler's options, with the order that this kind of model takes where they leave it open; None: those of the model's `generate`."""
    given = asdict(SamplerOptions(**completed(session.subject.opened, {})) if options is None else options)
    if session.subject.opened.model.left_to_right:                  # one site a call, whatever is asked for
        given.update(order=given["order"] or "left-to-right", steps=None)
    return {**given, "order": given["order"] or "random"}


def drawn(session: Session, settings: Generative | ImageQuality) -> list[Sample]:
    """The samples that a suite needs, in order; none in a process that only draws its share.

    Raises:
        ValueError: samples of this name that were drawn in another way, options that the model does not take, or laws that are not finite.
    """
    opened, record = session.subject.opened, session.subject.record
    sites = (settings.length if isinstance(settings, Generative) else None) or session.subject.length
    options = options_of(session, settings.sampler)
    if settings.seed >> SEEDS or settings.samples >> SEEDS:
        raise ValueError(f"seed {settings.seed} and samples {settings.samples} must both be below {1 << SEEDS}")
    about = {"model": record.hash, "weights": record.weights, "length": sites, "sampler": options, "refresh": settings.refresh, "seed": settings.seed,
             "dtype": session.sampling.weights, "device": opened.device.type, "tokenizer": session.subject.tokenizer.hash}
    micro, shard = micro_rows(sites), session.shard
    album = Album(session.out, session.title, about, micro)
    make = _texts(opened, settings, sites, options) if isinstance(opened, TextModel) else _images(opened, settings, options)
    album.draw(settings.samples, make, part=shard.index, parts=shard.count, progress=lambda done, total: session.progress("samples", done, total))
    if shard.alone:
        session.say(f"shard {shard.index}/{shard.count} is drawn; the command without --shard measures once all are")
        return []
    return album.gather(settings.samples, wait=shard.joined, progress=lambda done, total: session.progress("samples", done, total))


def seeds_of(seed: int, indices: Sequence[int]) -> list[int]:
    return [(seed << SEEDS) + index for index in indices]


def _texts(opened: TextModel, settings: Any, sites: int, options: dict[str, Any]) -> Callable[[Sequence[int]], list[Sample]]:
    def make(indices: Sequence[int]) -> list[Sample]:
        seeds = seeds_of(settings.seed, indices)
        found = opened.generate(len(seeds), length=sites, seed=seeds, refresh=settings.refresh, **options)
        return [{"index": index, "tokens": list(each.tokens), "text": each.text, "nfe": each.nfe} for index, each in zip(indices, found)]
    return make


def _images(opened: ImageModel, settings: Any, options: dict[str, Any]) -> Callable[[Sequence[int]], list[Sample]]:
    def make(indices: Sequence[int]) -> list[Sample]:
        seeds, classes = seeds_of(settings.seed, indices), opened.model.null_label
        labels = None if classes is None else [index % classes for index in indices]
        found = opened.generate(len(seeds), labels=labels, seed=seeds, refresh=settings.refresh, batch=len(seeds), **options)
        return [{"index": index, "tokens": codes.flatten().tolist(), "label": None if labels is None else labels[place], "nfe": found.nfe}
                for place, (index, codes) in enumerate(zip(indices, found.codes))]
    return make
