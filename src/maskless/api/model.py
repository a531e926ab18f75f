"""What texts and images have in common: a network, where it runs, and how a canvas is filled.

B rows, L sites.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral, Number
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from maskless.decoding import Canvas, Noise, Sampler, SamplerOptions, Speculative
from maskless.decoding.decode import Callback
from maskless.evaluation.machine import device_of
from maskless.models import CausalPartitionTransformer, Denoiser, for_sampling
from maskless.models.captured import Captured, fits, recorder
from maskless.models.causal_partition import Reencoding


class LoadedModel:
    """A network and where it runs.

    Args:
        model: the network as trained.
        device: "auto" takes CUDA, then MPS, then the CPU.
        dtype: of the weights when sampling; "auto" is bfloat16 on CUDA and float32 elsewhere. Scores always use float32.
        compile: of the calls of a decode (docs/decoding.md): "auto" replays them as CUDA graphs, and does nothing without CUDA; "inductor"
            passes them through torch.compile first, on any device, which takes half a minute and a compiler; "graphs"; "off".

    Attributes:
        guidance: what a distilled model has taken over of its teacher's guidance, {"weight", "schedule"}; None for any other. Guidance
            that is asked for comes on top of it.

    Raises:
        ValueError: if this machine has no such device, or cannot do what `compile` says.
    """

    guidance: dict[str, Any] | None = None

    def __init__(self, model: Denoiser, *, device: str = "auto", dtype: torch.dtype | Literal["auto"] = "auto", compile: str = "auto"):
        self.device = device_of(device)
        self.dtype = (torch.bfloat16 if self.device.type == "cuda" else torch.float32) if dtype == "auto" else dtype
        self.model = model.to(self.device).eval()
        self._recorders, self._packed = recorder(compile, self.device), compile != "inductor"
        self._network: Denoiser | None = None
        self._captured: Captured | None = None

    @property
    def notes(self) -> dict[str, Any]:
        """What is saved beside the weights."""
        return {} if self.guidance is None else {"guidance": self.guidance}

    @property
    def network(self) -> Denoiser:
        """The network that samples: modulation folded away where it is constant, in `dtype`, packed where that pays."""
        if self._network is None:
            self._network = for_sampling(self.model, self.dtype, packed=self._packed)
            self._captured = Captured(self._network, self._recorders) if self._recorders and fits(self._network) else None
        return self._network

    def _sampler(self, options: dict[str, Any], sites: int, **fixed: Any) -> Sampler | Speculative:
        """The sampler of named options, the fields of `SamplerOptions`."""
        fields = SamplerOptions.__dataclass_fields__
        if unknown := sorted(set(options) - set(fields)):
            raise ValueError(f"{', '.join(unknown)} is no option of a sampler; there are {', '.join(fields)}")
        return replace(SamplerOptions(), **options).sampler(sites * self.model.per_site, left_to_right=self.model.left_to_right, **fixed)

    def _fill(self, canvas: Canvas, noise: Noise, sampler: Sampler | Speculative, watch: Callback | None, refresh: int,
              labels: Int[Tensor, " B"] | None = None) -> int:
        """Fill a canvas that lies on the device; returns the NFE."""
        model = self.network if isinstance(sampler, Speculative) else self._decoding(refresh)
        return sampler(model, canvas, noise, watch, cond=labels)

    def _decoding(self, refresh: int) -> Denoiser | Reencoding | Captured:
        network = self.network
        check_count("refresh", refresh, 0)
        if refresh == 0:
            return self._captured or network
        if not isinstance(network, CausalPartitionTransformer):
            raise ValueError(f"refresh is {refresh} and this model keeps no cache; leave it out (only order-causal partition models have two modes)")
        return network.reencoding(refresh)


def check_whole(name: str, value: Any, of: str = "") -> None:
    """Raises ValueError if an argument called `name` is no whole number."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; give a whole number{of}")


def check_count(name: str, value: Any, least: int = 1, of: str = "") -> None:
    """Raises ValueError if an argument called `name` is no whole number, or below `least`."""
    check_whole(name, value, of)
    if value < least:
        raise ValueError(f"{name} is {value}; give at least {least}{of}")


def seeds_of(seed: int | Sequence[int], rows: int) -> list[int]:
    """The seed of every row's noise: from one number for a whole call (row b draws the same in any call), or from one per row.

    Raises:
        ValueError: as many seeds as rows are needed, or one is out of range.
    """
    said: Any = seed
    alone = isinstance(said, Number | str)
    given: list[Any] = [said] if alone else [*said]
    for each in given:
        check_whole("seed", each)
    if alone:
        return Noise.of(int(given[0]), rows).host.tolist()
    if len(given) != rows:
        raise ValueError(f"{len(given)} seeds were given for {rows} rows; give one for each, or one number for all")
    return [Noise.of(int(each), 1).host.tolist()[0] for each in given]
