"""What texts and images have in common: a network, where it runs, and how a canvas is filled.

B rows, L sites.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from maskless.decoding import Canvas, Choices, Noise, Sampler, SamplerOptions, Speculative
from maskless.decoding.decode import Callback
from maskless.decoding.options import check_names
from maskless.evaluation.machine import device_of
from maskless.models import CausalPartitionTransformer, Denoiser, for_sampling
from maskless.models.captured import Captured, fits, recorder

Dtype = torch.dtype | Literal["auto", "float32", "bfloat16", "float16", "float64"]
GivenSampler = Sampler | Speculative | SamplerOptions | None
Seeds = int | Sequence[int] | np.ndarray | Tensor                   # of a whole call, or of every row
Weights = tuple[tuple[int, torch.dtype, int], ...]                  # where each lies, its dtype, how often it was written in place


class LoadedModel:
    """A network and where it runs.

    Args:
        model: the network as trained.
        device: "auto" takes CUDA, then MPS, then the CPU.
        dtype: of the weights when sampling, or its name; "auto" is bfloat16 on CUDA and float32 elsewhere. Scores always use float32.
        compile: of the calls of a decode (docs/decoding.md): "auto" replays them as CUDA graphs, and does nothing without CUDA; "inductor"
            passes them through torch.compile first, on any device, which takes half a minute and a compiler; "graphs"; "off".

    Attributes:
        guidance: what a distilled model has taken over of its teacher's guidance, {"weight", "schedule"}; None for any other. Guidance
            that is asked for comes on top of it.

    Raises:
        ValueError: if this machine has no such device, or cannot do what `compile` says; a dtype that no weights have.
    """

    guidance: dict[str, Any] | None = None

    def __init__(self, model: Denoiser, *, device: str = "auto", dtype: Dtype = "auto", compile: str = "auto"):
        self.device = device_of(device)
        self.dtype = dtype_of(dtype, self.device)
        self.model = model.to(self.device).eval()
        self._recorders, self._packed = recorder(compile, self.device), compile != "inductor"
        self._network: Denoiser | None = None
        self._captured: Captured | None = None
        self._weights: Weights | None = None

    @property
    def notes(self) -> dict[str, Any]:
        """What is saved beside the weights."""
        return {} if self.guidance is None else {"guidance": self.guidance}

    @property
    def network(self) -> Denoiser:
        """The network that samples: modulation folded away where it is constant, in `dtype`, packed where that pays.

        It is made anew after the weights of `model` have changed.
        """
        weights = weights_of(self.model)
        if self._network is None or weights != self._weights:
            self._weights = weights
            self._network = for_sampling(self.model, self.dtype, packed=self._packed)
            self._captured = Captured(self._network, self._recorders) if self._recorders and fits(self._network) else None
        return self._network

    def _sampler(self, options: Mapping[str, Any] | SamplerOptions, sites: int, **fixed: Any) -> Sampler | Speculative:
        """The sampler of options: all of them, or some by name, the fields of `SamplerOptions`."""
        if not isinstance(options, SamplerOptions):
            check_names(options)
            options = replace(SamplerOptions(), **options)
        return options.sampler(sites * self.model.per_site, left_to_right=self.model.left_to_right, **fixed)

    def _own(self, sampler: GivenSampler, options: Mapping[str, Any], sites: int, **fixed: Any) -> Sampler | Speculative | None:
        """The sampler that a caller brings along, which draws no id in `fixed["forbid"]` either; None if there is none.

        Raises:
            ValueError: options beside it, or no sampler at all.
        """
        if sampler is None:
            return None
        if options:
            raise ValueError(f"sampler was given and so was {', '.join(options)}; put it into the sampler, or leave sampler out")
        if isinstance(sampler, SamplerOptions):
            return self._sampler(sampler, sites, **fixed)
        said: Any = sampler
        if not isinstance(said, Sampler | Speculative):
            raise ValueError(f"sampler is {said!r}; give a Sampler or SamplerOptions, or leave it out and name options, such as order=\"confidence\"")
        return without(sampler, fixed.get("forbid", ()))

    def _fill(self, canvas: Canvas, noise: Noise, sampler: Sampler | Speculative, watch: Callback | None, refresh: int,
              labels: Int[Tensor, " B"] | None = None) -> int:
        """Fill a canvas that lies on the device; returns the NFE."""
        check_count("refresh", refresh, 0)
        return sampler(self._decoding(sampler, refresh), canvas, noise, watch, cond=labels)

    def _decoding(self, sampler: Sampler | Speculative, refresh: int) -> Any:
        """What a sampler is run with: the network, or its calls captured, or as it encodes afresh."""
        network = self.network
        if isinstance(sampler, Speculative):
            if refresh:
                raise ValueError(f"refresh is {refresh} and draft {sampler.draft}, which keeps the cache; leave one of the two out")
            return network
        if refresh == 0:
            return self._captured or network
        if not isinstance(network, CausalPartitionTransformer):
            raise ValueError(f"refresh is {refresh} and this model keeps no cache; leave it out (only order-causal partition models have two modes)")
        return network.reencoding(refresh)


def dtype_of(dtype: Any, device: torch.device) -> torch.dtype:
    """A dtype of weights, by itself or by name; "auto": what samples fastest on the device.

    Raises:
        ValueError: if weights do not come in it.
    """
    if isinstance(dtype, str) and dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
    for name, found in names.items():
        if dtype in (name, found):
            return found
    raise ValueError(f"dtype is {dtype!r}; give auto, {', '.join(names)}")


def without(sampler: Sampler | Speculative, ids: Sequence[int]) -> Sampler | Speculative:
    """The same sampler, by which these ids are never drawn."""
    choice = sampler.choice
    one = choice.choice if isinstance(choice, Choices) else choice
    one = replace(one, forbid=tuple(sorted({*one.forbid, *ids})))
    return replace(sampler, choice=replace(choice, choice=one) if isinstance(choice, Choices) else one)


def check_whole(name: str, value: Any, of: str = "") -> None:
    """Raises ValueError if an argument called `name` is no whole number (of what `of` says)."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; give a whole number{of and f' of {of}'}")


