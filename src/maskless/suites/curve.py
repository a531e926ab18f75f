"""The curve of few-step generation: quality against calls of the model (NFE) and against speed, for several models side by side.

    found = curve([open_subject("runs/mdlm"), open_subject("runs/mdlm-sdtt/rounds/2")], Curve(scorer="runs/ar"), "results")

For every model and number of steps: what `generative` (perplexity under the scorer, entropy) or `images` (distance of features) says of as many
samples with the same seeds, and `speed` of the same sampler, the models timed in turn. And, where a model was distilled, what that has cost:

    distillation-NAME-teacher_calls.json     calls of the teacher (a call on a row without guidance and one on a guided row count the same)
    distillation-NAME-teacher_tokens.json    sites of all rows that went through the teacher's encoder: guidance and two walks count twice
    distillation-NAME-student_tokens.json    sites of all rows that the student was trained on

A file a number, as any suite writes it; a later command with other models or another guidance adds to the folder, and the picture shows all of it.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from maskless.api.image import ImageModel
from maskless.checkpoints.native import described, resolve
from maskless.checkpoints.source import find
from maskless.decoding.options import SamplerOptions
from maskless.evaluation.results import Result, read_folders, write
from maskless.evaluation.settings import AnySource, Generative, ImageQuality, Speed
from maskless.evaluation.speed import Contender, race_them
from maskless.suites.generative import evaluate_generative
from maskless.suites.images import evaluate_images
from maskless.suites.run import line_of
from maskless.suites.session import Session
from maskless.suites.speed import Generation, timed
from maskless.suites.subject import Subject

STEPS = (4, 8, 16, 32, 64, 128, 256)
QUALITIES = ("generative_perplexity", "unigram_entropy", "fid", "frechet_distance")
COSTS = ("teacher_calls", "teacher_tokens", "student_tokens")

USUAL = {False: SamplerOptions(), True: SamplerOptions(order="halton", plan="arccos")}         # of texts, of images

Say = Callable[[str], None]


@dataclass(frozen=True)
class Curve:
    """What is measured.

    Args:
        steps: calls of a generation; more than a row has sites are left out.
        samples: of a quality.
        sampler: options of the sampler that differ from `USUAL` (steps aside), by name. A student that holds its teacher's guidance needs none.
        refresh: order-causal models: encode all that is known afresh every so many steps; 0: keep the cache.
        scorer: of texts, as in `Generative`.
        features, data, split: of images, as in `ImageQuality`.
        batch, repeats: of a timing; repeats 0: nothing is timed.
        seed: of everything that is drawn.

    Raises:
        ValueError: no steps, or below one.
    """

    steps: tuple[int, ...] = STEPS
    samples: int = 256
    sampler: Mapping[str, Any] = field(default_factory=dict)
    refresh: int = 0
    scorer: str | None = None
    features: str | None = None
    data: AnySource | None = None
    split: str = "valid"
    batch: int = 32
    repeats: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.steps or min(self.steps) < 1:
            raise ValueError(f"steps {', '.join(map(str, self.steps)) or 'none'} must be numbers of at least 1; give some, such as 4,16,64")
        if self.repeats < 0:
            raise ValueError(f"repeats is {self.repeats}; give 0 to time nothing")

    def options(self, subject: Subject, steps: int) -> SamplerOptions:
        """The sampler of a model of this kind."""
        return replace(USUAL[isinstance(subject.opened, ImageModel)], **{**self.sampler, "steps": steps})

    def title(self, subject: Subject, steps: int) -> str:
        """What the names of results have behind the model's: all that differs within one folder."""
        words = _unusual(asdict(self.options(subject, steps)), USUAL[isinstance(subject.opened, ImageModel)])
        return "-".join([f"nfe{steps}", *(f"{name}{value}" for name, value in words.items()), *([f"refresh{self.refresh}"] if self.refresh else [])])

    def quality(self, subject: Subject, steps: int) -> Generative | ImageQuality:
        """The suite that judges this kind of model.

        Raises:
            ValueError: nothing to judge by.
        """
        shared: dict[str, Any] = {"name": self.title(subject, steps), "seed": self.seed, "samples": self.samples, "refresh": self.refresh,
                                  "sampler": self.options(subject, steps)}
        if not isinstance(subject.opened, ImageModel):
            if self.scorer is None:
                raise ValueError("texts need a scorer to be judged by; give --scorer, an autoregressive checkpoint or a Hugging Face name")
            return Generative(**shared, scorer=self.scorer)
        if self.features is None:
            raise ValueError("images need features to be compared by; give --features, a classifier's folder or a protocol of Inception")
        return ImageQuality(**shared, features=self.features, data=self.data, split="train" if self.split == "train" else "valid",
                            metrics=("distance",))


