"""`speed`: how long the model takes, by the papers' protocols: nothing is read from disk, and nothing decoded to text, nor to pixels but where asked.

    latency            seconds of a generation of one row
    tokens_per_second  of generations of `batch` rows
    training_step      seconds of a forward and backward of `batch` rows, the head on all sites

Medians; the spread is half of the slowest less the fastest repetition. Other numbers come out the same twice; these do not.

B rows, L sites.
"""
from __future__ import annotations

import copy
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from maskless.api.image import ImageModel
from maskless.decoding import Canvas, Noise, Sampler, Speculative, check
from maskless.evaluation.bench.setting import name_of
from maskless.evaluation.results import Precision, Result, Uncertainty
from maskless.evaluation.settings import Speed
from maskless.evaluation.speed import Contender, Timing, race_them
from maskless.evaluation.training_speed import TrainingSetting, contender_of, time_steps
from maskless.layers.packed import fast_bf16
from maskless.models import Denoiser
from maskless.suites.drawing import options_of
from maskless.suites.session import Session


def evaluate_speed(session: Session, settings: Speed) -> Iterator[Result]:
    """Times of the protocols that are asked for.

    Raises:
        ValueError: more sites than the model has, a single one, or a number of them of a model of images; a sampler that the model does not
            take; pixels of a model of text.
    """
    images, most = isinstance(session.subject.opened, ImageModel), session.subject.length
    if settings.decode and not images:
        raise ValueError(f"{session.subject.record.path} is a model of text and decode is of images; leave speed.decode out")
    if settings.length is not None and images:
        raise ValueError(f"length is {settings.length} and {session.subject.record.path} makes whole images; leave speed.length out")
    length = settings.length or most
    if not 2 <= length <= most:
        raise ValueError(f"length is {length} and the model has {most} sites; give at most those, and at least 2, as the first is known")
    for protocol in settings.protocols:
        if protocol == "training":
            yield _training(session, settings, length)
        else:
            yield _sampling(session, settings, length, 1 if protocol == "latency" else settings.batch, protocol)


# ---------------------------------------------------------------------------------------------------------- sampling


@dataclass(frozen=True)
class Generation:
    """How rows are drawn from a model, as its users draw them, and decoded to pixels where asked: what `evaluation.speed` times.

    It makes its own canvas.
    """

    session: Session
    settings: Speed
    batch: int
    length: int

    def __call__(self, model: Denoiser, canvas: Canvas, noise: Noise, steps: int) -> Iterator[Any]:
        opened = self.session.subject.opened
        sampler, classes = self.sampler(), opened.model.null_label
        decoding = opened._decoding(sampler, self.settings.refresh)
        cond = None if classes is None else (torch.arange(self.batch) % classes).to(opened.device)
        rows = self.canvas()
        if isinstance(sampler, Speculative):
            for round in sampler.rounds(decoding, rows, noise, cond):
                yield round                                         # a draft
                yield round                                         # and its verification
        else:
            yield from sampler.records(decoding, rows, noise, cond)
        check(rows)
        if self.settings.decode:
            self.pixels(rows)

    def pixels(self, canvas: Any) -> Float[Tensor, "B C H W"]:
        """The images of a canvas that is filled, in [-1, 1], made on the model's device."""
        opened: Any = self.session.subject.opened
        return opened.codec.decode(opened.cells(canvas.by_site().tokens))

    def canvas(self) -> Any:
        """Rows that know their BOS, where the vocabulary has one; images that know nothing."""
        opened = self.session.subject.opened
        if isinstance(opened, ImageModel):
            nothing = torch.zeros(self.batch, *opened.grid, dtype=torch.int64)
            return opened._canvas(nothing, nothing.bool())
        sites = torch.arange(self.length).expand(self.batch, -1)
        return opened._canvas(torch.full_like(sites, opened._opening[0] if opened._opening else 0), sites < self.opening)

    @property
    def opening(self) -> int:
        """Sites of a text that are known at the start; an autoregressive model cannot do without one."""
        opened: Any = self.session.subject.opened
        return max(len(opened._opening), int(opened.model.left_to_right))

    def sampler(self) -> Sampler | Speculative:
        """The sampler of the settings. Raises ValueError for one that the model does not take."""
        opened, options = self.session.subject.opened, options_of(self.session, self.settings.sampler)
        if isinstance(opened, ImageModel):
            return opened._sampler(options, opened.grid[0] * opened.grid[1], grid=opened.grid)
        return opened._sampler(options, self.length - self.opening, **opened._fixed(opened._opening))


def _sampling(session: Session, settings: Speed, length: int, batch: int, protocol: str) -> Result:
    opened = session.subject.opened
    generation, steps = Generation(session, settings, batch, length), options_of(session, settings.sampler)["steps"]
    network = opened.network
    contender = Contender(session.title, opened._captured or network, generation, batch, length, steps or length)
    extra = max(settings.warmups - 1, 0)                            # `race_them` warms up once itself
    with torch.inference_mode():
        found = race_them([contender], device=opened.device, repeats=settings.repeats + extra, progress=session.say)[0]
    return timed(session, settings, found, found.seconds[extra:], protocol)


def timed(session: Session, settings: Speed, found: Timing, seconds: tuple[float, ...], protocol: str) -> Result:
    rates = [found.batch * found.length / second for second in seconds]
    metric, values, unit = ("latency", list(seconds), "seconds") if protocol == "latency" else ("tokens_per_second", rates, "tokens per second")
    options = options_of(session, settings.sampler)
    details = {"batch": found.batch, "length": found.length, "seconds": list(seconds), "rows_per_second": found.batch / statistics.median(seconds),
               "peak_bytes": found.peak_bytes, "warmups": settings.warmups, "decoded": settings.decode}
    return session.result(metric, statistics.median(values), None, len(values), kind="measurement", unit=unit, uncertainty=spread(values),
                          better="lower" if protocol == "latency" else "higher", precision=session.sampling, details=details, nfe=found.nfe,
                          sampler={**options, "refresh": settings.refresh}, plan=options["plan"])


def spread(values: list[float]) -> Uncertainty:
    """Half of the largest less the smallest repetition; none of one."""
    return Uncertainty("spread", (max(values) - min(values)) / 2) if len(values) > 1 else Uncertainty()


# ---------------------------------------------------------------------------------------------------------- training


def _training(session: Session, settings: Speed, length: int) -> Result:
    """A step of the model as it would be trained on this machine; the model itself is left as it is."""
    opened, config = session.subject.opened, session.subject.opened.model.config
    dtype = torch.bfloat16 if fast_bf16(opened.device) else torch.float32
    depth = {name: getattr(config, name, 0) for name in ("layers", "encoder_layers", "decoder_layers")}
    setting = TrainingSetting(settings.batch, length, opened.model.vocab_size, config.width, getattr(config, "heads", 1),
                              sum(depth.values()), dtype)
    model = copy.deepcopy(opened.model).train()
    contender = contender_of(session.title, model, setting, opened.device)
    found = time_steps([contender], setting, opened.device, repeats=settings.repeats, warmups=settings.warmups, progress=session.say)[0]
    details = {"batch": settings.batch, "length": length, "seconds": list(found.seconds), "tokens_per_second": found.tokens_per_second,
               "rows_per_second": settings.batch / found.median, "attention": found.attention, "warmups": settings.warmups}
    return session.result("training_step", found.median, None, len(found.seconds), kind="measurement", unit="seconds",
                          uncertainty=spread(list(found.seconds)), precision=Precision("float32", name_of(dtype)), details=details)
