"""`bench scaling`: time per call as fewer tokens are made in each, and time per token as rows grow longer.

L sites, k tokens of a call.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from maskless.evaluation.bench.contenders import CONTENDERS, Networks
from maskless.evaluation.bench.sampling import Progress, Sampling, rows_of
from maskless.evaluation.bench.setting import Preset, Setting
from maskless.evaluation.speed import race_those_that_fit

DEFAULT = ("pgm-cached",)


def points(preset: Preset, setting: Setting) -> list[tuple[str, Setting]]:
    """k from large to small at the setting's length; then every length at the largest k."""
    first = preset.sizes[0]

    def at(length: int, size: int) -> Setting:
        return dataclasses.replace(setting, length=length, steps=max(1, length // size))

    return [*(("size", at(setting.length, size)) for size in preset.sizes), *(("length", at(length, first)) for length in preset.scaling)]


def run(preset: Preset, names: Sequence[str], networks: Networks, *, repeats: int, progress: Progress) -> Sampling:
    """Time whole generations at every point, all points interleaved; a contender of one token a call has no curve against k.

    Raises:
        ValueError: if memory is not enough at any point; where it is at some, the others are left out.
    """
    field = [(point, setting, networks.contender(name, setting)) for point, setting in points(preset, networks.setting) for name in names
             if point == "length" or not CONTENDERS[name].one_each]
    timings = race_those_that_fit([contender for _, _, contender in field], device=networks.device, repeats=repeats, progress=progress)
    rows = rows_of(timings, field)
    if not rows:
        raise ValueError(f"no point fits into the memory of {networks.device}; give a smaller --batch or --length")
    return Sampling(networks.setting, rows, {}, networks.weights)