def curve(subjects: Sequence[Subject], asked: Curve, out: str | Path, *, say: Say = lambda line: None) -> list[Result]:
    """Measure, write every number as soon as it is there, and draw what the folder holds (`curve.png`).

    Raises:
        ValueError: models of texts and of images together, two of one name, nothing to judge by, or what the suites raise.
    """
    _check(subjects)
    folder, found = Path(out), []

    def keep(result: Result) -> None:
        say(f"{line_of(result)}  {write(result, folder)}")
        found.append(result)

    for subject in subjects:
        for result in costs(Session(subject, Speed(name="cost", seed=asked.seed), folder)):
            keep(result)
    for steps in _possible(subjects, asked, say):
        for subject in subjects:
            settings = asked.quality(subject, steps)
            session = Session(subject, settings, folder, say=say)
            judged = evaluate_generative(session, settings) if isinstance(settings, Generative) else evaluate_images(session, settings)
            for result in judged:
                keep(result)
        for result in speeds(subjects, asked, steps, folder):
            keep(result)
    draw(folder / "curve.png", read_folders([folder]))
    return found


def _check(subjects: Sequence[Subject]) -> None:
    names = [subject.record.name for subject in subjects]
    if not subjects:
        raise ValueError("no model was named; give one or more folders")
    if len({isinstance(subject.opened, ImageModel) for subject in subjects}) > 1:
        raise ValueError("models of texts and of images have no quality in common; give one kind")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two models are called {twice[0]}; rename one of the folders")


def _possible(subjects: Sequence[Subject], asked: Curve, say: Say) -> list[int]:
    """The steps that every model can take: a call reveals at least a site. Raises ValueError if there are none."""
    sites = min(subject.length for subject in subjects)
    steps = [n for n in asked.steps if n <= sites]
    if left := [n for n in asked.steps if n > sites]:
        say(f"left out: {', '.join(map(str, left))} steps, more than the {sites} sites of a row")
    if not steps:
        raise ValueError(f"a row has {sites} sites, fewer than the {min(asked.steps)} steps that are asked for; give fewer steps")
    return steps


def speeds(subjects: Sequence[Subject], asked: Curve, steps: int, out: Path) -> Iterator[Result]:
    """Tokens per second at a number of steps, the models in turn."""
    if not asked.repeats:
        return
    runs = []
    for subject in subjects:
        settings = Speed(name=asked.title(subject, steps), seed=asked.seed, protocols=("throughput",), batch=asked.batch, repeats=asked.repeats,
                         sampler=asked.options(subject, steps), refresh=asked.refresh)
        session = Session(subject, settings, out)
        way = Generation(session, settings, asked.batch, subject.length)
        runs.append((session, settings, Contender(session.title, subject.opened.network, way, asked.batch, subject.length, steps)))
    timings = race_them([contender for *_, contender in runs], device=subjects[0].opened.device, repeats=asked.repeats)
    for (session, settings, _), timing in zip(runs, timings):
        yield timed(session, settings, timing, timing.seconds, "throughput")


def cost_of(subject: Subject) -> dict[str, Any] | None:
    """What distilling this model has cost, as its folder says; None where it was not distilled."""
    place = find(subject.record.path) if subject.record.path else None
    if place is None or not place.native:
        return None
    return described(resolve(place.path) / "config.json")[1].get("extra", {}).get("cost")


