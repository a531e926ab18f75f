"""What an evaluation may say: one frozen dataclass per suite, and the `evaluation:` section of a recipe.

    evaluation:
      suites:
        - {type: likelihood, budget: 8}
        - {type: likelihood, name: wikitext2, data: {type: hub, name: wikitext2}}
        - {type: generative, samples: 1024, sampler: {steps: 128}, scorer: gpt2-large}

A suite may stand there several times, under different names: `name` is part of the names of its results.
"""
from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from maskless.config import Tagged
from maskless.data.sources import ORIGINS
from maskless.decoding.noise import check_seed
from maskless.decoding.options import SamplerOptions
from maskless.objectives import OBJECTIVES

AnySource = Annotated[Any, Tagged(ORIGINS)]
AnyObjective = Annotated[Any, Tagged(OBJECTIVES)]
NAME = re.compile(r"[A-Za-z0-9._+=-]*")
IMAGE_METRICS = ("distance", "inception_score", "kernel_distance", "precision_recall")
WAYS = {"score": ("conditional", "mean_joint"), "overlong": ("window", "refuse"), "decoding": ("left_to_right", "together")}   # of scoring tasks
PROTOCOLS = ("latency", "throughput", "training")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What all suites are told.

    Args:
        name: follows the model's name in the names of result files; tells two runs of one suite apart.
        seed: of everything that is drawn.
    """

    name: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"name {self.name!r} cannot be part of a file name; use letters, digits and . _ + = -")
        check_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class Likelihood(Suite):
    """-log p of held-out rows: a bound, or exact where the model goes from left to right.

    Args:
        data: where the rows come from, written in the model's own tokenizer; null: the data the model was trained on.
        split: which part.
        length: sites of a row of text; null: those of the model.
        rows: at most so many (the first ones); null: all.
        budget: Monte-Carlo draws per row: times, or orders of an order-causal model (K of its importance-weighted bound, at least 2); null: 1,
            and 8 orders.
        objective: whose bounds are measured, such as `{type: dial}`; null: the one of the model's kind.
    """

    data: AnySource | None = None
    split: Literal["train", "valid"] = "valid"
    length: int | None = None
    rows: int | None = None
    budget: int | None = None
    objective: AnyObjective | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(length=self.length, rows=self.rows, budget=self.budget)


@dataclass(frozen=True, kw_only=True)
class Generative(Suite):
    """Texts drawn from the model, judged by another language model and by themselves.

    Args:
        samples: how many texts; of a file the first so many.
        length: sites of a text; null: the model's length.
        sampler: how they are drawn.
        refresh: order-causal models: encode all that is known afresh every so many steps; 0: keep the cache.
        scorer: an autoregressive checkpoint of this library, or a causal language model by its Hugging Face name or folder; null: no
            perplexity.
        retokenise: whether the scorer reads the texts in its own tokens; null: a checkpoint of this library reads the ids themselves (it must
            have the same tokenizer), another model reads the text.
        window: tokens of a text that the scorer reads; null: as many as the model has sites, or the scorer takes.
        file: samples to judge in place of drawing any: lines of JSON with `text`, and `tokens` where they are of the model's tokenizer.
            `details.samples_in_file` says how many it holds.
        real: held-out texts that MAUVE compares with, by the scorer's hidden states; null: no MAUVE.
    """

    samples: int = 1024
    length: int | None = None
    sampler: SamplerOptions = field(default_factory=SamplerOptions)
    refresh: int = 0
    scorer: str | None = None
    retokenise: bool | None = None
    window: int | None = None
    file: str | None = None
    real: AnySource | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(samples=self.samples, length=self.length, window=self.window)
        if self.real is not None and self.scorer is None:
            raise ValueError("real texts are compared by the hidden states of a scorer and none is named; set scorer, or leave real out")


@dataclass(frozen=True, kw_only=True)
class ImageQuality(Suite):
    """Images drawn from the model, compared with real ones.

    Args:
        samples: how many images; classes go round.
        sampler: how they are drawn; null: as the model's `generate` draws them.
        refresh: as in `Generative`.
        features: a protocol of Inception (pgm-val, halton-train, adm), its weights behind a colon where they are not in torch's hub cache
            (pgm-val:/path/to/weights.pth); or the folder of a trained classifier.
        data: where the real images come from; null: the data the model was trained on.
        split: which part of them.
        reference: a file of statistics of real images (.npz or .safetensors, for the distance only) in place of `data`.
        reference_count: of how many images of `split` that file is, where it holds a mean and a covariance alone (also .pt; Inception's features).
        rows: at most so many real images; null: all.
        metrics: which of distance, inception_score, kernel_distance, precision_recall.
        subset: images of a subset of the kernel distance.
        splits: of the inception score.
    """

    samples: int = 50_000
    sampler: SamplerOptions | None = None
    refresh: int = 0
    features: str = "pgm-val"
    data: AnySource | None = None
    split: Literal["train", "valid"] = "valid"
    reference: str | None = None
    reference_count: int | None = None
    rows: int | None = None
    metrics: tuple[str, ...] = IMAGE_METRICS
    subset: int = 1000
    splits: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(samples=self.samples, rows=self.rows, subset=self.subset, splits=self.splits, reference_count=self.reference_count)
        among("metrics", self.metrics, IMAGE_METRICS)
        if self.reference_count is not None and self.reference is None:
            raise ValueError(f"reference_count is {self.reference_count} and there is no reference that it could be of; set both or neither")
        if self.reference is not None and (rest := {*self.metrics} & {"kernel_distance", "precision_recall"}):
            raise ValueError(f"reference {self.reference} holds a mean and a covariance, and {min(rest)} needs every real image; "
                             "give data in its place, or set metrics=[distance,inception_score]")


@dataclass(frozen=True, kw_only=True)
class Tasks(Suite):
    """Questions with answers to choose from, and last words, from local files: docs/tasks.md.

    Args:
        files: .jsonl or .jsonl.gz files of a known form, or folders of them.
        rows: at most so many questions of each file (the first ones); null: all.
        budget: Monte-Carlo draws of a score.
        score, overlong, decoding: as in `evaluation.harness.Scoring`.
    """

    files: tuple[str, ...] = ()
    rows: int | None = None
    budget: int = 128
    score: str = "conditional"
    overlong: str = "window"
    decoding: str = "left_to_right"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(rows=self.rows)
        for name, choices in WAYS.items():
            among(name, (getattr(self, name),), choices)
        if self.budget < 2:
            raise ValueError(f"budget is {self.budget}; a score with its error needs at least 2 draws")


@dataclass(frozen=True, kw_only=True)
class Speed(Suite):
    """Seconds and tokens per second of the model as it is, by the papers' protocols.

    Args:
        protocols: latency (one row), throughput (`batch` rows), training (forward and backward of `batch` rows).
        batch: rows.
        length: sites of a text, at least 2; null: those of the model.
        sampler: how rows are drawn; null: as the model's `generate` draws them. An autoregressive model draws one site a call.
        refresh: as in `Generative`.
        decode: whether latency and throughput hold the codec's work, from codes to pixels on the model's device; of images.
        warmups, repeats: generations (steps) before the clock counts, and counted ones.
    """

    protocols: tuple[str, ...] = PROTOCOLS
    batch: int = 32
    length: int | None = None
    sampler: SamplerOptions | None = None
    refresh: int = 0
    decode: bool = False
    warmups: int = 2
    repeats: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(batch=self.batch, length=self.length, repeats=self.repeats)
        if self.warmups < 0:
            raise ValueError(f"warmups is {self.warmups}; give 0 or more")
        among("protocols", self.protocols, PROTOCOLS)


@dataclass(frozen=True, kw_only=True)
class Parity(Suite):
    """Golden files, as `maskless verify` compares them: does this build compute what it should on this machine?

    Args:
        files: golden files, or folders of them.
    """

    files: tuple[str, ...] = ()


SUITES: dict[str, type[Suite]] = {
    "likelihood": Likelihood, "generative": Generative, "images": ImageQuality, "tasks": Tasks, "speed": Speed, "parity": Parity,
}
AnySuite = Annotated[Any, Tagged(SUITES)]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The `evaluation:` section of a recipe.

    Args:
        suites: what is measured, in order.
    """

    suites: tuple[AnySuite, ...] = ()

    def __post_init__(self) -> None:
        seen = set()
        for suite in self.suites:
            place = (kind_of_suite(suite), suite.name)
            if place in seen:
                raise ValueError(f"suites: {place[0]} stands there twice under the name {suite.name!r}; give each a name of its own")
            seen.add(place)


def kind_of_suite(suite: Suite) -> str:
    """The `type:` of a suite's settings."""
    return next(name for name, kind in SUITES.items() if type(suite) is kind)


def positive(**values: int | None) -> None:
    """Raise ValueError naming the first value below 1; None is not looked at."""
    for name, value in values.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")


def among(name: str, values: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Raise ValueError unless there are values, all of them known."""
    for value in values:
        if value not in known:
            raise ValueError(f"{name} has {value!r}; choose from {', '.join(known)}")
    if not values:
        raise ValueError(f"{name} is empty; choose from {', '.join(known)}")
