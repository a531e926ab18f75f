"""`bench scaling`: time per call as fewer tokens are made in each, and time per token as rows grow longer.

L sites, k tokens of a call.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from maskless.evaluation.bench.contenders import CONTENDERS, Networks
from maskless.evaluation.bench.sampling import Progress, Row, Sampling, row_of
from maskless.evaluation.bench.setting import Preset, Setting
from maskless.evaluation.speed import race_them

DEFAULT = ("pgm-cached",)


def points(preset: Preset, setting: Setting) -> list[tuple[str, Setting]]:
    """k from large to small at the setting's length; then every length at the largest k."""
    first = preset.sizes[0]

    def at(length: int, size: int) -> Setting:
        return dataclasses.replace(setting, length=length, steps=max(1, length // size))

    return [*(("size", at(setting.length, size)) for size in preset.sizes), *(("length", at(length, first)) for length in preset.scaling)]


def run(preset: Preset, names: Sequence[str], networks: Networks, *, repeats: int, progress: Progress) -> Sampling:
    """Time whole generations at every point, all points interleaved; a contender of one token a call has no curve against k."""
    field = [(point, setting, networks.contender(name, setting)) for point, setting in points(preset, networks.setting) for name in names
             if point == "length" or not CONTENDERS[name].one_each]
    timings = race_them([contender for _, _, contender in field], device=networks.device, repeats=repeats, progress=progress)
    rows: list[Row] = [row_of(timing, point, setting, contender) for timing, (point, setting, contender) in zip(timings, field)]
    return Sampling(networks.setting, rows, {})
