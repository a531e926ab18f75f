"""Who can be timed: a table of contenders by name, and the networks behind them.

To add one, write its line in `CONTENDERS`.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from maskless.checkpoints.reference.published import Race
from maskless.decoding import Adaptive, Canvas, Confidence, EntropyBound, Noise, Sampler, Scheduled
from maskless.decoding.speculate import Speculative
from maskless.evaluation import cost
from maskless.evaluation.bench.setting import SIZES, Setting
from maskless.evaluation.cost import Call, Parts, Run, calls_of
from maskless.evaluation.speed import Contender, Generate, Sampled, even_random, left_to_right, published
from maskless.models import Denoiser, build, for_sampling, kind_of
from maskless.models.captured import Captured, Recorders, fits

UNCOUNTED = {"query": "position", "query_mlp": False, "self_layers": (), "classes": 0, "registers": 0, "time_conditioned": False}


@dataclass(frozen=True)
class Entry:
    """A contender before its sizes are known.

    Args:
        kind: its model, as in `MODELS`.
        count: its cost; None where that depends on predictions.
        cache: bytes that it keeps from call to call.
        timed: calls that are run where all after the first cost the same and their time is scaled; None: all.
        trained: its cost depends on predictions, so that random weights would say nothing.
        one_each: it reveals one site after another, whatever the steps.
    """

    kind: str
    generate: Generate
    count: Callable[[Any, Run, Sequence[Call]], Parts] | None
    cache: Callable[[Any, Run], int] = cost.no_cache
    timed: int | None = None
    noise: Callable[[Sequence[int], torch.device], Noise] = Noise
    trained: bool = False
    one_each: bool = False

    @property
    def cached(self) -> bool:
        return self.cache is not cost.no_cache

    def steps(self, setting: Setting) -> int:
        return setting.length - 1 if self.one_each else min(setting.steps, setting.length - 1)

    def parts(self, config: Any, setting: Setting, batch: int) -> Parts | None:
        """The counted cost of a generation; None for a model with something that the counts leave out."""
        if self.count is None or any(getattr(config, name, usual) != usual for name, usual in UNCOUNTED.items()):
            return None
        run = Run(batch, setting.length, setting.itemsize)
        return self.count(config, run, calls_of(setting.length, self.steps(setting)))


def confident(model: Sampled, canvas: Canvas, noise: Noise, steps: int) -> Iterator[Any]:
    return Sampler(Scheduled(steps), Confidence()).records(model, canvas, noise)


def entropy_bound(model: Sampled, canvas: Canvas, noise: Noise, steps: int) -> Iterator[Any]:
    return Sampler(Adaptive(steps), EntropyBound()).records(model, canvas, noise)


def speculative(model: Denoiser, canvas: Canvas, noise: Noise, steps: int) -> Iterator[Any]:
    """Two calls a round: one drafts, one verifies."""
    for round in Speculative().rounds(model, canvas, noise):
        yield round
        yield round


CONTENDERS: dict[str, Entry] = {
    "pgm-cached": Entry("causal_partition", even_random, cost.partition_cached, cost.partition_cache),
    "pgm": Entry("partition", even_random, cost.partition),
    "mdlm-fair": Entry("masked", even_random, cost.masked_fair, timed=5),
    "mdlm-published": Entry("masked", published, cost.masked_published, timed=3, noise=Race),
    "ar": Entry("autoregressive", left_to_right, cost.autoregressive, cost.autoregressive_cache, one_each=True),
    "pgm-speculative": Entry("causal_partition", speculative, None, cost.partition_cache, trained=True, one_each=True),
    "pgm-confidence": Entry("partition", confident, None, trained=True),
    "pgm-entropy-bound": Entry("partition", entropy_bound, None, trained=True),
}
USUAL = ("pgm-cached", "pgm", "mdlm-fair", "mdlm-published", "ar")


def checked(names: Sequence[str], table: Mapping[str, Any]) -> list[str]:
    """The names, each of them in the table.

    Raises:
        ValueError: for one that is not in the table.
    """
    for name in names:
        if name not in table:
            raise ValueError(f"there is no contender {name}; choose from {', '.join(table)}")
    return list(names)


class Networks:
    """The networks of a setting, made for sampling, each once: trained where a checkpoint of its kind was given, else with random weights."""

    def __init__(self, setting: Setting, device: torch.device, folders: Sequence[Path] = (), recorders: Recorders | None = None):
        self.setting, self.device, self.recorders = setting, device, recorders
        self.trained: dict[str, Denoiser] = {}
        self.bos: dict[str, int] = {}
        self.weights: dict[str, str] = {}                           # where each comes from
        for folder in folders:
            self._read(folder)
        self.made: dict[str, Denoiser] = {}

    def _read(self, folder: Path) -> None:
        from maskless.checkpoints.native import load_model

        model, coding = load_model(folder)
        kind, bos = kind_of(model.config), None if coding is None else coding.vocabulary.bos
        if kind in self.trained:
            raise ValueError(f"--weights {self.weights[kind]} and {folder} are both of a {kind} model; give one")
        self.trained[kind], self.weights[kind] = model, str(folder)
        self.bos[kind] = 0 if bos is None else bos
        self.setting = _sized(self.setting, model.config)

    def __call__(self, kind: str) -> Denoiser:
        if kind not in self.made:
            torch.manual_seed(0)
            model = self.trained.get(kind) or build(self.setting.config(kind))
            self.made[kind] = for_sampling(model.eval().to(self.device), self.setting.dtype, packed=self.recorders is None)
        return self.made[kind]

    def sampled(self, entry: Entry) -> Any:
        """The network of a contender, its calls captured where that is asked for and can be done: for this contender alone."""
        network = self(entry.kind)
        if self.recorders is None or entry.generate is speculative or not fits(network):
            return network
        return Captured(network, self.recorders)

    def contender(self, name: str, setting: Setting) -> Contender:
        """A contender at some batch, length and steps.

        Raises:
            ValueError: where it needs trained weights and none were given.
        """
        entry = CONTENDERS[name]
        if entry.trained and entry.kind not in self.trained:
            raise ValueError(f"the cost of {name} depends on its predictions, and random weights would say nothing; "
                             f"give a checkpoint of a {entry.kind} model with --weights")
        self.check_length(name, setting.length)
        steps = entry.steps(setting)
        timed = None if entry.timed is None else min(entry.timed, steps)
        config = self.trained[entry.kind].config if entry.kind in self.trained else setting.config(entry.kind)
        return Contender(name, self.sampled(entry), entry.generate, setting.batch, setting.length, steps, timed, entry.noise,
                         config, self.bos.get(entry.kind, 0))

    def check_length(self, name: str, length: int) -> None:
        """Raise ValueError where a contender's checkpoint is not made for so many sites."""
        kind = CONTENDERS[name].kind
        if kind in self.trained and length > (most := self.trained[kind].config.length):
            raise ValueError(f"length {length} is beyond the {most} sites of the {kind} checkpoint; give --length {most} or less, and --no-sweep")


def _sized(setting: Setting, config: Any) -> Setting:
    """The setting with the sizes of a trained model; the untrained ones are made as wide."""
    sizes = {name: getattr(config, name) for name in SIZES if name != "length" and hasattr(config, name)}
    if "encoder_layers" in sizes:
        sizes["layers"] = sizes["encoder_layers"] + sizes["decoder_layers"]
    return dataclasses.replace(setting, **sizes)