def check_count(name: str, value: Any, least: int = 1, of: str = "", most: int = 1 << 40) -> None:
    """Raises ValueError if an argument called `name` is no whole number, below `least` (of what `of` says), or above `most`."""
    check_whole(name, value, of)
    if value < least:
        raise ValueError(f"{name} is {value}; give {least} or more{of and f' {of}'}")
    if value > most:
        raise ValueError(f"{name} is {value}; give {most:,} or fewer{of and f' {of}'}")


def seeds_of(seed: Seeds, rows: int, each: int = 1) -> list[int]:
    """The seed of every row's noise: from one number for a whole call (row b draws the same in any call), or from one per row.

    Args:
        each: noises of a row, which follow each other.

    Raises:
        ValueError: as many seeds as rows are needed, or one is out of range.
    """
    said: Any = seed.tolist() if isinstance(seed, Tensor) else seed
    alone = isinstance(said, str) or not isinstance(said, Iterable)
    given: list[Any] = [said] if alone else [*said]
    for one in given:
        check_whole("seed", one)
    if alone:
        return Noise.of(int(given[0]), rows * each).host.tolist()
    if len(given) != rows:
        raise ValueError(f"{len(given)} seeds were given for {rows} rows; give one for each, or one number for all")
    return [noise for one in given for noise in Noise.of(int(one), each).host.tolist()]


def weights_of(model: torch.nn.Module) -> Weights:
    """What tells whether the weights of a model are still those seen before; changes through `.data` and in inference mode are not seen."""
    return tuple((w.data_ptr(), w.dtype, 0 if w.is_inference() else w._version) for w in chain(model.parameters(), model.buffers()))