def costs(session: Session) -> Iterator[Result]:
    """The costs as results of their own: exact counts of all processes, as the model's folder has them."""
    cost = cost_of(session.subject)
    for metric in COSTS if cost is not None else ():
        if cost is not None and cost[metric] is not None:
            unit = "calls" if metric == "teacher_calls" else "token passes"
            made = session.result(metric, float(cost[metric]), None, 1, kind="measurement", unit=unit, tokenizer=None, details=dict(cost))
            yield replace(made, suite="distillation", name=f"{session.subject.record.name}-{metric}", asked={})


# ------------------------------------------------------------------------------------------------------------ picture


@dataclass(frozen=True)
class Point:
    """One model at one number of steps: a value with its error, calls, and tokens per second with their spread (where timed)."""

    label: str
    metric: str
    value: float
    error: float
    nfe: int
    speed: float | None
    spread: float


def points(results: Sequence[Result]) -> list[Point]:
    """The curves in a folder of results."""
    speed = {_way(result): result for result in results if result.metric == "tokens_per_second"}
    found = []
    for result in results:
        if result.metric in QUALITIES and result.nfe is not None:
            beside = speed.get(_way(result))
            found.append(Point(label_of(result), result.metric, result.value, result.uncertainty.value or 0.0, result.nfe,
                               None if beside is None else beside.value, 0.0 if beside is None else beside.uncertainty.value or 0.0))
    return sorted(found, key=lambda point: (point.label, point.metric, point.nfe))


def _way(result: Result) -> tuple[Any, ...]:
    """Which model, sampled how."""
    options = {name: value for name, value in (result.sampler or {}).items() if name != "length"}
    return result.model.name, result.model.hash, *sorted((name, str(value)) for name, value in options.items())


def _unusual(options: Mapping[str, Any], usual: SamplerOptions) -> dict[str, Any]:
    """What differs from the usual sampler, steps aside."""
    given = {**asdict(usual), "order": usual.order or "random"}
    return {name: options[name] for name, value in given.items() if name != "steps" and options[name] not in (None, value)}


def label_of(result: Result) -> str:
    """The model, and how it was sampled where that is not usual."""
    options = result.sampler or {}
    words = _unusual(options, USUAL[result.suite == "images"]) | ({"refresh": options["refresh"]} if options.get("refresh") else {})
    return ", ".join([result.model.name, *(f"{name} {value}" for name, value in words.items())])


def draw(path: Path, results: Sequence[Result]) -> None:
    """Write a PNG: a row for each metric, against calls and against tokens per second; bars are standard errors and spreads."""
    from maskless.evaluation.bench.picture import figure_of, ticks_at

    found, cost = points(results), {result.model.name: result.value for result in results if result.metric == "teacher_tokens"}
    metrics = [metric for metric in QUALITIES if any(point.metric == metric for point in found)]
    labels = list(dict.fromkeys(point.label for point in found))
    figure, axes = figure_of(2 * len(metrics), "Quality against calls and speed (numbers: calls)")
    for row, metric in enumerate(metrics):
        calls, speed = axes[2 * row:2 * row + 2]
        for place, label in enumerate(labels):
            some = [point for point in found if point.label == label and point.metric == metric]
            spent = cost.get(label.split(",")[0])
            style: dict[str, Any] = {"color": f"C{place % 10}", "marker": "o", "markersize": 4, "capsize": 2,
                                     "label": label if spent is None else f"{label} ({spent:.3g} teacher tokens)"}
            calls.errorbar([p.nfe for p in some], [p.value for p in some], yerr=[p.error for p in some], **style)
            if clocked := [p for p in some if p.speed is not None]:
                speed.errorbar([p.speed for p in clocked], [p.value for p in clocked], yerr=[p.error for p in clocked],
                               xerr=[p.spread for p in clocked], **style)
            for p in clocked:
                speed.annotate(str(p.nfe), (p.speed, p.value), textcoords="offset points", xytext=(4, 4), fontsize=7)
        ticks_at(calls, [point.nfe for point in found])
        calls.set(xlabel="calls of the model (NFE)", ylabel=metric.replace("_", " "))
        if any(point.speed is not None for point in found if point.metric == metric):
            speed.set(xscale="log", xlabel="tokens per second", ylabel=metric.replace("_", " "))
        else:
            speed.remove()                                          # nothing was timed
    axes[0].legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
