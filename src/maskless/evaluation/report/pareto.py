"""Quality against speed: which results are the same model used in the same way, and which points no other beats in both."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from maskless.evaluation.report.compare import machine, named, precision, protocol_of
from maskless.evaluation.report.gather import Entry

RATE = "tokens_per_second"                                          # the metric of a speed of sampling
QUALITY = ("generative_perplexity", "fid", "kid", "frechet_distance", "mauve")  # how the name of a quality begins
SEPARATED = 0.3                                                     # nats of entropy below the highest that make a point doubtful


@dataclass(frozen=True)
class Point:
    """A model used in one way.

    Attributes:
        model, nfe: of both results.
        quality, speed: the two results.
        rate, rate_error: the speed in the plot's unit, which is images where images are judged.
        entropy: of the same samples, nats; None if it was not measured.
        front: no other point is at least as good in both and better in one.
        doubtful: its samples are much more uniform than those of another point: a low perplexity says little.
    """

    model: str
    nfe: int | None
    quality: Entry
    speed: Entry
    rate: float
    rate_error: float
    entropy: float | None
    front: bool = False
    doubtful: bool = False


@dataclass(frozen=True)
class Pareto:
    """Points that can be compared: one quality as one scorer sees it, one machine, one precision.

    Attributes:
        metric, unit, better: of the quality.
        rate: unit of the speed.
        terms: what all points share, (name, value).
        points: by model, then speed.
    """

    metric: str
    unit: str
    better: str
    rate: str
    terms: tuple[tuple[str, str], ...]
    points: tuple[Point, ...]


def paretos(entries: Sequence[Entry]) -> list[Pareto]:
    """All pairs of a quality and a speed of the same model, sampler and number of calls, in groups that can be compared."""
    speeds = [entry for entry in entries if entry.result.metric == RATE and entry.result.nfe is not None]
    entropies = [entry for entry in entries if entry.result.metric.endswith("entropy")]
    groups: dict[tuple[Any, ...], list[Point]] = {}
    for quality in entries:
        if not quality.result.metric.startswith(QUALITY) or quality.result.better is None or quality.result.nfe is None:
            continue
        found = next((entry for entry in entropies if _alike(entry, quality) and entry.result.seed == quality.result.seed), None)
        for speed in (entry for entry in speeds if _alike(entry, quality)):
            point = Point(quality.result.model.name, quality.result.nfe, quality, speed, *_rate(quality, speed), found and found.result.value)
            groups.setdefault(_terms(quality, speed), []).append(point)
    return [_pareto(terms, points) for terms, points in groups.items()]


def _alike(one: Entry, other: Entry) -> bool:
    """Whether two results are of one model used in one way: every option that both name is the same."""
    first, second = ((entry.result.model.hash, entry.result.model.weights, entry.result.nfe) for entry in (one, other))
    options, others = one.result.sampler or {}, other.result.sampler or {}
    trees = (options, others, one.result.details, other.result.details)
    sites = {tree["length"] for tree in trees if tree.get("length")}
    return first == second and len(sites) < 2 and all(options[key] == others[key] for key in options.keys() & others.keys())


def _rate(quality: Entry, speed: Entry) -> tuple[float, float]:
    """The speed and its error; an image is as many tokens as its model has sites."""
    tokens = speed.result.details.get("length", 1) if quality.result.suite == "images" else 1
    return speed.result.value / tokens, (speed.result.uncertainty.value or 0.0) / tokens


def _terms(quality: Entry, speed: Entry) -> tuple[Any, ...]:
    result = quality.result
    terms = [("weights", result.model.weights)]
    if result.scorer is not None:
        terms.append(("scorer", named(result.scorer.name, result.scorer.hash)))
    if result.data is not None:
        terms.append(("data", f"{named(result.data.name, result.data.hash)} {result.data.split}"))
    terms += [("quality", ", ".join(protocol_of(quality)))] if protocol_of(quality) else []
    terms += [("machine", machine(speed)), ("precision of the speed", precision(speed))]
    terms += [("speed", ", ".join(protocol_of(speed)))] if protocol_of(speed) else []
    return (result.metric, result.unit, result.better, "images per second" if result.suite == "images" else speed.result.unit, tuple(terms))


def _pareto(terms: tuple[Any, ...], points: Sequence[Point]) -> Pareto:
    metric, unit, better, rate, shared = terms
    highest = max((point.entropy for point in points if point.entropy is not None), default=None)
    made = [
        replace(point, front=not any(_beats(other, point) for other in points),
                doubtful=highest is not None and point.entropy is not None and point.entropy < highest - SEPARATED)
        for point in points
    ]
    return Pareto(metric, unit, better, rate, shared, tuple(sorted(made, key=lambda point: (point.model, point.rate))))


def _beats(one: Point, other: Point) -> bool:
    """At least as good in both, better in one."""
    sign = 1.0 if one.quality.result.better == "lower" else -1.0
    worse = sign * (one.quality.result.value - other.quality.result.value)
    slower = other.rate - one.rate
    return worse <= 0 and slower <= 0 and (worse < 0 or slower < 0)


def by_model(points: Sequence[Point]) -> Mapping[str, list[Point]]:
    """Points of every model, in their order."""
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.model, []).append(point)
    return found
